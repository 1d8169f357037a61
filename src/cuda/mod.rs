//! The operations on NVIDIA GPUs: our own kernels, compiled for the GPU at hand when it is first used, and cuDNN's
//! convolutions.
//!
//! What launches the kernels is written against [`Gpu`](gpu::Gpu), which knows memory and launches but nothing of a driver.

mod batches;
mod convolution;
mod engine;
mod gpu;
mod learning;
mod normalise;
mod pixels;
mod samples;
mod tensors;
mod tiling;
mod upload;

pub(crate) use batches::{cut, decode, encode, put, show};
pub(crate) use engine::{free_memory, open};
pub(crate) use learning::Step;
pub(crate) use pixels::Windows;
pub(crate) use samples::{Form, Type};
pub(crate) use tensors::{
    Norm, bias_relu_gradients, blend, channel_sums, convolution, cross_entropy, descend, exchange, input_gradient,
    linear, max_pool, max_pool_gradient, pool, pool_gradient, space_to_depth, weight_gradient,
};
pub(crate) use upload::Upload;
