//! The gradient of a convolution's weights as products of tiles: output channels are the rows of left tiles, input channels
//! the columns of right ones, and pixels are summed.
//!
//! A product sums pairs of values that lie side by side in both tiles. Here pairs are the same pixel of two images, so that
//! the pairs of a neighbouring pixel, which the next tap needs, are whole lines further on: nothing is brought in order for
//! each tap.

use super::super::direct::Sizes;
use super::super::geometry::Images;
use super::super::window::Window;
use super::Units;
use super::band::{Layout, Pixels};
use super::tiles::{Block, DEEP, Line, ROWS, Sums, Tile, Tiles, WIDE, tile_at};
use super::transposition::transpose;
use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Lines of both operands that are worked on at a time: 1 MiB, so that they stay in the second-level cache.
const AT_ONCE: usize = 1 << 14;
/// Products that are summed at a time, of 32 pixels each: both operands of them stay in the first-level cache.
const STEPS: usize = 12;
/// Pairs of right tiles that are worked on at a time: their sums stay in the second-level cache.
const PAIRS: usize = 9;
/// Bytes of sums from which on threads share the sums and not the pixels.
const LARGE: usize = 4 << 20;
/// Products a thread and sum below which they do the same.
const SHORT: usize = 8;

thread_local! {
    /// Pairs of the source, and transposed gradients; kept, so that a step allocates none.
    static BUFFERS: RefCell<(Vec<Line>, Vec<Tile>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Units {
    /// The gradient of weights \[outputs, inputs, kernel, kernel\], from `x` \[batch, height, width, inputs\] and the
    /// gradient of the result \[batch, height', width', outputs\].
    ///
    /// Threads sum a share of the pixels each, and the shares are added in order: the same bits for the same number of
    /// threads.
    pub(in crate::ops) fn weight_gradient(self, sizes: &Sizes, x: &[bf16], grad: &[bf16]) -> Vec<f32> {
        let Sizes { images: Images { batch, height, width }, inputs, outputs, window, rows, columns } = *sizes;
        assert!(x.len() == batch * height * width * inputs);
        assert!(grad.len() == batch * rows * columns * outputs);
        assert!(DEEP * rows * columns * outputs < u32::MAX as usize);
        let area = window.kernel * window.kernel;
        let products = Products { sizes, x, grad, lefts: outputs.div_ceil(ROWS), rights: inputs.div_ceil(WIDE) * area };
        let pairs = products.rights.div_ceil(2);
        let threads = rayon::current_num_threads();
        let is_large = pairs * products.lefts.div_ceil(2) * size_of::<Block>() >= LARGE;
        let is_short = batch.div_ceil(products.lanes()) * rows * products.wide() < SHORT * threads;
        let (shares, ways) = if is_large || is_short { (1, threads.min(pairs)) } else { (threads, 1) };
        let parts = products.parts(shares, ways);
        let each = parts.len().div_ceil(shares).max(1);
        let shares = parts.chunks(each).flat_map(|parts| {
            (0..ways).map(move |way| Share { parts, pairs: way * pairs / ways..(way + 1) * pairs / ways })
        });
        let shares: Vec<Share<'_>> = shares.collect();
        let sums: Vec<Vec<Block>> = shares.par_iter().map(|share| products.sum(self, share)).collect();
        let mut out = vec![0.0; outputs * inputs * area];
        out.par_chunks_mut((inputs * area).max(1)).enumerate().for_each(|(output, out)| {
            let (left, row) = (output / ROWS, output % ROWS);
            for way in 0..ways.min(shares.len()) {
                let pairs = shares[way].pairs.clone();
                for right in 2 * pairs.start..products.rights.min(2 * pairs.end) {
                    let at = (right / 2 - pairs.start) * products.lefts.div_ceil(2) + left / 2;
                    let mut totals = [0.0; WIDE];
                    for sums in sums[way..].iter().step_by(ways) {
                        let values = &sums[at][left % 2][right % 2].0[row];
                        totals.iter_mut().zip(values).for_each(|(total, value)| *total += value);
                    }
                    let (input, tap) = (right / area * WIDE, right % area);
                    let places = out[input * area + tap..].iter_mut().step_by(area);
                    places.zip(totals).for_each(|(out, total)| *out = total);
                }
            }
        });
        out
    }
}

/// All of the products: left tiles have 16 output channels, right ones 16 input channels at one tap, \[block of inputs, tap\].
struct Products<'a> {
    sizes: &'a Sizes,
    x: &'a [bf16],
    grad: &'a [bf16],
    lefts: usize,
    rights: usize,
}

/// What one thread sums: some parts of the pixels, for some pairs of right tiles and all left ones.
struct Share<'a> {
    parts: &'a [Part],
    pairs: Range<usize>,
}

/// Groups of images, and the rows of each.
struct Part {
    groups: Range<usize>,
    rows: Range<usize>,
}

