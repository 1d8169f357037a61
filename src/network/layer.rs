//! Convolution, batch norm and linear layers with their variables and gradients.
//!
//! Each layer's `train` gives its result and what its gradients are computed from; `gradients` takes that and the
//! gradient of the result, adds those of its parameters, and gives that of its input where it is wanted.

use super::frozen::FrozenUnit;
use super::gradients::Gradients;
use super::weights::{Role, Variables};
use crate::ops::{
    self, Activation, BatchStatistics, Window, bias_relu_gradients, convolution, input_gradient, weight_gradient,
};
use crate::random::Stream;
use candle_core::{Device, Result, Tensor, Var};

/// Added to variances, as in PyTorch.
const EPSILON: f64 = 1e-5;
/// The window of every convolution.
pub(super) const WINDOW: Window = Window::new(3, 1, 1);
/// The share of a batch's statistics in the running ones, as in PyTorch.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// Whether the gradient of a layer's input is wanted; that of the first layer's is not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Constant,
    Computed,
}

/// Kaiming-uniform weights as PyTorch draws them by default (He et al. 2015, with a negative slope of the square root
/// of 5): uniform within 1 / sqrt(fan in). The published code trains SimCNN from these.
fn kaiming(shape: &[usize], fan_in: usize, draw: &mut Stream, device: &Device) -> Result<Var> {
    let bound = 1.0 / (fan_in as f64).sqrt();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw.uniform(-bound, bound) as f32).collect();
    Var::from_vec(values, shape, device)
}

/// The values of a variable as they are now, on the host.
fn on_host(variable: &Var) -> Result<Tensor> {
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
}

impl BatchNorm {
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let constant = |value: f32| Var::from_vec(vec![value; channels], channels, device);
        Ok(Self { gamma: constant(1.0)?, beta: constant(0.0)?, mean: constant(0.0)?, variance: constant(1.0)? })
    }

    fn op(&self, activation: Activation) -> ops::BatchNorm<'_> {
        ops::BatchNorm { gamma: &self.gamma, beta: &self.beta, epsilon: EPSILON, activation }
    }

    /// With the statistics of the batch, which also move the running ones.
    pub fn train(&self, x: Tensor, activation: Activation) -> Result<(Tensor, BatchNormPass)> {
        let (y, statistics) = self.op(activation).forward(&x)?;
        let count = (x.elem_count() / x.dim(3)?) as f64;
        let unbiased = count / (count - 1.0).max(1.0);
        ops::blend(&self.mean, &statistics.mean, STATISTICS_MOMENTUM, 1.0)?;
        ops::blend(&self.variance, &statistics.variance, STATISTICS_MOMENTUM, unbiased)?;
        Ok((y, BatchNormPass { x, statistics, activation }))
    }

    pub fn gradients(&self, pass: &BatchNormPass, grad: &Tensor, out: &mut Gradients) -> Result<Tensor> {
        let gradients = self.op(pass.activation).gradients(&pass.x, &pass.statistics, grad)?;
        out.add(&self.gamma, gradients.gamma);
        out.add(&self.beta, gradients.beta);
        Ok(gradients.x)
    }

    /// Scale and shift of each channel in evaluation mode.
    pub fn frozen(&self) -> Result<(Tensor, Tensor)> {
        let (scale, shift) = self.affine()?;
        Ok((scale.to_device(self.gamma.device())?, shift.to_device(self.gamma.device())?))
    }

    /// The same, on the host: they are few.
    fn affine(&self) -> Result<(Tensor, Tensor)> {
        let [gamma, beta, mean, variance] = [&self.gamma, &self.beta, &self.mean, &self.variance].map(on_host);
        let scale = (gamma? / (variance? + EPSILON)?.sqrt()?)?;
        let shift = (beta? - (mean? * &scale)?)?;
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
    weight: Var,
    after: After,
}

/// What follows the convolution, before the ReLU.
enum After {
    Norm(BatchNorm),
    Bias(Var),
}

/// What the gradients of a unit are computed from.
pub(super) struct UnitPass {
    x: Tensor,
    after: AfterPass,
}

enum AfterPass {
    Norm(BatchNormPass),
    /// The result of the unit.
    Bias(Tensor),
}

