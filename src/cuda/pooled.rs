//! Launches of batch norm with a ReLU and average pooling behind it, in one pass over the maps.

use super::gpu::{Gpu, Pointer};
use super::normalise::{Line, NormGradients, Running};
use super::pixels::Images;
use super::tiling::{at, count};
use candle_core::Result;

/// Pointers of these functions lead to as many values as the images or their cells have, or one f32 a channel: that is what
/// makes calling them safe.
impl Images {
    /// Whether this can be done in one pass: cells do not overlap, and pixels are not so few that another way is faster.
    pub fn pools_normalised(self, side: usize) -> bool {
        self.height.is_multiple_of(side) && self.width.is_multiple_of(side) && !self.maps().are_few()
    }

    /// As [`Maps::normalise_by_moments`], averaged to \[batch, side, side, channels\] in f32.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn normalise_pool(
        self,
        gpu: &impl Gpu,
        x: Pointer,
        (line, running): (Line, Option<Running>),
        side: usize,
        y: Pointer,
    ) -> Result<()> {
        let maps = self.maps();
        let (tiles, cells) = (maps.tiles()?, self.batch * side * side);
        let mut arguments = vec![at(x)];
        arguments.extend(line.arguments());
        arguments.push(at(y));
        for number in [cells, self.height, self.width, self.channels, side, tiles.lanes] {
            arguments.push(count(number)?);
        }
        // SAFETY: the caller's promise.
        unsafe {
            maps.moments(gpu, x, line, running)?;
            tiles.launch(gpu, "normalise_pool", tiles.summed().min(cells), &arguments)
        }
    }

    /// The gradients of [`normalise_pool`](Self::normalise_pool), from its input and the gradient of its result.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn normalise_pool_gradients(
        self,
        gpu: &impl Gpu,
        (x, grad): (Pointer, Pointer),
        (line, side): (Line, usize),
        to: NormGradients,
    ) -> Result<()> {
        let cells = self.batch * side * side;
        let mut from = vec![at(x), at(grad)];
        for number in [cells, side, self.height, self.width] {
            from.push(count(number)?);
        }
        from.extend(line.arguments());
        let kernels = ["pooled_sums", "pooled_gradient"];
        // SAFETY: the caller's promise.
        unsafe { self.maps().gradients_by_sums(gpu, (kernels, cells), &from, line, to) }
    }
}
