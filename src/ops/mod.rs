//! The few tensor operations that candle lacks or does slowly, forward and backward.
//!
//! Each is a function of tensors in NCHW order that takes part in candle's backward pass. On the CPU, in f32, it is
//! our own code; elsewhere it is put together from candle's operations. No gradient is computed that nobody needs.

mod batch_norm;
mod convolution;
mod cpu;
mod matrix;
mod pooling;

pub use batch_norm::{BatchStatistics, batch_norm};
pub use convolution::{Activation, convolution};
pub use pooling::{pool, space_to_depth};
