//! One training step: forward pass, loss, gradients, update.

use super::sgd::Sgd;
use crate::network::{Network, Noise};
use crate::ops::{compute, cross_entropy};
use candle_core::{Result, Tensor};

/// What a batch came to before the weights moved.
pub struct Outcome {
    /// How many labels had the largest logit, a scalar.
    pub correct: Tensor,
    /// The mean over the batch, a scalar.
    pub loss: Tensor,
}

/// Trains on one batch of inputs \[sample, y, x, channel\] and their labels, with the noise that dropout draws from.
///
/// # Errors
/// When the shapes do not fit.
pub fn step(
    network: &Network,
    sgd: &mut Sgd,
    (x, labels, noise): (&Tensor, &Tensor, &Noise<'_>),
    rate: f64,
) -> Result<Outcome> {
    compute(x.device(), || {
        let (logits, pass) = network.train(x, noise)?;
        let loss = cross_entropy(&logits, labels)?;
        sgd.step(&network.gradients(pass, &loss.gradient)?, rate)?;
        Ok(Outcome { correct: loss.correct, loss: loss.mean })
    })
}
