//! A pipeline as steps that an engine for clusters can run: which command, after which others, in how many parts, with how
//! much memory and time.

use crate::pipeline::{BadImage, Costs, Estimate, Graph, Kind, Memory, Node, Processor, Recipe};
use crate::text::quoted;

/// How much more time a step is given than is predicted: predictions are of a machine on which nothing else runs.
const TIME: f64 = 3.0;
/// Minutes that every step is given beside that: machines start, disks of the network are slow.
const MINUTES: f64 = 10.0;
/// How much more memory a step is given than is predicted.
const MEMORY: f64 = 1.5;
/// Bytes that decoding images takes at most: a batch of decoded images, and a large file for each thread.
const DECODING: f64 = (2u64 << 30) as f64;
/// Bytes of a megabyte, as engines count memory.
const MEGABYTE: f64 = 1e6;

/// What the steps are predicted from.
#[derive(Clone, Copy)]
pub struct Predicted<'a> {
    /// The pipeline on a machine.
    pub estimate: &'a Estimate<'a>,
    /// What its stages cost.
    pub costs: &'a Costs,
    /// Classes that are told apart.
    pub classes: usize,
}

/// How the commands of a workflow are called.
pub struct Commands {
    /// The pipeline's file.
    pub file: String,
    /// The folder of the stages.
    pub cache: String,
    /// What goes behind every command: settings that are overridden and the like.
    pub options: Vec<String>,
    /// Threads of every process: another number of them may give other bits.
    pub threads: usize,
}

/// What is asked of an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Parts of the work over shards.
    pub parts: usize,
    /// How often a task that failed is tried again.
    pub retries: usize,
}

/// What a task of a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Megabytes of memory.
    pub memory: u64,
    /// Minutes.
    pub minutes: u64,
    /// GPUs.
    pub gpus: usize,
}

/// What a step does for its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// All of it.
    Whole,
    /// As far as its shards come next.
    Begin,
    /// Looks which images are bad, in parts.
    Check,
    /// Makes the shards, in parts.
    Make,
    /// What is left.
    Finish,
}

/// A step: one task, or one for each part.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name, of letters, digits and underscores.
    pub name: String,
    /// What it does, in words.
    pub about: String,
    /// The command; a step in parts lacks which of them.
    pub command: String,
    /// The receipts that its tasks leave, before and behind the number of the part; nothing where it is one task.
    pub receipts: Option<(String, String)>,
    /// The steps that come first, by their indices.
    pub after: Vec<usize>,
    /// What each task takes.
    pub needs: Needs,
}

/// All steps of a pipeline, in an order in which they can be done.
pub struct Workflow {
    /// The name of the pipeline.
    pub name: String,
    /// The pipeline's file.
    pub file: String,
    /// What the figures were predicted for.
    pub machine: String,
    /// Cores of every task.
    pub cores: usize,
    /// What is asked of the engine.
    pub limits: Limits,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Workflow {
    /// The steps of a pipeline, as its own choice of what is cached has them.
    pub fn of(graph: &Graph, predicted: Predicted<'_>, commands: &Commands, limits: Limits) -> Self {
        let estimate = predicted.estimate;
        let mut writer = Writer { predicted, commands, limits, steps: Vec::new() };
        // The last step of each node.
        let mut last: Vec<usize> = Vec::new();
        for node in graph.nodes() {
            let mut after: Vec<usize> = node.inputs.iter().map(|&input| last[input]).collect();
            for act in acts(node, estimate.pipeline) {
                writer.step(node, act, std::mem::take(&mut after));
                after.push(writer.steps.len() - 1);
            }
            last.push(writer.steps.len() - 1);
        }
        Self {
            name: estimate.pipeline.name.clone(),
            file: commands.file.clone(),
            machine: estimate.machine.name.clone(),
            cores: commands.threads,
            limits,
            steps: writer.steps,
        }
    }

    /// The steps that no other waits for.
    pub fn ends(&self) -> impl Iterator<Item = &Step> {
        let waited = |at: usize| self.steps.iter().any(|step| step.after.contains(&at));
        self.steps.iter().enumerate().filter(move |(at, _)| !waited(*at)).map(|(_, step)| step)
    }
}

/// What is done for a node, one after the other.
fn acts(node: &Node, recipe: &Recipe) -> Vec<Act> {
    let cached = match node.kind {
        Kind::Images => true,
        Kind::Block | Kind::Pruned | Kind::Depth | Kind::Scattering => recipe.features.caches(node.stage),
        Kind::Wide | Kind::EndToEnd | Kind::Decoupled | Kind::Imported => false,
        Kind::Classifier | Kind::Ensemble | Kind::Probe => false,
    };
    let checks = node.kind == Kind::Images && recipe.data.on_bad_image == BadImage::Skip;
    match (cached, checks) {
        (false, _) => vec![Act::Whole],
        (true, false) => vec![Act::Begin, Act::Make, Act::Finish],
        (true, true) => vec![Act::Begin, Act::Check, Act::Make, Act::Finish],
    }
}

struct Writer<'a> {
    predicted: Predicted<'a>,
    commands: &'a Commands,
    limits: Limits,
    steps: Vec<Step>,
}

