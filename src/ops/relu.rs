//! The gradient through a bias and a ReLU, where there is no batch norm.

use super::channels::{Terms, channel_map, channel_sums};
use super::cpu::{is_ours, with_values};
use candle_core::{Result, Tensor, bail};
use pulp::Simd;

/// The gradients of `sums` and `bias` of `y = relu(sums + bias)` \[batch, height, width, channels\], from `y` and its
/// gradient.
///
/// # Errors
/// When the shapes do not fit.
pub fn bias_relu_gradients(y: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let (_, _, _, channels) = y.dims4()?;
    if y.shape() != grad.shape() {
        bail!("a gradient of {:?} for a result of {:?}", grad.shape(), y.shape())
    }
    on_gpu!(y, crate::cuda::bias_relu_gradients(y, grad));
    if !is_ours(y) {
        let passed = (grad * y.gt(0.0)?.to_dtype(grad.dtype())?)?;
        let bias = passed.sum((0, 1, 2))?;
        return Ok((passed, bias));
    }
    let (passed, bias) = with_values([y, grad], |[y, grad]| {
        let passed = channel_map(Passed, [y, grad], channels, []);
        let [bias] = channel_sums(Passed, [y, grad], channels, []);
        (passed, bias.into_iter().map(|sum| sum as f32).collect::<Vec<f32>>())
    })?;
    Ok((Tensor::from_vec(passed, y.shape(), y.device())?, Tensor::from_vec(bias, channels, y.device())?))
}

/// The gradient where the result is positive.
struct Passed;

impl Terms<2, 0, 1> for Passed {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [y, grad]: [S::f32s; 2], _: [S::f32s; 0]) -> [S::f32s; 1] {
        let zero = simd.splat_f32s(0.0);
        [simd.select_f32s(simd.less_than_or_equal_f32s(y, zero), zero, grad)]
    }
}
