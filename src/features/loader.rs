//! Batches of a stage's input, ready for the network and read ahead of it.
//!
//! The features nearest to the stage are read (or, of a refreshed view, taken from the cache), go through the frozen blocks
//! between, and are cropped where that is done late.

use super::array::{Layout, Split};
use super::crops::LateCrops;
use super::labels::read_labels;
use super::refresh::{Refresh, Refreshing};
use super::samples::Samples;
use super::schedule::{SampleView, Schedule, View, entropy};
use super::source::{Read, ReadPlan, Source};
use super::view_cache::ViewCache;
use crate::error::{Error, Result};
use crate::network::Chain;
use crate::ops::{aside, cut};
use crate::pipeline::{Codec, Keep, Recipe, Shape};
use crate::random::Stream;
use crate::size;
use candle_core::{Device, Tensor};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// Samples that the network takes at once, on its device.
pub struct Batch {
    /// Values \[sample, y, x, channel\], of the type of its feature maps.
    pub x: Tensor,
    /// The label of each sample \[sample\] (u32).
    pub labels: Tensor,
    /// The number of each sample.
    pub samples: Vec<u32>,
}

impl Batch {
    /// Samples.
    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Batches that wait for the network.
const AHEAD: usize = 2;

/// Reads one split of what a stage takes as its input.
pub struct Loader {
    source: Source,
    labels: Vec<u32>,
    /// Blocks that samples go through once they are read.
    chain: Chain,
    schedule: Schedule,
    late: Option<LateCrops>,
    refresh: Option<Refresh>,
}

/// All that is known of the samples of an epoch before they are read, in their order: it goes to the device at once, so
/// that a batch takes but a part of it.
struct EpochPlan<'a> {
    samples: &'a [u32],
    view: View,
    labels: Tensor,
    read: ReadPlan,
    /// First row and column of late crops \[sample, 2\].
    crops: Option<Tensor>,
}

/// A batch that was read, and the refreshed views that it waits for.
struct Pending {
    range: Range<usize>,
    refreshing: Option<Refreshing>,
    read: Read,
}

impl Loader {
    /// Opens a split of the stage whose output is to be read, with labels of so many classes.
    ///
    /// # Errors
    /// When its arrays are missing or do not fit each other, the pipeline or the classes.
    pub fn open(stage: &Path, split: Split, pipeline: &Recipe, classes: usize, chain: Chain) -> Result<Self> {
        let samples = Samples::open(stage, split, pipeline)?;
        let labels = read_labels(stage, split)?;
        let (layout, array) = (samples.layout(), split.array(stage, "features"));
        if layout.samples != labels.len() {
            let (samples, labels) = (layout.samples, labels.len());
            return Err(Error::failed(format!("`{}` has {samples} samples, but {labels} labels", array.display())));
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(Error::failed(format!("`{}` has label {label}, but {classes} classes", array.display())));
        }
        let schedule = Schedule::new(layout, pipeline.features.shuffle);
        let cropped = pipeline.features.late_crops && samples.images.is_none();
        let late = cropped.then(|| LateCrops::new(pipeline, chain.output(layout.shape)));
        let source = Source::new(samples, chain.device(), chain.dtype())?;
        Ok(Self { source, labels, chain, schedule, late, refresh: None })
    }

    /// Lets encoded bytes go to the device, also where that is the CPU, and every sample at each time.
    #[cfg(test)]
    pub(super) fn decoded_on_device(self) -> Result<Self> {
        Ok(Self { source: self.source.decoded_on_device()?, ..self })
    }

    /// Caches samples on the device once they got there, where all of them take at most so many bytes.
    ///
    /// # Errors
    /// When the device has no room for them after all.
    pub fn resident(self, most: u64) -> Result<Self> {
        Ok(Self { source: self.source.resident(most)?, ..self })
    }

    /// Lets views be refreshed, and caches them: where the others are resident, else in memory up to so many bytes, else
    /// in a folder.
    ///
    /// # Errors
    /// When the folder refuses, or there is no memory for the list of views.
    pub fn refreshed(mut self, refresh: Refresh, memory: u64, folder: &Path) -> Result<Self> {
        self.schedule.refresh = refresh.share;
        self.refresh = Some(refresh);
        let cache = |layout: &Layout| match layout.logical_bytes() <= memory {
            true => ViewCache::in_memory(layout),
            false => ViewCache::in_folder(layout, folder),
        };
        Ok(Self { source: self.source.cached(cache, false)?, ..self })
    }

