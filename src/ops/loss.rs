//! Softmax cross entropy and its gradient.

use super::cpu::{build, is_ours, with_values};
use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::ops::log_softmax;

/// How far logits are from their labels.
pub struct Loss {
    /// The mean over the batch, a scalar.
    pub mean: Tensor,
    /// How many labels have the largest logit (the first of equal ones), a scalar.
    pub correct: Tensor,
    /// The gradient of the mean with respect to the logits \[batch, class\].
    pub gradient: Tensor,
}

/// The mean softmax cross entropy of logits \[batch, class\] and labels \[batch\] (u32).
///
/// # Errors
/// When the shapes do not fit or a label is no class.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Loss> {
    let (batch, classes) = logits.dims2()?;
    if labels.dims() != [batch] || classes == 0 {
        bail!("labels of {:?} for logits of {:?}", labels.shape(), logits.shape())
    }
    on_gpu!(logits, {
        // Looking at the labels would make the host wait; one that is no class makes the loss not a number.
        let [mean, correct, gradient] = crate::cuda::cross_entropy(logits, labels)?;
        Ok(Loss { mean, correct, gradient })
    });
    let correct = logits.argmax(D::Minus1)?.eq(labels)?.to_dtype(DType::F32)?.sum_all()?;
    if !is_ours(logits) {
        return by_candle(logits, labels, correct);
    }
    let labels: Vec<u32> = labels.to_vec1()?;
    if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
        bail!("label {label} of {classes} classes")
    }
    let (losses, gradient) = with_values([logits], |[logits]: [&[f32]; 1]| {
        let gradient = build(logits.len(), classes, |sample, out: &mut [f32]| {
            let powers = powers(&logits[sample * classes..][..classes]);
            let scale = 1.0 / (powers.sum * batch as f32);
            out.iter_mut().zip(powers.values).for_each(|(out, power)| *out = power * scale);
            out[labels[sample] as usize] -= 1.0 / batch as f32;
        });
        let samples = logits.chunks_exact(classes).zip(&labels);
        let loss = |(logits, &label): (&[f32], &u32)| {
            let powers = powers(logits);
            f64::from(powers.sum).ln() + (f64::from(powers.largest) - f64::from(logits[label as usize]))
        };
        (samples.map(loss).sum::<f64>(), gradient)
    })?;
    let mean = (losses / batch as f64) as f32;
    let device = logits.device();
    Ok(Loss {
        mean: Tensor::new(mean, device)?,
        correct,
        gradient: Tensor::from_vec(gradient, (batch, classes), device)?,
    })
}

/// exp(logit - largest) of each logit.
struct Powers<I> {
    values: I,
    sum: f32,
    largest: f32,
}

fn powers(logits: &[f32]) -> Powers<impl Iterator<Item = f32>> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let values = logits.iter().map(move |&logit| (logit - largest).exp());
    Powers { sum: values.clone().sum(), values, largest }
}

fn by_candle(logits: &Tensor, labels: &Tensor, correct: Tensor) -> Result<Loss> {
    let (batch, _) = logits.dims2()?;
    let logs = log_softmax(logits, D::Minus1)?;
    let chosen = logs.gather(&labels.unsqueeze(1)?, 1)?;
    let mean = (chosen.sum_all()? / -(batch as f64))?;
    let one = chosen.ones_like()?;
    let hits = logits.zeros_like()?.scatter_add(&labels.unsqueeze(1)?, &one, 1)?;
    Ok(Loss { mean, correct, gradient: ((logs.exp()? - hits)? / batch as f64)? })
}
