//! The gradient of a convolution's weights as products of tiles: output channels are the rows of left tiles, input channels
//! the columns of right ones, and pixels are summed.
//!
//! A product sums pairs of values that lie side by side in both tiles. Here pairs are the same pixel of two images, so that
//! the pairs of a neighbouring pixel, which the next tap needs, are whole lines further on: nothing is brought in order for
//! each tap.

use super::super::direct::Sizes;
use super::super::geometry::Images;
use super::band::Pixels;
use super::products::{Part, Products, STEPS};
use super::tiles::{Block, DEEP, Line, Multiplier, ROWS, Sums, Tile, WIDE, tile_at};
use super::{Instructions, Work};
use half::bf16;
use pulp::Simd;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

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

impl Instructions {
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
        let products = Products::new(sizes, x, grad);
        let pairs = products.rights.div_ceil(2);
        let threads = rayon::current_num_threads();
        let is_large = pairs * products.lefts.div_ceil(2) * size_of::<Block>() >= LARGE;
        let is_short = batch.div_ceil(products.lanes()) * rows * products.wide() < SHORT * threads;
        let (shares, ways) = if is_large || is_short { (1, threads.min(pairs)) } else { (threads, 1) };
        let mut out = vec![0.0; outputs * inputs * area];
        let parts = products.parts(shares, ways);
        if parts.is_empty() {
            return out;
        }
        let each = parts.len().div_ceil(shares).max(1);
        let shares = parts.chunks(each).flat_map(|parts| {
            (0..ways).map(move |way| Share { parts, pairs: way * pairs / ways..(way + 1) * pairs / ways })
        });
        let shares: Vec<Share<'_>> = shares.collect();
        let sums: Vec<Vec<Block>> = shares.par_iter().map(|share| products.sum(self, share)).collect();
        out.par_chunks_mut((inputs * area).max(1)).enumerate().for_each(|(output, out)| {
            let (left, half, row) = (output / ROWS, output / ROWS % 2, output % ROWS);
            let (mut way, mut totals) = (0, vec![[0.0; WIDE]; products.taps()]);
            for block in 0..products.depth().div_ceil(WIDE) {
                for (tap, totals) in totals.iter_mut().enumerate() {
                    let right = block * products.taps() + tap;
                    while way + 1 < ways && shares[way].pairs.end <= right / 2 {
                        way += 1;
                    }
                    let left = (right / 2 - shares[way].pairs.start) * products.lefts.div_ceil(2) + left / 2;
                    *totals = [0.0; WIDE];
                    let mut share = way;
                    while share < sums.len() {
                        let values = &sums[share][left][half][right % 2].0[row];
                        for at in 0..WIDE {
                            totals[at] += values[at];
                        }
                        share += ways;
                    }
                }
                let many = WIDE.min(products.depth() - block * WIDE);
                if products.run == 1 {
                    let out = &mut out[block * WIDE * area..][..many * area];
                    for (at, out) in out.chunks_exact_mut(area).enumerate() {
                        for (out, totals) in out.iter_mut().zip(&totals) {
                            *out = totals[at];
                        }
                    }
                } else {
                    for (at, depth) in (block * WIDE..).enumerate().take(many) {
                        for (tap, totals) in totals.iter().enumerate() {
                            out[depth % inputs * area + tap * products.run + depth / inputs] = totals[at];
                        }
                    }
                }
            }
        });
        out
    }
}

/// What one thread sums: some parts of the pixels, for some pairs of right tiles and all left ones.
struct Share<'a> {
    parts: &'a [Part],
    pairs: Range<usize>,
}

impl Products<'_> {
    /// The sums of a share: \[pair of right tiles, pair of left tiles\].
    fn sum(&self, instructions: Instructions, share: &Share<'_>) -> Vec<Block> {
        let mut sums = vec![[[Sums::ZERO; 2]; 2]; share.pairs.len() * self.lefts.div_ceil(2)];
        BUFFERS.with_borrow_mut(|(lines, tiles)| {
            instructions.dispatch(Run { products: self, share, lines, tiles, sums: &mut sums });
        });
        sums
    }
}

struct Run<'a> {
    products: &'a Products<'a>,
    share: &'a Share<'a>,
    lines: &'a mut Vec<Line>,
    tiles: &'a mut Vec<Tile>,
    sums: &'a mut [Block],
}

impl Work for Run<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S, mut multiplier: impl Multiplier) {
        let Self { products, share, lines, tiles, sums } = self;
        let Sizes { images, inputs: channels, window, .. } = *products.sizes;
        let (lefts, rights) = (products.lefts, products.rights);
        let (taps, wide_taps) = (products.taps(), products.wide_taps());
        // Input channels that the share's pairs have.
        let blocks = 2 * share.pairs.start / taps..rights.min(2 * share.pairs.end).div_ceil(taps);
        let mut is_first = true;
        for part in share.parts {
            let layout = products.layout(part.groups.len(), part.rows.len(), blocks.len());
            let padding = window.padding as isize;
            let corner = ((part.rows.start * window.stride) as isize - padding, -padding);
            let (first, channel) = (part.groups.start * products.lanes(), blocks.start * WIDE);
            let (run, pitch) = (products.run, window.stride);
            Pixels { values: products.x, images, channels, run, pitch, first, corner, channel }
                .fill_pairs(layout, lines);
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
                let (block, tap) = (right / taps - blocks.start, right % taps);
                block * layout.slice() + layout.step(tap / wide_taps, tap % wide_taps)
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
                                (true, true) => add::<2, 2>(&mut multiplier, left_tiles, right, block, starts),
                                (true, false) => add::<2, 1>(&mut multiplier, left_tiles, right, block, starts),
                                (false, true) => add::<1, 2>(&mut multiplier, left_tiles, right, block, starts),
                                (false, false) => add::<1, 1>(&mut multiplier, left_tiles, right, block, starts),
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
    multiplier: &mut impl Multiplier,
    left: [&[Tile]; 2],
    (lines, begins, offsets): (&[Line], &[usize], [usize; 2]),
    block: &mut Block,
    starts: bool,
) {
    let steps = begins.iter().zip(left[0].iter().zip(left[1])).map(|(&begin, (first, second))| {
        let right = [tile_at(lines, begin + offsets[0]), tile_at(lines, begin + offsets[1])];
        [[first, second], right]
    });
    multiplier.add::<M, N>(steps, block, starts, |_| {});
}
