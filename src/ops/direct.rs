//! Convolution with any window on images in NHWC order, forward and backward, as products of small matrices.
//!
//! What an output is made of lies in the image as it is: in a run of values for each row of the kernel. So the image is
//! the left matrix of a product, rows of pixels at a time, and nothing is unfolded. The gradient of the input is made in
//! the same way from that of the result, with one set of kernels for each remainder that the stride leaves.

use super::axes::{Axis, hull};
use super::band::Band;
use super::cpu::{build_parts, build_unset};
use super::element::Element;
use super::geometry::{Finish, Images};
use super::panels::{BLOCK, Left, Right, multiply, padded};
use super::window::Window;
use pulp::{Arch, Simd, WithSimd};
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Values of sources, sums and kernels that are worked on at a time: 256 KiB, so that they stay in the second-level cache.
const AT_ONCE: usize = 1 << 16;
/// Pixels of the result that are worked on at a time at least, as all kernels are read for each part.
const LEAST_PIXELS: usize = 48;

/// Taps that are worked on at a time at most: a block of kernels has 24 KiB of them, so that they stay in the first-level
/// cache.
const DEEP: usize = 384;

thread_local! {
    /// Padded source, and sums; kept, so that a step allocates none.
    static BUFFERS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// All sizes of one convolution.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub images: Images,
    pub inputs: usize,
    pub outputs: usize,
    pub window: Window,
    /// Rows and columns of the result.
    pub rows: usize,
    pub columns: usize,
}

impl Sizes {
    pub fn results(&self) -> Images {
        Images { height: self.rows, width: self.columns, ..self.images }
    }

    /// Convolves `x` with weights \[outputs, inputs, kernel, kernel\]: \[batch, height', width', outputs\].
    pub fn convolve<E: Element>(&self, x: &[E], weight: &[f32], finish: Finish<'_>) -> Vec<E> {
        let Self { inputs, outputs, window, rows, columns, .. } = *self;
        let area = window.kernel * window.kernel;
        let value = |output: usize, input: usize, tap: usize| weight[(output * inputs + input) * area + tap];
        let phase = Phase::new(
            [Axis::forward(window, rows), Axis::forward(window, columns)],
            (inputs, outputs),
            |input, output, y, x| value(output, input, y * window.kernel + x),
        );
        run(&[phase], (self.images, inputs, x), (self.results(), outputs), finish)
    }

    /// The gradient of the input \[batch, height, width, inputs\], from that of the result.
    pub fn input_gradient<E: Element>(&self, weight: &[f32], grad: &[E]) -> Vec<E> {
        let Self { images, inputs, outputs, window, .. } = *self;
        let area = window.kernel * window.kernel;
        let value = |output: usize, input: usize, tap: usize| weight[(output * inputs + input) * area + tap];
        // Pixels with other remainders have no taps: their gradient is 0.
        let remainders = window.stride.min(window.kernel);
        let axes = |at: usize| {
            let (down, right) = (at / remainders, at % remainders);
            [Axis::backward(window, down, images.height), Axis::backward(window, right, images.width)]
        };
        let phase = |at: usize| {
            Phase::new(axes(at), (outputs, inputs), |output, input, y, x| value(output, input, y * window.kernel + x))
        };
        let phases: Vec<Phase> = (0..remainders * remainders).map(phase).collect();
        run(&phases, (self.results(), outputs, grad), (images, inputs), Finish { bias: None, relu: false })
    }
}

/// Pixels of a result that are made with the same taps.
struct Phase {
    /// Rows and columns.
    axes: [Axis; 2],
    /// \[block of results, tap, source channel, result in block\].
    kernels: Vec<f32>,
}

