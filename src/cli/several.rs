//! `greedy run` with several pipelines: one after the other, then one table of all.

use super::make_args::{PipelineArgs, RunArgs};
use super::output::Output;
use super::progress::Terminal;
use super::run::{dry_run, list_odd, probe_table, project, stage_table, update_json, work_on};
use super::table::{TERMINAL, Table};
use super::wording;
use crate::error::{Error, Result};
use crate::pipeline::Kind;
use crate::progress::Progress;
use crate::run::{Record, Update};
use crate::text::shown;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Whether more pipelines than one are named.
pub(super) fn are_named(args: &RunArgs) -> bool {
    args.nodes.iter().any(|name| is_pipeline(name))
}

/// Whether a word in the place of a node names a further pipeline.
fn is_pipeline(name: &str) -> bool {
    name.ends_with(".toml")
}

/// `greedy run PIPELINE PIPELINE…`
pub(super) fn run(args: &RunArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    if let Some(node) = args.nodes.iter().find(|name| !is_pipeline(name)) {
        return Err(Error::usage(format!("several pipelines are named, and `{node}`, which is none"))
            .hint("nodes go with one pipeline: `greedy run PIPELINE NODE`"));
    }
    if args.pipeline.cache.is_some() {
        return Err(Error::usage("`--cache` names the folder of one pipeline, but several are to be run")
            .hint("`cache = \"…\"` in each file says where its stages lie"));
    }
    if args.work.until.is_some() {
        return Err(Error::usage("`--until` goes with one node of one pipeline"));
    }
    let files = std::iter::once(args.pipeline.pipeline.clone()).chain(args.nodes.iter().map(PathBuf::from));
    let (mut rows, mut documents) = (Vec::new(), Vec::new());
    for file in files {
        let name = shown(&file);
        terminal.say(&name);
        let one = PipelineArgs { pipeline: file, cache: None, look_again: args.pipeline.look_again };
        let opened = project(&one, &args.work.set)?;
        if args.work.dry_run {
            dry_run(&opened.project, &[], args.work.json, output).map_err(|e| e.context(&name))?;
            continue;
        }
        let cache = opened.cache.clone();
        let (project, update) = work_on(opened, &[], &args.work, terminal).map_err(|e| e.context(&name))?;
        list_odd(&update, terminal);
        let pipeline = project.pipeline();
        if args.work.json {
            documents.push(update_json(pipeline, &cache, &update, terminal));
        } else {
            say(&stage_table(pipeline, &update), &update, output)?;
            rows.push(Row::of(&pipeline.name, &cache, &update));
        }
    }
    match (args.work.dry_run, args.work.json) {
        (true, _) => Ok(()),
        (false, true) => output.json(&json!({ "pipelines": Value::Array(documents) })),
        (false, false) => output.text(&table(&rows)),
    }
}

fn say(stages: &str, update: &Update, output: &mut Output) -> Result<()> {
    let probes = probe_table(update.records.iter());
    let probes = if probes.is_empty() { probes } else { format!("\n{probes}") };
    output.text(&format!("{stages}{probes}\n"))
}

/// What one pipeline came to.
struct Row {
    name: String,
    /// By depth, in percent.
    stages: Vec<Option<f64>>,
    whole: Option<f64>,
    ensemble: Option<f64>,
    seconds: f64,
    bytes: u64,
}

impl Row {
    /// Images that several pipelines share are not counted as any one's.
    fn of(name: &str, cache: &Path, update: &Update) -> Self {
        let own = |record: &&Record| record.kind != Kind::Images || cache.join("stage0").exists();
        let of = |wanted: fn(Kind) -> bool| update.records.iter().find(|record| wanted(record.kind));
        let stages = update.records.iter().filter(|record| record.stage > 0 && record.kind.is_stage());
        Self {
            name: name.into(),
            stages: stages.map(Record::accuracy).collect(),
            whole: of(Kind::is_network).and_then(Record::accuracy),
            ensemble: of(|kind| kind == Kind::Ensemble).and_then(Record::accuracy),
            seconds: update.records.iter().filter(own).map(Record::total_seconds).sum(),
            bytes: update.records.iter().filter(own).map(Record::stored_bytes).sum(),
        }
    }
}

fn table(rows: &[Row]) -> String {
    let depths = rows.iter().map(|row| row.stages.len()).max().unwrap_or(0);
    let numbers: Vec<String> = (1..=depths).map(|number| format!("stage {number}")).collect();
    let mut headings = vec!["pipeline"];
    headings.extend(numbers.iter().map(String::as_str));
    headings.extend(["network", "ensemble", "time", "on disk"]);
    let mut table = Table::new(&headings);
    for row in rows {
        let depth = |at: usize| wording::percent(row.stages.get(at).copied().flatten());
        let stages = (0..depths).map(depth);
        let rest = [wording::percent(row.whole), wording::percent(row.ensemble)];
        let cells = std::iter::once(row.name.clone()).chain(stages).chain(rest);
        table.row(cells.chain([wording::seconds(row.seconds), wording::bytes(row.bytes)]));
    }
    table.folded(TERMINAL)
}
