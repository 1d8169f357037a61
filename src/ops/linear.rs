//! A linear layer and its gradients. In bf16 a CPU multiplies on its matrix units (AMX), or else in f32 and rounds the product.

use super::bf16_products::Instructions;
use super::cpu::with_values;
use super::elementwise::cast;
use super::geometry::Finish;
use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

/// `x` \[batch, inputs\] times the transposed `weight` \[outputs, inputs\] plus `bias` \[outputs\]: \[batch, outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ((batch, inputs), (outputs, weight_inputs)) = (x.dims2()?, weight.dims2()?);
    if inputs != weight_inputs || bias.dims() != [outputs] {
        bail!("a linear layer of {:?} with {:?} and a bias of {:?}", x.shape(), weight.shape(), bias.shape())
    }
    on_gpu!(x, crate::cuda::linear(x, weight, bias));
    if let Some(instructions) = instructions(x) {
        let values = with_values([weight, bias], |[weight, bias]| {
            let finish = Finish { bias: Some(bias), relu: false };
            with_values([x], |[x]| instructions.linear::<bf16>(batch, (inputs, outputs), x, weight, finish))
        })??;
        return Tensor::from_vec(values, (batch, outputs), x.device());
    }
    let y = single(x)?.matmul(&as_read(weight, x)?.t()?)?.broadcast_add(bias)?;
    cast(&y, x.dtype())
}

/// The gradient of the weights \[outputs, inputs\] in f32, from the input \[batch, inputs\] and the gradient of the result
/// \[batch, outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_weight_gradient(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let ((batch, inputs), (grad_batch, outputs)) = (x.dims2()?, grad.dims2()?);
    if batch != grad_batch {
        bail!("a gradient of {:?} for an input of {:?}", grad.shape(), x.shape())
    }
    on_gpu!(x, crate::cuda::linear_weight_gradient(x, grad));
    if let Some(instructions) = instructions(x) {
        let values =
            with_values([x, grad], |[x, grad]| instructions.linear_weight_gradient(batch, (inputs, outputs), x, grad))?;
        return Tensor::from_vec(values, (outputs, inputs), x.device());
    }
    single(grad)?.t()?.matmul(&single(x)?)
}

/// The gradient of the input \[batch, inputs\], from the weights and the gradient of the result \[batch, outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_input_gradient(weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let ((outputs, inputs), (batch, grad_outputs)) = (weight.dims2()?, grad.dims2()?);
    if outputs != grad_outputs {
        bail!("a gradient of {:?} for weights of {:?}", grad.shape(), weight.shape())
    }
    on_gpu!(grad, crate::cuda::linear_input_gradient(weight, grad));
    if let Some(instructions) = instructions(grad) {
        let values = with_values([weight], |[weight]| {
            with_values([grad], |[grad]| {
                instructions.linear_input_gradient::<bf16>(batch, (inputs, outputs), weight, grad)
            })
        })??;
        return Tensor::from_vec(values, (batch, inputs), grad.device());
    }
    cast(&single(grad)?.matmul(&as_read(weight, grad)?)?, grad.dtype())
}

/// The matrix units, where they multiply such values. Vectors would gain less than it takes to bring these into tiles.
fn instructions(values: &Tensor) -> Option<Instructions> {
    Instructions::of(values).filter(|instructions| instructions.are_matrix_units())
}

/// In a type that candle multiplies on a CPU.
fn single(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::BF16 { cast(x, DType::F32) } else { Ok(x.clone()) }
}

/// Weights with the digits that a type of feature maps has.
fn as_read(weight: &Tensor, maps: &Tensor) -> Result<Tensor> {
    single(&cast(weight, maps.dtype())?)
}
