//! The gradient of a convolution's weights: which products of tiles it is the sum of, and their left tiles.

use super::super::direct::Sizes;
use super::super::geometry::Images;
use super::super::window::Window;
use super::band::Layout;
use super::tiles::{Block, DEEP, Line, ROWS, Tile, WIDE};
use super::transposition::transpose;
use half::bf16;
use std::ops::Range;

/// Lines of both operands that are worked on at a time: 1 MiB, so that they stay in the second-level cache.
const AT_ONCE: usize = 1 << 14;
/// Products that are summed at a time, of 32 pixels each: both operands of them stay in the first-level cache.
pub const STEPS: usize = 12;

/// All of the products: left tiles have 16 output channels, right ones 16 input channels at one tap, \[block of inputs, tap\].
pub(super) struct Products<'a> {
    pub sizes: &'a Sizes,
    pub x: &'a [bf16],
    pub grad: &'a [bf16],
    pub lefts: usize,
    pub rights: usize,
    /// Taps of a row whose channels count as those of one: 1, or all where that takes fewer right tiles.
    pub run: usize,
}

/// Groups of images, and the rows of each.
pub(super) struct Part {
    pub groups: Range<usize>,
    pub rows: Range<usize>,
}

impl<'a> Products<'a> {
    pub fn new(sizes: &'a Sizes, x: &'a [bf16], grad: &'a [bf16]) -> Self {
        let Sizes { inputs, outputs, window: Window { kernel, .. }, .. } = *sizes;
        let run = if (kernel * inputs).div_ceil(WIDE) < kernel * inputs.div_ceil(WIDE) { kernel } else { 1 };
        let rights = (run * inputs).div_ceil(WIDE) * kernel * (kernel / run);
        Self { sizes, x, grad, lefts: outputs.div_ceil(ROWS), rights, run }
    }

    /// Channels that count as those of one pixel.
    pub fn depth(&self) -> usize {
        self.run * self.sizes.inputs
    }

    /// Taps of a row that are apart, and all of them.
    pub fn wide_taps(&self) -> usize {
        self.sizes.window.kernel / self.run
    }

    pub fn taps(&self) -> usize {
        self.sizes.window.kernel * self.wide_taps()
    }

    /// Images whose pixels lie side by side, two at least: with these a row is whole tiles of 32 pixels.
    pub fn lanes(&self) -> usize {
        let odd = self.sizes.columns.trailing_zeros().min(4);
        DEEP >> odd
    }

    /// Tiles of pixels that a row of the result takes.
    pub fn wide(&self) -> usize {
        self.sizes.columns * self.lanes() / DEEP
    }

    /// Where the source of a part lies.
    pub fn layout(&self, groups: usize, rows: usize, slices: usize) -> Layout {
        let Sizes { window: Window { kernel, stride, .. }, columns, .. } = *self.sizes;
        let rows = (rows - 1) * stride + kernel;
        let stride = if self.run > 1 { 1 } else { stride };
        let columns = columns + (self.wide_taps() - 1) / stride;
        Layout { slices, groups, rows, stride, columns, lanes: self.lanes() / 2 }
    }

    /// All rows of some groups of images, or some rows of one.
    pub fn parts(&self, shares: usize, ways: usize) -> Vec<Part> {
        let Sizes { images, rows, .. } = *self.sizes;
        let groups = images.batch.div_ceil(self.lanes());
        let slices = self.depth().div_ceil(WIDE).div_ceil(ways);
        let lines = |rows: usize| self.layout(1, rows, slices).len() + rows * self.wide() * self.lefts * ROWS;
        if rows == 0 {
            return Vec::new();
        }
        let fits = AT_ONCE / lines(rows).max(1);
        if fits > 0 {
            // All sums are read and written for each part: it has about as many lines, and enough pixels to sum at a time.
            let sums = self.rights.div_ceil(2) * self.lefts.div_ceil(2) * size_of::<Block>() / size_of::<Line>() / ways;
            let least = STEPS.div_ceil(rows * self.wide());
            let many = fits.min(groups.div_ceil(shares).min(sums.div_ceil(lines(rows)).max(least))).max(1);
            return (0..groups)
                .step_by(many)
                .map(|at| Part { groups: at..(at + many).min(groups), rows: 0..rows })
                .collect();
        }
        let many = (1..rows).take_while(|&many| lines(many) <= AT_ONCE).last().unwrap_or(1);
        // As equal as can be.
        let bands = rows.div_ceil(many);
        let band = move |at: usize| at * rows / bands..(at + 1) * rows / bands;
        (0..groups)
            .flat_map(|group| (0..bands).map(move |at| Part { groups: group..group + 1, rows: band(at) }))
            .collect()
    }

    /// The gradient of a part as left tiles: \[block of output channels, tile of pixels\].
    #[inline(always)]
    pub fn transposed(&self, part: &Part, many: usize, out: &mut Vec<Tile>) {
        let Sizes { images: Images { batch, .. }, outputs, rows, columns, .. } = *self.sizes;
        let (lanes, wide) = (self.lanes(), self.wide());
        out.resize(self.lefts * many, [Line::ZERO; ROWS]);
        // Lanes are a power of two, and no more than a tile has pixels.
        let (shift, image) = (lanes.trailing_zeros(), rows * columns * outputs);
        let mut pixels = [0; DEEP];
        for (at, pixel) in pixels.iter_mut().enumerate() {
            *pixel = ((at & (lanes - 1)) * image + (at >> shift) * outputs) as u32;
        }
        for at in 0..many {
            let (tile, row) = (at % wide, at / wide);
            let (row, group) = (part.rows.start + row % part.rows.len(), part.groups.start + row / part.rows.len());
            let first = ((group * lanes * rows + row) * columns + ((tile * DEEP) >> shift)) * outputs;
            let present = lanes.min(batch - group * lanes);
            for left in 0..self.lefts {
                let channel = left * ROWS;
                let (out, channels) = (&mut out[left * many + at], ROWS.min(outputs - channel));
                if channels == ROWS && present == lanes {
                    transpose(&self.grad[first + channel..], &pixels, out);
                    continue;
                }
                // What there is, among zeros.
                let mut values = [bf16::ZERO; DEEP * ROWS];
                for (at, values) in values.chunks_exact_mut(ROWS).enumerate() {
                    if at & (lanes - 1) < present {
                        let from = first + channel + pixels[at] as usize;
                        values[..channels].copy_from_slice(&self.grad[from..from + channels]);
                    }
                }
                transpose(&values, &std::array::from_fn(|at| (at * ROWS) as u32), out);
            }
        }
    }
}
