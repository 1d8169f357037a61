//! How fast this machine is at the stages of one pipeline: the parts of which `pipeline` estimates whole runs.
//!
//! Everything is timed as it is used: features are written and read by the real extraction and loader, from images of the
//! data set where they are there, on a sample of a few dozen MiB in the folder of the stages.

use super::cache::{Scratch, block, write};
use super::probes;
use super::{Bench, decoding};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{Batch, Loader, Split, View, decode, label_files, processor, write_files};
use crate::images::ImageSet;
use crate::network::{Chain, Network, Noise, Sequence, map_type};
use crate::ops::{cast, compute};
use crate::pipeline::{
    self, Cost, Estimate, Features, Kind, Layers, Machine, Parts, Recipe, Source, Stage, Training, Whole,
};
use crate::progress::{Progress, Silent, Task};
use crate::random::{Purpose, Stream};
use crate::room;
use crate::size;
use crate::training::{Sgd, step};
use candle_core::{DType, Device, Tensor};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of the largest feature array that is written.
const SAMPLE: usize = 128 << 20;
/// Samples of it, at least and at most.
const COUNT: (usize, usize) = (16, 8192);
/// The size of its shards.
const SHARD_MIB: usize = 64;
/// Values that a training step may hold at once: larger feature maps are timed with fewer images a step.
const STEP_VALUES: usize = 1 << 26;
/// Steps of training that are timed at a time, at least and at most.
const STEPS: (usize, usize) = (4, 24);
/// The seconds that they are to take: where a step takes long, what comes before the first weighs little.
const STEPS_SECONDS: f64 = 2.0;
/// Classes of the built-in pictures.
const BUILTIN_CLASSES: usize = 10;
/// Bytes of the file that the disk's rates are taken from.
const FILE: usize = 128 << 20;

/// Measures the parts of all stages of a pipeline on the bench's device, in a folder of its own below `folder`, which is
/// removed again. `images` is the number of training images; where there are none here, the built-in pictures serve.
///
/// # Errors
/// When the disk refuses, an image is bad, the device does not compute with the precision of a stage, or the user
/// interrupts.
pub fn rates(
    bench: &Bench<'_>,
    pipeline: &Recipe,
    (images, classes): (Option<usize>, usize),
    folder: &Path,
) -> Result<Machine> {
    let (quiet, report) = (Quiet(bench.progress), &mut |_| Ok(()));
    let Bench { least, precision, .. } = *bench;
    let bench = &Bench { least, device: bench.device.clone(), precision, only: None, progress: &quiet, report };
    let scratch = Scratch::new(nearest(folder)?.as_path())?;
    quiet.0.say("  images");
    let sample = Sample::new(bench, pipeline, (images, classes), &scratch.0);
    let mut stages = vec![Parts { store: sample.decode(images.is_some())?, ..Parts::default() }];
    for stage in &pipeline.stages {
        quiet.0.say(&format!("  stage {} of {}", stage.number, pipeline.stages.len()));
        let (load, parts) = sample.stage(stage)?;
        stages[stage.number - 1].load = load;
        stages.push(parts);
    }
    if pipeline.probed().next().is_some() {
        quiet.0.say("  probes");
    }
    let probes = sample.probes(&mut stages)?;
    let network = match pipeline.whole() {
        None => Parts::default(),
        // All stages are trained at once, each as it would be by itself.
        Some(Whole { kind: Kind::Decoupled, .. }) => Parts {
            train: stages.iter().map(|parts| parts.train).sum(),
            classify: stages.iter().map(|parts| parts.classify).sum(),
            ..Parts::default()
        },
        Some(whole) => {
            quiet.0.say("  the whole network");
            sample.network(&whole)?
        }
    };
    quiet.0.say("  the disk");
    let file = scratch.0.join("file");
    let mut rng = Stream::new(Purpose::Bench, 0, (0, 0));
    let noise: Vec<u8> = (0..FILE / 8).flat_map(|_| rng.bits().to_le_bytes()).collect();
    let write = FILE as f64 / bench.seconds(|| disk::write(&file, &noise))?;
    let read = FILE as f64 / bench.seconds(|| read_from_disk(&file))?;
    let memory = pipeline.features.memory as f64;
    let processor = processor(&bench.device);
    Ok(Machine { name: "this machine, as measured".into(), processor, stages, network, probes, read, write, memory })
}

