//! Multinomial logistic regression.

use super::lbfgs::minimise;
use super::table::Table;
use crate::error::Result;
use crate::progress::Progress;
use candle_core::{D, Device, Tensor};
use candle_nn::ops::log_softmax;
use std::cell::Cell;

/// A linear classifier.
pub struct Linear {
    /// \[value, class\]
    weights: Tensor,
    /// \[class\]
    bias: Tensor,
    device: Device,
}

/// How it is fitted.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// Half of it times the squared weights, without the bias, is added to the mean cross entropy.
    pub penalty: f64,
    /// Iterations at most.
    pub iterations: usize,
    /// It ends where no value of the gradient is larger.
    pub tolerance: f64,
}

/// Rows that are computed at once.
const ROWS: usize = 4096;

impl Linear {
    /// Fits it to rows, from zero, and gives the number of iterations as well.
    ///
    /// # Errors
    /// When the device has no memory or the user interrupts.
    pub fn fit(
        table: &Table,
        classes: usize,
        Fit { penalty, iterations, tolerance }: Fit,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<(Self, usize)> {
        let rows = table.blocks(ROWS, device)?;
        let labels = table.labels.chunks(ROWS).map(|labels| Tensor::new(labels, device)?.unsqueeze(1));
        let labels: Vec<Tensor> = labels.collect::<candle_core::Result<_>>()?;
        let weights = table.width * classes;
        let task = progress.start("fit", iterations as u64);
        let looks = Cell::new(0);
        let of = |at: &[f64]| -> Result<(f64, Vec<f64>)> {
            progress.check()?;
            let linear = Self::new(at, (table.width, classes), device)?;
            let (mut loss, mut gradient) = (0.0, vec![0.0; at.len()]);
            for (x, labels) in rows.iter().zip(&labels) {
                let (own, parts) = linear.gradient(x, labels)?;
                loss += own;
                gradient.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            }
            let count = table.len().max(1) as f64;
            gradient.iter_mut().for_each(|value| *value /= count);
            gradient[..weights].iter_mut().zip(at).for_each(|(value, weight)| *value += penalty * weight);
            let squares: f64 = at[..weights].iter().map(|weight| weight * weight).sum();
            // A step may take several looks.
            looks.set(looks.get() + 1);
            task.advance(u64::from(looks.get() <= iterations));
            Ok((loss / count + penalty / 2.0 * squares, gradient))
        };
        let found = minimise(vec![0.0; weights + classes], (iterations, tolerance), of)?;
        if found.iterations >= iterations {
            progress.say(&format!(
                "  not converged after {iterations} iterations (`iterations`, `tolerance` of the probe)"
            ));
        }
        Ok((Self::new(&found.at, (table.width, classes), device)?, found.iterations))
    }

    /// From its weights, then its bias.
    fn new(values: &[f64], (width, classes): (usize, usize), device: &Device) -> Result<Self> {
        let single: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let (weights, bias) = single.split_at(width * classes);
        Ok(Self {
            weights: Tensor::from_slice(weights, (width, classes), device)?,
            bias: Tensor::from_slice(bias, classes, device)?,
            device: device.clone(),
        })
    }

    /// The sum of the cross entropies of some rows, and its gradient with respect to weights and bias.
    fn gradient(&self, x: &Tensor, labels: &Tensor) -> Result<(f64, impl Iterator<Item = f64>)> {
        let logs = log_softmax(&self.scores(x)?, D::Minus1)?;
        let loss = -f64::from(logs.gather(labels, 1)?.sum_all()?.to_scalar::<f32>()?);
        // Of softmax and cross entropy together: probabilities, less 1 at the label.
        let ones = Tensor::ones(labels.shape(), logs.dtype(), &self.device)?;
        let errors = logs.exp()?.scatter_add(labels, &ones.neg()?, 1)?;
        let weights = x.t()?.matmul(&errors)?.flatten_all()?.to_vec1::<f32>()?;
        let bias = errors.sum(0)?.to_vec1::<f32>()?;
        Ok((loss, weights.into_iter().chain(bias).map(f64::from)))
    }

    fn scores(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weights)?.broadcast_add(&self.bias)
    }

    /// Weights \[value, class\].
    pub fn weights(&self) -> &Tensor {
        &self.weights
    }

    /// The logits of rows: \[row, class\].
    ///
    /// # Errors
    /// When the rows do not fit.
    pub fn logits(&self, table: &Table) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for x in table.blocks(ROWS, &self.device)? {
            all.extend(self.scores(&x)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    }
}
