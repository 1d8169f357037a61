//! The operations on NVIDIA GPUs: our own kernels, compiled for the GPU at hand when it is first used, and cuDNN's
//! convolutions.
//!
//! What launches the kernels is written against [`Gpu`], so that the same launches and the same kernels also run on an
//! emulated GPU in the tests, which need none.

#[cfg(test)]
mod emulator;
mod gpu;

pub(crate) use gpu::{Argument, Element, Gpu, KERNELS, Launch, Pointer};
