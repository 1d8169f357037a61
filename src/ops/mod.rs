//! The few tensor operations that candle lacks or does slowly, forward and backward.
//!
//! Feature maps are \[batch, height, width, channels\], so that the channels of a pixel lie side by side: vectors of the
//! processor and tensor cores want them so. Each operation and each gradient is a function of its own: a shallow network
//! knows which gradients it needs, and no other is computed. For maps in f32 and bf16, on the CPU and on NVIDIA GPUs,
//! they are our own code; for other types they are put together from candle's operations.

// Closures and iterators would not be compiled for the vectors of the machine.
#![allow(clippy::needless_range_loop)]

/// Takes the GPU's way where the tensor lies on one.
macro_rules! on_gpu {
    ($tensor:expr, $result:expr) => {
        #[cfg(feature = "cuda")]
        if $tensor.device().is_cuda() {
            return $result;
        }
    };
}

/// Computes on the CPU by our own code, for each of the types that it knows; else in another way.
macro_rules! on_cpu {
    ($tensor:expr, $element:ident => $own:expr, $other:expr) => {
        match ($tensor.device(), $tensor.dtype()) {
            (candle_core::Device::Cpu, candle_core::DType::F32) => {
                type $element = f32;
                $own
            }
            (candle_core::Device::Cpu, candle_core::DType::BF16) => {
                type $element = half::bf16;
                $own
            }
            _ => $other,
        }
    };
}

mod axes;
mod band;
mod batch_norm;
mod bf16_products;
mod bf16_vectors;
mod channels;
mod convolution;
mod cpu;
mod crops;
mod descent;
mod direct;
mod direct_gradient;
mod dropout;
mod element;
mod elementwise;
#[cfg(test)]
mod emulated;
mod encoded;
mod geometry;
mod linear;
mod loss;
mod max_pooling;
mod panels;
mod pooled_norm;
mod pooling;
mod relu;
mod repeated;
mod scattering;
mod tiles;
mod transforms;
mod uploads;
mod wavelets;
mod window;
mod winograd;

pub use batch_norm::{BatchNorm, BatchNormGradients, BatchStatistics};
pub use convolution::{Activation, convolution, input_gradient, packed, unpacked, weight_gradient};
pub use crops::{Crops, cut};
pub use descent::{Descent, descend};
pub use dropout::dropout;
pub use element::Element;
pub use elementwise::{accumulate, affine, cast, concat};
pub use encoded::{Form, Maps, Values, on_host, put};
pub use linear::{linear, linear_input_gradient, linear_weight_gradient};
pub use loss::{Loss, cross_entropy};
pub use max_pooling::{max_pool, max_pool_gradient};
pub use pooled_norm::PooledNorm;
pub use pooling::{depth_to_space, pool, pool_gradient, space_to_depth};
pub use relu::{bias_gradient, bias_relu_gradients, relu, relu_gradient};
pub use repeated::Repeated;
pub use scattering::Scattering;
pub use uploads::{Downloaded, Downloads, Uploaded, Uploads, free_memory};
pub use window::Window;

use bf16_products::Instructions;
use candle_core::{Device, Result, Tensor};

/// Opens the NVIDIA GPU of a number, ready for these operations. With `fast` gradients may be computed in ways that do
/// not give the same bits at every run, where these are faster.
///
/// # Errors
/// When there is none, its driver or cuDNN is missing, or this program was built without the feature `cuda`.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn open_gpu(number: usize, fast: bool) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return crate::cuda::open(number, fast);
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(number)
}

/// Whether there is a GPU and its driver, whatever else may be missing.
pub fn gpu_is_there() -> bool {
    #[cfg(feature = "cuda")]
    return crate::cuda::is_there();
    #[cfg(not(feature = "cuda"))]
    false
}

/// Runs operations on a device from where that is fastest: for the CPU on a thread of the pool, since one outside would
/// have to be woken after each of them; a GPU is asked from the thread at hand.
pub fn compute<T: Send>(device: &Device, f: impl FnOnce() -> T + Send) -> T {
    if device.is_cpu() { rayon::scope(|_| f()) } else { f() }
}

/// Lets a thread ask things of a device while another trains on it: they never get into what is recorded there.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn aside<T>(device: &Device, f: impl FnOnce() -> T) -> T {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::cuda::aside(f);
    }
    f()
}

/// Fills memory of a GPU with what is no number in any type, and gives it back: what is reserved next may be a part of it.
///
/// # Errors
/// When it has no such memory.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn spoil(device: &Device, bytes: usize) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::cuda::spoil(device, bytes);
    }
    Ok(())
}

/// Why a device has no instructions that multiply bf16, so that feature maps are widened and multiplied in f32.
pub fn why_no_bf16(device: &Device) -> Option<&'static str> {
    if device.is_cpu() { Instructions::why_not() } else { None }
}

/// The instructions of a CPU that multiply bf16.
pub fn bf16_instructions(device: &Device) -> Option<&'static str> {
    Instructions::get().filter(|_| device.is_cpu()).map(Instructions::name)
}

/// Whether a device was opened so that gradients may have other bits at every run.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn is_fast(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    return crate::cuda::is_fast(device);
    #[cfg(not(feature = "cuda"))]
    false
}

/// \[batch, height, width, channels\] → \[batch, channels, height, width\], the order of files and of PyTorch.
///
/// # Errors
/// When `x` has not four dimensions.
pub fn to_nchw(x: &Tensor) -> Result<Tensor> {
    on_gpu!(x, {
        let (batch, height, width, channels) = x.dims4()?;
        crate::cuda::exchange(x, [batch, height * width, channels], (batch, channels, height, width))
    });
    x.permute((0, 3, 1, 2))?.contiguous()
}

/// \[batch, channels, height, width\] → \[batch, height, width, channels\].
///
/// # Errors
/// When `x` has not four dimensions.
pub fn to_nhwc(x: &Tensor) -> Result<Tensor> {
    on_gpu!(x, {
        let (batch, channels, height, width) = x.dims4()?;
        crate::cuda::exchange(x, [batch, channels, height * width], (batch, height, width, channels))
    });
    x.permute((0, 2, 3, 1))?.contiguous()
}
