//! Convolutions as products of tiles: pixels are the rows of left tiles, weights right ones.

use super::super::axes::Axis;
use super::super::direct::Sizes;
use super::super::element::Element;
use super::super::geometry::{Finish, Images};
use super::Units;
use super::band::{Layout, Pixels};
use super::finish::{NONE, Results, Waiting};
use super::packing::{BLOCK, Kernels, Weights};
use super::tiles::{DEEP, Line, ROWS, Tile, Tiles, WIDE, prefetch, tile_at};
use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Lines of the source that are worked on at a time: 512 KiB, so that they stay in the second-level cache beside weights.
const AT_ONCE: usize = 1 << 13;
/// Weights of a block that stay in the first-level cache while pixels go by; more are asked for ahead.
const STAYS: usize = 24 << 10;
/// Parts for each thread, so that none waits long for another's last.
const PARTS: usize = 4;
/// Tiles of pixels that a part has at least: all weights are read for each part.
const LEAST: usize = 8;

thread_local! {
    /// Copied source; kept, so that a step allocates none.
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Units {
    /// Convolves `x` \[batch, height, width, inputs\] with weights \[outputs, inputs, kernel, kernel\], which are rounded to
    /// bf16: \[batch, height', width', outputs\].
    pub(in crate::ops) fn convolve<T: Element>(
        self,
        sizes: &Sizes,
        x: &[bf16],
        weight: &[f32],
        finish: Finish<'_>,
    ) -> Vec<T> {
        let Sizes { images, inputs, outputs, window, rows, columns } = *sizes;
        let area = window.kernel * window.kernel;
        assert!(weight.len() == outputs * inputs * area);
        let weights = Weights { values: weight, results: (outputs, inputs), sources: (inputs, 1), area };
        let kernels = Kernels::new(weights, &(0..area).collect::<Vec<_>>());
        let phase = Phase { axes: [Axis::forward(window, rows), Axis::forward(window, columns)], kernels };
        self.run(&[phase], (images, inputs, x), sizes.results(), finish)
    }

    /// The gradient of the input \[batch, height, width, inputs\], from that of the result.
    pub(in crate::ops) fn input_gradient<T: Element>(self, sizes: &Sizes, weight: &[f32], grad: &[bf16]) -> Vec<T> {
        let Sizes { images, inputs, outputs, window, .. } = *sizes;
        let area = window.kernel * window.kernel;
        assert!(weight.len() == outputs * inputs * area);
        let weights = Weights { values: weight, results: (inputs, 1), sources: (outputs, inputs), area };
        // Pixels with other remainders have no taps: their gradient is 0.
        let remainders = window.stride.min(window.kernel);
        let phases: Vec<Phase> = (0..remainders * remainders)
            .map(|at| {
                let (down, right) = (at / remainders, at % remainders);
                let axes = [Axis::backward(window, down, images.height), Axis::backward(window, right, images.width)];
                let [rows, columns] = axes;
                let taps: Vec<usize> = (0..rows.taps * columns.taps)
                    .map(|at| rows.tap(at / columns.taps) * window.kernel + columns.tap(at % columns.taps))
                    .collect();
                let kernels = Kernels::new(weights, &taps);
                Phase { axes, kernels }
            })
            .collect();
        self.run(&phases, (sizes.results(), outputs, grad), images, Finish { bias: None, relu: false })
    }

    /// Makes a result from a source, which has its own images and channels.
    fn run<T: Element>(
        self,
        phases: &[Phase],
        source: (Images, usize, &[bf16]),
        result: Images,
        finish: Finish<'_>,
    ) -> Vec<T> {
        let (images, channels, values) = source;
        assert!(values.len() == images.batch * images.height * images.width * channels);
        let channels = phases.first().map_or(0, |phase| phase.kernels.results);
        let pixels = result.batch * result.height * result.width;
        assert!(pixels < NONE as usize);
        let mut out: Vec<T> = Vec::with_capacity(pixels * channels);
        let covered = phases.iter().all(|phase| phase.axes[0].step() * phase.axes[1].step() == phases.len());
        if !covered {
            out.resize(pixels * channels, T::ZERO);
        }
        let results = match covered {
            true => Results::new(&mut out.spare_capacity_mut()[..pixels * channels], channels),
            // SAFETY: only values are written.
            false => {
                Results::new(unsafe { &mut *(std::ptr::from_mut(&mut out[..]) as *mut [MaybeUninit<T>]) }, channels)
            }
        };
        for phase in phases {
            phase.run(self, source, result, finish, &results);
        }
        // SAFETY: all were cleared, or the phases cover all rows and columns, and all channels of each pixel are written.
        unsafe { out.set_len(pixels * channels) };
        out
    }
}

/// Pixels of a result that are made with the same taps.
struct Phase {
    /// Rows and columns.
    axes: [Axis; 2],
    kernels: Kernels,
}

/// Pixels along one side.
#[derive(Clone, Copy)]
struct Side {
    /// Of the result: the first, how far apart, and how many.
    first: usize,
    step: usize,
    count: usize,
    /// Of the source: where that begins which the first is made of, how much further that of the next, and how many each.
    begin: isize,
    stride: usize,
    taps: usize,
}

impl Side {
    fn new(axis: Axis) -> Self {
        let (first, count) = (axis.all().next().unwrap_or(0), axis.all().count());
        let (begin, stride) = (axis.begin(first), axis.stride());
        Self { first, step: axis.step(), count, begin, stride, taps: axis.taps }
    }
}

impl Phase {
    fn run<T: Element>(
        &self,
        units: Units,
        source: (Images, usize, &[bf16]),
        result: Images,
        finish: Finish<'_>,
        results: &Results<'_, T>,
    ) {
        let [rows, columns] = self.axes.map(Side::new);
        let (images, depth, _) = source;
        let lanes = lanes(columns.count, images.batch);
        let tiles = (columns.count * lanes).div_ceil(ROWS);
        let layout = Layout {
            slices: depth.div_ceil(DEEP),
            groups: 1,
            rows: rows.count.saturating_sub(1) * rows.stride + rows.taps,
            stride: columns.stride,
            columns: (tiles * ROWS).div_ceil(lanes) + columns.taps.saturating_sub(1) / columns.stride,
            lanes,
        };
        if rows.count * columns.count * self.kernels.steps == 0 {
            return;
        }
        let threads = rayon::current_num_threads();
        let parts = parts(layout, images.batch.div_ceil(lanes), rows, (threads, tiles));
        // Where parts are few, blocks of channels are apart too.
        let blocks = self.kernels.blocks();
        let apart = (threads * PARTS).div_ceil(parts.len().max(1)).min(blocks);
        (0..parts.len() * apart).into_par_iter().for_each(|at| {
            let (groups, of) = parts[at / apart].clone();
            let part = at % apart;
            let blocks = part * blocks / apart..(part + 1) * blocks / apart;
            let layout = Layout { groups: groups.len(), rows: (of.len() - 1) * rows.stride + rows.taps, ..layout };
            let task = Task {
                phase: self,
                source,
                result,
                finish,
                results,
                layout,
                groups,
                of,
                sides: [rows, columns],
                tiles,
                blocks,
            };
            LINES.with_borrow_mut(|lines| Arch::new().dispatch(Run { task, units, lines }));
        });
    }
}

/// Images whose pixels lie side by side: as few as fill tiles nearly as well as more would.
fn lanes(columns: usize, batch: usize) -> usize {
    let filled = |lanes: usize| {
        let pixels = (columns * lanes).div_ceil(ROWS) * ROWS * batch.div_ceil(lanes);
        (columns * batch) as f64 / pixels.max(1) as f64
    };
    let best = [1, 2, 4, 8, 16].into_iter().map(filled).fold(0.0, f64::max);
    [1, 2, 4, 8, 16].into_iter().find(|&lanes| filled(lanes) >= 0.95 * best).unwrap_or(1)
}

/// Groups of images and the rows of each that are worked on at a time: all rows of some groups, or some of one.
fn parts(
    layout: Layout,
    groups: usize,
    rows: Side,
    (threads, tiles): (usize, usize),
) -> Vec<(Range<usize>, Range<usize>)> {
    let fits = AT_ONCE / layout.len().max(1);
    if fits > 0 {
        let least = LEAST.div_ceil(tiles * rows.count);
        let many = fits.min(groups.div_ceil(PARTS * threads).max(least));
        return (0..groups).step_by(many).map(|at| (at..(at + many).min(groups), 0..rows.count)).collect();
    }
    let row = (layout.row() * layout.slices).max(1);
    let many = (AT_ONCE / row).saturating_sub(rows.taps).div_ceil(rows.stride).max(1);
    // As equal as can be.
    let bands = rows.count.div_ceil(many);
    let band = |at: usize| at * rows.count / bands..(at + 1) * rows.count / bands;
    (0..groups).flat_map(|group| (0..bands).map(move |at| (group..group + 1, band(at)))).collect()
}

/// A part of the pixels and channels of a phase.
struct Task<'a, T> {
    phase: &'a Phase,
    source: (Images, usize, &'a [bf16]),
    result: Images,
    finish: Finish<'a>,
    results: &'a Results<'a, T>,
    layout: Layout,
    groups: Range<usize>,
    /// Rows, counted among those of the phase.
    of: Range<usize>,
    sides: [Side; 2],
    /// Tiles of a row.
    tiles: usize,
    blocks: Range<usize>,
}

struct Run<'a, 'b, T> {
    task: Task<'a, T>,
    units: Units,
    lines: &'b mut Vec<Line>,
}

impl<T: Element> WithSimd for Run<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { task, units, lines } = self;
        let Task { source: (images, channels, values), layout, sides: [rows, columns], .. } = task;
        let corner = (rows.begin + (task.of.start * rows.stride) as isize, columns.begin);
        let first = task.groups.start * layout.lanes;
        Pixels { values, images, channels, first, corner, channel: 0 }.fill(layout, lines);
        let taps = (0..task.phase.kernels.taps).map(|tap| layout.step(tap / columns.taps, tap % columns.taps));
        let offsets: Vec<usize> =
            (0..layout.slices).flat_map(|slice| taps.clone().map(move |tap| slice * layout.slice() + tap)).collect();
        let mut tiles = Tiles::new(units);
        let mut waiting = Waiting::new(task.finish.relu);
        let many = task.groups.len() * task.of.len() * task.tiles;
        for block in task.blocks.clone() {
            let channels = block * BLOCK..(block * BLOCK + BLOCK).min(task.phase.kernels.results);
            let right = task.phase.kernels.block(block);
            for first in (0..many).step_by(2) {
                let (left, pixels) = task.pair(first, many);
                let left = (&lines[..], left, &offsets[..]);
                match (first + 1 < many, channels.len() > WIDE) {
                    (true, true) => products::<2, 2, T>(&mut tiles, left, right, &waiting, task.results),
                    (true, false) => products::<2, 1, T>(&mut tiles, left, right, &waiting, task.results),
                    (false, true) => products::<1, 2, T>(&mut tiles, left, right, &waiting, task.results),
                    (false, false) => products::<1, 1, T>(&mut tiles, left, right, &waiting, task.results),
                }
                // Whatever of the four is of no use is not written further.
                tiles.store::<2, 2>(&mut waiting.sums);
                waiting.set(pixels, channels.clone(), task.finish.bias);
            }
        }
        // SAFETY: tasks have pixels and channels of their own.
        unsafe { waiting.write(0, 2 * ROWS, task.results) };
    }
}

