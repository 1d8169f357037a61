//! How fast this machine is at the stages of one pipeline: the parts of which `pipeline` estimates whole runs.
//!
//! Everything is timed as it is used: features are written and read by the real extraction and loader, from images of the
//! data set where they are there, on a sample of a few dozen MiB in the folder of the stages.

use super::cache::{Scratch, block, write};
use super::{Bench, decoding};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{Draw, Loader, Subset, decode};
use crate::images::ImageSet;
use crate::network::StageNetwork;
use crate::pipeline::{self, Cost, Estimate, Features, Machine, Materialize, Parts, Pipeline, Source, Stage};
use crate::progress::{Progress, Silent, Task};
use crate::random::{Purpose, Stream};
use crate::room;
use crate::training::{Sgd, step};
use candle_core::{Device, Tensor};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of the largest feature array that is written.
const SAMPLE: usize = 96 << 20;
/// Samples of it, at least and at most.
const COUNT: (usize, usize) = (16, 8192);
/// The size of its shards.
const SHARD_MIB: usize = 32;
/// Values that a training step may hold at once: larger feature maps are timed with fewer images a step.
const STEP_VALUES: usize = 1 << 26;
/// Bytes of the file that the disk's rates are taken from.
const FILE: usize = 128 << 20;

/// Measures the parts of all stages of a pipeline on the bench's device, in a folder of its own below `folder`, which is
/// removed again. `images` is the number of training images; where there are none here, the built-in pictures serve.
///
/// # Errors
/// When the disk refuses, an image is bad, or the user interrupts.
pub fn rates(
    bench: &Bench<'_>,
    pipeline: &Pipeline,
    (images, classes): (Option<usize>, usize),
    folder: &Path,
) -> Result<Machine> {
    let (quiet, report) = (Quiet(bench.progress), &mut |_| Ok(()));
    let bench = &Bench { least: bench.least, device: bench.device.clone(), only: None, progress: &quiet, report };
    let scratch = Scratch::new(nearest(folder)?.as_path())?;
    let sample = Sample::new(bench, pipeline, (images, classes), &scratch.0)?;
    let mut stages = vec![Parts { store: sample.decode(images.is_some())?, ..Parts::default() }];
    for stage in &pipeline.stages {
        let (load, parts) = sample.stage(stage)?;
        stages[stage.number - 1].load = load;
        stages.push(parts);
    }
    let file = scratch.0.join("file");
    let mut draw = Stream::new(Purpose::Bench, 0, (0, 0));
    let noise: Vec<u8> = (0..FILE / 8).flat_map(|_| draw.bits().to_le_bytes()).collect();
    let write = FILE as f64 / bench.seconds(|| disk::write(&file, &noise))?;
    let read = FILE as f64 / bench.seconds(|| read_from_disk(&file))?;
    let memory = pipeline.features.memory.or_else(|| free_memory().map(|bytes| bytes / 2)).unwrap_or(0) as f64;
    let overlaps = !bench.device.is_cpu();
    Ok(Machine { name: "this machine, as measured".into(), overlaps, stages, read, write, memory })
}

