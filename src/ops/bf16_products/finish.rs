//! Writes sums as results: bias, ReLU and rounding in one pass, a few rows at a time between products.

use super::super::element::Element;
use super::packing::BLOCK;
use super::tiles::{Block, ROWS, Sums, WIDE};
use pulp::Simd;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The result \[pixel, channel\], of which several threads write parts that do not overlap.
pub struct Results<'a, T> {
    values: *mut MaybeUninit<T>,
    length: usize,
    channels: usize,
    owner: PhantomData<&'a mut [MaybeUninit<T>]>,
}

// SAFETY: values are only written, each by one thread, as `Waiting::write` demands.
unsafe impl<T: Send> Sync for Results<'_, T> {}

impl<'a, T> Results<'a, T> {
    pub fn new(values: &'a mut [MaybeUninit<T>], channels: usize) -> Self {
        Self { values: values.as_mut_ptr(), length: values.len(), channels, owner: PhantomData }
    }
}

/// No pixel, for rows of tiles that have none.
pub const NONE: u32 = u32::MAX;

/// Sums of 32 pixels and 32 channels that wait to be written while the next ones are made.
pub struct Waiting {
    pub sums: Block,
    /// The pixels of the result, or [`NONE`].
    pixels: [u32; 2 * ROWS],
    channels: Range<usize>,
    bias: [[f32; WIDE]; 2],
    /// What results are raised to at least.
    least: f32,
}

impl Waiting {
    pub fn new(relu: bool) -> Self {
        let (sums, bias) = ([[Sums::ZERO; 2]; 2], [[0.0; WIDE]; 2]);
        let least = if relu { 0.0 } else { f32::NEG_INFINITY };
        Self { sums, pixels: [NONE; 2 * ROWS], channels: 0..0, bias, least }
    }

    /// Says what the sums are of.
    #[inline(always)]
    pub fn set(&mut self, pixels: [u32; 2 * ROWS], channels: Range<usize>, bias: Option<&[f32]>) {
        if let Some(bias) = bias {
            self.bias.as_flattened_mut()[..channels.len()].copy_from_slice(&bias[channels.clone()]);
        }
        (self.pixels, self.channels) = (pixels, channels);
    }

    /// Writes the pixels from one on, some of them.
    ///
    /// # Safety
    /// No other thread may write these pixels and channels at the same time.
    #[inline(always)]
    pub unsafe fn write<T: Element, S: Simd>(&self, simd: S, first: usize, many: usize, results: &Results<'_, T>) {
        let (start, length) = (self.channels.start, self.channels.len());
        let Results { values, length: all, channels, .. } = *results;
        for at in first..(first + many).min(2 * ROWS) {
            let pixel = self.pixels[at];
            if pixel == NONE {
                continue;
            }
            let place = pixel as usize * channels + start;
            assert!(place + length <= all);
            // SAFETY: they are within the result, and by the caller's promise nobody else has them.
            let out = unsafe { std::slice::from_raw_parts_mut(values.add(place), length) };
            let sums = &self.sums[at / ROWS];
            let sums = [&sums[0].0[at % ROWS], &sums[1].0[at % ROWS]];
            if out.len() == BLOCK {
                // The same as below, with lengths that the compiler knows.
                self.finish(simd, sums[0], 0, &mut out[..WIDE]);
                self.finish(simd, sums[1], 1, &mut out[WIDE..]);
            } else {
                let (first, second) = out.split_at_mut(WIDE.min(out.len()));
                self.finish(simd, sums[0], 0, first);
                self.finish(simd, sums[1], 1, second);
            }
        }
    }

    /// Writes 16 channels at most.
    #[inline(always)]
    fn finish<T: Element, S: Simd>(&self, simd: S, sums: &[f32; WIDE], half: usize, out: &mut [MaybeUninit<T>]) {
        let (bias, least) = (&self.bias[half], simd.splat_f32s(self.least));
        for (at, out) in out.chunks_mut(S::F32_LANES).enumerate() {
            let lanes = at * S::F32_LANES..(at + 1) * S::F32_LANES;
            let value = simd.add_f32s(f32::load(simd, &sums[lanes.clone()]), f32::load(simd, &bias[lanes]));
            // Unlike a maximum, this keeps what is not a number.
            let value = simd.select_f32s(simd.less_than_f32s(value, least), least, value);
            T::store(simd, out, value);
        }
    }
}
