//! `greedy inspect --pictures`.

use super::look_args::InspectArgs;
use super::output::Output;
use super::progress::Terminal;
use super::table::Table;
use super::wording;
use crate::error::Result;
use crate::inspect::{Query, pictures};
use crate::run::{Record, StageFolder};
use crate::text::shown;
use serde_json::{Value, json};
use std::path::Path;

/// Writes the pictures of a finished stage into a folder, and says which files there are.
pub(super) fn write(
    (folder, record): (&StageFolder, &Record),
    args: &InspectArgs,
    to: &Path,
    terminal: &Terminal,
    output: &mut Output,
) -> Result<()> {
    let query = args.image.clone().map_or(Query::Sample(args.sample), Query::Image);
    let made = pictures(folder, record, (&query, args.samples.unwrap_or(usize::MAX)), (to, args.force), terminal)?;
    let class = |label: u32| record.classes.get(label as usize).map(String::as_str).unwrap_or_default();
    if args.json {
        let file = |(path, what): &(std::path::PathBuf, &str)| json!({ "file": shown(path), "shows": what });
        let near = |&(sample, label, distance): &(usize, u32, f64)| json!({ "sample": sample, "class": class(label), "words": record.words(label as usize), "distance": distance });
        return output.json(&json!({
            "files": made.files.iter().map(file).collect::<Vec<Value>>(),
            "nearest": made.nearest.iter().map(near).collect::<Vec<Value>>(),
            "among": made.samples,
            "missing": made.missing,
        }));
    }
    let mut table = Table::new(&["nearest", "distance", "class"]);
    for &(sample, label, distance) in &made.nearest {
        let name = wording::class(class(label), record.words(label as usize));
        table.row([format!("val {sample}"), format!("{distance:.3}"), name]);
    }
    output.text(&format!("{}of {} validation samples\n\n", table.text(), made.samples))?;
    for (path, what) in &made.files {
        output.line(&format!("{}: {what}", shown(path)))?;
    }
    made.missing.iter().try_for_each(|line| output.line(&format!("not shown: {line}")))
}
