//! How feature maps are shared among the blocks of a launch.

use super::gpu::{Argument, Element, Gpu, Launch, Pointer};
use candle_core::{Result, bail};

/// Threads of a block: `THREADS` of the kernels.
pub(super) const THREADS: u32 = 256;
/// Threads side by side that share the channels of a pixel at most.
const LANES: usize = 32;
/// Pixels that a thread takes at least, where there are as many.
const PIXELS: usize = 8;
/// Blocks that sum at most: enough to fill a GPU, few enough to be added quickly.
const SUMMING: usize = 512;
/// Blocks that map at most: some for each multiprocessor. What a thread reads of its channels first is then shared by many
/// pixels.
const MAPPING: usize = 1 << 10;

/// Feature maps \[pixel, channel\].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maps {
    /// Pixels of all images of the batch.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
    /// The type of their values.
    pub element: Element,
}

/// Feature maps, and how they are shared among blocks.
pub(super) struct Tiles {
    maps: Maps,
    /// Channels that a thread takes.
    pub vector: usize,
    /// Threads side by side.
    pub lanes: usize,
    /// Blocks side by side.
    pub columns: usize,
}

/// Parts of the pixels, one for each row of blocks.
pub(super) struct Parts {
    pub count: usize,
    /// Pixels of a part.
    pub pixels: usize,
}

impl Maps {
    /// Shares channels among threads.
    ///
    /// # Errors
    /// When there is nothing, or more than kernels can count.
    pub(super) fn tiles(self) -> Result<Tiles> {
        let Self { pixels, channels, element } = self;
        if channels == 0 || pixels == 0 || count(pixels).is_err() || count(channels).is_err() {
            bail!("feature maps of {pixels} pixels in {channels} channels cannot be computed with on a GPU")
        }
        let vector = if channels.is_multiple_of(element.in_vector()) { element.in_vector() } else { 1 };
        let lanes = (channels / vector).min(LANES);
        Ok(Tiles { maps: self, vector, lanes, columns: channels.div_ceil(vector * lanes) })
    }
}

impl Tiles {
    /// The kernel that suits the type and the number of channels.
    pub fn kernel(&self, name: &str) -> String {
        format!("{name}_{}_{}", self.maps.element.name(), self.vector)
    }

    /// Parts of the pixels for kernels that sum.
    pub fn summed(&self) -> Parts {
        self.parts((SUMMING / self.columns).max(1))
    }

    /// Parts of the pixels for kernels that map.
    pub fn mapped(&self) -> Parts {
        self.parts(MAPPING)
    }

    fn parts(&self, most: usize) -> Parts {
        let rows = THREADS as usize / self.lanes;
        let pixels = self.maps.pixels.div_ceil(most).next_multiple_of(rows).max(rows * PIXELS);
        Parts { count: self.maps.pixels.div_ceil(pixels), pixels }
    }

    /// The arguments that every kernel of feature maps takes together: pixels, channels, lanes, pixels of a part.
    pub fn arguments(&self, parts: &Parts) -> Result<[Argument; 4]> {
        let Maps { pixels, channels, .. } = self.maps;
        Ok([count(pixels)?, count(channels)?, count(self.lanes)?, count(parts.pixels)?])
    }

    /// Launches a kernel on all parts.
    ///
    /// # Safety
    /// As [`Gpu::launch`].
    pub unsafe fn launch(&self, gpu: &impl Gpu, name: &str, parts: &Parts, arguments: &[Argument]) -> Result<()> {
        let blocks = [grid(parts.count)?, grid(self.columns)?, 1];
        // SAFETY: the caller's promise.
        unsafe { gpu.launch(&Launch { kernel: &self.kernel(name), blocks, threads: THREADS, arguments }) }
    }
}

/// A pointer as an argument.
pub(super) fn at(pointer: Pointer) -> Argument {
    Argument::Pointer(pointer)
}

/// A number as an argument.
///
/// # Errors
/// When kernels cannot count so far.
pub(super) fn count(number: usize) -> Result<Argument> {
    grid(number).map(Argument::Count)
}

/// A value as an argument.
pub(super) fn value(value: f64) -> Argument {
    Argument::Value(value as f32)
}

fn grid(number: usize) -> Result<u32> {
    match u32::try_from(number) {
        Ok(number) if number <= i32::MAX as u32 => Ok(number),
        _ => bail!("{number} values at once are more than a GPU's kernels count; take a smaller batch"),
    }
}

/// Launches a kernel whose threads take one of `values` each.
///
/// # Safety
/// As [`Gpu::launch`].
pub(super) unsafe fn launch_each(gpu: &impl Gpu, kernel: &str, values: usize, arguments: &[Argument]) -> Result<()> {
    let blocks = [grid(values.div_ceil(THREADS as usize))?, 1, 1];
    // SAFETY: the caller's promise.
    unsafe { gpu.launch(&Launch { kernel, blocks, threads: THREADS, arguments }) }
}

/// Launches a kernel whose blocks take one of `things` each, or one for all.
///
/// # Safety
/// As [`Gpu::launch`].
pub(super) unsafe fn launch_blocks(
    gpu: &impl Gpu,
    kernel: &str,
    blocks: [usize; 2],
    arguments: &[Argument],
) -> Result<()> {
    let blocks = [grid(blocks[0])?, grid(blocks[1])?, 1];
    // SAFETY: the caller's promise.
    unsafe { gpu.launch(&Launch { kernel, blocks, threads: THREADS, arguments }) }
}