impl ConvolutionUnit {
    pub fn new(inputs: usize, outputs: usize, batch_norm: bool, draw: &mut Stream, device: &Device) -> Result<Self> {
        let weight = kaiming(&[outputs, inputs, 3, 3], inputs * 9, draw, device)?;
        let after = match batch_norm {
            true => After::Norm(BatchNorm::new(outputs, device)?),
            false => After::Bias(kaiming(&[outputs], inputs * 9, draw, device)?),
        };
        Ok(Self { weight, after })
    }

    pub fn train(&self, x: &Tensor) -> Result<(Tensor, UnitPass)> {
        let (y, after) = match &self.after {
            After::Norm(norm) => {
                let sums = convolution(x, &self.weight, None, WINDOW, Activation::Identity)?;
                let (y, pass) = norm.train(sums, Activation::Relu)?;
                (y, AfterPass::Norm(pass))
            }
            After::Bias(bias) => {
                let y = convolution(x, &self.weight, Some(bias), WINDOW, Activation::Relu)?;
                (y.clone(), AfterPass::Bias(y))
            }
        };
        Ok((y, UnitPass { x: x.clone(), after }))
    }

    /// Gives the gradient of the input if that was computed.
    pub fn gradients(
        &self,
        pass: &UnitPass,
        grad: &Tensor,
        input: Input,
        out: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let sums_grad = match (&self.after, &pass.after) {
            (After::Norm(norm), AfterPass::Norm(pass)) => norm.gradients(pass, grad, out)?,
            (After::Bias(bias), AfterPass::Bias(y)) => {
                let (sums_grad, bias_grad) = bias_relu_gradients(y, grad)?;
                out.add(bias, bias_grad);
                sums_grad
            }
            _ => candle_core::bail!("the pass is not one of this layer"),
        };
        out.add(&self.weight, weight_gradient(&pass.x, &sums_grad, WINDOW)?);
        match input {
            Input::Constant => Ok(None),
            Input::Computed => {
                let (_, height, width, _) = pass.x.dims4()?;
                input_gradient(&self.weight, &sums_grad, WINDOW, (height, width)).map(Some)
            }
        }
    }

    /// The unit in evaluation mode, in which batch norm only scales and shifts each channel by constants, so that the
    /// convolution can take it over: exact but for rounding.
    pub fn frozen(&self) -> Result<FrozenUnit> {
        let weight = self.weight.as_detached_tensor();
        match &self.after {
            After::Bias(bias) => FrozenUnit::new(weight.copy()?, bias.as_detached_tensor().copy()?),
            After::Norm(norm) => {
                let (scale, shift) = norm.affine()?;
                let scaled = on_host(&self.weight)?.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
                FrozenUnit::new(scaled.to_device(weight.device())?, shift.to_device(weight.device())?)
            }
        }
    }

    /// Adds the variables; `number` follows `conv` and `bn` in their names.
    pub fn variables(&self, number: &str, out: &mut Variables) {
        out.add(format!("conv{number}.weight"), Role::Parameter, &self.weight);
        match &self.after {
            After::Bias(bias) => out.add(format!("conv{number}.bias"), Role::Parameter, bias),
            After::Norm(norm) => norm.variables(&format!("bn{number}"), out),
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
        ops::linear(x, &self.weight.as_detached_tensor(), &self.bias.as_detached_tensor())
    }

    /// Gives the gradient of the input `x`.
    pub fn gradients(&self, x: &Tensor, grad: &Tensor, out: &mut Gradients) -> Result<Tensor> {
        let gradients = ops::linear_gradients(x, &self.weight.as_detached_tensor(), grad)?;
        out.add(&self.weight, gradients.weight);
        out.add(&self.bias, gradients.bias);
        Ok(gradients.x)
    }

    /// The same layer as it is now, which no training changes.
    pub fn frozen(&self) -> Result<(Tensor, Tensor)> {
        Ok((self.weight.as_detached_tensor().copy()?, self.bias.as_detached_tensor().copy()?))
    }

    pub fn variables(&self, out: &mut Variables) {
        out.add("linear.weight".into(), Role::Parameter, &self.weight);
        out.add("linear.bias".into(), Role::Parameter, &self.bias);
    }
}
