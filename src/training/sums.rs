//! Loss and right answers of an epoch, summed over its batches.

use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// Sums over the batches of an epoch, kept on the device so that no step waits for them.
pub(super) struct Sums {
    loss: Tensor,
    right: Tensor,
}

impl Sums {
    /// Nothing yet.
    pub fn new(device: &Device) -> Result<Self> {
        let zero = Tensor::zeros((), DType::F32, device)?;
        Ok(Self { loss: zero.clone(), right: zero })
    }

    /// Adds a batch of `count` samples with their mean loss and the number of right answers.
    pub fn add(&mut self, loss: &Tensor, right: &Tensor, count: usize) -> Result<()> {
        self.right = (&self.right + right)?;
        self.loss = (&self.loss + (loss * count as f64)?)?;
        Ok(())
    }

    /// Mean loss and percentage of right answers over so many samples.
    pub fn read(&self, count: usize) -> Result<(f64, f64)> {
        let count = count.max(1) as f64;
        let value = |sum: &Tensor| Ok::<_, candle_core::Error>(f64::from(sum.to_scalar::<f32>()?) / count);
        Ok((value(&self.loss)?, 100.0 * value(&self.right)?))
    }

    /// The sums, as `sums.…`.
    pub fn state(&self) -> [(String, Tensor); 2] {
        [("sums.loss".into(), self.loss.clone()), ("sums.right".into(), self.right.clone())]
    }

    /// Takes the sums from tensors that [`state`](Self::state) gave. Says whether both were there.
    pub fn set_state(&mut self, tensors: &HashMap<String, Tensor>) -> bool {
        let find = |name| tensors.get(name).filter(|sum| sum.rank() == 0).cloned();
        let (Some(loss), Some(right)) = (find("sums.loss"), find("sums.right")) else { return false };
        *self = Self { loss, right };
        true
    }
}
