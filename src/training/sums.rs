//! Loss and correct answers of an epoch, summed over its batches.

use crate::error::Result;
use crate::ops::accumulate;
use candle_core::{DType, Device, Tensor, Var};
use std::collections::HashMap;

/// Sums over the batches of an epoch, kept on the device so that no step waits for them.
pub(super) struct Sums {
    loss: Var,
    correct: Var,
}

impl Sums {
    /// Nothing yet.
    pub fn new(device: &Device) -> Result<Self> {
        let zero = || Var::zeros((), DType::F32, device);
        Ok(Self { loss: zero()?, correct: zero()? })
    }

    /// Adds a batch of `count` samples with their mean loss and the number of correct answers.
    pub fn add(&mut self, loss: &Tensor, correct: &Tensor, count: usize) -> Result<()> {
        accumulate(&self.correct, correct, 1.0)?;
        Ok(accumulate(&self.loss, loss, count as f64)?)
    }

    /// Mean loss and percentage of correct answers over so many samples.
    pub fn read(&self, count: usize) -> Result<(f64, f64)> {
        let count = count.max(1) as f64;
        let value = |sum: &Var| Ok::<_, candle_core::Error>(f64::from(sum.to_scalar::<f32>()?) / count);
        Ok((value(&self.loss)?, 100.0 * value(&self.correct)?))
    }

    /// The sums, as `sums.…`.
    pub fn state(&self) -> [(String, Tensor); 2] {
        [
            ("sums.loss".into(), self.loss.as_detached_tensor()),
            ("sums.correct".into(), self.correct.as_detached_tensor()),
        ]
    }

    /// Takes the sums from tensors that [`state`](Self::state) gave. Says whether both were there.
    pub fn set_state(&mut self, tensors: &HashMap<String, Tensor>) -> bool {
        let take = |own: &Var, name| tensors.get(name).is_some_and(|sum| sum.rank() == 0 && own.set(sum).is_ok());
        take(&self.loss, "sums.loss") && take(&self.correct, "sums.correct")
    }
}
