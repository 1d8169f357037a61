//! Blocks and classifiers in evaluation mode, as they are when they are frozen, with batch norm folded into convolutions.

use super::layer::WINDOW;
use crate::ops::{Activation, affine, convolution, linear, pool, space_to_depth, to_nchw};
use crate::pipeline::{POOLED, Shape};
use candle_core::{Result, Tensor};

/// 3x3 convolution + bias + ReLU in one pass.
pub(super) struct FrozenUnit {
    weight: Tensor,
    bias: Tensor,
}

impl FrozenUnit {
    pub fn new(weight: Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self { weight: weight.contiguous()?, bias: bias.contiguous()? })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        convolution(x, &self.weight, Some(&self.bias), WINDOW, Activation::Relu)
    }
}

/// A block that only runs forward: \[space-to-depth\] → convolution + bias + ReLU.
pub struct FrozenBlock {
    pub(super) space_to_depth: bool,
    pub(super) unit: FrozenUnit,
}

impl FrozenBlock {
    /// The shape of what it makes of an input.
    pub fn output(&self, input: Shape) -> Shape {
        Shape {
            channels: self.unit.weight.dims().first().copied().unwrap_or(0),
            size: if self.space_to_depth { input.size / 2 } else { input.size },
        }
    }

    /// \[batch, height, width, channels\] → the block's features \[batch, height', width', channels'\].
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.space_to_depth { self.unit.forward(&space_to_depth(x)?) } else { self.unit.forward(x) }
    }
}

/// An auxiliary classifier that only runs forward.
pub struct FrozenAuxiliary {
    pub(super) hidden: Vec<FrozenUnit>,
    /// Scale and shift of each channel after pooling, where there is a batch norm.
    pub(super) affine: Option<(Tensor, Tensor)>,
    /// Weights \[classes, inputs\] and bias.
    pub(super) linear: (Tensor, Tensor),
}

impl FrozenAuxiliary {
    /// \[batch, height, width, channels\] → logits \[batch, classes\].
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for unit in &self.hidden {
            x = unit.forward(&x)?;
        }
        x = pool(&x, POOLED)?;
        if let Some((scale, shift)) = &self.affine {
            x = affine(&x, scale, shift)?;
        }
        linear(&flattened(&x)?, &self.linear.0, &self.linear.1)
    }
}

/// \[batch, height, width, channels\] → \[batch, channels * height * width\], in the order of PyTorch's features.
pub(super) fn flattened(x: &Tensor) -> Result<Tensor> {
    to_nchw(x)?.flatten_from(1)
}
