//! What dropout draws from: a function of the samples, so that a run that was cut off goes on with the same bits.

use crate::random::{Purpose, Stream};
use candle_core::{Result, bail};

/// The noise of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Noise<'a> {
    /// The seed of the pipeline.
    seed: u64,
    /// The stage that is trained, and its epoch.
    epoch: (usize, usize),
    /// The number of each sample of the batch in its data set.
    samples: &'a [u32],
    /// The part of the network: a block, or the head behind the last.
    part: usize,
}

impl<'a> Noise<'a> {
    /// The noise of an epoch of a stage for some samples.
    pub fn new(seed: u64, epoch: (usize, usize), samples: &'a [u32]) -> Self {
        Self { seed, epoch, samples, part: 0 }
    }

    /// The noise of a part of the network.
    pub(super) fn of_part(&self, part: usize) -> Self {
        Self { part, ..*self }
    }

    /// The seeds of the samples of a batch for a layer of a number.
    pub(super) fn seeds(&self, layer: usize, batch: usize) -> Result<Vec<u64>> {
        if self.samples.len() != batch {
            bail!("noise for {} samples, but {batch} are trained on", self.samples.len())
        }
        let (stage, epoch) = self.epoch;
        let counter = (self.part as u64) << 56 ^ (layer as u64) << 48 ^ (stage as u64) << 32 ^ epoch as u64;
        let seed = |&sample: &u32| Stream::new(Purpose::Dropout, self.seed, (counter, u64::from(sample))).bits();
        Ok(self.samples.iter().map(seed).collect())
    }
}
