//! `greedy export ENGINE PIPELINE`: a pipeline for an engine that runs it on many machines.

use super::export_args::{Engine, WorkflowArgs};
use super::output::{Output, refuse_present};
use super::plan::Prediction;
use super::progress::Terminal;
use super::table::Table;
use super::wording;
use crate::disk;
use crate::error::{Error, Result};
use crate::export::{Commands, Limits, Predicted, Workflow, kubernetes_jobs, slurm_script, snakefile};
use crate::pipeline::Processor;
use crate::text::shown;

/// Cores of a task beside a GPU, where nobody says.
const BESIDE_GPU: usize = 8;

/// Writes the file of an engine, or only says so, and prints the steps.
pub(super) fn workflow(engine: &Engine, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let (args, render): (&WorkflowArgs, fn(&Workflow) -> String) = match engine {
        Engine::Snakemake(args) => (args, snakefile),
        Engine::Slurm(args) => (args, slurm_script),
        Engine::Kubernetes(args) => (args, kubernetes_jobs),
    };
    let prediction = Prediction::of(&args.prediction, terminal)?;
    if prediction.opened.unplanned {
        let file = args.prediction.pipeline.pipeline.display();
        return Err(Error::usage("it is not planned yet which features are cached, which the steps depend on").hint(
            format!("`greedy run {file} images` plans it for this machine; or name them with `features.materialize`"),
        ));
    }
    refuse_present(&args.to, args.force)?;
    let estimate = prediction.estimate();
    let threads = match (args.cores, estimate.machine.processor) {
        (Some(cores), _) => cores.into(),
        (None, Processor::Cpu { threads }) => threads,
        (None, Processor::Gpu) => BESIDE_GPU,
    };
    let commands = commands(args, &prediction, threads);
    let limits = Limits { parts: args.parts.into(), retries: args.retries.into() };
    let predicted = Predicted { estimate: &estimate, costs: &prediction.costs, classes: prediction.classes() };
    let workflow = Workflow::of(prediction.opened.project.graph(), predicted, &commands, limits);
    let text = render(&workflow);
    if !args.dry_run {
        disk::write(&args.to, text.as_bytes())?;
    }
    output.text(&table(&workflow).text())?;
    let would = if args.dry_run { "would write " } else { "" };
    output.line(&format!("\n{would}{}: {} steps", shown(&args.to), workflow.steps.len()))
}

/// How greedy is called: with the file, the settings and the folder that it was called with here.
fn commands(args: &WorkflowArgs, prediction: &Prediction, threads: usize) -> Commands {
    let asked = &args.prediction;
    let mut options: Vec<String> = asked.set.iter().flat_map(|set| ["--set".into(), set.clone()]).collect();
    if let Some(cache) = &asked.pipeline.cache {
        options.extend(["--cache".into(), cache.display().to_string()]);
    }
    Commands {
        file: asked.pipeline.pipeline.display().to_string(),
        cache: prediction.opened.cache.display().to_string(),
        options,
        threads,
    }
}

fn table(workflow: &Workflow) -> Table {
    let mut table = Table::new(&["step", "tasks", "memory", "minutes", "GPUs", "after"]);
    for step in &workflow.steps {
        let after: Vec<&str> = step.after.iter().map(|&at| workflow.steps[at].name.as_str()).collect();
        let tasks = if step.receipts.is_some() { workflow.limits.parts } else { 1 };
        table.row([
            step.name.clone(),
            tasks.to_string(),
            wording::bytes(step.needs.memory * 1_000_000),
            step.needs.minutes.to_string(),
            step.needs.gpus.to_string(),
            if after.is_empty() { "-".into() } else { after.join(" ") },
        ]);
    }
    table
}
