//! The feature cache: features written, samples read at random, batches decoded, epochs trained, and a whole extraction.

use super::steps::network;
use super::{Bench, Measurement};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{
    Extraction, Layout, Loader, Reader, Split, View, at_once, decode, label_files, write_array, write_files,
};
use crate::images::ImageSet;
use crate::network::{Chain, Frozen, Network, Noise};
use crate::ops::compute;
use crate::pipeline::{Encoding, Recipe};
use crate::progress::{Progress, Silent};
use crate::random::{Purpose, Stream};
use crate::training::{Sgd, step};
use candle_core::DType;
use rayon::prelude::*;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Channels, size and number of the samples of a stage.
const SIZES: [(usize, usize, usize); 2] = [(64, 16, 8192), (512, 14, 2048)];
/// MiB of a shard: smaller than is usual, so that there are several.
const SHARD_MIB: usize = 128;
const BATCH: usize = 256;
/// Samples of a training step, and steps of an epoch.
const TRAINED: usize = 128;
const STEPS: usize = 8;

/// What something is compared with, and how that runs.
type Beside<'a> = (&'static str, &'a mut dyn FnMut() -> Result<()>);

/// Times the cache in a folder of its own below `folder`, which is removed again.
///
/// # Errors
/// When the disk refuses.
pub fn cache(bench: &mut Bench<'_>, folder: &Path) -> Result<()> {
    for (sizes, plain) in SIZES.into_iter().flat_map(|sizes| [(sizes, true), (sizes, false)]) {
        let (channels, size, count) = sizes;
        let form = if plain { "dtype = \"f16\"\ncodec = \"none\"" } else { "" };
        let text = format!(
            "[data]\nsource = \"builtin\"\nsize = {}\ntrain_images = {count}\nval_images = 16\n[network]\nwidth = {channels}\n\
             blocks = 2\nspace_to_depth = [1]\n[features]\nshard_mib = {SHARD_MIB}\n{form}\n",
            2 * size
        );
        let pipeline = Recipe::parse("bench", "bench", &text, &[])?;
        let case = Case::new(bench, &pipeline, sizes, plain);
        if !case.is_wanted(bench) {
            continue;
        }
        let scratch = Scratch::new(folder)?;
        let images = ImageSet::open(&pipeline.data, pipeline.seed)?;
        let [first, second, third] = [0, 1, 2].map(|number| scratch.0.join(format!("stage{number}")));
        decode(&first, Split::Train, &images.train, &pipeline, bench.progress)?;
        let (device, maps) = (bench.device.clone(), bench.precision);
        let open = |stage: &Path| {
            let none = Chain::new(Vec::new(), &device, maps);
            Loader::open(stage, Split::Train, &pipeline, images.classes.len(), none)
        };
        let input = open(&first)?;
        extract(bench, &pipeline, 1, (&input, &second))?;
        let input = open(&second)?;
        let features = Reader::open(&Split::Train.array(&second, "features"))?;
        if plain {
            writing(bench, &case, &scratch.0, features.layout())?;
            reading(bench, &case, &features, &input)?;
            if bench.wants(EPOCH, &case.epoch) {
                let memory = open(&second)?.in_memory()?;
                epoch(bench, &case, &input, &memory)?;
            }
        }
        if bench.wants(EXTRACTION, &case.extraction) {
            extraction(bench, &case, &pipeline, &input, &third)?;
        }
    }
    Ok(())
}

/// What is measured, as it is named.
const WRITING: &str = "writing features";
const SAMPLES: &str = "random samples";
const BATCHES: &str = "random batches";
const EPOCH: &str = "training epoch, streamed";
const EXTRACTION: &str = "extraction";

/// On what each of them is measured, in words.
struct Case {
    plain: bool,
    array: String,
    batches: String,
    epoch: String,
    extraction: String,
}

impl Case {
    fn new(bench: &Bench<'_>, pipeline: &Recipe, (channels, size, count): (usize, usize, usize), plain: bool) -> Self {
        let stage = &pipeline.stages[1].block;
        let Encoding { dtype, codec } = pipeline.features.encoding(stage);
        let kib = stage.input.values() * dtype.bytes() / 1024;
        let shape = format!("{channels} channels, {size} x {size}");
        let array = format!("{count} samples of {kib} KiB in memory");
        let maps = if bench.precision == DType::F32 { "" } else { ", bf16" };
        Self {
            plain,
            batches: format!("{array}{maps}"),
            array,
            epoch: format!("k = 1, {shape}, batch {TRAINED}{maps}"),
            extraction: format!("{shape}, {} {}{maps}", dtype.word(), codec.word()),
        }
    }

