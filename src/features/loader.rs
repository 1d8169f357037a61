//! Batches of a stage's input, ready for the network and read ahead of it.
//!
//! What is stored nearest to the stage is read (or, where a view of it was made anew, what is kept of that), goes through
//! the frozen blocks between, and is cropped where that is done late.

use super::array::{Layout, Subset};
use super::draw::{Draw, Rotation, Shown, entropy, order};
use super::encoding::{decode_sample, encode_sample};
use super::kept::Kept;
use super::samples::{LateCrops, Samples};
use super::small::read_labels;
use crate::error::{Error, Result};
use crate::network::Chain;
use crate::pipeline::{Codec, Pipeline, Shape, Shuffle};
use crate::random::Stream;
use crate::room;
use rayon::prelude::*;
use std::cell::RefCell;
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// Samples that the network takes at once.
pub struct Batch {
    /// Values \[sample, y, x, channel\].
    pub values: Vec<f32>,
    /// The label of each sample.
    pub labels: Vec<u32>,
}

/// Batches that wait for the network.
const AHEAD: usize = 2;

/// Reads one subset of what a stage takes as its input.
pub struct Loader {
    samples: Samples,
    labels: Vec<u32>,
    /// Blocks that samples go through once they are read.
    chain: Chain,
    rotation: Rotation,
    shuffle: Shuffle,
    late: Option<LateCrops>,
    renewal: Option<Renewal>,
    kept: Option<Kept>,
    /// Whether what was read is kept as well.
    remembers: bool,
}

/// Makes views that are not stored: images, and the frozen blocks up to what is stored.
pub struct Renewal {
    images: Samples,
    chain: Chain,
    /// The share of the samples that get a new view at each epoch.
    share: f64,
}

impl Renewal {
    /// Takes the training images of a stage, and the blocks whose output is stored.
    ///
    /// # Errors
    /// When the images are missing or do not fit the pipeline.
    pub fn open(images: &Path, chain: Chain, pipeline: &Pipeline) -> Result<Self> {
        let samples = Samples::open(images, Subset::Train, pipeline)?;
        if !samples.are_images() {
            return Err(Error::failed(format!("`{}` does not hold images", images.display())));
        }
        Ok(Self { images: samples, chain, share: pipeline.refresh() })
    }

    /// Whether what it makes has the form of what is stored.
    pub fn makes(&self, layout: &Layout) -> bool {
        let made = self.chain.output(self.images.shape(Draw::View(0)));
        self.images.layout().samples == layout.samples && made == layout.shape
    }
}

impl Loader {
    /// Opens a subset of the stage whose output is to be read, with labels of so many classes.
    ///
    /// # Errors
    /// When its arrays are missing or do not fit each other, the pipeline or the classes.
    pub fn open(stage: &Path, subset: Subset, pipeline: &Pipeline, classes: usize, chain: Chain) -> Result<Self> {
        let samples = Samples::open(stage, subset, pipeline)?;
        let labels = read_labels(stage, subset)?;
        let (layout, array) = (samples.layout(), subset.array(stage, "features"));
        if layout.samples != labels.len() {
            let (samples, labels) = (layout.samples, labels.len());
            return Err(Error::failed(format!("`{}` has {samples} samples, but {labels} labels", array.display())));
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(Error::failed(format!("`{}` has label {label}, but {classes} classes", array.display())));
        }
        let shuffle = pipeline.features.shuffle;
        let rotation = Rotation::new(layout, 0.0, shuffle);
        let cropped = pipeline.features.late_crops && !samples.are_images();
        let late = cropped.then(|| LateCrops::new(pipeline, chain.output(layout.shape)));
        Ok(Self { samples, labels, chain, rotation, shuffle, late, renewal: None, kept: None, remembers: false })
    }

    /// Lets views be made anew, and keeps them: in memory up to so many bytes, else in a folder.
    ///
    /// # Errors
    /// When the folder refuses, or there is no memory for the list of views.
    pub fn renewed(mut self, renewal: Renewal, memory: u64, folder: &Path) -> Result<Self> {
        let layout = *self.samples.layout();
        self.rotation.refresh = renewal.share;
        self.renewal = Some(renewal);
        let (slots, samples, bytes) = (layout.views, layout.samples, layout.sample_bytes());
        self.kept = Some(match layout.logical_bytes() <= memory {
            true => Kept::in_memory(slots, samples, bytes)?,
            false => Kept::in_folder(folder, slots, samples, bytes)?,
        });
        Ok(self)
    }