    /// Caches in memory what was read once, where that takes at most so many bytes and is compressed in its shards: what
    /// is not compressed is cached by the system.
    ///
    /// # Errors
    /// When there is no memory for the list of views.
    pub fn remembering(self, memory: u64) -> Result<Self> {
        let layout = self.layout();
        let pays = layout.codec != Codec::None && layout.logical_bytes() <= memory;
        if pays { self.in_memory() } else { Ok(self) }
    }

    /// Caches in memory what was read once.
    ///
    /// # Errors
    /// When there is no memory for the list of views.
    pub(crate) fn in_memory(self) -> Result<Self> {
        Ok(Self { source: self.source.cached(ViewCache::in_memory, true)?, ..self })
    }

    /// Samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples; never true of a loader that could be opened.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Where batches come to.
    pub fn device(&self) -> &Device {
        self.chain.device()
    }

    /// The shape of a sample in a view.
    pub fn shape(&self, view: View) -> Shape {
        match self.late_crops(view) {
            Some(late) => late.shape(),
            None => self.chain.output(self.source.samples.shape(view)),
        }
    }

    /// What crops the samples of a view late, where something does.
    fn late_crops(&self, view: View) -> Option<&LateCrops> {
        self.late.as_ref().filter(|_| matches!(view, View::Epoch { .. } | View::Centre))
    }

    /// The layout of the array that is read.
    pub fn layout(&self) -> &Layout {
        self.source.samples.layout()
    }

    /// The labels of all samples.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The order in which an epoch meets the samples.
    pub fn order(&self, rng: &mut Stream) -> Vec<u32> {
        self.schedule.order(rng)
    }

    /// How well classes are mixed within batches, as a share of what any order would give.
    pub fn mixing(&self, batch: usize, rng: &mut Stream) -> f64 {
        let own = entropy(&self.order(rng), &self.labels, batch);
        let best = entropy(&rng.permutation(self.len()), &self.labels, batch);
        if best > 0.0 { own / best } else { 1.0 }
    }

    /// Where the samples come from and what is done with them, in words.
    pub fn describe(&self) -> String {
        let layout = self.layout();
        let bytes = size::words(layout.logical_bytes());
        let what = match (&self.source.samples.images, layout.keep()) {
            (Some(_), Keep::Whole) => "whole images, more or less",
            (Some(_), Keep::Square) => "images",
            (None, _) => "features",
        };
        let tier = match (self.source.is_resident(), self.source.caches_reads()) {
            (true, _) => "resident on the device once they are read",
            (false, true) => "cached in memory once they are read",
            (false, false) => "streamed from shards",
        };
        let mut text = format!("{bytes} of {what}, {tier}");
        if layout.views > 1 {
            text += &format!(", {} views in turn", layout.views);
        }
        if let Some(Refresh { share, .. }) = &self.refresh {
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
    /// When a sample is missing or damaged, or a view is wanted that is not cached and cannot be made.
    pub fn batch(&self, samples: &[u32], view: View) -> Result<Batch> {
        let plan = self.plan(samples, samples.len(), view)?;
        self.collate(&plan, self.read(&plan, 0..samples.len())?)
    }

    /// Calls `f` with batches of at most `size` of the given samples, in order; others are read meanwhile. A GPU is asked
    /// for them on this thread, just before `f` asks for more: what it still waits for then was sent to it long ago.
    ///
    /// # Errors
    /// When reading fails, or with the first error of `f`.
    pub fn for_each_batch(
        &self,
        samples: &[u32],
        size: usize,
        view: View,
        mut f: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        if samples.is_empty() {
            return self.source.check();
        }
        let plan = &self.plan(samples, size, view)?;
        let ranges = (0..samples.len()).step_by(size).map(|first| first..samples.len().min(first + size));
        if self.device().is_cpu() {
            read_ahead(ranges, |range| self.collate(plan, self.read(plan, range)?), f)?;
        } else {
            let read = |range| aside(self.device(), || self.read(plan, range));
            read_ahead(ranges, read, |pending| f(self.collate(plan, pending)?))?;
        }
        self.source.check()
    }

    /// What is known of samples before they are read, at most so many at once.
    fn plan<'a>(&self, samples: &'a [u32], at_once: usize, view: View) -> Result<EpochPlan<'a>> {
        let views = self.views(samples, view);
        let labels: Vec<u32> = samples.iter().map(|&sample| self.labels[sample as usize]).collect();
        let crops = self.late_crops(view).map(|late| {
            let offsets = views.iter().map(|&sample| late.of(sample, view));
            let offsets: Vec<u32> = offsets.flat_map(|crop| [crop.top as u32, crop.left as u32]).collect();
            Tensor::from_vec(offsets, (samples.len(), 2), self.device())
        });
        Ok(EpochPlan {
            samples,
            view,
            labels: Tensor::from_vec(labels, samples.len(), self.device())?,
            read: self.source.plan(&views, at_once, view)?,
            crops: crops.transpose()?,
        })
    }