impl Phase {
    /// `value` gives that of a source channel, a result channel and the row and column of a tap.
    fn new(
        axes: [Axis; 2],
        (depth, channels): (usize, usize),
        value: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let [rows, columns] = axes;
        let block = rows.taps * columns.taps * depth * BLOCK;
        let blocks = channels.div_ceil(BLOCK);
        let kernels = build_parts(&vec![block; blocks], |block, out: &mut [f32]| {
            let first = block * BLOCK;
            for (at, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                let (tap, source) = (at / depth, at % depth);
                let (y, x) = (rows.tap(tap / columns.taps), columns.tap(tap % columns.taps));
                for (channel, out) in (first..channels).zip(out) {
                    *out = value(source, channel, y, x);
                }
            }
        });
        Self { axes, kernels }
    }
}

/// Makes a result of so many channels from a source, which has its own images and channels.
fn run<E: Element>(
    phases: &[Phase],
    source: (Images, usize, &[E]),
    (result, channels): (Images, usize),
    finish: Finish<'_>,
) -> Vec<E> {
    let (images, depth, _) = source;
    let pixel = images.height * images.width * depth / (result.height * result.width).max(1) + channels;
    let parts = parts(result, pixel);
    let lengths: Vec<usize> = parts.iter().map(|rows| rows.len() * result.width * channels).collect();
    let covered = phases.iter().all(|phase| phase.axes[0].step() * phase.axes[1].step() == phases.len());
    let make = |part: usize, out: &mut [MaybeUninit<E>]| {
        let rows = parts[part].clone();
        BUFFERS.with_borrow_mut(|[padded, sums]| {
            if !covered {
                for value in out.iter_mut() {
                    value.write(E::ZERO);
                }
            }
            Arch::new().dispatch(Part { phases, source, result, channels, rows, finish, padded, sums, out });
        });
    };
    // SAFETY: all of a part is cleared where the phases do not cover its rows and columns, and where they do, all channels
    // of each pixel are written.
    unsafe { build_unset(&lengths, make) }
}

/// Rows of the result, counted over all images, that are worked on at a time: some of one image, or all of some. `pixel`
/// values are touched for each pixel.
pub(super) fn parts(result: Images, pixel: usize) -> Vec<Range<usize>> {
    let Images { batch, height, width } = result;
    let least = LEAST_PIXELS.div_ceil(width.max(1));
    let rows = (AT_ONCE / (width * pixel).max(1)).max(least).max(1);
    if rows >= height {
        let images = (rows / height.max(1)).max(1);
        return (0..batch).step_by(images).map(|at| at * height..(at + images).min(batch) * height).collect();
    }
    // As equal as can be.
    let bands = height.div_ceil(rows);
    let band = |at: usize| (at / bands * height, at % bands);
    let bounds = |(image, at): (usize, usize)| image + at * height / bands..image + (at + 1) * height / bands;
    (0..batch * bands).map(|at| bounds(band(at))).collect()
}

/// The images, and the rows of each, that a part holds.
pub(super) fn of_images(part: &Range<usize>, height: usize) -> (Range<usize>, Range<usize>) {
    let images = part.start / height..part.end.div_ceil(height);
    let first = part.start % height;
    (images.clone(), first..first + part.len() / images.len().max(1))
}

/// The rows and columns of the source that a part of the result is made of.
pub(super) fn reach(
    axes: impl Iterator<Item = [Axis; 2]> + Clone,
    rows: Range<usize>,
    width: usize,
) -> [Range<isize>; 2] {
    let down = hull(axes.clone().map(|[own, _]| own.reach(rows.clone())));
    [down, hull(axes.map(|[_, own]| own.reach(0..width)))]
}

/// Runs of taps in chunks that are worked on at a time: some runs, or a part of one.
fn chunks(runs: usize, run: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let (together, pieces) = ((DEEP / run).max(1), run.div_ceil(DEEP));
    let runs = (0..runs).step_by(together).map(move |first| first..(first + together).min(runs));
    runs.flat_map(move |runs| {
        (0..pieces).map(move |piece| (runs.clone(), piece * run / pieces..(piece + 1) * run / pieces))
    })
}