impl Products<'_> {
    /// Images whose pixels lie side by side, two at least: with these a row is whole tiles of 32 pixels.
    fn lanes(&self) -> usize {
        let odd = self.sizes.columns.trailing_zeros().min(4);
        DEEP >> odd
    }

    /// Tiles of pixels that a row of the result takes.
    fn wide(&self) -> usize {
        self.sizes.columns * self.lanes() / DEEP
    }

    /// Where the source of a part lies.
    fn layout(&self, groups: usize, rows: usize, slices: usize) -> Layout {
        let Sizes { window: Window { kernel, stride, .. }, columns, .. } = *self.sizes;
        let rows = (rows - 1) * stride + kernel;
        Layout { slices, groups, rows, stride, columns: columns + (kernel - 1) / stride, lanes: self.lanes() / 2 }
    }

    /// All rows of some groups of images, or some rows of one.
    fn parts(&self, shares: usize, ways: usize) -> Vec<Part> {
        let Sizes { images, rows, .. } = *self.sizes;
        let groups = images.batch.div_ceil(self.lanes());
        let slices = self.sizes.inputs.div_ceil(WIDE).div_ceil(ways);
        let lines = |rows: usize| self.layout(1, rows, slices).len() + rows * self.wide() * self.lefts * ROWS;
        if rows == 0 {
            return Vec::new();
        }
        let fits = AT_ONCE / lines(rows).max(1);
        if fits > 0 {
            let many = fits.min(groups.div_ceil(shares)).max(1);
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

    /// The sums of a share: \[pair of right tiles, pair of left tiles\].
    fn sum(&self, units: Units, share: &Share<'_>) -> Vec<Block> {
        let mut sums = vec![[[Sums::ZERO; 2]; 2]; share.pairs.len() * self.lefts.div_ceil(2)];
        BUFFERS.with_borrow_mut(|(lines, tiles)| {
            Arch::new().dispatch(Run { products: self, units, share, lines, tiles, sums: &mut sums });
        });
        sums
    }
}

struct Run<'a> {
    products: &'a Products<'a>,
    units: Units,
    share: &'a Share<'a>,
    lines: &'a mut Vec<Line>,
    tiles: &'a mut Vec<Tile>,
    sums: &'a mut [Block],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { products, units, share, lines, tiles, sums } = self;
        let Sizes { images, inputs: channels, window, .. } = *products.sizes;
        let (lefts, rights) = (products.lefts, products.rights);
        let area = window.kernel * window.kernel;
        // Input channels that the share's pairs have.
        let blocks = 2 * share.pairs.start / area..rights.min(2 * share.pairs.end).div_ceil(area);
        let mut units = Tiles::new(units);
        let mut is_first = true;
        for part in share.parts {
            let layout = products.layout(part.groups.len(), part.rows.len(), blocks.len());
            let padding = window.padding as isize;
            let corner = ((part.rows.start * window.stride) as isize - padding, -padding);
            let (first, channel) = (part.groups.start * products.lanes(), blocks.start * WIDE);
            Pixels { values: products.x, images, channels, first, corner, channel }.fill_pairs(layout, lines);
            let wide = products.wide();
            // Where the right tiles of each product begin; the left ones lie in the same order.
            let begins: Vec<usize> = (0..part.groups.len() * part.rows.len() * wide)
                .map(|at| {
                    let (tile, at) = (at % wide, at / wide);
                    let (row, group) = (at % part.rows.len(), at / part.rows.len());
                    (group * layout.rows + row * window.stride) * layout.row() + tile * ROWS
                })
                .collect();
            products.transposed(part, begins.len(), tiles);
            let offset = |right: usize| {
                let (block, tap) = (right / area - blocks.start, right % area);
                block * layout.slice() + layout.step(tap / window.kernel, tap % window.kernel)
            };
            let chunk = begins.len().div_ceil(begins.len().div_ceil(STEPS).max(1)).max(1);
            for pairs in share.pairs.clone().step_by(PAIRS) {
                let pairs = pairs..share.pairs.end.min(pairs + PAIRS);
                for (at, begins) in begins.chunks(chunk).enumerate() {
                    let starts = is_first && at == 0;
                    for left in (0..lefts).step_by(2) {
                        let of = |left: usize| &tiles[left.min(lefts - 1) * (tiles.len() / lefts) + at * chunk..];
                        let left_tiles = [of(left), of(left + 1)];
                        for pair in pairs.clone() {
                            let block = &mut sums[(pair - share.pairs.start) * lefts.div_ceil(2) + left / 2];
                            let offsets = [offset(2 * pair), offset((2 * pair + 1).min(rights - 1))];
                            let right = (&lines[..], begins, offsets);
                            match (left + 1 < lefts, 2 * pair + 1 < rights) {
                                (true, true) => add::<2, 2>(&mut units, left_tiles, right, block, starts),
                                (true, false) => add::<2, 1>(&mut units, left_tiles, right, block, starts),
                                (false, true) => add::<1, 2>(&mut units, left_tiles, right, block, starts),
                                (false, false) => add::<1, 1>(&mut units, left_tiles, right, block, starts),
                            }
                        }
                    }
                }
            }
            is_first = false;
        }
    }
}

/// Adds the products of up to two left tiles with two right ones over some pixels to their sums.
#[inline(always)]
fn add<const M: usize, const N: usize>(
    units: &mut Tiles,
    left: [&[Tile]; 2],
    (lines, begins, offsets): (&[Line], &[usize], [usize; 2]),
    block: &mut Block,
    starts: bool,
) {
    if starts {
        units.zero()
    } else {
        units.load::<M, N>(block)
    }
    for (at, &begin) in begins.iter().enumerate() {
        let right = [tile_at(lines, begin + offsets[0]), tile_at(lines, begin + offsets[1])];
        units.multiply::<M, N>([&left[0][at], &left[1][at]], right);
    }
    units.store::<M, N>(block);
}

impl Products<'_> {
    /// The gradient of a part as left tiles: \[block of output channels, tile of pixels\].
    #[inline(always)]
    fn transposed(&self, part: &Part, many: usize, out: &mut Vec<Tile>) {
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