    /// Keeps in memory what was read once, where that takes at most so many bytes and is compressed in its shards: what
    /// is not compressed is kept by the system.
    ///
    /// # Errors
    /// When there is no memory for the list of views.
    pub fn remembering(mut self, memory: u64) -> Result<Self> {
        let layout = self.samples.layout();
        self.remembers = layout.codec != Codec::None && layout.logical_bytes() <= memory;
        if self.remembers && self.kept.is_none() {
            self.kept = Some(Kept::in_memory(layout.views, layout.samples, layout.sample_bytes())?);
        }
        Ok(self)
    }

    /// Samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples; never true of a loader that could be opened.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The shape of a sample as it is drawn.
    pub fn shape(&self, draw: Draw) -> Shape {
        match (&self.late, draw) {
            (Some(late), Draw::Epoch { .. } | Draw::Plain) => late.shape(),
            _ => self.chain.output(self.samples.shape(draw)),
        }
    }

    /// The layout of the array that is read.
    pub fn layout(&self) -> &Layout {
        self.samples.layout()
    }

    /// The labels of all samples.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The order in which an epoch meets the samples.
    pub fn order(&self, stream: &mut Stream) -> Vec<u32> {
        order(self.shuffle, self.len(), self.layout().samples_in_shard, stream)
    }

    /// How well classes are mixed within batches, as a share of what any order would give.
    pub fn mixing(&self, batch: usize, stream: &mut Stream) -> f64 {
        let own = entropy(&self.order(stream), &self.labels, batch);
        let best = entropy(&stream.permutation(self.len()), &self.labels, batch);
        if best > 0.0 { own / best } else { 1.0 }
    }

    /// Where the samples come from and what is done with them, in words.
    pub fn describe(&self) -> String {
        let layout = self.layout();
        let bytes = room::words(layout.logical_bytes());
        let what = if self.samples.are_images() { "images" } else { "features" };
        let tier = if self.remembers { "kept in memory once they are read" } else { "streamed from shards" };
        let mut text = format!("{bytes} of {what}, {tier}");
        if layout.views > 1 {
            text += &format!(", {} views in turn", layout.views);
        }
        if let Some(Renewal { share, .. }) = &self.renewal {
            text += &format!(", {:.1} % of the samples get a new view at each epoch", 100.0 * share);
        }
        if let Some(late) = &self.late {
            let (from, to) = (self.chain.output(layout.shape).size, late.shape().size);
            text += &format!(", cropped from {from} x {from} to {to} x {to} at each epoch");
        }
        if !self.chain.is_empty() {
            text += &format!(", run through {} frozen blocks", self.chain.len());
        }
        text
    }

    /// Reads a batch, in parallel.
    ///
    /// # Errors
    /// When a sample is missing or damaged, or a view is wanted that is not stored and cannot be made.
    pub fn batch(&self, samples: &[u32], draw: Draw) -> Result<Batch> {
        let shown: Vec<(usize, Shown)> = samples.iter().map(|&sample| self.shown(sample as usize, draw)).collect();
        let stored = self.stored(&shown, draw)?;
        let values = self.chain.run(stored, self.samples.shape(draw))?;
        let values = self.crop(values, &shown, draw);
        let labels = samples.iter().map(|&sample| self.labels[sample as usize]).collect();
        Ok(Batch { values, labels })
    }