    fn is_wanted(&self, bench: &Bench<'_>) -> bool {
        let of_array = bench.wants_any(&[WRITING, SAMPLES], &self.array) || bench.wants(BATCHES, &self.batches);
        self.plain && (of_array || bench.wants(EPOCH, &self.epoch)) || bench.wants(EXTRACTION, &self.extraction)
    }
}

/// What is counted of a whole array.
fn all_of(layout: &Layout) -> (f64, &'static str) {
    ((layout.samples * layout.sample_bytes()) as f64 / 1e6, "MB/s")
}

/// Writes as many bytes as the array has into one file that is synced, and as a feature array, in turn.
fn writing(bench: &mut Bench<'_>, case: &Case, folder: &Path, layout: &Layout) -> Result<()> {
    if !bench.wants(WRITING, &case.array) {
        return Ok(());
    }
    let mut rng = Stream::new(Purpose::Bench, 2, (0, 0));
    let bytes: Vec<u8> = (0..layout.samples * layout.sample_bytes()).map(|_| rng.bits() as u8).collect();
    let (plain, array) = (folder.join("plain"), folder.join("written"));
    let count = at_once(&bench.device, layout.shape, layout.shape);
    let mut write = || {
        let written = write_array(&array, layout, (&(), &*Silent.start("", 0)), |_, range, shard| {
            let samples = &bytes[range.start * layout.sample_bytes()..range.end * layout.sample_bytes()];
            // As in extraction, samples are written while the ones after them are made.
            let mut batches = samples.chunks(count * layout.sample_bytes());
            shard.append_aside(layout, |shard| batches.try_for_each(|batch| shard.append(|out| out.copy(batch))))
        });
        written.map(drop)
    };
    let clear = || disk::remove(&plain).and_then(|()| disk::remove(&array));
    let mut synced = || disk::write(&plain, &bytes);
    let plain: Beside<'_> = ("of a plain synced file", &mut synced);
    bench.in_turn((WRITING, &case.array), all_of(layout), plain, (&clear, &mut write))
}

/// Reads all samples once in random order: as stored, beside the same reads that look at nothing, and as batches that a
/// network takes.
fn reading(bench: &mut Bench<'_>, case: &Case, features: &Reader, loader: &Loader) -> Result<()> {
    let layout = features.layout();
    let size = all_of(layout);
    let order = Stream::new(Purpose::Bench, 1, (0, 0)).permutation(loader.len());
    let shards = layout.shards().map(|(view, at)| features.open_shard((view, at))).collect::<Result<Vec<_>>>()?;
    let mut plain = || {
        order.par_iter().try_for_each_init(Vec::new, |buffer, &sample| {
            buffer.resize(layout.sample_bytes(), 0);
            let (shard, at) = (sample as usize / layout.samples_in_shard, sample as usize % layout.samples_in_shard);
            let read = shards[shard].read_exact_at(buffer, (at * layout.sample_bytes()) as u64);
            read.map_err(|e| Error::failed(e.to_string()))
        })
    };
    let mut read =
        || order.par_iter().try_for_each_init(Vec::new, |buffer, &sample| features.read(0, sample as usize, buffer));
    bench.in_turn((SAMPLES, &case.array), size, ("of plain reads", &mut plain), (&|| Ok(()), &mut read))?;
    bench.measure((BATCHES, &case.batches), size, None, || {
        loader.for_each_batch(&order, BATCH, View::Cached(0), |_| Ok(()))
    })
}

/// An epoch of training on features that are streamed from shards in random order, beside one on those kept in memory.
fn epoch(bench: &mut Bench<'_>, case: &Case, streamed: &Loader, memory: &Loader) -> Result<()> {
    let view = View::Epoch { stage: 3, epoch: 0 };
    let shape = streamed.shape(view);
    let network = network(bench, 1, (shape.channels, shape.channels), shape.size)?;
    let sgd = Sgd::new(&network.variables(), 0.9, 5e-4)?;
    let mut order = streamed.order(&mut Stream::new(Purpose::Bench, 1, (0, 0)));
    order.truncate(TRAINED * STEPS);
    let train = |input: &Loader| {
        input.for_each_batch(&order, TRAINED, view, |batch| {
            // So slow that weights stay as they are, and with them the time that a step takes.
            let noise = Noise::new(0, (2, 0), &batch.samples);
            Ok(step(&network, &sgd, (&batch.x, &batch.labels, &noise), 1e-9).map(drop)?)
        })
    };
    let images = (order.len() as f64, "images/s");
    bench.in_turn(
        (EPOCH, &case.epoch),
        images,
        ("of one from memory", &mut || train(memory)),
        (&|| Ok(()), &mut || train(streamed)),
    )
}

