//! A part of a convolution, on one thread: products over all steps, while results of before are written.

use super::super::element::Element;
use super::super::geometry::{Finish, Images};
use super::Work;
use super::band::{Layout, Pixels};
use super::finish::{NONE, Results, Waiting};
use super::packing::BLOCK;
use super::phase::Phase;
use super::tiles::{Block, Line, Multiplier, ROWS, Tile, WIDE, tile_at};
use half::bf16;
use pulp::Simd;
use std::ops::Range;

/// A part of the pixels and channels of a phase.
pub(super) struct Task<'a, T> {
    pub phase: &'a Phase,
    pub source: (Images, usize, &'a [bf16]),
    pub result: Images,
    pub finish: Finish<'a>,
    pub results: &'a Results<'a, T>,
    /// Where the copied source lies.
    pub layout: Layout,
    /// Groups of images, and the rows of each, counted among those of the phase.
    pub groups: Range<usize>,
    pub rows: Range<usize>,
    /// Tiles of a row.
    pub tiles: usize,
    /// Blocks of 32 result channels.
    pub blocks: Range<usize>,
}

pub(super) struct Run<'a, 'b, T> {
    pub task: Task<'a, T>,
    pub lines: &'b mut Vec<Line>,
}

impl<T: Element> Work for Run<'_, '_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, mut multiplier: impl Multiplier) {
        let Self { task, lines } = self;
        let Task { source: (images, channels, values), layout, phase, .. } = task;
        let ([rows, columns], run, pitch) = (phase.sides, phase.run, phase.pitch);
        let corner = (rows.begin + (task.rows.start * rows.stride) as isize, columns.begin);
        let image = task.groups.start * layout.lanes;
        Pixels { values, images, channels, run, pitch, first: image, corner, channel: 0 }.fill(layout, lines);
        let taps = (0..phase.kernels.taps).map(|tap| layout.step(tap / columns.taps, tap % columns.taps));
        let offsets: Vec<usize> =
            (0..layout.slices).flat_map(|slice| taps.clone().map(move |tap| slice * layout.slice() + tap)).collect();
        let mut buffers = [Waiting::new(task.finish.relu), Waiting::new(task.finish.relu)];
        let [mut waiting, mut next] = buffers.each_mut();
        let many = task.groups.len() * task.rows.len() * task.tiles;
        for block in task.blocks.clone() {
            let channels = block * BLOCK..(block * BLOCK + BLOCK).min(phase.kernels.results);
            let right = phase.kernels.block(block);
            for first in (0..many).step_by(2) {
                let (left, pixels) = task.pair(first, many);
                let left = (&lines[..], left, &offsets[..]);
                let (by, out) = (&mut multiplier, (simd, &*waiting, task.results));
                match (first + 1 < many, channels.len() > WIDE) {
                    (true, true) => products::<2, 2, T, S>(by, left, right, out, &mut next.sums),
                    (true, false) => products::<2, 1, T, S>(by, left, right, out, &mut next.sums),
                    (false, true) => products::<1, 2, T, S>(by, left, right, out, &mut next.sums),
                    (false, false) => products::<1, 1, T, S>(by, left, right, out, &mut next.sums),
                }
                next.set(pixels, channels.clone(), task.finish.bias);
                std::mem::swap(&mut waiting, &mut next);
            }
        }
        // SAFETY: tasks have pixels and channels of their own.
        unsafe { waiting.write(simd, 0, 2 * ROWS, task.results) };
    }
}

impl<T: Element> Task<'_, T> {
    /// Where two tiles begin, and the pixels of the result that they are made for.
    #[inline(always)]
    fn pair(&self, first: usize, many: usize) -> ([usize; 2], [u32; 2 * ROWS]) {
        let [rows, columns] = self.phase.sides;
        let (lanes, result) = (self.layout.lanes, self.result);
        let (mut begins, mut pixels) = ([0; 2], [NONE; 2 * ROWS]);
        for (half, at) in (first..many.min(first + 2)).enumerate() {
            let (tile, at) = (at % self.tiles, at / self.tiles);
            let (row, group) = (at % self.rows.len(), at / self.rows.len());
            begins[half] = (group * self.layout.rows + row * rows.stride) * self.layout.row() + tile * ROWS;
            let image = (self.groups.start + group) * lanes;
            let y = rows.first + (self.rows.start + row) * rows.step;
            let first = (image * result.height + y) * result.width + columns.first;
            let plane = (result.height * result.width) as u32;
            // Lanes are a power of two. Without branches, so that vectors do it.
            let (shift, present) = (lanes.trailing_zeros(), lanes.min(result.batch - image) as u32);
            let (begin, count, step) = ((tile * ROWS) as u32, columns.count as u32, columns.step as u32);
            for (at, pixel) in pixels[half * ROWS..][..ROWS].iter_mut().enumerate() {
                let place = begin + at as u32;
                let (column, lane) = (place >> shift, place & ((1 << shift) - 1));
                let is_there = (column < count) & (lane < present);
                *pixel = if is_there { first as u32 + lane * plane + column * step } else { NONE };
            }
        }
        (begins, pixels)
    }
}

/// Sums the products of up to two left tiles with two right ones over all steps, and writes the sums of before: on matrix
/// units meanwhile, as these work beside the rest of the processor.
#[inline(always)]
fn products<const M: usize, const N: usize, T: Element, S: Simd>(
    multiplier: &mut impl Multiplier,
    (lines, begins, offsets): (&[Line], [usize; 2], &[usize]),
    right: &[Tile],
    (simd, waiting, results): (S, &Waiting, &Results<'_, T>),
    sums: &mut Block,
) {
    // The sums of before are not there yet while the first step begins.
    let idle = usize::from(offsets.len() > 1);
    let rows = (2 * ROWS).div_ceil(offsets.len() - idle);
    let steps = offsets.iter().zip(right.chunks_exact(2)).map(|(&offset, pair)| {
        let left = [tile_at(lines, begins[0] + offset), tile_at(lines, begins[1] + offset)];
        [left, [&pair[0], &pair[1]]]
    });
    multiplier.add::<M, N>(steps, sums, true, |at| {
        if at >= idle {
            // SAFETY: tasks have pixels and channels of their own.
            unsafe { waiting.write(simd, (at - idle) * rows, rows, results) };
        }
    });
}