/// The stages whose features make a pipeline fastest here, as measured for some seconds: what `features.materialize =
/// "auto"` stands for. `images` are training and validation images, `folder` is that of the stages.
///
/// # Errors
/// As [`rates`].
pub fn worth_keeping(
    pipeline: &Pipeline,
    (images, classes): ([usize; 2], usize),
    folder: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Vec<usize>> {
    let least = Duration::from_millis(200);
    let bench = Bench { least, device: device.clone(), only: None, progress, report: &mut |_| Ok(()) };
    let machine = rates(&bench, pipeline, (Some(images[0]), classes), folder)?;
    let estimate = Estimate { pipeline, machine: &machine, images, compression: 1.0 };
    Ok(pipeline::choose(&estimate, budget(pipeline, folder)))
}

/// Bytes that features may take: as the pipeline says, or else as much as is free, with what lies in the folder already.
pub fn budget(pipeline: &Pipeline, folder: &Path) -> Option<u64> {
    let disk = || Some(room::free(folder)?.saturating_add(room::taken(folder)));
    pipeline.features.disk.or_else(disk)
}

/// A few samples of the data set as they go through the stages.
struct Sample<'a, 'b> {
    bench: &'a Bench<'b>,
    pipeline: Pipeline,
    count: usize,
    classes: usize,
    folder: &'a Path,
}

impl<'a, 'b> Sample<'a, 'b> {
    fn new(
        bench: &'a Bench<'b>,
        pipeline: &Pipeline,
        (images, classes): (Option<usize>, usize),
        folder: &'a Path,
    ) -> Result<Self> {
        let mut pipeline = pipeline.clone();
        let largest = pipeline.stages.iter().map(|stage| stage.block.output.values()).max().unwrap_or(1);
        let count = (SAMPLE / (largest * pipeline.features.dtype.bytes())).clamp(COUNT.0, COUNT.1);
        let count = images.map_or(count, |images| count.min(images));
        if images.is_none() {
            pipeline.data.source = Source::Builtin;
        }
        (pipeline.data.train_images, pipeline.data.val_images) = (Some(count), Some(1));
        let materialize = Materialize::All;
        let kept = Features { views: 1, late_crops: false, refresh: 0.0, materialize, ..pipeline.features };
        pipeline.features = Features { shard_mib: SHARD_MIB.min(kept.shard_mib), ..kept };
        Ok(Self { bench, pipeline, count, classes, folder })
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
            decode(&folder, Subset::Train, &images.train, &self.pipeline, self.bench.progress).map(drop)
        };
        let seconds = self.bench.seconds(decode)? / self.count as f64;
        // Built-in pictures are drawn, not decoded.
        if real { Ok(seconds) } else { decoding::seconds(self.bench) }
    }

    /// Seconds to load a sample of the stage before, and the parts of this stage, whose features replace those.
    fn stage(&self, stage: &Stage) -> Result<(f64, Parts)> {
        let bench = self.bench;
        let before = self.stage_folder(stage.number - 1);
        let input = Loader::open(&before, Subset::Train, &self.pipeline, self.classes.max(2))?;
        let order = Stream::new(Purpose::Bench, 1, (0, 0)).permutation(input.len());
        let draw = Draw::Epoch { stage: stage.number, epoch: 0 };
        let per_sample = |seconds: f64| seconds / input.len() as f64;
        let load = || input.for_each_batch(&order, stage.training.batch, draw, |_| Ok(()));
        let load = per_sample(bench.seconds(load)?);
        let [train, classify, frozen] = self.compute(stage)?;
        let (block, folder) = (block(bench, &self.pipeline, stage.number)?, self.stage_folder(stage.number));
        let extract = || {
            disk::remove(&folder)?;
            write((&bench.device, bench.progress), &self.pipeline, stage.number, &block, (&input, &folder))
        };
        let extracted = per_sample(bench.seconds(extract)?);
        // What a GPU computes meanwhile takes none of the time of the processor.
        let beside = if bench.device.is_cpu() { load + frozen } else { load };
        let store = (extracted - beside).max(0.0);
        disk::remove(&before)?;
        Ok((load, Parts { load: 0.0, frozen, train, classify, store }))
    }

    /// Seconds an image of a training step, of a classification, and of the frozen block, on noise that is in memory.
    fn compute(&self, stage: &Stage) -> Result<[f64; 3]> {
        let (bench, device) = (self.bench, &self.bench.device);
        let batch = stage.training.batch.min(STEP_VALUES / Cost::of(stage, self.classes).step_values).max(2);
        let input = stage.block.input;
        let x = bench.noise(&[batch, input.size, input.size, input.channels], 1)?;
        let labels: Vec<u32> = (0..batch).map(|at| (at % self.classes) as u32).collect();
        let labels = Tensor::from_vec(labels, batch, device)?;
        let mut draw = Stream::new(Purpose::Bench, 0, (0, 0));
        let network = StageNetwork::new(stage, self.classes, &mut draw, device)?;
        let sgd = &mut Sgd::new(&network.variables(), stage.training.momentum, stage.training.weight_decay)?;
        let train = bench.seconds(|| Ok(step(&network, sgd, (&x, &labels), 0.01).map(drop)?))?;
        let (block, auxiliary) = (network.block.frozen()?, network.auxiliary.frozen()?);
        let classify = bench.seconds(|| Ok(rayon::scope(|_| auxiliary.forward(&block.forward(&x)?)).map(drop)?))?;
        let frozen = bench.seconds(|| Ok(rayon::scope(|_| block.forward(&x)).map(drop)?))?;
        Ok([train, classify, frozen].map(|seconds| seconds / batch as f64))
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

/// Bytes of memory that programs may still take, where the system says it as Linux does.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
