//! Brings weights into right tiles, rounded to bf16.

use super::super::element::Element;
use super::tiles::{DEEP, Line, ROWS, Tile, WIDE};
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
        let Weights { values, results: (results, result_stride), sources: (sources, source_stride), area } = weights;
        let slices = sources.div_ceil(DEEP);
        let steps = slices * taps.len();
        let mut tiles = vec![[Line::ZERO; ROWS]; results.div_ceil(BLOCK) * steps * 2];
        // All taps of a slice: kernels are read side by side.
        tiles.par_chunks_mut((2 * taps.len()).max(1)).enumerate().for_each(|(at, tiles)| {
            let (first, source) = (at / slices * BLOCK, at % slices * DEEP);
            let many = DEEP.min(sources - source);
            let mut kernels = vec![0; DEEP * area];
            for result in first..results.min(first + BLOCK) {
                let (half, column) = ((result - first) / WIDE, (result - first) % WIDE);
                let from = result * result_stride + source * source_stride;
                if source_stride == 1 {
                    round(&values[from * area..][..many * area], &mut kernels);
                } else {
                    for (at, kernel) in kernels.chunks_exact_mut(area).enumerate().take(many) {
                        round(&values[(from + at * source_stride) * area..][..area], kernel);
                    }
                }
                for (tiles, &tap) in tiles.chunks_exact_mut(2).zip(taps) {
                    let firsts = kernels[tap..].iter().step_by(2 * area);
                    let seconds = kernels[area + tap..].iter().step_by(2 * area);
                    for (Line(line), (&first, &second)) in tiles[half].iter_mut().zip(firsts.zip(seconds)) {
                        line[2 * column] = bf16::from_bits(first);
                        line[2 * column + 1] = bf16::from_bits(second);
                    }
                }
            }
        });
        Self { tiles, steps, taps: taps.len(), results }
    }

    pub fn blocks(&self) -> usize {
        self.results.div_ceil(BLOCK)
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

fn round(values: &[f32], out: &mut [u16]) {
    struct Round<'a>(&'a [f32], &'a mut [u16]);
    impl WithSimd for Round<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            for at in 0..self.0.len().min(self.1.len()) {
                self.1[at] = rounded(self.0[at]);
            }
        }
    }
    Arch::new().dispatch(Round(values, out));
}
