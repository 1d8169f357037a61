//! The feature cache: features written, samples read at random, batches decoded, and a whole extraction.

use super::{Measurement, Setting};
use crate::disk;
use crate::error::Result;
use crate::features::{Draw, Extraction, Layout, Loader, Reader, Subset, decode, write_array};
use crate::images::ImageSet;
use crate::network::Block;
use crate::pipeline::{Features, Pipeline};
use crate::progress::{Progress, Silent};
use crate::random::{Purpose, Stream};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// A stage of 64 channels at 16 x 16 pixels: 32 KiB a sample.
const PIPELINE: &str = "[data]\nsource = \"builtin\"\ntrain_images = 4096\nval_images = 256\n[network]\nwidth = 64\nblocks = 2\nspace_to_depth = [1]\n";
const BATCH: usize = 256;

/// Times the cache in a folder of its own below `folder`, which is removed again.
///
/// # Errors
/// When the disk refuses.
pub fn cache(setting: &Setting, folder: &Path, mut each: impl FnMut(Measurement) -> Result<()>) -> Result<()> {
    let scratch = Scratch::new(folder)?;
    let pipeline = Pipeline::parse("bench", "bench", PIPELINE, &[])?;
    let images = ImageSet::open(&pipeline.data, pipeline.seed)?;
    let first = scratch.0.join("stage0");
    decode(&first, Subset::Train, &images.train, &pipeline, &Silent)?;
    let input = Loader::open(&first, Subset::Train, &pipeline, images.classes.len())?;
    let second = scratch.0.join("stage1");
    extract(setting, &pipeline, 1, (&input, &second))?;

    let features = Subset::Train.array(&second, "features");
    let layout = *Reader::open(&features)?.layout();
    let case = format!("{} samples of {} KiB", layout.samples, layout.sample_bytes() / 1024);
    let megabytes = (layout.samples * layout.sample_bytes()) as f64 / 1e6;
    let mut report = |name: &str, seconds: f64, beside| {
        let value = megabytes / seconds;
        each(Measurement { name: name.into(), case: case.clone(), value, unit: "MB/s", beside })
    };
    let plain = plain_file(setting, &scratch.0, &layout)?;
    let beside = Some((megabytes / plain, "of a plain synced file"));
    report("writing features", writing(setting, &scratch.0, &layout)?, beside)?;
    report("reading at random", reading(setting, &features)?, None)?;
    let output = Loader::open(&second, Subset::Train, &pipeline, images.classes.len())?;
    report("decoded batches", batches(setting, &output)?, None)?;
    extraction(setting, &pipeline, &output, &scratch.0.join("stage2"), &mut each)
}

/// Extraction from cached features, beside the bare forward pass.
fn extraction(
    setting: &Setting,
    pipeline: &Pipeline,
    input: &Loader,
    to: &Path,
    each: &mut impl FnMut(Measurement) -> Result<()>,
) -> Result<()> {
    let stage = &pipeline.stages[1];
    let block = Block::new(&stage.block, &mut Stream::new(Purpose::Bench, 0, (0, 0)), &setting.device)?.frozen()?;
    let shape = stage.block.input;
    let x = setting.noise(&[BATCH, shape.size, shape.size, shape.channels], 1)?;
    let bare = setting.seconds(|| Ok(block.forward(&x).map(drop)?))? / BATCH as f64;
    let seconds = setting.seconds(|| {
        disk::remove(to)?;
        extract(setting, pipeline, 2, (input, to))
    })?;
    each(Measurement {
        name: "extraction".into(),
        case: format!(
            "{} -> {} channels, {} x {}",
            shape.channels, stage.block.output.channels, shape.size, shape.size
        ),
        value: input.len() as f64 / seconds,
        unit: "images/s",
        beside: Some((1.0 / bare, "of the bare forward pass")),
    })
}

fn extract(setting: &Setting, pipeline: &Pipeline, number: usize, (input, to): (&Loader, &Path)) -> Result<()> {
    let stage = &pipeline.stages[number - 1];
    let block = Block::new(&stage.block, &mut Stream::new(Purpose::Bench, 0, (0, 0)), &setting.device)?.frozen()?;
    let features = &Features { ..pipeline.features };
    let (output, device, progress) = (stage.block.output, &setting.device, &Silent as &dyn Progress);
    Extraction { stage: to, block: &block, output, features, device, progress }.write(Subset::Train, input).map(drop)
}

/// Seconds to write the bytes of all samples into one file and sync it.
fn plain_file(setting: &Setting, folder: &Path, layout: &Layout) -> Result<f64> {
    let bytes = vec![0x3c; layout.samples * layout.sample_bytes()];
    setting.seconds(|| disk::write(&folder.join("plain"), &bytes))
}

/// Seconds to write the same samples as a feature array.
fn writing(setting: &Setting, folder: &Path, layout: &Layout) -> Result<f64> {
    let samples = vec![0x3c; BATCH * layout.sample_bytes()];
    let array = folder.join("written");
    setting.seconds(|| {
        disk::remove(&array)?;
        let task = Silent.start("", 0);
        let written = write_array(&array, layout, &*task, |_, range, shard| {
            range.step_by(BATCH).try_for_each(|first| {
                let count = BATCH.min(layout.samples - first).min(shard.room());
                shard.append(&samples[..count * layout.sample_bytes()])
            })
        });
        written.map(drop)
    })
}

/// Seconds to read all samples once, in random order, on all threads.
fn reading(setting: &Setting, array: &Path) -> Result<f64> {
    let reader = Reader::open(array)?;
    let order = Stream::new(Purpose::Bench, 1, (0, 0)).permutation(reader.layout().samples);
    setting.seconds(|| {
        order.par_iter().try_for_each_init(Vec::new, |buffer, &sample| reader.read(0, sample as usize, buffer))
    })
}

/// Seconds to read all samples once as batches that a network takes.
fn batches(setting: &Setting, loader: &Loader) -> Result<f64> {
    let order = Stream::new(Purpose::Bench, 2, (0, 0)).permutation(loader.len());
    setting.seconds(|| loader.for_each_batch(&order, BATCH, Draw::View(0), |_| Ok(())))
}

/// A folder that goes when it is no longer needed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path) -> Result<Self> {
        let folder = below.join(format!("greedy-bench-{}", std::process::id()));
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
