//! The few changes of shape and type between layers.

use crate::ops::{cast, pool, to_nchw};
use candle_core::{DType, Result, Tensor};

/// The average of each cell of a grid; where a convolution reads it, in the type of feature maps.
pub(super) fn averaged(x: &Tensor, side: usize, convolved: bool) -> Result<Tensor> {
    let y = pool(x, side)?;
    if convolved { cast(&y, x.dtype()) } else { Ok(y) }
}

/// \[batch, height, width, channels\] → \[batch, 1, 1, channels * height * width\], in the order of PyTorch's features
/// and in single precision, in which linear layers compute.
pub(super) fn flattened(x: &Tensor) -> Result<Tensor> {
    cast(&samples(&to_nchw(x)?.flatten_from(1)?)?, DType::F32)
}

/// \[batch, 1, 1, values\] → \[batch, values\]
pub(super) fn rows(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(1)
}

/// \[batch, values\] → \[batch, 1, 1, values\]
pub(super) fn samples(x: &Tensor) -> Result<Tensor> {
    let (batch, values) = x.dims2()?;
    x.reshape((batch, 1, 1, values))
}
