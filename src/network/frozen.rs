//! A trained block in evaluation mode, with batch norm folded into the convolution.

use super::stage::Block;
use crate::ops::{Activation, convolution, space_to_depth};
use candle_core::{Result, Tensor};

/// A block that only runs forward: \[space-to-depth\] → convolution + bias + ReLU in one pass.
pub struct FrozenBlock {
    space_to_depth: bool,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl FrozenBlock {
    /// Freezes a block as it is now.
    pub fn new(block: &Block) -> Result<Self> {
        let (weight, bias) = block.unit.folded()?;
        Ok(Self { space_to_depth: block.space_to_depth, weight, bias })
    }

    /// \[batch, channels, height, width\] → the block's features.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let unfolded;
        let x = if self.space_to_depth {
            unfolded = space_to_depth(x)?;
            &unfolded
        } else {
            x
        };
        convolution(x, &self.weight, self.bias.as_ref(), 1, Activation::Relu)
    }
}
