//! Products of bf16 matrices on the matrix units of x86-64 processors (AMX), for convolutions and linear layers.
//!
//! Values are bf16, products are summed in f32. A unit multiplies a left tile of 16 rows of 32 values by a right one of 32
//! rows of 16 columns: 8192 multiply-adds at once. All that is done here is to bring values into such tiles:
//!
//! | operation | rows of left tiles | summed | columns of right tiles |
//! |---|---|---|---|
//! | convolution, gradient of its input | pixels of the result | source channels and taps | result channels |
//! | gradient of its weights | output channels | pixels of all images | input channels at one tap |
//!
//! A linear layer is a convolution of images of one pixel. Values that are denormal count as 0.

mod band;
mod convolution;
mod detection;
#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod double;
mod finish;
mod linear;
mod packing;
mod parts;
mod phase;
mod products;
mod task;
#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests;
mod tiles;
mod transposition;
mod weight_gradient;

use candle_core::{DType, Tensor};

/// The matrix units of this processor, which are there and work: who has this may use them.
#[derive(Clone, Copy, Debug)]
pub struct Units(());

impl Units {
    /// The units, where there are any. Asked for the first time, they are tried.
    pub fn get() -> Option<Self> {
        #[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
        if let Some(wanted) = tests::wanted() {
            return wanted.then_some(Self(()));
        }
        detection::result().is_ok().then_some(Self(()))
    }

    /// The units, where they multiply such feature maps.
    pub fn of(maps: &Tensor) -> Option<Self> {
        if maps.device().is_cpu() && maps.dtype() == DType::BF16 { Self::get() } else { None }
    }

    /// Why they are not used, in words.
    pub fn why_not() -> Option<&'static str> {
        detection::result().err()
    }
}