/// The stages whose features make a pipeline fastest here, as measured for some seconds: what `features.materialize =
/// "auto"` stands for. `images` are training and validation images, `folder` is that of the stages.
///
/// # Errors
/// As [`rates`].
pub fn worth_keeping(
    pipeline: &Recipe,
    (images, classes): ([usize; 2], usize),
    folder: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Vec<usize>> {
    let least = Duration::from_millis(200);
    let precision = DType::F32;
    let bench = Bench { least, device: device.clone(), precision, only: None, progress, report: &mut |_| Ok(()) };
    let machine = rates(&bench, pipeline, (Some(images[0]), classes), folder)?;
    let estimate = Estimate { pipeline, machine: &machine, images, compression: None };
    Ok(pipeline::choose(&estimate, budget(&estimate, folder)))
}

/// Bytes that features may take: as the pipeline says, or else as much as is free or lies in the folder of the stages
/// already, without the images.
pub fn budget(estimate: &Estimate<'_>, folder: &Path) -> Option<u64> {
    let room = || Some(size::free(folder)?.saturating_add(room::taken(folder)).saturating_sub(estimate.bytes(0)));
    estimate.pipeline.features.disk.or_else(room)
}

/// A few samples of the data set as they go through the stages.
struct Sample<'a, 'b> {
    bench: &'a Bench<'b>,
    pipeline: Recipe,
    count: usize,
    classes: usize,
    folder: &'a Path,
}

impl<'a, 'b> Sample<'a, 'b> {
    fn new(
        bench: &'a Bench<'b>,
        pipeline: &Recipe,
        (images, mut classes): (Option<usize>, usize),
        folder: &'a Path,
    ) -> Self {
        let mut pipeline = pipeline.clone();
        let bytes =
            |stage: &Stage| stage.block.output.values() * pipeline.features.encoding(&stage.block).dtype.bytes();
        let largest = pipeline.stages.iter().map(bytes).max().unwrap_or(1);
        let count = (SAMPLE / largest).clamp(COUNT.0, COUNT.1);
        let count = images.map_or(count, |images| count.min(images));
        if images.is_none() {
            pipeline.data.source = Source::Builtin;
            classes = classes.max(BUILTIN_CLASSES);
        }
        (pipeline.data.train_images, pipeline.data.val_images) = (Some(count), Some(1));
        let cached = (1..=pipeline.stages.len()).collect();
        let shard_mib = SHARD_MIB.min(pipeline.features.shard_mib);
        pipeline.features =
            Features { views: 1, late_crops: false, refresh: 0.0, cached, shard_mib, ..pipeline.features };
        Self { bench, pipeline, count, classes, folder }
    }

    fn stage_folder(&self, number: usize) -> PathBuf {
        self.folder.join(format!("stage{number}"))
    }

    /// Seconds to decode an image file and store the image; leaves stage 0 behind.
    fn decode(&self, real: bool) -> Result<f64> {
        let images = ImageSet::open(&self.pipeline.data, self.pipeline.seed)?;
        let folder = self.stage_folder(0);
        let decode = || {
            disk::remove(&folder)?;
            decode(&folder, Split::Train, &images.train, &self.pipeline, self.bench.progress).map(drop)
        };
        let seconds = self.bench.seconds(decode)? / self.count as f64;
        // Built-in pictures are drawn, not decoded.
        if real { Ok(seconds) } else { decoding::seconds(self.bench) }
    }

    /// Seconds to load a sample of the stage before, and the parts of this stage, whose features replace those.
    fn stage(&self, stage: &Stage) -> Result<(f64, Parts)> {
        let bench = self.bench;
        let before = self.stage_folder(stage.number - 1);
        let none = Chain::new(Vec::new(), &bench.device, map_type(stage.training.precision));
        let input = Loader::open(&before, Split::Train, &self.pipeline, self.classes, none)?;
        let order = Stream::new(Purpose::Bench, 1, (0, 0)).permutation(input.len());
        let view = View::Epoch { stage: stage.number, epoch: 0 };
        let per_sample = |seconds: f64| seconds / input.len() as f64;
        let load = || input.for_each_batch(&order, stage.training.batch, view, |_| Ok(()));
        let load = per_sample(bench.seconds(load)?);
        // Blocks that are trained together are measured together.
        let train = if self.pipeline.trains_apart(stage) { self.training(stage, (&input, &order), load)? } else { 0.0 };
        let [classify, frozen] = self.forward(stage)?;
        let block = block(bench, &self.pipeline, stage.number)?;
        let mut folders = Vec::new();
        let extract = || {
            // Each time a folder of its own: memory that holds a file for the first time is slower to get than such as is
            // used again, and a real run needs all of it for the first time.
            let folder = self.folder.join(format!("stage{}.{}", stage.number, folders.len()));
            write(bench.progress, (&self.pipeline, stage.number), &block, (&input, &folder))?;
            folders.push(folder);
            Ok(())
        };
        let extracted = per_sample(bench.seconds(extract)?);
        // What a GPU computes meanwhile takes none of the time of the processor.
        let beside = if bench.device.is_cpu() { load + frozen } else { load };
        let store = (extracted - beside).max(0.0);
        disk::remove(&before)?;
        if let Some(last) = folders.pop() {
            write_files(&last, &label_files(Split::Train, input.labels())?)?;
            std::fs::rename(&last, self.stage_folder(stage.number)).map_err(|e| Error::io("rename", &last, &e))?;
        }
        folders.iter().try_for_each(|folder| disk::remove(folder))?;
        Ok((load, Parts { load: 0.0, frozen, train, classify, store }))
    }

    /// Seconds an image of a training step. On a CPU the step is timed while its batches are loaded, as in an epoch, and
    /// what loading alone takes is subtracted: two that share the cores are slower than one after the other.
    fn training(&self, stage: &Stage, (input, order): (&Loader, &[u32]), load: f64) -> Result<f64> {
        let (bench, device) = (self.bench, &self.bench.device);
        let mut rng = Stream::new(Purpose::Bench, 0, (0, 0));
        let network = Network::of_stage(stage, self.classes, (self.pipeline.init, &mut rng, device))?;
        let sgd = &Sgd::new(&network.variables(), stage.training.momentum, stage.training.weight_decay)?;
        // So slow that weights stay as they are: what is learned of a few samples again and again may diverge.
        let train = |batch: &Batch| {
            let noise = Noise::new(0, (stage.number, 0), &batch.samples);
            Ok(step(&network, sgd, (&batch.x, &batch.labels, &noise), 1e-6).map(drop)?)
        };
        let (batch, view) = (self.batch(stage), View::Epoch { stage: stage.number, epoch: 0 });
        if device.is_cpu() {
            let train_for = |steps: usize| {
                bench.progress.check()?;
                let order = &order[..order.len().min(steps * batch)];
                let started = Instant::now();
                input.for_each_batch(order, batch, view, |batch| train(&batch))?;
                Ok::<_, Error>(started.elapsed().as_secs_f64() / order.len() as f64)
            };
            // The first is slower than others: it reserves memory.
            train_for(1)?;
            let steps = (STEPS_SECONDS / (train_for(STEPS.0)? * batch as f64)) as usize;
            let steps = steps.clamp(STEPS.0, STEPS.1);
            let seconds = bench.seconds(|| train_for(steps).map(drop))?;
            return Ok((seconds / order.len().min(steps * batch) as f64 - load).max(0.0));
        }
        let first = input.batch(&order[..order.len().min(batch)], view)?;
        Ok(bench.seconds(|| train(&first))? / first.len() as f64)
    }

    /// Seconds an image of a classification and of the frozen block, on noise that is in memory.
    fn forward(&self, stage: &Stage) -> Result<[f64; 2]> {
        let (bench, batch, shape) = (self.bench, self.batch(stage), stage.block.input);
        let x = bench.noise(&[batch, shape.size, shape.size, shape.channels], 1)?;
        let x = cast(&x, map_type(stage.training.precision))?;
        let mut rng = Stream::new(Purpose::Bench, 0, (0, 0));
        let block = Network::block(&stage.block, (self.pipeline.init, &mut rng, &bench.device))?.frozen()?;
        let frozen = || Ok(compute(x.device(), || block.forward(&x)).map(drop)?);
        let frozen = bench.seconds(frozen)? / batch as f64;
        if !self.pipeline.trains_apart(stage) {
            return Ok([0.0, frozen]);
        }
        let network = Network::of_stage(stage, self.classes, (self.pipeline.init, &mut rng, &bench.device))?;
        let head = network.head.frozen()?;
        let classify = || Ok(compute(x.device(), || head.logits(&block.forward(&x)?)).map(drop)?);
        Ok([bench.seconds(classify)? / batch as f64, frozen])
    }

    /// The parts of each probe; and what loading the last features takes, which nothing but probes reads.
    fn probes(&self, stages: &mut [Parts]) -> Result<Vec<Parts>> {
        let last = self.pipeline.stages.len();
        if self.pipeline.probed().any(|probed| probed.stage == last) {
            let none = Chain::new(Vec::new(), &self.bench.device, DType::F32);
            let input = Loader::open(&self.stage_folder(last), Split::Train, &self.pipeline, self.classes, none)?;
            let order: Vec<u32> = (0..input.len() as u32).collect();
            let load = || input.for_each_batch(&order, self.pipeline.training.batch, View::Cached(0), |_| Ok(()));
            stages[last].load = self.bench.seconds(load)? / input.len() as f64;
        }
        self.pipeline.probed().map(|probed| probes::parts(self.bench, &probed, self.classes)).collect()
    }

    /// Seconds an image of a training step and of a classification of the whole network, on noise that is in memory.
    /// What comes from a file is not trained, and where it does not classify nothing of it is run.
    fn network(&self, whole: &Whole<'_>) -> Result<Parts> {
        let (bench, pipeline) = (self.bench, &self.pipeline);
        let Some(head) = whole.head else { return Ok(Parts::default()) };
        let blocks: Vec<&Layers> = whole.stages.iter().map(|stage| &stage.block).collect();
        let mut rng = Stream::new(Purpose::Bench, 0, (0, 0));
        let network = Network::new(&blocks, head, self.classes, (pipeline.init, &mut rng, &bench.device))?;
        let start = (pipeline.init, &mut rng, &bench.device);
        let network = network.with_feedback(pipeline.feedback, self.classes, start)?;
        let fitting = STEP_VALUES / Cost::of_network(&blocks, Some(head), self.classes).step_values.max(1);
        let (batch, shape) = (pipeline.training.batch.min(fitting).max(2), pipeline.image());
        let x = bench.noise(&[batch, shape.size, shape.size, shape.channels], 1)?;
        let x = cast(&x, map_type(pipeline.training.precision))?;
        let samples: Vec<u32> = (0..batch as u32).collect();
        let labels: Vec<u32> = samples.iter().map(|sample| sample % self.classes as u32).collect();
        let labels = Tensor::from_vec(labels, batch, &bench.device)?;
        let noise = Noise::new(0, (0, 0), &samples);
        let train = match whole.is_imported() {
            true => 0.0,
            false => {
                let Training { momentum, weight_decay, .. } = pipeline.training;
                let sgd = &Sgd::new(&network.variables(), momentum, weight_decay)?;
                bench.seconds(|| Ok(step(&network, sgd, (&x, &labels, &noise), 1e-9).map(drop)?))?
            }
        };
        let blocks = network.blocks.iter().map(Sequence::frozen).collect::<candle_core::Result<Vec<_>>>()?;
        let head = network.head.frozen()?;
        let classify = bench.seconds(|| {
            let logits = || head.logits(&blocks.iter().try_fold(x.clone(), |x, block| block.forward(&x))?);
            Ok(compute(x.device(), logits).map(drop)?)
        })?;
        let [train, classify] = [train, classify].map(|seconds| seconds / batch as f64);
        Ok(Parts { train, classify, ..Parts::default() })
    }

    /// Images a step: those of the pipeline, or fewer where feature maps are large.
    fn batch(&self, stage: &Stage) -> usize {
        let fitting = STEP_VALUES / Cost::of(stage, self.classes).step_values;
        stage.training.batch.min(fitting).min(self.count).max(2)
    }
}

/// Hears whether the user wants it stopped, and says nothing of a sample's extraction.
struct Quiet<'a>(&'a dyn Progress);

