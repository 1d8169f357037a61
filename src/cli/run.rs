//! `greedy run` and `greedy stage`.

use super::make_args::{PipelineArgs, RunArgs, StageArgs, WorkArgs};
use super::output::Output;
use super::progress::Terminal;
use super::table::{TERMINAL, Table};
use super::wording;
use crate::bench;
use crate::error::{Error, Result};
use crate::export::write_events;
use crate::images::ImageSet;
use crate::pipeline::{Graph, Kind, Node, Recipe, Verdict};
use crate::progress::Progress;
use crate::run::{self, Look, Project, Record, StageFolder, State, Update, open_pipeline};
use crate::text::{counted, shown};
use candle_core::Device;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A pipeline as its file and the disk have it.
pub(super) struct Opened {
    pub project: Project,
    pub cache: PathBuf,
    /// Whether it has still to be planned which features are cached.
    pub unplanned: bool,
    /// Whether every image file is looked at.
    pub look_again: bool,
}

/// Reads the pipeline and looks at its nodes.
pub(super) fn project(args: &PipelineArgs, overrides: &[String]) -> Result<Opened> {
    let settings = open_pipeline(&args.pipeline, overrides)?;
    let cache = args.cache.clone().unwrap_or_else(|| PathBuf::from(&settings.as_written().cache));
    let unplanned = settings.leaves_plan_open() && run::recall_choice(&cache, &settings).is_none();
    let project = Project::open(run::resolve(settings, &cache), &cache, args.look_again);
    Ok(Opened { project, cache, unplanned, look_again: args.look_again })
}

/// `greedy run PIPELINE`
pub(super) fn run(args: &RunArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    bring(project(&args.pipeline, &args.work.set)?, &args.nodes, &args.work, terminal, output)
}

/// Brings an opened pipeline up to date, or what some of its nodes need, and prints its table.
pub(super) fn bring(
    opened: Opened,
    nodes: &[String],
    work: &WorkArgs,
    terminal: &Terminal,
    output: &mut Output,
) -> Result<()> {
    if work.until.is_some() && nodes.len() != 1 {
        return Err(
            Error::usage("`--until` goes with one node").hint("such as `greedy run PIPELINE stage3 --until trained`")
        );
    }
    if work.dry_run {
        return dry_run(&opened.project, nodes, work.json, output);
    }
    let cache = opened.cache.clone();
    let (project, update) = work_on(opened, nodes, work, terminal)?;
    let pipeline = project.pipeline();
    if work.json {
        list_odd(&update, terminal);
        return output.json(&update_json(pipeline, &cache, &update, terminal));
    }
    if update.done.is_empty() {
        let (stages, time) = (update.records.len(), 1e3 * terminal.elapsed().as_secs_f64());
        terminal.say(&format!("nothing to be done: all {stages} nodes are current (looked at in {time:.1} ms)"));
    }
    output.text(&stage_table(pipeline, &update))?;
    let probes = probe_table(update.records.iter());
    if !probes.is_empty() {
        output.text(&format!("\n{probes}"))?;
    }
    list_odd(&update, terminal);
    Ok(())
}

/// Brings an opened pipeline up to date, or what some of its nodes need.
pub(super) fn work_on(
    opened: Opened,
    nodes: &[String],
    work: &WorkArgs,
    terminal: &Terminal,
) -> Result<(Project, Update)> {
    run::check_device(&work.device.device)?;
    let mut project = if opened.unplanned { planned(&opened, work, terminal)? } else { opened.project };
    // Where nothing is to be computed, no device has to be woken.
    let device = run::device(if project.is_current() { "cpu" } else { &work.device.device }, work.fast, terminal)?;
    let wanted = project.find(nodes)?;
    if work.until.is_some() {
        project.scatter();
    }
    let update = bring_up_to_date(&mut project, (&wanted, &device), work.events.as_deref(), terminal)?;
    Ok((project, update))
}

