//! How feature maps are shared among the blocks of a launch.

use super::gpu::{Argument, Element, Gpu, Launch, Pointer};
use candle_core::{Result, bail};

/// Threads of a block: `THREADS` of the kernels.
pub(super) const THREADS: u32 = 256;
/// Threads side by side that share the channels of a pixel at most.
const LANES: usize = 32;
/// Pixels that a thread takes at least, where there are as many: it reads them at once.
const PIXELS: usize = 4;
/// Blocks that sum at most: two for each multiprocessor of a large GPU, which all run at once, and few enough to be added
/// quickly.
const SUMMING: usize = 256;
/// Blocks that map at most. What a thread reads of its channels first is shared by many pixels.
const MAPPING: usize = 512;
/// Pixels at most that one block sums and maps by itself, so that one launch is enough.
const FEW: usize = 1 << 10;
/// Bytes side by side that memory is read of at least.
const SECTOR: usize = 32;

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
    /// Blocks side by side for all channels.
    pub columns: usize,
}

impl Maps {
    /// Shares channels among threads.
    ///
    /// # Errors
    /// When there is nothing, or more than kernels can count.
    pub(super) fn tiles(self) -> Result<Tiles> {
        self.with_lanes(|_| LANES)
    }

    /// Whether pixels are so few that a block can have all of them.
    pub(super) fn are_few(self) -> bool {
        self.pixels <= FEW
    }

    /// The same where pixels are so few that a block can have all of them; then there are the more blocks for channels.
    ///
    /// # Errors
    /// As of [`tiles`](Self::tiles).
    pub(super) fn few(self) -> Result<Option<Tiles>> {
        let of_sector = |vector| SECTOR / (vector * self.element.bytes());
        if self.are_few() { self.with_lanes(of_sector).map(Some) } else { Ok(None) }
    }

    fn with_lanes(self, most: impl Fn(usize) -> usize) -> Result<Tiles> {
        let Self { pixels, channels, element } = self;
        if channels == 0 || pixels == 0 || count(pixels).is_err() || count(channels).is_err() {
            bail!("feature maps of {pixels} pixels in {channels} channels cannot be computed with on a GPU")
        }
        let vector = if channels.is_multiple_of(element.in_vector()) { element.in_vector() } else { 1 };
        let lanes = (channels / vector).min(most(vector));
        Ok(Tiles { maps: self, vector, lanes, columns: channels.div_ceil(vector * lanes) })
    }
}

impl Tiles {
    /// The kernel that suits the type and the number of channels.
    pub fn kernel(&self, name: &str) -> String {
        format!("{name}_{}_{}", self.maps.element.name(), self.vector)
    }

    /// Blocks that share the pixels in kernels that sum.
    pub fn summed(&self) -> usize {
        self.blocks(SUMMING)
    }

    /// Blocks that share the pixels in kernels that map.
    pub fn mapped(&self) -> usize {
        self.blocks(MAPPING)
    }

    fn blocks(&self, most: usize) -> usize {
        let rows = THREADS as usize / self.lanes;
        self.maps.pixels.div_ceil(rows * PIXELS).min((most / self.columns).max(1))
    }

    /// The arguments that every kernel of feature maps takes together: pixels, channels, lanes.
    pub fn arguments(&self) -> Result<[Argument; 3]> {
        let Maps { pixels, channels, .. } = self.maps;
        Ok([count(pixels)?, count(channels)?, count(self.lanes)?])
    }

    /// Launches a kernel with some blocks for the pixels.
    ///
    /// # Safety
    /// As [`Gpu::launch`].
    pub unsafe fn launch(&self, gpu: &impl Gpu, name: &str, blocks: usize, arguments: &[Argument]) -> Result<()> {
        let blocks = [grid(blocks)?, grid(self.columns)?, 1];
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
