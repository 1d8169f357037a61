//! Launches of dropout.

use super::gpu::{Argument, Gpu, Pointer};
use super::tiling::{Maps, at, value};
use candle_core::Result;

/// Which values stay, and what they are multiplied by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    /// Values whose random 32 bits are below it are dropped.
    pub threshold: u32,
    /// The factor of the others.
    pub scale: f64,
}

impl Maps {
    /// Drops values \[sample, value\], which are described as pixels and channels. `seeds` are two u32 a sample: the lower
    /// half and the upper.
    ///
    /// # Safety
    /// The pointers lead to as many values, and to two u32 a sample.
    pub unsafe fn dropout(self, gpu: &impl Gpu, [x, seeds]: [Pointer; 2], mask: Mask, to: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let [samples, values, lanes] = tiles.arguments()?;
        let (threshold, scale) = (Argument::Count(mask.threshold), value(mask.scale));
        let arguments = [at(x), at(seeds), at(to), samples, values, lanes, threshold, scale];
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "dropout", tiles.mapped(), &arguments) }
    }
}
