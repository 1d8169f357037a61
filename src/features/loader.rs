//! Batches of a stage's input, ready for the network and read ahead of it.

use super::array::Subset;
use super::encoding::decode_sample;
use super::order::planes_to_pixels;
use super::reader::Reader;
use super::small::read_labels;
use crate::error::{Error, Result};
use crate::images::Augmenter;
use crate::pipeline::{Pipeline, Shape};
use crate::random::{Purpose, Stream};
use rayon::prelude::*;
use std::cell::RefCell;
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// How the samples of a batch are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// For training: images are cropped and flipped afresh, features come in the view that the epoch says.
    Epoch {
        /// The stage that is trained.
        stage: usize,
        /// Its epoch, from 0.
        epoch: usize,
    },
    /// One of the views that are cached.
    View(usize),
    /// For validation: images are cropped at the centre.
    Plain,
}

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
    reader: Reader,
    labels: Vec<u32>,
    shape: Shape,
    /// Present where the arrays hold images, with the seed of their crops and flips.
    augmenter: Option<(Augmenter, u64)>,
}

impl Loader {
    /// Opens a subset of the stage whose output is to be read, with labels of so many classes.
    ///
    /// # Errors
    /// When its arrays are missing or do not fit each other, the pipeline or the classes.
    pub fn open(stage: &Path, subset: Subset, pipeline: &Pipeline, classes: usize) -> Result<Self> {
        let array = subset.array(stage, "features");
        let reader = Reader::open(&array)?;
        let labels = read_labels(stage, subset)?;
        let layout = reader.layout();
        if layout.samples != labels.len() {
            let (samples, labels) = (layout.samples, labels.len());
            return Err(Error::failed(format!("`{}` has {samples} samples, but {labels} labels", array.display())));
        }
        if layout.samples == 0 {
            return Err(Error::failed(format!("`{}` holds no samples", array.display())));
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(Error::failed(format!("`{}` has label {label}, but {classes} classes", array.display())));
        }
        let images = layout.holds_images();
        let shape = if images { pipeline.image() } else { layout.shape };
        let stored = Shape { channels: pipeline.data.channels, size: pipeline.data.size };
        if images && layout.shape != stored {
            return Err(Error::failed(format!("`{}` does not hold the images of the pipeline", array.display())));
        }
        let augmenter = images.then(|| (Augmenter::new(&pipeline.augmentation, &pipeline.data), pipeline.seed));
        Ok(Self { reader, labels, shape, augmenter })
    }

    /// Samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples; never true of a loader that could be opened.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The shape of a sample as the network takes it.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The labels of all samples.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Reads a batch, in parallel.
    ///
    /// # Errors
    /// When a sample is missing or damaged.
    pub fn batch(&self, samples: &[u32], draw: Draw) -> Result<Batch> {
        let mut values = vec![0.0; samples.len() * self.shape.values()];
        let slots = values.par_chunks_exact_mut(self.shape.values()).zip(samples);
        slots.try_for_each(|(out, &sample)| self.read(sample as usize, draw, out))?;
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

    fn read(&self, sample: usize, draw: Draw, out: &mut [f32]) -> Result<()> {
        thread_local! {
            /// A sample as it is stored, and its values channel by channel.
            static SAMPLE: RefCell<(Vec<u8>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
        }
        SAMPLE.with_borrow_mut(|(stored, planes)| {
            match &self.augmenter {
                None => {
                    let layout = self.reader.layout();
                    self.reader.read(draw.view() % layout.views, sample, stored)?;
                    decode_sample(stored, layout, out);
                }
                Some((augmenter, seed)) => {
                    self.reader.read(0, sample, stored)?;
                    planes.resize(out.len(), 0.0);
                    augmenter.apply(stored, draw.stream(*seed, sample).as_mut(), planes);
                    planes_to_pixels(planes, self.shape.channels, out);
                }
            }
            Ok(())
        })
    }
}

impl Draw {
    /// The cached view that is read.
    fn view(self) -> usize {
        match self {
            Self::Epoch { epoch, .. } => epoch,
            Self::View(view) => view,
            Self::Plain => 0,
        }
    }

    /// The stream that an image is cropped and flipped by.
    fn stream(self, seed: u64, sample: usize) -> Option<Stream> {
        match self {
            Self::Epoch { stage, epoch } => {
                Some(Stream::new(Purpose::Augmentation, seed, ((stage as u64) << 32 | epoch as u64, sample as u64)))
            }
            Self::View(view) => Some(Stream::new(Purpose::View, seed, (view as u64, sample as u64))),
            Self::Plain => None,
        }
    }
}
