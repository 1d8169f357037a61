//! Direct feedback: a fixed random matrix from the gradient of the logits to the result of a layer.

use super::initial::Initial;
use crate::ops::{cast, linear_input_gradient};
use crate::pipeline::Shape;
use candle_core::{DType, Result, Tensor, Var};

/// What brings the gradient of the logits to the result of a layer, past all that lies between.
pub(super) struct Direct {
    /// \[classes, values\], values in the order of feature maps: row, column, channel.
    pub weight: Var,
    output: Shape,
}

impl Direct {
    /// One with random weights, to a result of a shape.
    pub fn new(output: Shape, classes: usize, initial: &mut Initial<'_>) -> Result<Self> {
        Ok(Self { weight: initial.direct(classes, output.values())?, output })
    }

    /// What stands for the gradient of the result \[batch, height, width, channels\], from that of the logits
    /// \[batch, classes\].
    pub fn signal(&self, logits_grad: &Tensor, dtype: DType) -> Result<Tensor> {
        let Shape { channels, size } = self.output;
        let values = linear_input_gradient(&self.weight.as_detached_tensor(), logits_grad)?;
        cast(&values.reshape((logits_grad.dim(0)?, size, size, channels))?, dtype)
    }
}
