//! Convolution, batch norm and linear layers with their variables.

use super::weights::{Role, Variables};
use crate::ops::{Activation, batch_norm, convolution};
use crate::random::Stream;
use candle_core::{Device, Result, Tensor, Var};

/// Added to variances, as in PyTorch.
pub(super) const EPSILON: f64 = 1e-5;
/// The share of a batch's statistics in the running ones, as in PyTorch.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// How a network is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch norm uses the batch's statistics and updates the running ones.
    Train,
    /// Batch norm uses the running statistics.
    Evaluate,
}

/// Kaiming-uniform weights as PyTorch draws them by default (He et al. 2015, with a negative slope of the square root
/// of 5): uniform within 1 / sqrt(fan in). The published code trains SimCNN from these.
fn kaiming(shape: &[usize], fan_in: usize, draw: &mut Stream, device: &Device) -> Result<Var> {
    let bound = 1.0 / (fan_in as f64).sqrt();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw.uniform(-bound, bound) as f32).collect();
    Var::from_vec(values, shape, device)
}

/// Batch norm over the channels of \[batch, channels, height, width\].
pub(super) struct BatchNorm {
    pub gamma: Var,
    pub beta: Var,
    pub mean: Var,
    pub variance: Var,
}

impl BatchNorm {
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let constant = |value: f32| Var::from_vec(vec![value; channels], channels, device);
        Ok(Self { gamma: constant(1.0)?, beta: constant(0.0)?, mean: constant(0.0)?, variance: constant(1.0)? })
    }

    pub fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor> {
        match mode {
            Mode::Train => self.train(x, activation),
            Mode::Evaluate => self.evaluate(x, activation),
        }
    }

    fn train(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (y, batch) = batch_norm(x, &self.gamma, &self.beta, EPSILON, activation)?;
        let count = (x.elem_count() / x.dim(1)?) as f64;
        let unbiased = (batch.variance * (count / (count - 1.0).max(1.0)))?;
        let blend = |running: &Var, new: &Tensor| {
            running.set(&((running.as_tensor() * (1.0 - STATISTICS_MOMENTUM))? + (new * STATISTICS_MOMENTUM)?)?)
        };
        blend(&self.mean, &batch.mean)?;
        blend(&self.variance, &unbiased)?;
        Ok(y)
    }

    fn evaluate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (scale, shift) = self.affine()?;
        let by_channel = |tensor: Tensor| tensor.reshape((1, (), 1, 1));
        let y = x.broadcast_mul(&by_channel(scale)?)?.broadcast_add(&by_channel(shift)?)?;
        if activation == Activation::Relu { y.relu() } else { Ok(y) }
    }

    /// Scale and shift of each channel in evaluation mode.
    pub fn affine(&self) -> Result<(Tensor, Tensor)> {
        let scale = (self.gamma.as_detached_tensor() / (self.variance.as_detached_tensor() + EPSILON)?.sqrt()?)?;
        let shift = (self.beta.as_detached_tensor() - (self.mean.as_detached_tensor() * &scale)?)?;
        Ok((scale, shift))
    }

    pub fn variables(&self, prefix: &str, out: &mut Variables) {
        out.add(format!("{prefix}.weight"), Role::Parameter, &self.gamma);
        out.add(format!("{prefix}.bias"), Role::Parameter, &self.beta);
        out.add(format!("{prefix}.running_mean"), Role::Statistic, &self.mean);
        out.add(format!("{prefix}.running_var"), Role::Statistic, &self.variance);
    }
}

/// A 3x3 convolution with padding 1, batch norm or a bias, and ReLU.
pub(super) struct ConvolutionUnit {
    pub weight: Var,
    /// Present where there is no batch norm.
    pub bias: Option<Var>,
    pub norm: Option<BatchNorm>,
}

impl ConvolutionUnit {
    pub fn new(inputs: usize, outputs: usize, batch_norm: bool, draw: &mut Stream, device: &Device) -> Result<Self> {
        let weight = kaiming(&[outputs, inputs, 3, 3], inputs * 9, draw, device)?;
        let bias = if batch_norm { None } else { Some(kaiming(&[outputs], inputs * 9, draw, device)?) };
        let norm = if batch_norm { Some(BatchNorm::new(outputs, device)?) } else { None };
        Ok(Self { weight, bias, norm })
    }

    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match (&self.norm, mode) {
            (Some(norm), Mode::Train) => {
                norm.forward(&convolution(x, &self.weight, None, 1, Activation::Identity)?, Activation::Relu, mode)
            }
            (None, Mode::Train) => convolution(x, &self.weight, self.bias.as_deref(), 1, Activation::Relu),
            (_, Mode::Evaluate) => {
                let (weight, bias) = self.folded()?;
                convolution(x, &weight, bias.as_ref(), 1, Activation::Relu)
            }
        }
    }

    /// Weight and bias in evaluation mode, in which batch norm only scales and shifts each channel by constants, so
    /// that the convolution can take it over: exact but for rounding.
    pub fn folded(&self) -> Result<(Tensor, Option<Tensor>)> {
        let weight = self.weight.as_detached_tensor();
        let Some(norm) = &self.norm else {
            return Ok((weight.copy()?, self.bias.as_ref().map(|bias| bias.as_detached_tensor().copy()).transpose()?));
        };
        let (scale, shift) = norm.affine()?;
        Ok((weight.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?, Some(shift)))
    }

    /// Adds the variables; `number` follows `conv` and `bn` in their names.
    pub fn variables(&self, number: &str, out: &mut Variables) {
        out.add(format!("conv{number}.weight"), Role::Parameter, &self.weight);
        if let Some(bias) = &self.bias {
            out.add(format!("conv{number}.bias"), Role::Parameter, bias);
        }
        if let Some(norm) = &self.norm {
            norm.variables(&format!("bn{number}"), out);
        }
    }
}

/// A linear layer on \[batch, inputs\].
pub(super) struct Linear {
    weight: Var,
    bias: Var,
}

impl Linear {
    pub fn new(inputs: usize, outputs: usize, draw: &mut Stream, device: &Device) -> Result<Self> {
        let weight = kaiming(&[outputs, inputs], inputs, draw, device)?;
        Ok(Self { weight, bias: kaiming(&[outputs], inputs, draw, device)? })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }

    pub fn variables(&self, out: &mut Variables) {
        out.add("linear.weight".into(), Role::Parameter, &self.weight);
        out.add("linear.bias".into(), Role::Parameter, &self.bias);
    }
}
