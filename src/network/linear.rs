//! A linear layer, with or without a ReLU.

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
}

/// What the gradients are computed from: the input, and the result where a ReLU gave it.
pub(super) struct LinearPass {
    x: Tensor,
    y: Option<Tensor>,
}

impl Linear {
    pub fn new(inputs: usize, outputs: usize, relu: bool, initial: &mut Initial<'_>) -> Result<Self> {
        let weight = initial.linear(outputs, inputs)?;
        Ok(Self { weight, bias: initial.bias(outputs, inputs)?, relu })
    }

    pub fn train(&self, x: Tensor) -> Result<(Tensor, LinearPass)> {
        let y = ops::linear(&x, &self.weight.as_detached_tensor(), &self.bias.as_detached_tensor())?;
        if !self.relu {
            return Ok((y, LinearPass { x, y: None }));
        }
        let y = ops::relu(&y)?;
        Ok((y.clone(), LinearPass { x, y: Some(y) }))
    }

    /// Gives the gradient of the input.
    pub fn gradients(&self, pass: LinearPass, grad: Tensor, out: &mut Gradients) -> Result<Tensor> {
        let grad = match &pass.y {
            Some(y) => ops::relu_gradient(y, &grad)?,
            None => grad,
        };
        let gradients = ops::linear_gradients(&pass.x, &self.weight.as_detached_tensor(), &grad)?;
        out.add(&self.weight, gradients.weight);
        out.add(&self.bias, gradients.bias);
        Ok(gradients.x)
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
