//! Batches of a stage's input, ready for the network and read ahead of it.
//!
//! What is stored nearest to the stage is read (or, where a view of it was made anew, what is kept of that), goes through
//! the frozen blocks between, and is cropped where that is done late.

use super::array::{Layout, Split};
use super::draw::{Draw, Rotation, Shown, entropy, order};
use super::labels::read_labels;
use super::refresh::{Made, Refresh};
use super::samples::{LateCrops, Samples};
use super::source::{self, Source};
use super::view_cache::ViewCache;
use crate::error::{Error, Result};
use crate::network::Chain;
use crate::ops::cut;
use crate::pipeline::{Codec, Recipe, Shape, Shuffle};
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
    rotation: Rotation,
    shuffle: Shuffle,
    late: Option<LateCrops>,
    refresh: Option<Refresh>,
}

/// Samples in the order in which they are met, with all that is known of them before they are read: it goes to the
/// device at once, so that a batch takes but a part of it.
struct Course<'a> {
    samples: &'a [u32],
    draw: Draw,
    labels: Tensor,
    read: source::Course,
    /// First row and column of late crops \[sample, 2\].
    crops: Option<Tensor>,
}

/// A batch that was read, and the views for it that are being made.
struct Begun {
    range: Range<usize>,
    made: Option<Made>,
    read: source::Begun,
}