/// Some rows of the result.
struct Part<'a, E> {
    phases: &'a [Phase],
    source: (Images, usize, &'a [E]),
    result: Images,
    channels: usize,
    rows: Range<usize>,
    finish: Finish<'a>,
    padded: &'a mut Vec<f32>,
    sums: &'a mut Vec<f32>,
    out: &'a mut [MaybeUninit<E>],
}

impl<E: Element> WithSimd for Part<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { phases, source: (images, depth, source), result, channels, rows, finish, padded: buffer, sums, out } =
            self;
        let (which, rows) = of_images(&rows, result.height);
        let [down, right] = reach(phases.iter().map(|phase| phase.axes), rows.clone(), result.width);
        let band = Band::new(source, (images, depth, 0), which.clone(), (down, right), buffer);
        let stride = padded(channels);
        for Phase { axes: [y_axis, x_axis], kernels } in phases {
            let (lines, columns) = (y_axis.positions(rows.clone()), x_axis.all());
            let lines = (0..which.len()).flat_map(|image| lines.clone().map(move |y| (image, y)));
            let (in_line, taps) = (columns.clone().count(), y_axis.taps * x_axis.taps * depth);
            let Some(first) = columns.clone().next() else { continue };
            let length = lines.clone().count() * in_line * stride;
            if sums.len() < length {
                sums.resize(length, 0.0);
            }
            let sums = &mut sums[..length];
            // A block of kernels, or two where a vector holds a whole one, and as many of its taps as stay in the cache
            // while all lines go by.
            let at_once = if S::F32_LANES == BLOCK { 2 } else { 1 };
            let run = x_axis.taps * depth;
            for block in (0..stride / BLOCK).step_by(at_once) {
                let blocks = at_once.min(stride / BLOCK - block);
                for (runs, within) in chunks(y_axis.taps, run) {
                    let values = &kernels[(block * taps + runs.start * run + within.start) * BLOCK..];
                    let right = Right { values, blocks, row_stride: BLOCK, block_stride: taps * BLOCK };
                    let add = runs.start + within.start > 0;
                    for (line, (image, y)) in lines.clone().enumerate() {
                        let from = band.from(image, y_axis.begin(y), x_axis.begin(first));
                        let left = Left {
                            values: &from[runs.start * band.row + within.start..],
                            rows: in_line,
                            row_stride: x_axis.stride() * depth,
                            runs: runs.len(),
                            run_stride: band.row,
                            columns: within.len(),
                            column_stride: 1,
                        };
                        multiply(simd, left, right, &mut sums[line * in_line * stride + block * BLOCK..], stride, add);
                    }
                }
            }
            let pixels = lines.flat_map(|(image, y)| columns.clone().map(move |x| (image, y, x)));
            for ((image, y, x), sums) in pixels.zip(sums.chunks_exact(stride)) {
                let pixel = (image * rows.len() + y - rows.start) * result.width + x;
                finished(simd, finish, sums, &mut out[pixel * channels..][..channels]);
            }
        }
    }
}

/// Writes the channels of a pixel from their sums, of which there may be more.
#[inline(always)]
fn finished<E: Element, S: Simd>(simd: S, finish: Finish<'_>, sums: &[f32], out: &mut [MaybeUninit<E>]) {
    let least = simd.splat_f32s(if finish.relu { 0.0 } else { f32::NEG_INFINITY });
    for first in (0..out.len()).step_by(S::F32_LANES) {
        let many = S::F32_LANES.min(out.len() - first);
        let mut value = f32::load(simd, &sums[first..][..S::F32_LANES]);
        if let Some(bias) = finish.bias {
            value = simd.add_f32s(value, f32::load(simd, &bias[first..][..many]));
        }
        // Unlike a maximum, this keeps what is not a number.
        let value = simd.select_f32s(simd.less_than_f32s(value, least), least, value);
        E::store(simd, &mut out[first..][..many], value);
    }
}
