//! A linear layer and its gradients.

use candle_core::{Result, Tensor};

/// Gradients of what went into a linear layer.
pub struct LinearGradients {
    /// Of the input \[batch, inputs\].
    pub x: Tensor,
    /// Of the weights \[outputs, inputs\].
    pub weight: Tensor,
    /// Of the bias \[outputs\].
    pub bias: Tensor,
}

/// `x` \[batch, inputs\] times the transposed `weight` \[outputs, inputs\] plus `bias` \[outputs\]: \[batch, outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    on_gpu!(x, crate::cuda::linear(x, weight, bias));
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

/// The gradients, from the input and the gradient of the result \[batch, outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_gradients(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<LinearGradients> {
    Ok(LinearGradients { x: grad.matmul(weight)?, weight: grad.t()?.matmul(x)?, bias: column_sums(grad)? })
}

fn column_sums(grad: &Tensor) -> Result<Tensor> {
    on_gpu!(grad, crate::cuda::channel_sums(grad));
    grad.sum(0)
}
