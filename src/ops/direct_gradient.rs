//! The gradient of a convolution's weights for any window, as products of small matrices.

use super::axes::Axis;
use super::band::Band;
use super::cpu::build_parts;
use super::direct::{Sizes, of_images, parts, reach};
use super::element::Element;
use super::panels::{BLOCK, Left, Right, multiply, padded};
use super::window::Window;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Values of sums that all threads hold together at most, unless one alone takes more: 256 MiB. Where many threads would
/// take more, fewer work on it.
const SUMS: usize = 1 << 26;

thread_local! {
    /// Padded source, and gradients in blocks; kept, so that a step allocates none.
    static BUFFERS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// The gradient of weights \[outputs, inputs, kernel, kernel\].
///
/// Each thread sums a share of the rows, and the shares are added in order: the same bits for the same number of threads.
pub(super) fn weight_gradient<E: Element>(sizes: &Sizes, x: &[E], grad: &[E]) -> Vec<f32> {
    let Sizes { inputs, outputs, window, .. } = *sizes;
    let area = window.kernel * window.kernel;
    let parts = parts(sizes.results(), window.stride * window.stride * inputs + 2 * outputs);
    let length = area * inputs * padded(outputs);
    let shares = rayon::current_num_threads().min(SUMS / length.max(1)).max(1);
    let sums: Vec<Vec<f32>> = parts
        .par_chunks(parts.len().div_ceil(shares).max(1))
        .map(|parts| {
            let mut sums = vec![0.0; length];
            BUFFERS.with_borrow_mut(|[padded, blocks]| {
                Arch::new().dispatch(Share { sizes, parts, x, grad, padded, blocks, sums: &mut sums });
            });
            sums
        })
        .collect();
    let lengths: Vec<usize> = (0..outputs).step_by(BLOCK).map(|at| BLOCK.min(outputs - at) * inputs * area).collect();
    build_parts(&lengths, |block, out: &mut [f32]| {
        let many = out.len() / (inputs * area);
        for (at, tap) in (0..inputs).flat_map(|input| (0..area).map(move |tap| (input, tap))) {
            let mut totals = [0.0; BLOCK];
            for share in &sums {
                let values = &share[(tap * inputs + at) * padded(outputs) + block * BLOCK..][..BLOCK];
                totals.iter_mut().zip(values).for_each(|(total, value)| *total += value);
            }
            for (output, &total) in totals[..many].iter().enumerate() {
                out[(output * inputs + at) * area + tap] = total;
            }
        }
    })
}

/// A thread's share of the sums \[tap, input, output\].
struct Share<'a, E> {
    sizes: &'a Sizes,
    parts: &'a [Range<usize>],
    x: &'a [E],
    grad: &'a [E],
    padded: &'a mut Vec<f32>,
    blocks: &'a mut Vec<f32>,
    sums: &'a mut [f32],
}

impl<E: Element> WithSimd for Share<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, parts, x, grad, padded: buffer, blocks, sums } = self;
        let Sizes { images, inputs, outputs, window, columns, .. } = *sizes;
        let Window { kernel, stride, .. } = window;
        // Neighbouring pixels would share their place in the cache.
        let free = if inputs.is_multiple_of(4 * BLOCK) { BLOCK } else { 0 };
        let (columns_apart, rows_at_once) = if free > 0 { (kernel, inputs) } else { (1, kernel * inputs) };
        let axes = [Axis::forward(window, sizes.rows), Axis::forward(window, columns)];
        let to = padded(outputs);
        for part in parts {
            let (which, rows) = of_images(part, sizes.rows);
            let [down, right] = reach(std::iter::once(axes), rows.clone(), columns);
            let band = Band::new(x, (images, inputs, free), which.clone(), (down, right), buffer);
            let pixels = rows.len() * columns;
            for image in 0..which.len() {
                let first = (part.start * columns + image * pixels) * outputs;
                in_blocks(&grad[first..first + pixels * outputs], outputs, blocks);
                let right =
                    Right { values: blocks, blocks: to / BLOCK, row_stride: BLOCK, block_stride: pixels * BLOCK };
                for (dy, dx) in (0..kernel).flat_map(|dy| (0..columns_apart).map(move |dx| (dy, dx))) {
                    let [y, x] = [axes[0].begin(rows.start) + dy as isize, axes[1].begin(0) + dx as isize];
                    let left = Left {
                        values: band.from(image, y, x),
                        rows: rows_at_once,
                        row_stride: 1,
                        runs: rows.len(),
                        run_stride: stride * band.row,
                        columns,
                        column_stride: stride * band.pixel,
                    };
                    multiply(simd, left, right, &mut sums[(dy * kernel + dx) * inputs * to..], to, true);
                }
            }
        }
    }
}

/// \[pixel, channel\] → \[block of channels, pixel, channel in block\]; zeros beyond the last channel.
#[inline(always)]
fn in_blocks<E: Element>(values: &[E], channels: usize, out: &mut Vec<f32>) {
    let pixels = values.len() / channels;
    out.resize(pixels * padded(channels), 0.0);
    for (block, out) in out.chunks_exact_mut((pixels * BLOCK).max(1)).enumerate() {
        let first = block * BLOCK;
        let many = BLOCK.min(channels - first);
        for (pixel, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let values = &values[pixel * channels + first..][..many];
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value.widen());
            out[many..].fill(0.0);
        }
    }
}
