//! Brings weights into right tiles, rounded to bf16.

use super::super::element::Element;
use super::band::interleave;
use super::tiles::{DEEP, Line, ROWS, Tile, WIDE};
use super::transposition::transpose;
use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Results that are worked on at a time: two right tiles.
pub const BLOCK: usize = 2 * WIDE;

/// Weights \[outputs, inputs, kernel, kernel\], of which either are the results.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    pub values: &'a [f32],
    /// Result channels and source channels: how many, and how many kernels apart.
    pub results: (usize, usize),
    pub sources: (usize, usize),
    /// Values of a kernel.
    pub area: usize,
}

/// Weights as right tiles: \[block of 32 results, step, half of the block\], where a step is a slice of 32 source channels at
/// one tap: \[slice, tap\]. What is beyond the last channel is 0.
pub struct Kernels {
    tiles: Vec<Tile>,
    pub steps: usize,
    pub taps: usize,
    pub results: usize,
}

impl Kernels {
    /// Packs weights of some of the kernel's taps, in order.
    pub fn new(weights: Weights<'_>, taps: &[usize]) -> Self {
        let Weights { results: (results, _), sources: (sources, _), .. } = weights;
        let slices = sources.div_ceil(DEEP);
        let steps = slices * taps.len();
        let mut tiles = vec![[Line::ZERO; ROWS]; results.div_ceil(BLOCK) * steps * 2];
        // All taps of a slice: kernels are read side by side.
        tiles.par_chunks_mut((2 * taps.len()).max(1)).enumerate().for_each(|(at, tiles)| {
            let (block, slice) = (at / slices, at % slices);
            Arch::new().dispatch(Pack { weights, taps, block, slice, tiles });
        });
        Self { tiles, steps, taps: taps.len(), results }
    }

    pub fn blocks(&self) -> usize {
        self.results.div_ceil(BLOCK)
    }

    /// Lines of all tiles.
    pub fn lines(&self) -> usize {
        self.tiles.len() * ROWS
    }

    /// The two tiles of each step of a block.
    #[inline(always)]
    pub fn block(&self, block: usize) -> &[Tile] {
        &self.tiles[block * self.steps * 2..][..self.steps * 2]
    }
}

/// The bits of the nearest bf16, of two the one that is even. What is not a number stays so.
#[inline(always)]
pub fn rounded(value: f32) -> u16 {
    bf16::narrow(value).to_bits()
}

/// The tiles of a block of results and a slice of sources: \[tap, half of the block\].
struct Pack<'a> {
    weights: Weights<'a>,
    taps: &'a [usize],
    block: usize,
    slice: usize,
    tiles: &'a mut [Tile],
}

impl WithSimd for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { weights, taps, block, slice, tiles } = self;
        let Weights { values, results: (results, result_stride), sources: (sources, source_stride), area } = weights;
        let (first, source) = (block * BLOCK, slice * DEEP);
        let many = DEEP.min(sources - source);
        // \[result, source, tap\], then \[source, tap, result\].
        let mut kernels = vec![bf16::ZERO; BLOCK * DEEP * area];
        let mut turned = vec![[Line::ZERO; ROWS]; DEEP * area / ROWS];
        for (result, kernels) in (first..results).zip(kernels.chunks_exact_mut(DEEP * area)) {
            let from = result * result_stride + source * source_stride;
            if source_stride == 1 {
                round(&values[from * area..][..many * area], kernels);
            } else {
                for at in 0..many {
                    let from = (from + at * source_stride) * area;
                    round(&values[from..from + area], &mut kernels[at * area..]);
                }
            }
        }
        let places: [u32; BLOCK] = std::array::from_fn(|result| (result * DEEP * area) as u32);
        for (at, turned) in turned.iter_mut().enumerate() {
            transpose(&kernels[at * ROWS..], &places, turned);
        }
        let turned = turned.as_flattened();
        for (tiles, &tap) in tiles.chunks_exact_mut(2).zip(taps) {
            for pair in 0..ROWS {
                let [even, odd] = [&turned[2 * pair * area + tap].0, &turned[(2 * pair + 1) * area + tap].0];
                interleave(even, odd, &mut tiles[0][pair]);
                interleave(&even[WIDE..], &odd[WIDE..], &mut tiles[1][pair]);
            }
        }
    }
}

#[inline(always)]
fn round(values: &[f32], out: &mut [bf16]) {
    let out = &mut out[..values.len()];
    for at in 0..values.len() {
        out[at] = bf16::from_bits(rounded(values[at]));
    }
}