    /// Reads a range of the samples of a plan.
    fn read(&self, plan: &EpochPlan<'_>, range: Range<usize>) -> Result<Pending> {
        let views = self.views(&plan.samples[range.clone()], plan.view);
        let refreshing = self.refresh_missing(&views)?;
        Ok(Pending { read: self.source.read(&plan.read, range.clone(), &views)?, range, refreshing })
    }

    /// The batch of what was read.
    fn collate(&self, plan: &EpochPlan<'_>, Pending { range, refreshing, read }: Pending) -> Result<Batch> {
        if let (Some(refreshing), Some(refresh)) = (refreshing, &self.refresh) {
            let (views, x) = refresh.make(refreshing)?;
            self.source.put(&views, &x)?;
        }
        let mut x = self.chain.run(self.source.collate(&plan.read, read)?)?;
        if let (Some(crops), Some(late)) = (&plan.crops, &self.late) {
            x = cut(&x, &crops.narrow(0, range.start, range.len())?, late.shape().size)?;
        }
        let labels = plan.labels.narrow(0, range.start, range.len())?;
        Ok(Batch { x, labels, samples: plan.samples[range].to_vec() })
    }

    /// How single samples are shown: at an epoch features come in the view whose turn it is.
    fn views(&self, samples: &[u32], view: View) -> Vec<SampleView> {
        let images = self.source.samples.images.is_some();
        let of = |sample| match view {
            View::Epoch { epoch, .. } if !images => View::Cached(self.schedule.view(sample, epoch)),
            view => view,
        };
        samples.iter().map(|&sample| (sample as usize, of(sample as usize))).collect()
    }

    /// Makes the views that are neither in the array nor cached. Where they stay on the device, that need not be done now.
    fn refresh_missing(&self, views: &[SampleView]) -> Result<Option<Refreshing>> {
        let missing: Vec<SampleView> = views.iter().copied().filter(|view| self.source.lacks(view)).collect();
        match &self.refresh {
            _ if missing.is_empty() => Ok(None),
            Some(refresh) if self.source.is_resident() => Ok(Some(refresh.read(missing)?)),
            Some(refresh) => {
                let (views, x) = refresh.make(refresh.read(missing)?)?;
                self.source.put(&views, &x).map(|()| None)
            }
            None => {
                let views = self.layout().views;
                Err(Error::failed(format!("the features that are read have {views} views, fewer than wanted"))
                    .hint("`greedy run` brings the stages up to date, or set `features.views` to their number"))
            }
        }
    }
}

/// Calls `take` with what `read` makes of each range, in order, while a thread of its own reads those after it.
fn read_ahead<T: Send>(
    ranges: impl Iterator<Item = Range<usize>> + Send,
    read: impl Fn(Range<usize>) -> Result<T> + Send,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(AHEAD);
        // The receiver is gone once `take` has failed: nothing more is wanted then.
        scope.spawn(move || ranges.map(read).try_for_each(|read| send.send(read)));
        receive.into_iter().try_for_each(|read| take(read?))
    })
}
