//! The feature cache: features written, samples read at random, batches decoded, and a whole extraction.

use super::Bench;
use crate::disk;
use crate::error::Result;
use crate::features::{Draw, Extraction, Layout, Loader, Reader, StoredSamples, Subset, decode, write_array};
use crate::images::ImageSet;
use crate::network::{Block, FrozenBlock};
use crate::pipeline::Pipeline;
use crate::progress::{Progress, Silent};
use crate::random::{Purpose, Stream};
use candle_core::Device;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// A stage of 64 channels at 16 x 16 pixels: 32 KiB a sample.
const PIPELINE: &str = "[data]\nsource = \"builtin\"\ntrain_images = 4096\nval_images = 256\n[network]\nwidth = 64\nblocks = 2\nspace_to_depth = [1]\n";
const BATCH: usize = 256;

/// Times the cache in a folder of its own below `folder`, which is removed again.
///
/// # Errors
/// When the disk refuses.
pub fn cache(bench: &mut Bench<'_>, folder: &Path) -> Result<()> {
    let scratch = Scratch::new(folder)?;
    let pipeline = Pipeline::parse("bench", "bench", PIPELINE, &[])?;
    let images = ImageSet::open(&pipeline.data, pipeline.seed)?;
    let [first, second, third] = [0, 1, 2].map(|number| scratch.0.join(format!("stage{number}")));
    decode(&first, Subset::Train, &images.train, &pipeline, bench.progress)?;
    let input = Loader::open(&first, Subset::Train, &pipeline, images.classes.len())?;
    extract(bench, &pipeline, 1, (&input, &second))?;
    let input = Loader::open(&second, Subset::Train, &pipeline, images.classes.len())?;
    let features = Reader::open(&Subset::Train.array(&second, "features"))?;
    writing(bench, &scratch.0, features.layout())?;
    reading(bench, &features, &input)?;
    extraction(bench, &pipeline, &input, &third)
}

/// What a measurement of an array is called, and its size.
fn of_array(layout: &Layout) -> (String, (f64, &'static str)) {
    let case = format!("{} samples of {} KiB in memory", layout.samples, layout.sample_bytes() / 1024);
    (case, ((layout.samples * layout.sample_bytes()) as f64 / 1e6, "MB/s"))
}

/// Writes as many bytes as the array has into one file that is synced, and as a feature array.
fn writing(bench: &mut Bench<'_>, folder: &Path, layout: &Layout) -> Result<()> {
    let (case, size) = of_array(layout);
    let bytes = vec![0x3c; layout.samples * layout.sample_bytes()];
    let plain = size.0 / bench.seconds(|| disk::write(&folder.join("plain"), &bytes))?;
    let array = folder.join("written");
    let mut stored = StoredSamples::new(layout.sample_bytes());
    bench.measure(("writing features", &case), size, Some((plain, "of a plain synced file")), || {
        disk::remove(&array)?;
        let task = Silent.start("", 0);
        let written = write_array(&array, layout, &*task, |_, range, shard| {
            let samples = &bytes[range.start * layout.sample_bytes()..range.end * layout.sample_bytes()];
            samples.chunks(BATCH * layout.sample_bytes()).try_for_each(|batch| {
                stored.copy(batch)?;
                shard.append(&stored)
            })
        });
        written.map(drop)
    })
}

/// Reads all samples once in random order: as stored, and as batches that a network takes.
fn reading(bench: &mut Bench<'_>, features: &Reader, loader: &Loader) -> Result<()> {
    let (case, size) = of_array(features.layout());
    let order = Stream::new(Purpose::Bench, 1, (0, 0)).permutation(loader.len());
    bench.measure(("random samples", &case), size, None, || {
        order.par_iter().try_for_each_init(Vec::new, |buffer, &sample| features.read(0, sample as usize, buffer))
    })?;
    bench.measure(("random batches", &case), size, None, || {
        loader.for_each_batch(&order, BATCH, Draw::View(0), |_| Ok(()))
    })
}

/// Extraction from cached features, beside the bare forward pass.
fn extraction(bench: &mut Bench<'_>, pipeline: &Pipeline, input: &Loader, to: &Path) -> Result<()> {
    let block = block(bench, pipeline, 2)?;
    let shape = input.shape();
    let x = bench.noise(&[BATCH, shape.size, shape.size, shape.channels], 1)?;
    let bare = BATCH as f64 / bench.seconds(|| Ok(rayon::scope(|_| block.forward(&x)).map(drop)?))?;
    let case = format!("{} channels, {} x {}", shape.channels, shape.size, shape.size);
    let images = (input.len() as f64, "images/s");
    let name = "extraction";
    let (device, progress) = (bench.device.clone(), bench.progress);
    let beside = Some((bare, "of the bare forward pass"));
    bench.measure((name, &case), images, beside, || {
        disk::remove(to)?;
        write((&device, progress), pipeline, 2, &block, (input, to))
    })
}

fn extract(bench: &Bench<'_>, pipeline: &Pipeline, number: usize, paths: (&Loader, &Path)) -> Result<()> {
    write((&bench.device, bench.progress), pipeline, number, &block(bench, pipeline, number)?, paths)
}

/// The block of a stage, with random weights.
pub(super) fn block(bench: &Bench<'_>, pipeline: &Pipeline, number: usize) -> Result<FrozenBlock> {
    let mut draw = Stream::new(Purpose::Bench, 0, (0, 0));
    Ok(Block::new(&pipeline.stages[number - 1].block, &mut draw, &bench.device)?.frozen()?)
}

/// Writes the features of a stage's training samples.
pub(super) fn write(
    (device, progress): (&Device, &dyn Progress),
    pipeline: &Pipeline,
    number: usize,
    block: &FrozenBlock,
    (input, stage): (&Loader, &Path),
) -> Result<()> {
    let (output, features) = (pipeline.stages[number - 1].block.output, &pipeline.features);
    Extraction { stage, block, output, features, device, progress }.write(Subset::Train, input).map(drop)
}

/// A folder that goes when it is no longer needed.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(below: &Path) -> Result<Self> {
        let folder = below.join(format!("greedy-bench-{}", std::process::id()));
        // What a killed process of the same number has left would pass for what is measured.
        disk::remove(&folder)?;
        disk::create_folder(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it; what cannot be removed stays for the user to see.
        let _ = disk::remove(&self.0);
    }
}
