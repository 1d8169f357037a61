//! A linear layer, with or without a ReLU.

use super::convolution::Input;
use super::gradients::Gradients;
use super::initial::Initial;
use super::variables::{Role, Variables};
use crate::ops;
use candle_core::{Result, Tensor, Var};

/// A linear layer on \[batch, inputs\] → \[ReLU\].
pub(super) struct Linear {
    weight: Var,
    bias: Var,
    relu: bool,
    /// Fixed weights in the place of its own on the way back.
    feedback: Option<Var>,
}

/// What the gradients are computed from: the input, and the result where a ReLU gave it.
pub(super) struct LinearPass {
    x: Tensor,
    y: Option<Tensor>,
}

impl Linear {
    pub fn new(inputs: usize, outputs: usize, relu: bool, initial: &mut Initial<'_>) -> Result<Self> {
        let weight = initial.linear(outputs, inputs)?;
        Ok(Self { weight, bias: initial.bias(outputs, inputs)?, relu, feedback: None })
    }

    /// Draws fixed weights for the way back.
    pub fn align(&mut self, initial: &mut Initial<'_>) -> Result<()> {
        let (outputs, inputs) = self.weight.dims2()?;
        self.feedback = Some(initial.linear(outputs, inputs)?);
        Ok(())
    }

    pub fn train(&self, x: Tensor) -> Result<(Tensor, LinearPass)> {
        let y = ops::linear(&x, &self.weight.as_detached_tensor(), &self.bias.as_detached_tensor())?;
        if !self.relu {
            return Ok((y, LinearPass { x, y: None }));
        }
        let y = ops::relu(&y)?;
        Ok((y.clone(), LinearPass { x, y: Some(y) }))
    }

    /// Gives the gradient of the input where it is wanted.
    pub fn gradients(
        &self,
        pass: LinearPass,
        grad: Tensor,
        input: Input,
        out: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let grad = match &pass.y {
            Some(y) => ops::relu_gradient(y, &grad)?,
            None => grad,
        };
        out.add(&self.weight, ops::linear_weight_gradient(&pass.x, &grad)?);
        out.add(&self.bias, ops::bias_gradient(&grad)?);
        if input == Input::Constant {
            return Ok(None);
        }
        let back = self.feedback.as_ref().unwrap_or(&self.weight);
        ops::linear_input_gradient(&back.as_detached_tensor(), &grad).map(Some)
    }

    /// The layer as it is now, which no training changes.
    pub fn frozen(&self) -> Result<FrozenLinear> {
        let copy = |variable: &Var| variable.as_detached_tensor().copy();
        Ok(FrozenLinear { weight: copy(&self.weight)?, bias: copy(&self.bias)?, relu: self.relu })
    }

    pub fn variables(&self, name: &str, out: &mut Variables) {
        out.add(format!("{name}.weight"), Role::Parameter, &self.weight);
        out.add(format!("{name}.bias"), Role::Parameter, &self.bias);
    }

    /// Adds the fixed weights for the way back, where it has some.
    pub fn feedback(&self, name: &str, out: &mut Variables) {
        if let Some(feedback) = &self.feedback {
            out.add(format!("{name}.weight"), Role::Feedback, feedback);
        }
    }
}

/// A linear layer that only runs forward.
pub(super) struct FrozenLinear {
    weight: Tensor,
    bias: Tensor,
    relu: bool,
}

impl FrozenLinear {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight, &self.bias)?;
        if self.relu { ops::relu(&y) } else { Ok(y) }
    }
}
