//! One training step: forward pass, loss, gradients, update.

use super::sgd::Sgd;
use super::sums::Outcome;
use crate::network::{Network, Noise};
use crate::ops::{compute, cross_entropy};
use candle_core::{Result, Tensor};

/// Trains on one batch of inputs \[sample, y, x, channel\] and their labels, with the noise that dropout draws from. The
/// outcome is good until the next step.
///
/// # Errors
/// When the shapes do not fit.
pub fn step(network: &Network, sgd: &Sgd, samples: (&Tensor, &Tensor, &Noise<'_>), rate: f64) -> Result<Outcome> {
    step_for_next(network, sgd, samples, (rate, false)).map(|(outcome, _)| outcome)
}

/// The same; gives the features of the last block, as they were before the weights moved, where they are wanted.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn step_for_next(
    network: &Network,
    sgd: &Sgd,
    (x, labels, noise): (&Tensor, &Tensor, &Noise<'_>),
    (rate, wanted): (f64, bool),
) -> Result<(Outcome, Option<Tensor>)> {
    let work = |x: &Tensor, labels: &Tensor| {
        compute(x.device(), || {
            let (features, logits, pass) = network.train_for_next(x, noise)?;
            // Kept no longer than the pass needs them where nobody else does.
            let features = Some(features).filter(|_| wanted);
            let loss = cross_entropy(&logits, labels)?;
            sgd.step(&network.gradients(pass, &loss.gradient)?, rate)?;
            Ok((Outcome { correct: loss.correct, loss: loss.mean }, features))
        })
    };
    // Features may be wanted for longer than until the next step.
    if wanted || !network.repeats() {
        return work(x, labels);
    }
    let alone = |x: &Tensor, labels: &Tensor| work(x, labels).map(|(outcome, _)| outcome);
    Ok((sgd.steps.run((x, labels), rate.to_bits(), alone)?, None))
}