impl<T: Element> Task<'_, T> {
    /// Where two tiles begin, and the pixels of the result that they are made for.
    #[inline(always)]
    fn pair(&self, first: usize, many: usize) -> ([usize; 2], [u32; 2 * ROWS]) {
        let [rows, columns] = self.sides;
        let (lanes, result) = (self.layout.lanes, self.result);
        let (mut begins, mut pixels) = ([0; 2], [NONE; 2 * ROWS]);
        for (half, at) in (first..many.min(first + 2)).enumerate() {
            let (tile, at) = (at % self.tiles, at / self.tiles);
            let (row, group) = (at % self.of.len(), at / self.of.len());
            begins[half] = (group * self.layout.rows + row * rows.stride) * self.layout.row() + tile * ROWS;
            let image = (self.groups.start + group) * lanes;
            let y = rows.first + (self.of.start + row) * rows.step;
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

/// Sums the products of up to two left tiles with two right ones over all steps, and meanwhile writes the sums of before.
#[inline(always)]
fn products<const M: usize, const N: usize, T: Element>(
    tiles: &mut Tiles,
    (lines, begins, offsets): (&[Line], [usize; 2], &[usize]),
    right: &[Tile],
    waiting: &Waiting,
    results: &Results<'_, T>,
) {
    let rows = (2 * ROWS).div_ceil(offsets.len());
    let ahead = size_of_val(right) > STAYS;
    tiles.zero();
    for (at, (&offset, pair)) in offsets.iter().zip(right.chunks_exact(2)).enumerate() {
        if ahead {
            let next = if at + 1 < offsets.len() { at + 1 } else { 0 };
            for tile in &right[2 * next..][..N] {
                prefetch(tile);
            }
        }
        let left = [tile_at(lines, begins[0] + offset), tile_at(lines, begins[1] + offset)];
        tiles.multiply::<M, N>(left, [&pair[0], &pair[1]]);
        // SAFETY: tasks have pixels and channels of their own.
        unsafe { waiting.write(at * rows, rows, results) };
    }
}
