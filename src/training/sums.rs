//! Loss and correct answers of a batch, and of an epoch, summed over its batches.

use crate::error::Result;
use crate::ops::accumulate;
use candle_core::{DType, Device, Tensor, Var};

/// What a batch came to before the weights moved.
#[derive(Clone)]
pub struct Outcome {
    /// How many labels had the largest logit, a scalar.
    pub correct: Tensor,
    /// The mean over the batch, a scalar.
    pub loss: Tensor,
}

/// Sums over the batches of an epoch, kept on the device so that no step waits for them.
pub(super) struct Sums {
    loss: Var,
    correct: Var,
    /// Samples that were met.
    pub met: usize,
}

impl Sums {
    /// Nothing yet.
    pub fn new(device: &Device) -> Result<Self> {
        let zero = || Var::zeros((), DType::F32, device);
        Ok(Self { loss: zero()?, correct: zero()?, met: 0 })
    }

    /// Adds a batch of `count` samples with their mean loss and the number of correct answers.
    pub fn add(&mut self, loss: &Tensor, correct: &Tensor, count: usize) -> Result<()> {
        self.met += count;
        Ok(accumulate([&self.loss, &self.correct], [loss, correct], [count as f64, 1.0])?)
    }

    /// Mean loss and percentage of correct answers over the samples that were met.
    pub fn read(&self) -> Result<(f64, f64)> {
        let count = self.met.max(1) as f64;
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

    /// Takes the sums from tensors that [`state`](Self::state) gave, by their names. Says whether both were there.
    pub fn set_state(&self, find: impl Fn(&str) -> Option<Tensor>) -> bool {
        let take = |own: &Var, name| find(name).is_some_and(|sum| sum.rank() == 0 && own.set(&sum).is_ok());
        take(&self.loss, "sums.loss") && take(&self.correct, "sums.correct")
    }
}
