//! The validation features of a stage: as its arrays hold them, or computed from the images where they are not kept.

use super::sampling::spread;
use super::statistics::sample_values;
use crate::error::{Error, Result};
use crate::features::{Loader, Reader, Split, View, hwc_to_chw};
use crate::pipeline::Shape;
use crate::progress::Progress;
use crate::run::{Record, StageFolder, TrainedNetwork};
use candle_core::Device;
use rayon::prelude::*;

/// Samples that are held in memory as whole feature maps.
pub(super) const AT_ONCE: usize = 32;
/// Averaged values that are held at most: 256 MiB.
const MOST_AVERAGES: usize = 1 << 26;

/// Features \[sample, channel, y, x\] of the validation images of one stage.
pub struct Features {
    origin: Origin,
    shape: Shape,
    samples: usize,
}

enum Origin {
    Stored(Reader),
    Computed(Box<TrainedNetwork>, Box<Loader>),
}

/// Rows of as many values each.
pub struct Matrix {
    /// Values in a row.
    pub columns: usize,
    /// Row by row.
    pub values: Vec<f32>,
}

impl Matrix {
    /// The rows, first to last.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.columns.max(1))
    }
}

impl Features {
    /// Those of a finished stage.
    ///
    /// # Errors
    /// When the folder is none of a stage, or they are not kept, and the stages before or the images are missing or damaged.
    pub fn open(folder: &StageFolder, record: &Record) -> Result<Self> {
        if !record.kind.is_stage() {
            let what = format!("`{}` holds {}, no features", folder.path().display(), record.title());
            return Err(Error::usage(what).hint("name the folder of a stage, such as `cache/stage1`"));
        }
        if !record.arrays.is_empty() {
            let reader = Reader::open(&Split::Val.array(folder.path(), "features"))?;
            let (shape, samples) = (reader.layout().shape, reader.layout().samples);
            return Ok(Self { origin: Origin::Stored(reader), shape, samples });
        }
        let network = Box::new(TrainedNetwork::open_blocks(folder, &Device::Cpu)?);
        let images = Box::new(network.images(Split::Val)?);
        let (shape, samples) = (network.features_shape(), images.len());
        Ok(Self { origin: Origin::Computed(network, images), shape, samples })
    }

    /// The shape of a sample.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Calls `act` with the place of each sample in a list and its values \[channel, y, x\], in the order of the list.
    ///
    /// # Errors
    /// When a sample is missing or damaged.
    pub fn for_each(&self, samples: &[usize], mut act: impl FnMut(usize, &[f32])) -> Result<()> {
        for (block, samples) in samples.chunks(AT_ONCE).enumerate() {
            let values = self.read(samples)?;
            let all = values.chunks_exact(self.shape.values()).enumerate();
            all.for_each(|(at, values)| act(block * AT_ONCE + at, values));
        }
        Ok(())
    }

    /// A few samples, one after the other: [`AT_ONCE`] at most, so that memory is bounded.
    pub(super) fn read(&self, samples: &[usize]) -> Result<Vec<f32>> {
        match &self.origin {
            Origin::Stored(reader) => {
                let all: Vec<Vec<f32>> =
                    samples.par_iter().map(|&sample| sample_values(reader, 0, sample)).collect::<Result<_>>()?;
                Ok(all.concat())
            }
            Origin::Computed(network, images) => {
                let order: Vec<u32> = samples.iter().map(|&sample| sample as u32).collect();
                let mut all = Vec::with_capacity(samples.len() * self.shape.values());
                images.for_each_batch(&order, AT_ONCE, View::CentreCanvas, |batch| {
                    all.extend(channel_by_channel(&network.features(batch.x)?.flatten_all()?.to_vec1()?, self.shape));
                    Ok(())
                })?;
                Ok(all)
            }
        }
    }

    /// The mean of each channel over a sample's pixels \[sample, channel\].
    ///
    /// # Errors
    /// When a sample is missing or damaged, or the user interrupts.
    pub fn averaged(&self, samples: &[usize], progress: &dyn Progress) -> Result<Matrix> {
        let mut values = Vec::with_capacity(samples.len() * self.shape.channels);
        let task = progress.start("read features", samples.len() as u64);
        for some in samples.chunks(AT_ONCE) {
            progress.check()?;
            self.for_each(some, |_, sample| values.extend(averages(sample, self.shape)))?;
            task.advance(some.len() as u64);
        }
        Ok(Matrix { columns: self.shape.channels, values })
    }

    /// The samples that are looked at where at most so many are wanted: all, or some that are spread evenly over them, and
    /// never more than can be held as averages.
    pub fn spread(&self, most: usize) -> Vec<usize> {
        spread(self.samples, most.min(MOST_AVERAGES / self.shape.channels.max(1)))
    }
}

/// The mean of each channel of a sample \[channel, y, x\].
pub fn averages(sample: &[f32], shape: Shape) -> Vec<f32> {
    let pixels = (shape.size * shape.size).max(1);
    let mean = |plane: &[f32]| (plane.iter().map(|&value| f64::from(value)).sum::<f64>() / pixels as f64) as f32;
    sample.chunks_exact(pixels).map(mean).collect()
}

/// Samples \[sample, y, x, channel\] as \[sample, channel, y, x\].
pub(super) fn channel_by_channel(pixels: &[f32], shape: Shape) -> Vec<f32> {
    let mut planes = vec![0.0; pixels.len()];
    let samples = planes.chunks_exact_mut(shape.values()).zip(pixels.chunks_exact(shape.values()));
    samples.for_each(|(out, sample)| hwc_to_chw(sample, shape.channels, out));
    planes
}