/// What `--json` says of a pipeline that is up to date.
pub(super) fn update_json(pipeline: &Recipe, cache: &Path, update: &Update, terminal: &Terminal) -> Value {
    let of = |wanted: &dyn Fn(&&Record) -> bool| -> Vec<Value> {
        update.records.iter().filter(wanted).map(stage_json).collect()
    };
    let one = |wanted: &dyn Fn(&&Record) -> bool| update.records.iter().find(wanted).map(stage_json);
    json!({
        "pipeline": pipeline.name,
        "cache": shown(cache),
        "done": done_json(update),
        "elapsed_seconds": terminal.elapsed().as_secs_f64(),
        "images": one(&|record| record.kind == Kind::Images),
        "network": one(&|record| record.kind.is_network()),
        "stages": of(&|record| record.stage > 0 && record.kind.is_stage()),
        "not_pruned": of(&|record| record.kind == Kind::Wide),
        "classifier": one(&|record| record.kind == Kind::Classifier),
        "ensemble": one(&|record| record.kind == Kind::Ensemble),
        "probes": of(&|record| record.kind == Kind::Probe),
    })
}

/// The same with what this machine is measured to do best with: which features are written is decided once for a cache.
fn planned(opened: &Opened, work: &WorkArgs, terminal: &Terminal) -> Result<Project> {
    let cache = &opened.cache;
    opened.project.check()?;
    let mut pipeline = opened.project.pipeline().clone();
    let images = ImageSet::open(&pipeline.data, pipeline.seed)?;
    let size = ([images.train.len(), images.val.len()], images.classes.len());
    let device = run::device(&work.device.device, work.fast, terminal)?;
    terminal.say("measuring which features are worth keeping on this machine");
    let stages = bench::worth_keeping(&pipeline, size, cache, &device, terminal)?;
    let cached = run::remember_choice(cache, &pipeline, stages)?;
    pipeline.features.cached.clone_from(&cached);
    terminal.say(&format!(
        "features of stages {cached:?} are cached (`{}` remembers it)",
        cache.join("plan.json").display()
    ));
    Ok(Project::open(pipeline, cache, opened.look_again))
}

/// `greedy stage N --from DIR`
pub(super) fn stage(args: &StageArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let from = StageFolder::new(&args.from);
    let before = StageFolder::in_cache(&args.from, args.number.saturating_sub(1));
    let is_stage = |folder: &StageFolder| folder.path().join("record.json").is_file();
    if !is_stage(&from) && is_stage(&before) {
        let (number, before) = (args.number, shown(before.path()));
        return Err(Error::usage(format!("`{}` is the folder of all stages, not of one", shown(&args.from)))
            .hint(format!("`greedy stage {number} --from {before}`")));
    }
    let settings = match &args.pipeline {
        Some(file) => open_pipeline(file, &args.work.set)?,
        None => {
            // A stage by itself is trained by itself, also on features of a network that was trained as a whole.
            let record = from.record()?;
            let alone = run::settings(&from, &record, &[])?.as_written().alone(args.number);
            let overrides: Vec<String> = alone.into_iter().chain(args.work.set.iter().cloned()).collect();
            run::settings(&from, &record, &overrides)?
        }
    };
    let to = args.to.clone().map_or_else(|| beside(&from, args.number), |path| Ok(StageFolder::new(path)))?;
    let refreshes = settings.as_written().features.refresh > 0.0;
    let mut project = Project::single(settings, args.number, &from, to)?;
    if refreshes && project.pipeline().features.refresh == 0.0 {
        terminal.say("the images are not within reach: no views are refreshed");
    }
    if args.work.dry_run {
        return dry_run(&project, &[], args.work.json, output);
    }
    let device = run::device(&args.work.device.device, args.work.fast, terminal)?;
    let wanted = project.find(&[])?;
    if args.work.until.is_some() {
        project.scatter();
    }
    let mut update = bring_up_to_date(&mut project, (&wanted, &device), args.work.events.as_deref(), terminal)?;
    update.records.drain(..update.records.len() - 1);
    if args.work.json {
        let stages: Vec<Value> = update.records.iter().map(stage_json).collect();
        return output.json(&json!({ "done": done_json(&update), "stages": stages }));
    }
    if update.done.is_empty() {
        terminal.say(&format!("nothing to be done: stage {} is current", args.number));
    }
    output.text(&stage_table(project.pipeline(), &update))
}