impl Writer<'_> {
    fn step(&mut self, node: &Node, act: Act, after: Vec<usize>) {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        let id: String = if node.kind == Kind::Images { "images".into() } else { node.id.chars().map(plain).collect() };
        let (ending, about) = match (act, node.kind) {
            (Act::Whole, _) => ("", node.title()),
            (Act::Begin, Kind::Images) => ("_begin", "images: begins their folder".into()),
            (Act::Begin, Kind::Depth) => ("_begin", format!("{}: takes its block from the network", node.title())),
            (Act::Begin, Kind::Scattering) => ("_begin", format!("{}: begins its arrays", node.title())),
            (Act::Begin, _) => ("_train", format!("{}: trains its block", node.title())),
            (Act::Check, _) => ("_check", "images: looks which are bad, in parts".into()),
            (Act::Make, Kind::Images) => ("_part", "images: decodes them, in parts".into()),
            (Act::Make, _) => ("_part", format!("{}: writes its features, in parts", node.title())),
            (Act::Finish, _) => ("", format!("{}: gathers the receipts and finishes", node.title())),
        };
        let sheet = match act {
            Act::Check => Some("check-"),
            Act::Make => Some(""),
            Act::Whole | Act::Begin | Act::Finish => None,
        };
        let folder = match (&self.predicted.estimate.pipeline.data.decoded, node.kind) {
            (Some(decoded), Kind::Images) => decoded.clone(),
            _ => format!("{}/{}", self.commands.cache, node.id),
        };
        let parts = self.limits.parts;
        self.steps.push(Step {
            name: id + ending,
            about,
            command: self.command(node, act),
            receipts: sheet.map(|sheet| (format!("{folder}/parts/{sheet}"), format!("-of-{parts}.json"))),
            after,
            needs: self.needs(node, act),
        });
    }

    fn command(&self, node: &Node, act: Act) -> String {
        let Commands { file, options, threads, .. } = self.commands;
        let id = if node.kind == Kind::Images { "images" } else { &node.id };
        let threads = threads.to_string();
        let mut words = vec!["greedy", "--threads", &threads];
        words.extend(match act {
            Act::Check | Act::Make => ["shards", id, file],
            _ => ["run", file, id],
        });
        words.extend(options.iter().map(String::as_str));
        match act {
            Act::Whole | Act::Finish => {}
            Act::Begin => words.extend(["--until", "trained"]),
            // What the step before has written may take that long to be seen on another machine.
            Act::Check => words.extend(["--check", "--wait", "60"]),
            Act::Make => words.extend(["--wait", "60"]),
        }
        if node.kind != Kind::Images {
            words.extend(["--device", if self.has_gpu(node) { "cuda" } else { "cpu" }]);
        }
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    fn has_gpu(&self, node: &Node) -> bool {
        let computes = !matches!(node.kind, Kind::Images | Kind::Ensemble);
        computes && self.predicted.estimate.machine.processor == Processor::Gpu
    }

    fn needs(&self, node: &Node, act: Act) -> Needs {
        let Predicted { estimate, costs, classes } = self.predicted;
        let from = estimate.pipeline.features.nearest(node.stage.max(1));
        let parts = self.limits.parts as f64;
        let written = match node.kind {
            Kind::Images => estimate.decoding().seconds,
            kind if kind.is_stage() => estimate.extraction(node.stage, from).seconds,
            _ => 0.0,
        };
        let probe =
            || estimate.pipeline.probed().enumerate().find(|(_, probed)| probed.probe.id(probed.stage) == node.id);
        let learned = match node.kind {
            Kind::Block | Kind::Wide | Kind::Pruned => estimate.training(node.stage, from),
            Kind::EndToEnd | Kind::Decoupled | Kind::Imported => estimate.network(),
            Kind::Classifier | Kind::Probe => probe().map_or(0.0, |(at, probed)| {
                let from = estimate.pipeline.features.nearest(probed.stage + 1);
                estimate.probe(at, from, None)
            }),
            Kind::Ensemble => estimate.ensemble(classes),
            Kind::Images | Kind::Depth | Kind::Scattering => 0.0,
        };
        let seconds = match act {
            Act::Whole => learned,
            Act::Begin => learned,
            Act::Check | Act::Make => written / parts,
            // It may have to make what one part has not.
            Act::Finish => written / parts,
        };
        let (images, processor) = (estimate.images, estimate.machine.processor);
        let memory = match node.kind {
            Kind::Images => DECODING,
            Kind::EndToEnd | Kind::Decoupled | Kind::Imported => costs
                .network
                .as_ref()
                .map_or(0.0, |cost| Memory::of_network(estimate.pipeline, cost, (images[0], processor)).host),
            Kind::Ensemble => DECODING / 2.0,
            Kind::Classifier | Kind::Probe => probe().map_or(0.0, |(_, probed)| {
                let from = estimate.pipeline.features.nearest(probed.stage + 1);
                Memory::of_probe(estimate.pipeline, &probed, from, (images, classes, processor)).host
            }),
            Kind::Block | Kind::Wide | Kind::Pruned | Kind::Depth | Kind::Scattering => {
                estimate.memory(node.stage, from, &costs.stages[node.stage - 1]).host + self.views(from)
            }
        };
        Needs {
            memory: ((memory * MEMORY / MEGABYTE / 100.0).ceil() * 100.0) as u64,
            minutes: (seconds * TIME / 60.0 + MINUTES).ceil() as u64,
            gpus: usize::from(self.has_gpu(node) && act != Act::Finish),
        }
    }

    /// Bytes of refreshed views of a stage's features, where they are cached in memory.
    fn views(&self, from: usize) -> f64 {
        let (features, bytes) = (&self.predicted.estimate.pipeline.features, self.predicted.estimate.bytes(from));
        if from > 0 && features.refresh > 0.0 && bytes <= features.memory { bytes as f64 } else { 0.0 }
    }
}
