//! Runs a frozen block once over the data set and writes its features.

use super::array::{Layout, Subset};
use super::encoding::encode_values;
use super::loader::{Batch, Draw, Loader};
use super::order::pixels_to_planes;
use super::small::write_labels;
use super::writer::{Written, write_array};
use crate::error::Result;
use crate::network::FrozenBlock;
use crate::pipeline::{Features, Shape};
use crate::progress::Progress;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::path::Path;

/// Samples that are run through the block at once at most. Results do not depend on it.
const BATCH: usize = 256;
/// Values of such a batch, in or out, at most: 64 MiB of f32, so that large feature maps take fewer samples at once.
const BATCH_VALUES: usize = 1 << 24;

/// The writing of a block's features into the folder of its stage.
pub struct Extraction<'a> {
    /// The folder of the stage.
    pub stage: &'a Path,
    /// Its block.
    pub block: &'a FrozenBlock,
    /// What the block makes of a sample.
    pub output: Shape,
    /// How features are stored.
    pub features: &'a Features,
    /// Where the block runs.
    pub device: &'a Device,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl Extraction<'_> {
    /// Writes one subset, with one view; shards that are there are kept.
    ///
    /// # Errors
    /// When the input is damaged, a feature does not fit the type, the disk refuses or the user interrupts.
    pub fn write(&self, subset: Subset, input: &Loader) -> Result<Written> {
        let layout = self.layout(input);
        write_labels(self.stage, subset, input.labels())?;
        let task = self.progress.start(&format!("features {}", subset.name()), layout.samples as u64);
        let at_once = BATCH.min(BATCH_VALUES / input.shape().values().max(self.output.values())).max(1);
        write_array(&subset.array(self.stage, "features"), &layout, &*task, |view, samples, shard| {
            let samples: Vec<u32> = samples.map(|sample| sample as u32).collect();
            let draw = if subset == Subset::Train { Draw::View(view) } else { Draw::Plain };
            input.for_each_batch(&samples, at_once, draw, |batch| {
                self.progress.check()?;
                let count = batch.labels.len();
                shard.append(&self.run(batch, input.shape(), layout.sample_bytes())?)?;
                task.advance(count as u64);
                Ok(())
            })
        })
    }

    fn layout(&self, input: &Loader) -> Layout {
        let sample_bytes = self.output.values() * self.features.dtype.bytes();
        Layout {
            views: 1,
            samples: input.len(),
            shape: self.output,
            dtype: self.features.dtype,
            samples_in_shard: self.features.samples_in_shard(sample_bytes).min(input.len()),
        }
    }

    /// The encoded features of a batch.
    fn run(&self, batch: Batch, input: Shape, sample_bytes: usize) -> Result<Vec<u8>> {
        let count = batch.labels.len();
        let x = Tensor::from_vec(batch.values, (count, input.size, input.size, input.channels), self.device)?;
        let values: Vec<f32> = self.block.forward(&x)?.flatten_all()?.to_vec1()?;
        let mut bytes = vec![0; count * sample_bytes];
        let samples = bytes.par_chunks_exact_mut(sample_bytes).zip(values.par_chunks_exact(self.output.values()));
        samples.try_for_each_init(
            || vec![0.0; self.output.values()],
            |planes, (bytes, pixels)| {
                pixels_to_planes(pixels, self.output.channels, planes);
                encode_values(planes, self.features.dtype, bytes)
            },
        )?;
        Ok(bytes)
    }
}
