//! Launches on samples as they are stored.

use super::gpu::{Argument, Element, Gpu, Pointer};
use super::tiling::{at, count, launch_each, value};
use candle_core::Result;

/// The type of stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Whole numbers from 0 to 255, times a scale.
    U8,
    /// 16 bits, 11 of them precise.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Single precision.
    F32,
}

/// Samples in slots: \[slot, byte\].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples {
    /// Where they begin, aligned to 32 bytes.
    pub stored: Pointer,
    /// How many there are: at least one.
    pub slots: usize,
    /// The slot of each sample of the batch (u32). Those beyond count as the last.
    pub chosen: Pointer,
    /// Samples of the batch.
    pub batch: usize,
}

/// How feature maps are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// The type of the values.
    pub values: Type,
    /// What a stored 1 stands for where they are whole numbers; else 1.
    pub scale: f32,
    /// Whether they are \[channel, pixel\]; else they are \[pixel, channel\].
    pub planes: bool,
    /// Pixels of a sample.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
}

/// Values that a thread takes at once, where samples have a multiple of them.
const VECTOR: usize = 8;
/// Bytes that it copies at once.
const COPIED: usize = 16;

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

impl Form {
    /// The kernel, how many of its threads there are, and the arguments that say so.
    fn launch(&self, name: &str, types: [&str; 2], samples: &Samples) -> Result<(String, usize, Vec<Argument>)> {
        let values = self.pixels * self.channels;
        let [from, to] = types;
        let (kernel, vector, sizes) = match (self.planes, values.is_multiple_of(VECTOR)) {
            (true, _) => (format!("{name}_planes_{from}_{to}"), 1, vec![self.pixels, self.channels]),
            (false, true) => (format!("{name}_{from}_{to}_{VECTOR}"), VECTOR, vec![values]),
            (false, false) => (format!("{name}_{from}_{to}_1"), 1, vec![values]),
        };
        let threads = samples.batch * values / vector;
        let mut arguments = vec![count(threads)?];
        arguments.extend(sizes.into_iter().map(count).collect::<Result<Vec<_>>>()?);
        arguments.extend([value(self.scale.into()), samples.last()?]);
        Ok((kernel, threads, arguments))
    }

    /// Stored samples → feature maps \[sample, pixel, channel\].
    ///
    /// # Safety
    /// The pointers lead to as many values.
    pub unsafe fn decode(&self, gpu: &impl Gpu, samples: Samples, (to, element): (Pointer, Element)) -> Result<()> {
        let (kernel, threads, sizes) = self.launch("decode", [self.values.name(), element.name()], &samples)?;
        let arguments = [vec![at(samples.stored), at(samples.chosen), at(to)], sizes].concat();
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &kernel, threads, &arguments) }
    }

    /// And back, each sample into another slot. Where a value does not fit the type, the byte `fault` becomes 1.
    ///
    /// # Safety
    /// The pointers lead to as many values.
    pub unsafe fn encode(
        &self,
        gpu: &impl Gpu,
        (x, element): (Pointer, Element),
        samples: Samples,
        fault: Pointer,
    ) -> Result<()> {
        let (kernel, threads, sizes) = self.launch("encode", [element.name(), self.values.name()], &samples)?;
        let arguments = [vec![at(x), at(samples.chosen), at(samples.stored), at(fault)], sizes].concat();
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &kernel, threads, &arguments) }
    }
}

/// Windows of stored images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// First row, first column, whether it is mirrored: \[sample, 3\] (i32).
    pub offsets: Pointer,
    /// The normalised value of each byte: \[channel, 256\] (f32).
    pub table: Pointer,
    /// Rows, and columns, of a window.
    pub size: usize,
    /// Rows, and columns, of an image.
    pub side: usize,
    /// Channels.
    pub channels: usize,
}

impl Samples {
    fn last(&self) -> Result<Argument> {
        count(self.slots - 1)
    }

    /// Copies rows of so many bytes into the slots.
    ///
    /// # Safety
    /// The pointers lead to as many bytes.
    pub unsafe fn put(self, gpu: &impl Gpu, rows: Pointer, bytes: usize) -> Result<()> {
        let vector = if bytes.is_multiple_of(COPIED) { COPIED } else { 1 };
        let threads = self.batch * bytes / vector;
        let pointers = [rows, self.chosen, self.stored].map(at);
        let arguments = [pointers, [count(threads)?, count(bytes)?, self.last()?]].concat();
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &format!("put_{vector}"), threads, &arguments) }
    }

    /// Images \[channel, y, x\] → normalised windows \[sample, y, x, channel\].
    ///
    /// # Safety
    /// The pointers lead to as many values.
    pub unsafe fn show(self, gpu: &impl Gpu, shown: Shown, (to, element): (Pointer, Element)) -> Result<()> {
        let Shown { offsets, table, size, side, channels } = shown;
        let threads = self.batch * size * size * channels;
        let mut arguments = [self.stored, self.chosen, offsets, table, to].map(at).to_vec();
        arguments.extend([count(threads)?, count(size)?, count(side)?, count(channels)?, self.last()?]);
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &format!("show_{}", element.name()), threads, &arguments) }
    }
}

/// Cuts a square of so many rows and columns out of each feature map \[sample, height, width, channel\], from its own
/// first row and column (\[sample, 2\], u32) on.
///
/// # Safety
/// The pointers lead to as many values, and the squares are no larger than the maps.
pub(crate) unsafe fn cut(
    gpu: &impl Gpu,
    ([x, offsets, to], element): ([Pointer; 3], Element),
    [batch, height, width, channels]: [usize; 4],
    size: usize,
) -> Result<()> {
    let vector = if channels.is_multiple_of(element.in_vector()) { element.in_vector() } else { 1 };
    let threads = batch * size * size * channels / vector;
    let mut arguments = [x, offsets, to].map(at).to_vec();
    arguments.extend([count(threads)?, count(size)?, count(height)?, count(width)?, count(channels)?]);
    // SAFETY: the caller's promise.
    unsafe { launch_each(gpu, &format!("cut_{}_{vector}", element.name()), threads, &arguments) }
}
