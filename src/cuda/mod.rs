//! The operations on NVIDIA GPUs: our own kernels, compiled for the GPU at hand when it is first used, and cuDNN's
//! convolutions.
//!
//! What launches the kernels is written against [`Gpu`](gpu::Gpu), so that the same launches of the same kernels also
//! run on an emulated GPU in the tests, which need none.

#[cfg(feature = "cuda")]
mod batches;
#[cfg(feature = "cuda")]
mod compiler;
#[cfg(feature = "cuda")]
mod convolution;
#[cfg(feature = "cuda")]
mod download;
pub(crate) mod dropout;
pub(crate) mod elementwise;
#[cfg(test)]
pub(crate) mod emulator;
#[cfg(feature = "cuda")]
mod engine;
pub(crate) mod gpu;
pub(crate) mod learning;
#[cfg(all(feature = "cuda", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod libraries;
#[cfg(feature = "cuda")]
mod mapped;
#[cfg(feature = "cuda")]
mod memory;
pub(crate) mod normalise;
#[cfg(feature = "cuda")]
mod norms;
pub(crate) mod pixels;
#[cfg(feature = "cuda")]
mod pointers;
pub(crate) mod pooled;
#[cfg(feature = "cuda")]
mod recording;
pub(crate) mod samples;
#[cfg(feature = "cuda")]
mod tensors;
pub(crate) mod tiling;
#[cfg(feature = "cuda")]
mod upload;

#[cfg(feature = "cuda")]
pub(crate) use batches::{cut, decode, encode, put, show};
#[cfg(feature = "cuda")]
pub(crate) use download::{Download, Downloaded};
#[cfg(feature = "cuda")]
pub(crate) use dropout::Mask;
#[cfg(feature = "cuda")]
pub(crate) use engine::{free_memory, is_fast, is_there, open};
#[cfg(feature = "cuda")]
pub(crate) use learning::Step;
#[cfg(feature = "cuda")]
pub(crate) use mapped::{accumulate, affine, cast, concat, spoil};
#[cfg(feature = "cuda")]
pub(crate) use norms::{Moving, Norm, pools};
#[cfg(feature = "cuda")]
pub(crate) use pixels::Windows;
#[cfg(feature = "cuda")]
pub(crate) use recording::{Recordings, aside};
pub(crate) use samples::{Form, Type};
#[cfg(feature = "cuda")]
pub(crate) use tensors::{
    channel_sums, convolution, cross_entropy, descend, dropout, exchange, input_gradient, linear,
    linear_input_gradient, linear_weight_gradient, max_pool, max_pool_gradient, packed, pool, pool_gradient, relu,
    relu_gradient, space_to_depth, unpacked, weight_gradient,
};
#[cfg(feature = "cuda")]
pub(crate) use upload::{Upload, Uploaded};
