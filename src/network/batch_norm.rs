//! Batch norm with its variables: gain, shift, and running statistics.

use super::gradients::Gradients;
use super::variables::{Role, Variables};
use crate::ops::{self, Activation, BatchStatistics, PooledNorm};
use candle_core::{Device, Result, Tensor, Var};

/// Added to variances, as in PyTorch.
const EPSILON: f64 = 1e-5;
/// The share of a batch's statistics in the running ones, as in PyTorch.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// The values of a variable as they are now, on the host.
pub(super) fn on_host(variable: &Var) -> Result<Tensor> {
    variable.as_detached_tensor().to_device(&Device::Cpu)
}

/// Batch norm over the channels of \[batch, height, width, channels\].
pub(super) struct BatchNorm {
    gamma: Var,
    beta: Var,
    mean: Var,
    variance: Var,
}

/// What the gradients of a batch norm are computed from.
pub(super) struct BatchNormPass {
    x: Tensor,
    statistics: BatchStatistics,
    activation: Activation,
    pool: Option<usize>,
}

impl BatchNorm {
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let constant = |value: f32| Var::from_vec(vec![value; channels], channels, device);
        Ok(Self { gamma: constant(1.0)?, beta: constant(0.0)?, mean: constant(0.0)?, variance: constant(1.0)? })
    }

    fn op(&self, activation: Activation) -> ops::BatchNorm<'_> {
        ops::BatchNorm { gamma: &self.gamma, beta: &self.beta, epsilon: EPSILON, activation }
    }

    /// With the statistics of the batch, which also move the running ones. Where the result is pooled, with so many cells
    /// along an axis, the batch norm may do that in the same pass.
    pub fn train(&self, x: Tensor, activation: Activation, pool: Option<usize>) -> Result<(Tensor, BatchNormPass)> {
        let (norm, running) = (self.op(activation), [&self.mean, &self.variance]);
        let (y, statistics) = match pool {
            Some(side) => PooledNorm { norm, side }.train(&x, running, STATISTICS_MOMENTUM)?,
            None => norm.train(&x, running, STATISTICS_MOMENTUM)?,
        };
        Ok((y, BatchNormPass { x, statistics, activation, pool }))
    }

    pub fn gradients(&self, pass: BatchNormPass, grad: &Tensor, out: &mut Gradients) -> Result<Tensor> {
        let BatchNormPass { x, statistics, activation, pool } = pass;
        let norm = self.op(activation);
        let gradients = match pool {
            Some(side) => PooledNorm { norm, side }.gradients(&x, &statistics, grad)?,
            None => norm.gradients(&x, &statistics, grad)?,
        };
        out.add(&self.gamma, gradients.gamma);
        out.add(&self.beta, gradients.beta);
        Ok(gradients.x)
    }

    /// Scale and shift of each channel in evaluation mode.
    pub fn frozen(&self) -> Result<(Tensor, Tensor)> {
        let ((scale, shift), device) = (self.affine()?, self.gamma.device());
        Ok((scale.to_device(device)?, shift.to_device(device)?))
    }

    /// The same on the host: they are few.
    pub fn affine(&self) -> Result<(Tensor, Tensor)> {
        let [gamma, beta, mean, variance] = [&self.gamma, &self.beta, &self.mean, &self.variance].map(on_host);
        let scale = (gamma? / (variance? + EPSILON)?.sqrt()?)?;
        let shift = (beta? - (mean? * &scale)?)?;
        Ok((scale, shift))
    }

    pub fn variables(&self, name: &str, out: &mut Variables) {
        out.add(format!("{name}.weight"), Role::Parameter, &self.gamma);
        out.add(format!("{name}.bias"), Role::Parameter, &self.beta);
        out.add(format!("{name}.running_mean"), Role::Statistic, &self.mean);
        out.add(format!("{name}.running_var"), Role::Statistic, &self.variance);
    }
}