impl Progress for Quiet<'_> {
    fn start(&self, name: &str, total: u64) -> Box<dyn Task> {
        Silent.start(name, total)
    }
    fn say(&self, _: &str) {}
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

/// The folder itself, or the nearest above it that is there: measuring is to leave no new folder behind.
fn nearest(folder: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(folder).map_err(|e| Error::io("find", folder, &e))?;
    let there = absolute.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    Ok(there.to_path_buf())
}

/// Reads a file once, from the disk where the system can be told to forget what it holds of it in memory.
fn read_from_disk(path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("read", path, &e);
    let mut file = File::open(path).map_err(failed)?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| failed(e.into()))?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).map_err(failed)? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worth_keeping_is_measured_and_fits_the_disk() {
        let text = "[data]\nsource = \"builtin\"\n[network]\nblocks = 3\nwidth = 4\nspace_to_depth = [1]\n\
                    [auxiliary]\nwidth = 4\n[training]\nbatch = 16\n[features]\ndisk = ";
        let folder = tempfile::tempdir().unwrap();
        let cached = |disk: &str| {
            let pipeline = Recipe::parse("p", "p", &format!("{text}{disk:?}"), &[]).unwrap();
            worth_keeping(&pipeline, ([200, 50], 10), &folder.path().join("cache"), &Device::Cpu, &Silent).unwrap()
        };
        assert_eq!(cached("0"), [0; 0]);
        // Nobody reads the last features.
        assert!(!cached("1TB").contains(&3));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