/// Does what has to be done for some nodes, and writes the events of each that is done, and of those that were done
/// before.
fn bring_up_to_date(
    project: &mut Project,
    (wanted, device): (&[usize], &Device),
    events: Option<&Path>,
    terminal: &Terminal,
) -> Result<Update> {
    let before = |look: &Look<'_>, graph: &Graph| announce(terminal, look, graph);
    let write = |folder: &StageFolder, record: &Record| {
        events.map_or(Ok(None), |to| write_events(folder, record, to)).map(drop)
    };
    let update = project.update(wanted, device, terminal, before, write)?;
    if let Some(record) = update.records.last().filter(|record| record.state != State::Finished) {
        terminal.say(&format!("{}: its shards come next; `greedy shards` makes them in parts", record.title()));
    }
    let is_new = |node: &Node| update.done.iter().any(|done| done.id == node.id);
    let old = project.nodes().filter(|look| *look.verdict == Verdict::Current && !is_new(look.node));
    for (look, found) in old.filter_map(|look| Some((look, look.found?))) {
        write(look.folder, &found.record)?;
    }
    Ok(update)
}

/// The folder `stageN` beside another stage's.
pub(super) fn beside(other: &StageFolder, number: usize) -> Result<StageFolder> {
    let path = std::fs::canonicalize(other.path()).map_err(|e| Error::io("find", other.path(), &e))?;
    Ok(StageFolder::new(path.with_file_name(format!("stage{number}"))))
}

/// The nodes that were done, by their names.
fn done_json(update: &Update) -> Vec<&str> {
    update.done.iter().map(|node| node.id.as_str()).collect()
}

fn announce(terminal: &Terminal, look: &Look<'_>, graph: &Graph) {
    let title = look.node.title();
    match wording::verdict(look.verdict, graph) {
        ("missing", _) => terminal.say(&title),
        (word, reasons) => terminal.say(&format!("{title} ({word}: {})", reasons.join("; "))),
    }
    let begun = look.found.filter(|found| found.record.state != State::Finished);
    if let (Verdict::Stale(_), Some(found)) = (look.verdict, begun) {
        let progress = &found.seen.progress;
        terminal.say(&format!("{title}: what an earlier run left ({progress}) is of other settings and begins anew"));
    }
}

/// What would be done, without doing it.
pub(super) fn dry_run(project: &Project, names: &[String], json: bool, output: &mut Output) -> Result<()> {
    project.check()?;
    let needed = &project.graph().needed(&project.find(names)?);
    let graph = project.graph();
    let undone = project.nodes().zip(needed).filter(|(look, needed)| **needed && *look.verdict != Verdict::Current);
    let undone: Vec<Look<'_>> = undone.map(|(look, _)| look).collect();
    if json {
        let stages = undone.iter().map(|look| {
            let (word, reasons) = wording::verdict(look.verdict, graph);
            json!({ "node": look.node.id, "stage": look.node.stage, "folder": shown(look.folder.path()), "state": word, "why": reasons })
        });
        return output.json(&json!({ "would_do": stages.collect::<Vec<_>>() }));
    }
    if undone.is_empty() {
        return output.line("nothing to be done: all nodes are current");
    }
    for Look { node, folder, verdict, .. } in undone {
        let (word, reasons) = wording::verdict(verdict, graph);
        let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
        output.line(&format!("would make {} in `{}` ({word}{reasons})", node.title(), folder.path().display()))?;
    }
    Ok(())
}

/// The table of stages.
pub(super) fn stage_table(pipeline: &Recipe, update: &Update) -> String {
    let mut table = Table::new(&["stage", "features", "accuracy", "top-5", "ensemble", "time", "on disk", "images/s"]);
    for record in update.records.iter().filter(|record| record.kind != Kind::Probe) {
        let shape = record.arrays.get("train/features").map(|array| array.shape);
        let features = shape.map_or("-".into(), |[_, _, channels, y, x]| format!("{channels} x {y} x {x}"));
        let figures = record.figures.as_ref();
        let name = match record.kind {
            kind if kind.is_stage() && record.stage > 0 => record.stage.to_string(),
            Kind::Ensemble => {
                format!("{} of {}", record.title(), record.manifest().value("ensemble.of").unwrap_or("logits"))
            }
            _ => record.title(),
        };
        table.row([
            name,
            features,
            wording::percent(figures.map(|figures| figures.accuracy)),
            wording::percent(record.top5()),
            wording::percent(figures.and_then(|figures| figures.ensemble_accuracy)),
            wording::seconds(record.total_seconds()),
            wording::bytes(record.stored_bytes()),
            record.images_per_second().map_or("-".into(), |rate| format!("{rate:.0}")),
        ]);
    }
    let total: f64 = update.records.iter().map(Record::total_seconds).sum();
    format!("{}\n{}: {} in all\n", table.text(), pipeline.name, wording::seconds(total))
}

