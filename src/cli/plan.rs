//! `greedy plan`.

use super::look_args::{PlanArgs, PredictionArgs};
use super::output::Output;
use super::plan_table::Plan;
use super::progress::Terminal;
use super::run::{Opened, project};
use crate::bench::{self, Bench};
use crate::error::{Error, Result};
use crate::images::ImageSet;
use crate::pipeline::{self, Costs, Estimate, Figures, Machine, Node, Recipe, Verdict, footprint};
use crate::progress::Progress;
use crate::run::{self, Project, Record};
use candle_core::DType;
use std::path::Path;
use std::time::Duration;

/// The least time of each measurement.
const LEAST: Duration = Duration::from_millis(300);
/// Classes where nobody says: ImageNet's.
const CLASSES: usize = 1000;

/// `greedy plan PIPELINE`
pub(super) fn plan(args: &PlanArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let Prediction { opened, data, costs, machine } = Prediction::of(&args.prediction, terminal)?;
    let Opened { project, cache, unplanned, .. } = opened;
    let pipeline = project.pipeline();
    let records = records(&project);
    let estimate = Estimate { pipeline, machine: &machine, images: data.images, compression: compression(&records) };
    // What is free here says nothing of an assumed machine.
    let disk = args.disk.or(match args.prediction.profile {
        Some(_) => pipeline.features.disk,
        None => bench::budget(&estimate, &cache),
    });
    let chosen = pipeline::choose(&estimate, disk);
    let follows = args.disk.is_some() || unplanned;
    let cached = if follows { chosen.clone() } else { pipeline.features.cached.clone() };
    let network = project.nodes().find(|look| look.node.kind.is_network() && *look.verdict == Verdict::Current);
    let network = network.and_then(|look| look.found).map(|found| &found.record);
    let leaf = |id: &str| {
        let look = project.nodes().find(|look| look.node.id == id && *look.verdict == Verdict::Current)?;
        look.found.map(|found| &found.record)
    };
    let probes = pipeline.probed().map(|probed| leaf(&probed.probe.id(probed.stage))).collect();
    let (ensemble, classes) = (leaf(Node::ENSEMBLE), data.classes);
    let plan =
        Plan { ensemble, probes, classes, estimate, costs: &costs, records: &records, network, disk, chosen, cached };
    if args.json { output.json(&plan.json()) } else { output.text(&plan.text()) }
}

/// What a pipeline is predicted from: itself, its data, and a machine.
pub(super) struct Prediction {
    pub opened: Opened,
    data: DataSet,
    pub costs: Costs,
    machine: Machine,
}

impl Prediction {
    /// Measures this machine, where none is assumed.
    pub fn of(args: &PredictionArgs, terminal: &Terminal) -> Result<Self> {
        let opened = project(&args.pipeline, &args.set)?;
        let pipeline = opened.project.pipeline();
        let data = DataSet::find(args, &opened.project)?;
        let costs = Costs::of(pipeline, data.classes);
        let mut machine = match &args.profile {
            Some(profile) => profile.machine(pipeline, &costs),
            None => measure(args, pipeline, &data, &opened.cache, terminal)?,
        };
        let figures = Figures {
            forward: args.forward,
            training: args.training,
            read: args.read,
            write: args.write,
            decode: args.decode,
            ..Figures::default()
        };
        machine.set(&figures, pipeline, &costs);
        Ok(Self { opened, data, costs, machine })
    }

    /// Classes that are told apart.
    pub fn classes(&self) -> usize {
        self.data.classes
    }

    /// The pipeline on the machine.
    pub fn estimate(&self) -> Estimate<'_> {
        let project = &self.opened.project;
        let compression = compression(&records(project));
        Estimate { pipeline: project.pipeline(), machine: &self.machine, images: self.data.images, compression }
    }
}

/// The records of the stages that are as the pipeline would make them; the images first.
fn records(project: &Project) -> Vec<Option<&Record>> {
    (0..=project.pipeline().stages.len()).map(|number| current(project, number)).collect()
}

/// The record of a stage that is as the pipeline would make it.
fn current(project: &Project, number: usize) -> Option<&Record> {
    let look = project
        .nodes()
        .find(|look| look.node.stage == number && look.node.kind.is_stage() && *look.verdict == Verdict::Current)?;
    look.found.map(|found| &found.record)
}

/// Bytes of the features that are there over bytes of their values, where there are any.
fn compression(records: &[Option<&Record>]) -> Option<f64> {
    let arrays = || records.iter().skip(1).flatten().flat_map(|record| record.arrays.values());
    let stored: u64 = arrays().map(|array| array.stored_bytes).sum();
    let beside: u64 = arrays().map(|array| (array.shape[0] * array.shape[1]) as u64 * footprint::BESIDE_SAMPLE).sum();
    let logical: u64 = arrays().map(|array| array.logical_bytes).sum();
    (logical > 0).then(|| stored.saturating_sub(beside) as f64 / logical as f64)
}

/// How much there is to learn from.
struct DataSet {
    images: [usize; 2],
    classes: usize,
    /// Training images that can be read here.
    here: Option<usize>,
}

impl DataSet {
    /// As the command line says, or as the images were decoded, or else as they lie there.
    fn find(args: &PredictionArgs, project: &Project) -> Result<Self> {
        let pipeline = project.pipeline();
        let said = [args.images, args.val_images].map(|count| count.map(|count| count as usize));
        let record = current(project, 0);
        let recorded = |name: &str| Some(record?.arrays.get(name)?.shape[1]);
        let known = [said[0].or_else(|| recorded("train/features")), said[1].or_else(|| recorded("val/features"))];
        // An assumed machine needs no images where their number is known.
        let needed = args.profile.is_none() || known.contains(&None);
        let found = needed.then(|| ImageSet::open(&pipeline.data, pipeline.seed)).transpose();
        let counted = match &found {
            Ok(Some(set)) => [Some(set.train.len()), Some(set.val.len())],
            _ => [None, None],
        };
        let [Some(train), Some(val)] = [known[0].or(counted[0]), known[1].or(counted[1])] else {
            let fault = found.err().unwrap_or_else(|| Error::failed("it is not known how many images there are"));
            return Err(fault.hint("say how many images there will be: `--images N --val-images N`"));
        };
        let found = found.ok().flatten();
        let recorded = record.map(|record| record.classes.len());
        let counted = recorded.or_else(|| found.as_ref().map(|set| set.classes.len()));
        let classes = counted.or(args.classes.map(usize::from)).unwrap_or(CLASSES);
        Ok(Self { images: [train, val], classes, here: found.map(|set| set.train.len()) })
    }
}

/// This machine, as it is now.
fn measure(
    args: &PredictionArgs,
    pipeline: &Recipe,
    data: &DataSet,
    cache: &Path,
    terminal: &Terminal,
) -> Result<Machine> {
    let device = run::device(&args.device.device, false, terminal)?;
    terminal.say("measuring this machine at every stage; what else runs now counts against it");
    let precision = DType::F32;
    let bench = Bench { least: LEAST, device, precision, only: None, progress: terminal, report: &mut |_| Ok(()) };
    bench::rates(&bench, pipeline, (data.here, data.classes), cache)
}