    /// Calls `f` with batches of at most `size` of the given samples, in order; others are read meanwhile.
    ///
    /// # Errors
    /// When reading fails, or with the first error of `f`.
    pub fn for_each_batch(
        &self,
        samples: &[u32],
        size: usize,
        draw: Draw,
        mut f: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(AHEAD);
            scope.spawn(move || {
                for samples in samples.chunks(size) {
                    // The receiver is gone once `f` has failed: nothing more is wanted then.
                    if send.send(self.batch(samples, draw)).is_err() {
                        break;
                    }
                }
            });
            receive.into_iter().try_for_each(|batch| f(batch?))
        })
    }

    fn shown(&self, sample: usize, draw: Draw) -> (usize, Shown) {
        let shown = match draw {
            Draw::Plain => Shown::Plain,
            Draw::Whole => Shown::Whole,
            Draw::View(view) => Shown::View(view),
            Draw::Epoch { stage, epoch } if self.samples.are_images() => Shown::Fresh { stage, epoch },
            Draw::Epoch { epoch, .. } => Shown::View(self.rotation.view(sample, epoch)),
        };
        (sample, shown)
    }

    /// The samples as pixels, as if all of them were stored.
    fn stored(&self, shown: &[(usize, Shown)], draw: Draw) -> Result<Vec<f32>> {
        let one = self.samples.shape(draw).values();
        let mut values = vec![0.0; shown.len() * one];
        let slots = values.par_chunks_exact_mut(one).zip(shown);
        let there = slots.map(|(out, &shown)| self.read(shown, out)).collect::<Result<Vec<bool>>>()?;
        let missing: Vec<(usize, Shown)> =
            shown.iter().zip(&there).filter(|(_, there)| !**there).map(|(&shown, _)| shown).collect();
        if !missing.is_empty() {
            let made = self.make(&missing)?;
            let mut places = values.chunks_exact_mut(one).zip(&there).filter(|(_, there)| !**there);
            made.chunks_exact(one).zip(&mut places).for_each(|(made, (out, _))| out.copy_from_slice(made));
        }
        Ok(values)
    }

    /// Reads one sample, if it is stored or kept.
    fn read(&self, (sample, shown): (usize, Shown), out: &mut [f32]) -> Result<bool> {
        thread_local! {
            static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let (Some(kept), Shown::View(view), false) = (&self.kept, shown, self.samples.are_images()) else {
            return self.samples.read(sample, shown, out);
        };
        STORED.with_borrow_mut(|stored| {
            if !kept.get(view, sample, stored)? {
                if !self.samples.read_stored(sample, shown, stored)? {
                    return Ok(false);
                }
                if self.remembers {
                    kept.put(view, sample, stored)?;
                }
            }
            decode_sample(stored, self.layout(), out);
            Ok(true)
        })
    }

    /// Makes views that are not stored, rounded as if they were, and keeps them.
    fn make(&self, missing: &[(usize, Shown)]) -> Result<Vec<f32>> {
        let (Some(Renewal { images, chain, .. }), Some(kept)) = (&self.renewal, &self.kept) else {
            let views = self.layout().views;
            return Err(Error::failed(format!("the features that are read have {views} views, fewer than wanted"))
                .hint("`greedy run` brings the stages up to date, or set `features.views` to their number"));
        };
        let input = images.shape(Draw::View(0));
        let mut pixels = vec![0.0; missing.len() * input.values()];
        let slots = pixels.par_chunks_exact_mut(input.values()).zip(missing);
        slots.try_for_each(|(out, &(sample, shown))| images.read(sample, shown, out).map(drop))?;
        let mut made = chain.run(pixels, input)?;
        let layout = self.layout();
        let keep = |(values, &(sample, shown)): (&mut [f32], &(usize, Shown))| -> Result<()> {
            let Shown::View(view) = shown else { return Ok(()) };
            let mut bytes = vec![0; layout.sample_bytes()];
            encode_sample(values, layout, &mut bytes)?;
            kept.put(view, sample, &bytes)?;
            decode_sample(&bytes, layout, values);
            Ok(())
        };
        made.par_chunks_exact_mut(layout.shape.values()).zip(missing).try_for_each(keep)?;
        Ok(made)
    }

    /// Crops what was run as a whole.
    fn crop(&self, values: Vec<f32>, shown: &[(usize, Shown)], draw: Draw) -> Vec<f32> {
        let Some(late) = self.late.as_ref().filter(|_| matches!(draw, Draw::Epoch { .. } | Draw::Plain)) else {
            return values;
        };
        let place = |sample, shown| match (shown, draw) {
            (Shown::View(view), Draw::Epoch { stage, epoch }) => late.place(view, sample, (stage, epoch)),
            _ => late.centre(),
        };
        let canvas = values.len() / shown.len().max(1);
        let mut crops = vec![0.0; shown.len() * late.shape().values()];
        let slots = crops.par_chunks_exact_mut(late.shape().values()).zip(values.par_chunks_exact(canvas));
        slots.zip(shown).for_each(|((out, canvas), &(sample, shown))| late.cut(canvas, place(sample, shown), out));
        crops
    }
}
