//! The operations on NVIDIA GPUs: our own kernels, compiled for the GPU at hand when it is first used, and cuDNN's
//! convolutions.
//!
//! What launches the kernels is written against [`Gpu`], so that the same launches of the same kernels also run on an
//! emulated GPU in the tests, which need none.

mod gpu;
mod learning;
mod normalise;
mod pixels;
mod tiling;

pub(crate) use gpu::{Argument, Element, Gpu, KERNELS, Launch, Pointer};
pub(crate) use learning::{LossPlaces, Step, Weights, cross_entropy, descend};
pub(crate) use normalise::{Line, NormGradients, blend};
pub(crate) use pixels::{Images, Windows, exchange};
pub(crate) use tiling::Maps;
