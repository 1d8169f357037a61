//! The ReLU and its gradient, and the gradient of a bias.

use super::channels::{Terms, channel_sums, value_map};
use super::cpu::{build, with_values};
use super::element::Element;
use candle_core::{Result, Tensor, bail};
use pulp::Simd;

/// Channels whose sums a thread takes at a time.
const CHANNELS_AT_ONCE: usize = 1024;

/// max(x, 0) of every value; what is not a number stays so.
///
/// # Errors
/// When the device has no memory.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    on_gpu!(x, crate::cuda::relu(x));
    on_cpu!(x, E => {
        let values = with_values([x], |[x]: [&[E]; 1]| value_map(Positive, [x]))?;
        Tensor::from_vec(values, x.shape(), x.device())
    }, x.relu())
}

/// The gradient of the input of a ReLU, from its result `y` and the gradient of that: the gradient but where `y` is 0.
///
/// # Errors
/// When the shapes do not fit.
pub fn relu_gradient(y: &Tensor, grad: &Tensor) -> Result<Tensor> {
    if y.shape() != grad.shape() {
        bail!("a gradient of {:?} for a result of {:?}", grad.shape(), y.shape())
    }
    on_gpu!(y, crate::cuda::relu_gradient(y, grad));
    on_cpu!(y, E => {
        let values = with_values([y, grad], |[y, grad]: [&[E]; 2]| value_map(Passed, [y, grad]))?;
        Tensor::from_vec(values, y.shape(), y.device())
    }, y.le(0.0)?.where_cond(&grad.zeros_like()?, grad))
}

/// The gradient of a bias \[channels\] that was added to \[…, channels\], from the gradient of the sums: its sums over all
/// but the channels, in f32.
///
/// # Errors
/// When the gradient has no channels.
pub fn bias_gradient(grad: &Tensor) -> Result<Tensor> {
    let channels = grad.dims().last().copied().unwrap_or(0);
    if channels == 0 {
        bail!("a gradient of {:?} for a bias", grad.shape())
    }
    on_gpu!(grad, crate::cuda::channel_sums(grad));
    on_cpu!(grad, E => {
        if grad.rank() == 2 {
            return sample_sums::<E>(grad, channels);
        }
        let [sums] = with_values([grad], |[grad]: [&[E]; 1]| channel_sums(Same, [grad], channels, []))?;
        Tensor::from_vec(sums.into_iter().map(|sum| sum as f32).collect::<Vec<f32>>(), channels, grad.device())
    }, grad.reshape(((), channels))?.sum(0))
}

/// Sums over the samples of a batch, which are few, one after the other.
fn sample_sums<E: Element>(grad: &Tensor, channels: usize) -> Result<Tensor> {
    let sums = with_values([grad], |[grad]: [&[E]; 1]| {
        build(channels, CHANNELS_AT_ONCE, |part, out: &mut [f32]| {
            for sample in grad.chunks_exact(channels) {
                let own = &sample[part * CHANNELS_AT_ONCE..][..out.len()];
                out.iter_mut().zip(own).for_each(|(sum, value)| *sum += value.widen());
            }
        })
    })?;
    Tensor::from_vec(sums, channels, grad.device())
}

/// The gradients of `sums` and `bias` of `y = relu(sums + bias)` \[batch, height, width, channels\], from `y` and its
/// gradient.
///
/// # Errors
/// When the shapes do not fit.
pub fn bias_relu_gradients(y: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let passed = relu_gradient(y, grad)?;
    let bias = bias_gradient(&passed)?;
    Ok((passed, bias))
}

struct Positive;

impl Terms<1, 0, 1> for Positive {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [x]: [S::f32s; 1], _: [S::f32s; 0]) -> [S::f32s; 1] {
        let zero = simd.splat_f32s(0.0);
        // Unlike a maximum, this keeps what is not a number.
        [simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)]
    }
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

struct Same;

impl Terms<1, 0, 1> for Same {
    #[inline(always)]
    fn terms<S: Simd>(_: S, values: [S::f32s; 1], _: [S::f32s; 0]) -> [S::f32s; 1] {
        values
    }
}