/// What was measured of each stage; nothing where nothing was.
pub(super) fn probe_table<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    // Each column with its value of a record.
    let mut columns: Vec<(String, String, &str)> = Vec::new();
    let mut rows: BTreeMap<usize, Vec<&Record>> = BTreeMap::new();
    for record in records.filter(|record| record.kind == Kind::Probe && !record.measures.is_empty()) {
        let name = name_of(record);
        for (measure, words) in SHOWN_MEASURES.iter().filter(|(measure, _)| record.measures.contains_key(*measure)) {
            let heading = if words.is_empty() { name.clone() } else { format!("{name}, {words}") };
            let column = (heading, name.clone(), *measure);
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        rows.entry(record.stage).or_default().push(record);
    }
    if rows.is_empty() {
        return String::new();
    }
    let headings = columns.iter().map(|(heading, ..)| heading.as_str());
    let mut table = Table::new(&std::iter::once("features of").chain(headings).collect::<Vec<_>>());
    for (stage, records) in rows {
        let cell = |(_, name, measure): &(String, String, &str)| {
            let record = records.iter().find(|record| name_of(record) == *name);
            let value = record.and_then(|record| record.measures.get(*measure));
            match value {
                Some(value) if measure.ends_with("accuracy") => wording::percent(Some(*value)),
                Some(value) => format!("{value:.3}"),
                None => "-".into(),
            }
        };
        let name = if stage == 0 { "images".to_string() } else { stage.to_string() };
        table.row(std::iter::once(name).chain(columns.iter().map(cell)));
    }
    table.folded(TERMINAL)
}

/// What is shown of what probes have found, and what a column adds to the name of the probe.
const SHOWN_MEASURES: [(&str, &str); 5] =
    [("accuracy", ""), ("train_accuracy", "train"), ("within", "within"), ("between", "between"), ("ratio", "ratio")];

fn name_of(record: &Record) -> String {
    record.manifest().value("probes.name").unwrap_or_default().to_string()
}

/// What `--json` says of a stage.
pub(super) fn stage_json(record: &Record) -> Value {
    let figures = record.figures.as_ref();
    json!({
        "kind": record.kind.word(),
        "stage": record.stage,
        "title": record.title(),
        "accuracy": record.accuracy(),
        "measures": record.measures,
        "top5": figures.map(|figures| figures.top5),
        "loss": figures.map(|figures| figures.loss),
        "ensemble_accuracy": figures.and_then(|figures| figures.ensemble_accuracy),
        "seconds": record.total_seconds(),
        "seconds_of": record.seconds,
        "images_per_second": record.images_per_second(),
        "bytes": record.stored_bytes(),
        "block_parameters": figures.map(|figures| figures.block_parameters),
        "auxiliary_parameters": figures.map(|figures| figures.auxiliary_parameters),
        "shape": record.arrays.get("train/features").map(|array| array.shape),
        "history": figures.map(|figures| &figures.history),
        "output": record.output,
        "skipped": record.skipped,
        "read_with_warnings": record.warned,
        "data": record.census,
        "made_on": record.made_on,
    })
}

/// The images that were left out, and those that were read with warnings, as far as a person would read them.
pub(super) fn list_odd(update: &Update, terminal: &Terminal) {
    const SHOWN: usize = 20;
    for record in &update.records {
        for (list, what) in [(&record.skipped, "left out"), (&record.warned, "read with warnings")] {
            if list.is_empty() {
                continue;
            }
            let (images, were) = (counted(list.len() as u64, "image"), if list.len() == 1 { "was" } else { "were" });
            terminal.say(&format!("{images} {were} {what}:"));
            list.iter().take(SHOWN).for_each(|(_, fault)| terminal.say(&format!("  {fault}")));
            if list.len() > SHOWN {
                terminal.say(&format!("  and {} more, all in the record of stage 0", list.len() - SHOWN));
            }
        }
    }
}
