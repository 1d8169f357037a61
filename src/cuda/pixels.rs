//! Launches of pooling, space-to-depth and changes of order.

use super::gpu::{Argument, Element, Gpu, Pointer};
use super::tiling::{Maps, at, count, launch_blocks, launch_each};
use candle_core::Result;

/// The images of a batch: \[batch, height, width, channels\].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Images {
    /// Images.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// The type of their values.
    pub element: Element,
}

/// Square windows of convolutions and max pooling, and how many there are in an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    /// Pixels along a side.
    pub side: usize,
    /// Pixels between neighbouring windows.
    pub stride: usize,
    /// Pixels that are added to the image on each side.
    pub padding: usize,
    /// Windows above each other.
    pub rows: usize,
    /// Windows side by side.
    pub columns: usize,
}

/// Pointers of these functions lead to as many values as the images or their results have: that is what makes calling
/// them safe.
impl Images {
    /// The same values as pixels.
    pub fn maps(self) -> Maps {
        Maps { pixels: self.batch * self.height * self.width, channels: self.channels, element: self.element }
    }

    fn kernel(&self, name: &str) -> String {
        format!("{name}_{}", self.element.name())
    }

    fn values(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Averages to \[batch, side, side, channels\] in f32.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn pool(self, gpu: &impl Gpu, x: Pointer, side: usize, y: Pointer) -> Result<()> {
        let tiles = self.maps().tiles()?;
        let [height, width, channels] = [count(self.height)?, count(self.width)?, count(self.channels)?];
        let arguments = [at(x), at(y), height, width, channels, count(side)?, count(tiles.lanes)?];
        let blocks = [self.batch * side * side, tiles.columns];
        // SAFETY: the caller's promise.
        unsafe { launch_blocks(gpu, &tiles.kernel("pool"), blocks, &arguments) }
    }

    /// The gradient of the images from that of their averages, which is f32.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn pool_gradient(self, gpu: &impl Gpu, grad: Pointer, side: usize, to: Pointer) -> Result<()> {
        let tiles = self.maps().tiles()?;
        let mut arguments = vec![at(grad), at(to), count(self.height)?, count(self.width)?];
        arguments.extend(tiles.arguments()?);
        // Two cells along a side are the usual.
        let kernel = if side == 2 { "pool_gradient_2" } else { "pool_gradient" };
        if side != 2 {
            arguments.push(count(side)?);
        }
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, kernel, tiles.mapped(), &arguments) }
    }

    /// Moves each 2x2 square into channels. Height and width are even.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn space_to_depth(self, gpu: &impl Gpu, x: Pointer, y: Pointer) -> Result<()> {
        let arguments = [at(x), at(y), count(self.values())?, count(self.width)?, count(self.channels)?];
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &self.kernel("space_to_depth"), self.values(), &arguments) }
    }

    /// The largest value of each window.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn max_pool(self, gpu: &impl Gpu, x: Pointer, windows: Windows, y: Pointer) -> Result<()> {
        let results = self.batch * windows.rows * windows.columns * self.channels;
        let mut arguments = vec![at(x), at(y), count(results)?];
        arguments.extend(self.windows(windows)?);
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &self.kernel("max_pool"), results, &arguments) }
    }

    /// The gradient of the images from that of the largest values of windows.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn max_pool_gradient(
        self,
        gpu: &impl Gpu,
        (x, grad): (Pointer, Pointer),
        windows: Windows,
        to: Pointer,
    ) -> Result<()> {
        let mut arguments = vec![at(x), at(grad), at(to), count(self.values())?];
        arguments.extend(self.windows(windows)?);
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &self.kernel("max_pool_gradient"), self.values(), &arguments) }
    }

    fn windows(&self, windows: Windows) -> Result<Vec<Argument>> {
        let Windows { side, stride, padding, rows, columns } = windows;
        [self.height, self.width, self.channels, side, stride, padding, rows, columns].into_iter().map(count).collect()
    }
}

/// \[batch, a, b\] → \[batch, b, a\].
///
/// # Safety
/// Both pointers lead to as many values.
pub(crate) unsafe fn exchange(
    gpu: &impl Gpu,
    element: Element,
    x: Pointer,
    [batch, a, b]: [usize; 3],
    y: Pointer,
) -> Result<()> {
    let values = batch * a * b;
    let arguments = [at(x), at(y), count(values)?, count(a)?, count(b)?];
    // SAFETY: the caller's promise.
    unsafe { launch_each(gpu, &format!("exchange_{}", element.name()), values, &arguments) }
}

impl Maps {
    /// The same pixels with `wide` channels: those beyond get zeros, or are left out.
    ///
    /// # Safety
    /// The pointers lead to as many values.
    pub unsafe fn widen(self, gpu: &impl Gpu, x: Pointer, wide: usize, y: Pointer) -> Result<()> {
        let values = self.pixels * wide;
        let arguments = [at(x), at(y), count(values)?, count(self.channels)?, count(wide)?];
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &format!("widen_{}", self.element.name()), values, &arguments) }
    }
}
