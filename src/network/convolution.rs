//! A convolution with what follows it in one pass: a bias, batch norm, ReLU.

use super::batch_norm::{BatchNorm, BatchNormPass, on_host};
use super::gradients::Gradients;
use super::initial::Initial;
use super::variables::{Role, Variables};
use crate::ops::{
    Activation, Window, bias_gradient, bias_relu_gradients, convolution, input_gradient, relu_gradient, weight_gradient,
};
use candle_core::{Result, Tensor, Var};

/// Whether the gradient of a layer's input is wanted; that of the first layer's is not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Constant,
    Computed,
}

/// Convolution → \[bias\] → \[batch norm\] → \[ReLU\].
pub(super) struct Convolution {
    weight: Var,
    bias: Option<Var>,
    norm: Option<BatchNorm>,
    window: Window,
    activation: Activation,
    /// Fixed weights in the place of its own on the way back.
    feedback: Option<Var>,
}

/// What the gradients are computed from.
pub(super) struct ConvolutionPass {
    x: Tensor,
    /// The weights, as they are read.
    weight: Tensor,
    after: After,
}

enum After {
    Norm(BatchNormPass),
    /// The result where a ReLU gave it.
    Relu(Tensor),
    Plain,
}

impl Convolution {
    /// One with initial weights.
    pub fn new(
        (inputs, outputs): (usize, usize),
        window: Window,
        (bias, batch_norm, relu): (bool, bool, bool),
        initial: &mut Initial<'_>,
    ) -> Result<Self> {
        let kernel = window.kernel;
        let weight = initial.convolution(outputs, inputs, kernel)?;
        let bias = if bias { Some(initial.bias(outputs, inputs * kernel * kernel)?) } else { None };
        let norm = if batch_norm { Some(BatchNorm::new(outputs, initial.device)?) } else { None };
        let activation = if relu { Activation::Relu } else { Activation::Identity };
        Ok(Self { weight, bias, norm, window, activation, feedback: None })
    }

    /// Draws fixed weights for the way back.
    pub fn align(&mut self, initial: &mut Initial<'_>) -> Result<()> {
        let (outputs, inputs, kernel, _) = self.weight.dims4()?;
        self.feedback = Some(initial.convolution(outputs, inputs, kernel)?);
        Ok(())
    }

    /// Whether a batch norm follows the convolution.
    pub fn normalises(&self) -> bool {
        self.norm.is_some()
    }

    /// The weights.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// By its weights, as they are [read](crate::ops::packed). With a batch norm the result may be averaged in the same
    /// pass, to so many cells along an axis.
    pub fn train(&self, x: Tensor, weight: Tensor, pool: Option<usize>) -> Result<(Tensor, ConvolutionPass)> {
        let bias = self.bias.as_ref().map(Var::as_tensor);
        let Some(norm) = &self.norm else {
            let y = convolution(&x, &weight, bias, self.window, self.activation)?;
            let after = if self.activation == Activation::Relu { After::Relu(y.clone()) } else { After::Plain };
            return Ok((y, ConvolutionPass { x, weight, after }));
        };
        let sums = convolution(&x, &weight, bias, self.window, Activation::Identity)?;
        let (y, pass) = norm.train(sums, self.activation, pool)?;
        Ok((y, ConvolutionPass { x, weight, after: After::Norm(pass) }))
    }

    /// Gives the gradient of the input if that was computed.
    pub fn gradients(
        &self,
        pass: ConvolutionPass,
        grad: Tensor,
        input: Input,
        out: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let ConvolutionPass { x, weight, after } = pass;
        let mut bias_grad = None;
        let sums_grad = match (&self.norm, after) {
            (Some(norm), After::Norm(pass)) => norm.gradients(pass, &grad, out)?,
            (None, After::Relu(y)) if self.bias.is_some() => {
                let (sums_grad, own) = bias_relu_gradients(&y, &grad)?;
                bias_grad = Some(own);
                sums_grad
            }
            (None, After::Relu(y)) => relu_gradient(&y, &grad)?,
            (None, After::Plain) => grad,
            _ => candle_core::bail!("the pass is not one of this layer"),
        };
        if let Some(bias) = &self.bias {
            out.add(bias, bias_grad.map_or_else(|| bias_gradient(&sums_grad), Ok)?);
        }
        out.add(&self.weight, weight_gradient(&x, &sums_grad, self.window)?);
        match input {
            Input::Constant => Ok(None),
            Input::Computed => {
                let (_, height, width, _) = x.dims4()?;
                let back = self.feedback.as_ref().map_or(&weight, Var::as_tensor);
                input_gradient(back, &sums_grad, self.window, (height, width)).map(Some)
            }
        }
    }

    /// The layer in evaluation mode, in which batch norm only scales and shifts each channel by constants, so that the
    /// convolution can take it over: exact but for rounding.
    pub fn frozen(&self) -> Result<FrozenConvolution> {
        let copy = |variable: &Var| variable.as_detached_tensor().copy();
        let (weight, bias) = match &self.norm {
            None => (copy(&self.weight)?, self.bias.as_ref().map(copy).transpose()?),
            Some(norm) => {
                let (scale, shift) = norm.affine()?;
                let shift = match &self.bias {
                    None => shift,
                    Some(bias) => ((on_host(bias)? * &scale)? + shift)?,
                };
                let weight = on_host(&self.weight)?.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
                (weight.to_device(self.weight.device())?, Some(shift.to_device(self.weight.device())?))
            }
        };
        Ok(FrozenConvolution {
            weight: weight.contiguous()?,
            bias: bias.map(|bias| bias.contiguous()).transpose()?,
            window: self.window,
            activation: self.activation,
        })
    }

    /// Adds the variables, named for the convolution and for its batch norm.
    pub fn variables(&self, name: &str, norm_name: &str, out: &mut Variables) {
        out.add(format!("{name}.weight"), Role::Parameter, &self.weight);
        if let Some(bias) = &self.bias {
            out.add(format!("{name}.bias"), Role::Parameter, bias);
        }
        if let Some(norm) = &self.norm {
            norm.variables(norm_name, out);
        }
    }

    /// Adds the fixed weights for the way back, where it has some.
    pub fn feedback(&self, name: &str, out: &mut Variables) {
        if let Some(feedback) = &self.feedback {
            out.add(format!("{name}.weight"), Role::Feedback, feedback);
        }
    }
}

/// Convolution → \[bias\] → \[ReLU\] in one pass, which no training changes.
pub(super) struct FrozenConvolution {
    weight: Tensor,
    bias: Option<Tensor>,
    window: Window,
    activation: Activation,
}

impl FrozenConvolution {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        convolution(x, &self.weight, self.bias.as_ref(), self.window, self.activation)
    }
}