/// A batch, or what it will be made of.
enum Ready {
    Ended(Batch),
    Begun(Box<Begun>),
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
        let shuffle = pipeline.features.shuffle;
        let rotation = Rotation::new(layout, 0.0, shuffle);
        let cropped = pipeline.features.late_crops && !samples.are_images();
        let late = cropped.then(|| LateCrops::new(pipeline, chain.output(layout.shape)));
        let source = Source::new(samples, chain.device(), chain.dtype())?;
        Ok(Self { source, labels, chain, rotation, shuffle, late, refresh: None })
    }

    /// Lets stored bytes go to the device, also where that is the CPU, and every sample at each time.
    #[cfg(test)]
    pub(super) fn decoded_on_device(self) -> Result<Self> {
        Ok(Self { source: self.source.decoded_on_device()?, ..self })
    }

    /// Lets samples stay on the device once they got there, where all of them take at most so many bytes.
    ///
    /// # Errors
    /// When the device has no room for them after all.
    pub fn resident(self, most: u64) -> Result<Self> {
        Ok(Self { source: self.source.resident(most)?, ..self })
    }

    /// Lets views be made anew, and keeps them: where the others are resident, else in memory up to so many bytes, else in
    /// a folder.
    ///
    /// # Errors
    /// When the folder refuses, or there is no memory for the list of views.
    pub fn refreshed(mut self, refresh: Refresh, memory: u64, folder: &Path) -> Result<Self> {
        self.rotation.refresh = refresh.share;
        self.refresh = Some(refresh);
        let place = |layout: &Layout| match layout.logical_bytes() <= memory {
            true => ViewCache::in_memory(layout.views, layout.samples, layout.sample_bytes()),
            false => ViewCache::in_folder(folder, layout.views, layout.samples, layout.sample_bytes()),
        };
        self.source.keep_in(place, false)?;
        Ok(self)
    }

    /// Keeps in memory what was read once, where that takes at most so many bytes and is compressed in its shards: what
    /// is not compressed is kept by the system.
    ///
    /// # Errors
    /// When there is no memory for the list of views.
    pub fn remembering(self, memory: u64) -> Result<Self> {
        let layout = self.layout();
        let pays = layout.codec != Codec::None && layout.logical_bytes() <= memory;
        if pays { self.in_memory() } else { Ok(self) }
    }

    /// Keeps in memory what was read once.
    ///
    /// # Errors
    /// When there is no memory for the list of views.
    pub(crate) fn in_memory(mut self) -> Result<Self> {
        let place = |layout: &Layout| ViewCache::in_memory(layout.views, layout.samples, layout.sample_bytes());
        self.source.keep_in(place, true)?;
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

    /// Where batches come to.
    pub fn device(&self) -> &Device {
        self.chain.device()
    }

    /// The shape of a sample as it is drawn.
    pub fn shape(&self, draw: Draw) -> Shape {
        match (&self.late, draw) {
            (Some(late), Draw::Epoch { .. } | Draw::Plain) => late.shape(),
            _ => self.chain.output(self.source.samples.shape(draw)),
        }
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
        let bytes = size::words(layout.logical_bytes());
        let what = if self.source.samples.are_images() { "images" } else { "features" };
        let tier = match (self.source.is_resident(), self.source.remembers()) {
            (true, _) => "resident on the device once they are read",
            (false, true) => "kept in memory once they are read",
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
    /// When a sample is missing or damaged, or a view is wanted that is not stored and cannot be made.
    pub fn batch(&self, samples: &[u32], draw: Draw) -> Result<Batch> {
        let course = self.course(samples, samples.len(), draw)?;
        self.end(&course, self.begin(&course, 0..samples.len())?)
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
        draw: Draw,
        mut f: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        if samples.is_empty() {
            return self.source.check();
        }
        let course = &self.course(samples, size, draw)?;
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(AHEAD);
            let here = self.device().is_cpu();
            scope.spawn(move || {
                for first in (0..samples.len()).step_by(size) {
                    let begun = self.begin(course, first..samples.len().min(first + size));
                    let ready = begun.and_then(|begun| {
                        if here {
                            Ok(Ready::Ended(self.end(course, begun)?))
                        } else {
                            Ok(Ready::Begun(Box::new(begun)))
                        }
                    });
                    // The receiver is gone once `f` has failed: nothing more is wanted then.
                    if send.send(ready).is_err() {
                        break;
                    }
                }
            });
            receive.into_iter().try_for_each(|ready| match ready? {
                Ready::Ended(batch) => f(batch),
                Ready::Begun(begun) => f(self.end(course, *begun)?),
            })
        })?;
        self.source.check()
    }

    /// What is known of samples before they are read, at most so many at once.
    fn course<'a>(&self, samples: &'a [u32], at_once: usize, draw: Draw) -> Result<Course<'a>> {
        let shown = self.shown(samples, draw);
        let labels: Vec<u32> = samples.iter().map(|&sample| self.labels[sample as usize]).collect();
        let crops = self.late.as_ref().filter(|_| matches!(draw, Draw::Epoch { .. } | Draw::Plain)).map(|late| {
            let place = |&(sample, shown): &(usize, Shown)| match (shown, draw) {
                (Shown::View(view), Draw::Epoch { stage, epoch }) => late.place(view, sample, (stage, epoch)),
                _ => late.centre(),
            };
            let places: Vec<u32> = shown.iter().map(place).flat_map(|(y, x)| [y as u32, x as u32]).collect();
            Tensor::from_vec(places, (samples.len(), 2), self.device())
        });
        Ok(Course {
            samples,
            draw,
            labels: Tensor::from_vec(labels, samples.len(), self.device())?,
            read: self.source.course(&shown, at_once, draw)?,
            crops: crops.transpose()?,
        })
    }

    /// Reads a range of the samples of a course.
    fn begin(&self, course: &Course<'_>, range: Range<usize>) -> Result<Begun> {
        let shown = self.shown(&course.samples[range.clone()], course.draw);
        let made = self.renew(&shown)?;
        Ok(Begun { read: self.source.begin(&course.read, &shown)?, range, made })
    }

    /// The batch of what was read.
    fn end(&self, course: &Course<'_>, Begun { range, made, read }: Begun) -> Result<Batch> {
        if let (Some(made), Some(refresh)) = (made, &self.refresh) {
            let (shown, x) = refresh.end(made)?;
            self.source.keep(&shown, &x)?;
        }
        let mut x = self.chain.run(self.source.end(&course.read, range.clone(), read)?)?;
        if let (Some(crops), Some(late)) = (&course.crops, &self.late) {
            x = cut(&x, &crops.narrow(0, range.start, range.len())?, late.shape().size)?;
        }
        let samples = course.samples[range.clone()].to_vec();
        Ok(Batch { x, labels: course.labels.narrow(0, range.start, range.len())?, samples })
    }

    fn shown(&self, samples: &[u32], draw: Draw) -> Vec<(usize, Shown)> {
        let images = self.source.samples.are_images();
        let shown = |sample| match draw {
            Draw::Plain => Shown::Plain,
            Draw::Whole => Shown::Whole,
            Draw::View(view) => Shown::View(view),
            Draw::Epoch { stage, epoch } if images => Shown::Fresh { stage, epoch },
            Draw::Epoch { epoch, .. } => Shown::View(self.rotation.view(sample, epoch)),
        };
        samples.iter().map(|&sample| (sample as usize, shown(sample as usize))).collect()
    }

    /// Makes the views that are not there. Where they stay on the device, that need not be done now.
    fn renew(&self, shown: &[(usize, Shown)]) -> Result<Option<Made>> {
        let missing: Vec<(usize, Shown)> = shown.iter().copied().filter(|shown| self.source.lacks(shown)).collect();
        match &self.refresh {
            _ if missing.is_empty() => Ok(None),
            Some(refresh) if self.source.is_resident() => Ok(Some(refresh.begin(missing)?)),
            Some(refresh) => {
                let (shown, x) = refresh.end(refresh.begin(missing)?)?;
                self.source.keep(&shown, &x).map(|()| None)
            }
            None => {
                let views = self.layout().views;
                Err(Error::failed(format!("the features that are read have {views} views, fewer than wanted"))
                    .hint("`greedy run` brings the stages up to date, or set `features.views` to their number"))
            }
        }
    }
}
