//! A linear layer and its gradients. In bf16 on a CPU they are multiplied in f32, and the product is rounded.

use super::elementwise::cast;
use candle_core::{DType, Result, Tensor, bail};

/// `x` \[batch, inputs\] times the transposed `weight` \[outputs, inputs\] plus `bias` \[outputs\]: \[batch, outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ((_, inputs), (outputs, weight_inputs)) = (x.dims2()?, weight.dims2()?);
    if inputs != weight_inputs || bias.dims() != [outputs] {
        bail!("a linear layer of {:?} with {:?} and a bias of {:?}", x.shape(), weight.shape(), bias.shape())
    }
    on_gpu!(x, crate::cuda::linear(x, weight, bias));
    let y = single(x)?.matmul(&as_read(weight, x)?.t()?)?.broadcast_add(bias)?;
    cast(&y, x.dtype())
}

/// The gradient of the weights \[outputs, inputs\] in f32, from the input \[batch, inputs\] and the gradient of the result
/// \[batch, outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_weight_gradient(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    if x.dims2()?.0 != grad.dims2()?.0 {
        bail!("a gradient of {:?} for an input of {:?}", grad.shape(), x.shape())
    }
    on_gpu!(x, crate::cuda::linear_weight_gradient(x, grad));
    single(grad)?.t()?.matmul(&single(x)?)
}

/// The gradient of the input \[batch, inputs\], from the weights and the gradient of the result \[batch, outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_input_gradient(weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
    if weight.dims2()?.0 != grad.dims2()?.1 {
        bail!("a gradient of {:?} for weights of {:?}", grad.shape(), weight.shape())
    }
    on_gpu!(grad, crate::cuda::linear_input_gradient(weight, grad));
    cast(&single(grad)?.matmul(&as_read(weight, grad)?)?, grad.dtype())
}

/// In a type that candle multiplies on a CPU.
fn single(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::BF16 { cast(x, DType::F32) } else { Ok(x.clone()) }
}

/// Weights with the digits that a type of feature maps has.
fn as_read(weight: &Tensor, maps: &Tensor) -> Result<Tensor> {
    single(&cast(weight, maps.dtype())?)
}
