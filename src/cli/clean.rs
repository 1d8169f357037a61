//! `greedy clean`.

use super::look_args::CleanArgs;
use super::output::{Output, complain};
use super::wording;
use crate::error::{Error, Result};
use crate::run::{Garbage, Project, Unneeded, Unwanted, open_pipeline, recall_choice, resolve};
use crate::text::shown;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;

/// `greedy clean PIPELINE…`
pub(super) fn clean(args: &CleanArgs, output: &mut Output) -> Result<()> {
    let project = |file: &PathBuf| {
        let settings = open_pipeline(file, &args.set)?;
        let cache = args.cache.clone().unwrap_or_else(|| PathBuf::from(&settings.as_written().cache));
        if settings.leaves_plan_open() && recall_choice(&cache, &settings).is_none() {
            let name = &settings.as_written().name;
            let fault = format!("it is not planned which features of `{name}` are worth keeping");
            return Err(Error::failed(fault).hint("`greedy run` plans it; until then nothing is removed"));
        }
        Ok(Project::open(resolve(settings, &cache), &cache, false))
    };
    let projects = args.pipelines.iter().map(project).collect::<Result<Vec<_>>>()?;
    let garbage = Garbage::of(&projects)?;
    for (path, fault) in &garbage.left {
        complain(&format!("`{}` is left: {fault}", path.display()));
    }
    let total = wording::bytes(garbage.bytes());
    let asks = !args.dry_run && !args.yes && !garbage.unwanted.is_empty();
    for one in &garbage.unwanted {
        let line = format!("{}: {}, {}", one.path.display(), wording::bytes(one.bytes), why(&one.why));
        match args.json {
            true if asks => complain(&line),
            true => {}
            false => output.line(&line)?,
        }
    }
    if !args.json {
        output.line(&match garbage.unwanted.len() {
            0 => "nothing to remove".into(),
            _ if args.dry_run => format!("{total} would be removed"),
            _ => format!("{total} to be removed"),
        })?;
    }
    if !args.dry_run && !garbage.unwanted.is_empty() {
        if asks && !agreed(&total)? {
            return Err(Error::failed("nothing was removed"));
        }
        garbage.remove()?;
    }
    if args.json {
        let list: Vec<Value> = garbage.unwanted.iter().map(unwanted_json).collect();
        let key = if args.dry_run { "would_remove" } else { "removed" };
        output.json(&json!({ key: list, "bytes": garbage.bytes() }))?;
    }
    Ok(())
}

/// Asks on a terminal.
fn agreed(total: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        let error = Error::usage("nobody can be asked here, and nothing was removed");
        return Err(error.hint("`--yes` removes without asking, `--dry-run` only says what would go"));
    }
    complain(&format!("remove {total}? [y/N]"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| Error::failed(format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn unwanted_json(one: &Unwanted) -> Value {
    json!({ "path": shown(&one.path), "bytes": one.bytes, "why": why(&one.why) })
}

fn why(why: &Unneeded) -> String {
    match why {
        Unneeded::Unnamed => "no pipeline named here has this stage".into(),
        Unneeded::Of(other) => format!("of pipeline `{other}`"),
        Unneeded::Leftover => "left over".into(),
        Unneeded::Stale(reasons) => format!("stale: {}", reasons.join("; ")),
    }
}
