//! `greedy status`.

use super::args::StatusArgs;
use super::output::Output;
use super::run::{project, stage_json};
use super::table::Table;
use super::wording;
use crate::error::Result;
use serde_json::{Value, json};

/// `greedy status PIPELINE`
pub(super) fn status(args: &StatusArgs, output: &mut Output) -> Result<()> {
    let (project, cache) = project(&args.pipeline, &args.set)?;
    if args.json {
        let stages: Vec<Value> = project
            .stages()
            .map(|(number, folder, verdict, found)| {
                let (word, reasons) = wording::verdict(verdict, project.first());
                let record = found.map(|found| stage_json(&found.record));
                json!({ "stage": number, "folder": folder.path(), "state": word, "why": reasons, "record": record })
            })
            .collect();
        return output.json(&json!({ "pipeline": project.pipeline().name, "cache": cache, "stages": stages }));
    }
    let mut table = Table::new(&["stage", "state", "accuracy", "on disk"]);
    let mut reasons = Vec::new();
    for (number, _, verdict, found) in project.stages() {
        let (word, why) = wording::verdict(verdict, project.first());
        let figures = found.and_then(|found| found.record.figures.as_ref());
        table.row([
            number.to_string(),
            word.to_string(),
            wording::percent(figures.map(|figures| figures.accuracy)),
            found.map_or("-".into(), |found| wording::bytes(found.record.stored_bytes())),
        ]);
        reasons.extend(why.into_iter().map(|reason| format!("stage {number}: {reason}\n")));
    }
    output.text(&table.text())?;
    if reasons.is_empty() { Ok(()) } else { output.text(&format!("\n{}", reasons.concat())) }
}
