//! Products of bf16 matrices by the instructions that x86-64 processors have for them, for convolutions and linear layers.
//!
//! Values are bf16, products are summed in f32. A left tile of 16 rows of 32 values is multiplied by a right one of 32 rows of
//! 16 columns: 8192 multiply-adds, at once by matrix units (AMX), or by vectors of 32 (AVX-512 BF16). What is done here is to
//! bring values into such tiles:
//!
//! | operation | rows of left tiles | summed | columns of right tiles |
//! |---|---|---|---|
//! | convolution, gradient of its input | pixels of the result | source channels and taps | result channels |
//! | gradient of its weights | output channels | pixels of all images | input channels at one tap |
//!
//! A linear layer is a convolution of images of one pixel. Values that are denormal count as 0.

mod amx;
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
#[cfg(target_arch = "x86_64")]
mod vectors;
mod weight_gradient;

use amx::Tiles;
use candle_core::{DType, Tensor};
use pulp::{Arch, Simd, WithSimd};
use tiles::Multiplier;
#[cfg(target_arch = "x86_64")]
use vectors::Vectors;

/// Kinds of instructions that multiply bf16, the faster first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// AMX.
    MatrixUnits,
    /// AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    Vectors,
}

/// Instructions of this processor that are there and work: who has this may use them.
#[derive(Clone, Copy, Debug)]
pub struct Instructions(Kind);

impl Instructions {
    /// The fastest, where there are any. Asked for the first time, they are tried.
    pub fn get() -> Option<Self> {
        #[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
        if let Some(wanted) = tests::wanted() {
            return wanted;
        }
        detection::found().ok()
    }

    /// Those that multiply such feature maps.
    pub fn of(maps: &Tensor) -> Option<Self> {
        if maps.device().is_cpu() && maps.dtype() == DType::BF16 { Self::get() } else { None }
    }

    /// Why there are none, in words.
    pub fn why_not() -> Option<&'static str> {
        detection::found().err()
    }

    /// What they are called.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::MatrixUnits => "AMX",
            #[cfg(target_arch = "x86_64")]
            Kind::Vectors => "AVX-512 BF16",
        }
    }

    /// Whether they are those of matrix units, and not of vectors.
    pub fn are_matrix_units(self) -> bool {
        self.0 == Kind::MatrixUnits
    }

    /// Runs work on this thread with the instructions, compiled for the processor's vectors.
    fn dispatch(self, work: impl Work) {
        match self.0 {
            // SAFETY: there are such instructions, as `self` proves. Work begins no other and waits for none, so that the thread
            // has no other tiles.
            Kind::MatrixUnits => Arch::new().dispatch(With(work, unsafe { Tiles::new() })),
            // SAFETY: there are such instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Vectors => Arch::new().dispatch(With(work, unsafe { Vectors::new() })),
        }
    }
}

/// What is done with products of tiles on one thread, which meanwhile does nothing else; sums are finished by vectors of f32.
trait Work {
    fn run<S: Simd>(self, simd: S, multiplier: impl Multiplier);
}

struct With<W, M>(W, M);

impl<W: Work, M: Multiplier> WithSimd for With<W, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(simd, self.1);
    }
}