/// Extraction from cached features, beside the bare forward pass, and beside that and then a plain synced file of the bytes
/// that come out.
fn extraction(bench: &mut Bench<'_>, case: &Case, pipeline: &Recipe, input: &Loader, to: &Path) -> Result<()> {
    let block = block(bench, pipeline, 2)?;
    let shape = input.shape(View::Cached(0));
    let batch = at_once(&bench.device, shape, shape);
    let x = bench.maps(&[batch, shape.size, shape.size, shape.channels], 1)?;
    let images = (input.len() as f64, "images/s");
    let progress = bench.progress;
    let rounds = input.len() / batch;
    let bare = || (0..rounds).try_for_each(|_| Ok(compute(x.device(), || block.forward(&x)).map(drop)?));
    let all = || write(progress, (pipeline, 2), &block, (input, to));
    let mut rng = Stream::new(Purpose::Bench, 2, (0, 0));
    let bytes: Vec<u8> = (0..all()?).map(|_| rng.bits() as u8).collect();
    let file = to.with_extension("plain");
    let clear = || disk::remove(to).and_then(|()| disk::remove(&file));
    let mut apart = || bare().and_then(|()| disk::write(&file, &bytes));
    let beside: [Beside<'_>; 2] = [
        ("of the bare forward pass", &mut || bare()),
        ("of that, and then a plain synced file of the bytes", &mut apart),
    ];
    beside.into_iter().try_for_each(|plain| {
        bench.in_turn((EXTRACTION, &case.extraction), images, plain, (&clear, &mut || all().map(drop)))
    })
}

impl Bench<'_> {
    /// Times `f` and what it is compared with in turn, both after `prepare`, which is not timed.
    fn in_turn(
        &mut self,
        (name, case): (&str, &str),
        (amount, unit): (f64, &'static str),
        (what, plain): Beside<'_>,
        (prepare, f): (&dyn Fn() -> Result<()>, &mut dyn FnMut() -> Result<()>),
    ) -> Result<()> {
        if !self.wants(name, case) {
            return Ok(());
        }
        let timed = |f: &mut dyn FnMut() -> Result<()>| {
            self.progress.check()?;
            prepare()?;
            let started = Instant::now();
            f()?;
            self.device.synchronize()?;
            Ok::<_, Error>(started.elapsed().as_secs_f64())
        };
        timed(plain)?;
        timed(f)?;
        let (mut others, mut own) = (Vec::new(), Vec::new());
        let started = Instant::now();
        while own.len() < 3 || started.elapsed() < 2 * self.least {
            others.push(timed(plain)?);
            own.push(timed(f)?);
        }
        let [beside, value] = [others, own].map(|mut all| {
            all.sort_by(f64::total_cmp);
            amount / all[all.len() / 2]
        });
        (self.report)(Measurement { name: name.into(), case: case.into(), value, unit, beside: Some((beside, what)) })
    }
}

fn extract(bench: &Bench<'_>, pipeline: &Recipe, number: usize, (input, to): (&Loader, &Path)) -> Result<()> {
    write_files(to, &label_files(Split::Train, input.labels())?)?;
    write(bench.progress, (pipeline, number), &block(bench, pipeline, number)?, (input, to)).map(drop)
}

/// The block of a stage, with random weights.
pub(super) fn block(bench: &Bench<'_>, pipeline: &Recipe, number: usize) -> Result<Frozen> {
    let mut rng = Stream::new(Purpose::Bench, 0, (0, 0));
    Ok(Network::block(&pipeline.stages[number - 1].block, (pipeline.init, &mut rng, &bench.device))?.frozen()?)
}

/// Writes the features of a stage's training samples; gives their bytes on the disk.
pub(super) fn write(
    progress: &dyn Progress,
    (pipeline, number): (&Recipe, usize),
    block: &Frozen,
    (input, stage): (&Loader, &Path),
) -> Result<u64> {
    let (features, encoding) = (&pipeline.features, pipeline.features.encoding(&pipeline.stages[number - 1].block));
    let extraction = Extraction { stage, block, features, encoding, progress };
    Ok(extraction.write(Split::Train, input, &())?.stored_bytes())
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
