//! 3x3 convolution with stride 1 on images in NHWC order, by Winograd's minimal filtering, forward and backward.
//!
//! Tiles of 6x6 inputs that overlap by two are transformed, one small matrix product is made for each of the 36 points,
//! and the results are transformed back. A few dozen tiles are worked on at a time, so that all of it stays in the cache.

use super::cpu::{build_parts, build_unset};
use super::element::Element;
use super::geometry::{Finish, Images};
use super::panels::{BLOCK, Left, Right, multiply, padded};
use super::tiles::{Map, Slabs};
use super::transforms::{Gradient, INPUTS, Input, Kernel, KernelGradient, OUTPUTS, Output, POINTS, on_both_sides};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Values along a side of a kernel.
const SIDE: usize = 3;
/// Values of a kernel.
const TAPS: usize = SIDE * SIDE;

/// Values of the weight gradient's sums that all threads hold together at most, unless one alone takes more: 256 MiB. Where
/// many threads would take more, fewer work on it.
const SUMS: usize = 1 << 26;

/// Channels of a group, of inputs and of outputs, whose sums of a weight gradient are worked on at a time.
const GROUP: usize = 128;

thread_local! {
    /// Transformed tiles; kept, so that a step allocates none.
    static TRANSFORMED: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Kernels \[output, input, 3, 3\], or the same ones as the gradient of the input sees them.
#[derive(Clone, Copy)]
pub(super) struct Kernels<'a> {
    values: &'a [f32],
    inputs: usize,
    outputs: usize,
    turned: bool,
}

impl<'a> Kernels<'a> {
    /// Kernels \[outputs, inputs, 3, 3\].
    pub fn new(values: &'a [f32], outputs: usize, inputs: usize) -> Self {
        Self { values, inputs, outputs, turned: false }
    }

    /// Turned by half a turn, with inputs and outputs exchanged: the convolution that takes a gradient of the outputs to
    /// that of the inputs.
    pub fn turned(self) -> Self {
        Self { inputs: self.outputs, outputs: self.inputs, turned: true, ..self }
    }

    fn value(&self, output: usize, input: usize, tap: usize) -> f32 {
        match self.turned {
            false => self.values[(output * self.inputs + input) * TAPS + tap],
            true => self.values[(input * self.outputs + output) * TAPS + TAPS - 1 - tap],
        }
    }

    /// Transforms all kernels: \[block of outputs, point, input, output in block\].
    fn transformed(&self) -> Vec<f32> {
        let block = POINTS * self.inputs * BLOCK;
        build_parts(&vec![block; self.outputs.div_ceil(BLOCK)], |block, out: &mut [f32]| {
            Arch::new().dispatch(TransformKernels { kernels: self, first: block * BLOCK, out });
        })
    }
}

struct TransformKernels<'a> {
    kernels: &'a Kernels<'a>,
    /// The first output of the block.
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for TransformKernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { kernels, first, out } = self;
        let mut taps = [[0.0; BLOCK]; TAPS];
        for at in 0..kernels.inputs {
            for (tap, values) in taps.iter_mut().enumerate() {
                for (output, value) in (first..kernels.outputs).zip(values) {
                    *value = kernels.value(output, at, tap);
                }
            }
            for lane in (0..BLOCK).step_by(S::F32_LANES) {
                let mut square = [[simd.splat_f32s(0.0); SIDE]; SIDE];
                for (tap, values) in taps.iter().enumerate() {
                    square[tap / SIDE][tap % SIDE] = f32::load(simd, &values[lane..][..S::F32_LANES]);
                }
                let square = on_both_sides::<Kernel, S, SIDE, INPUTS>(simd, &square);
                for point in 0..POINTS {
                    let out = &mut out[(point * kernels.inputs + at) * BLOCK + lane..][..S::F32_LANES];
                    simd.partial_store_f32s(out, square[point / INPUTS][point % INPUTS]);
                }
            }
        }
    }
}

/// What is convolved, and how many zeros are added on each side.
#[derive(Clone, Copy)]
pub(super) struct Padded {
    pub images: Images,
    pub padding: usize,
}

impl Padded {
    fn result(&self) -> Images {
        let out = |size: usize| size + 2 * self.padding + 1 - SIDE;
        Images { height: out(self.images.height), width: out(self.images.width), ..self.images }
    }
}

/// Convolves `x` \[batch, height, width, inputs\] with kernels: \[batch, height', width', outputs\].
pub(super) fn convolve<E: Element>(from: Padded, x: &[E], kernels: Kernels<'_>, finish: Finish<'_>) -> Vec<E> {
    let transformed = kernels.transformed();
    let zeros = vec![E::ZERO; kernels.inputs];
    let x = Map::new(x, from.images, kernels.inputs, &zeros);
    let (images, padding) = (from.result(), from.padding);
    let parts = images.parts();
    let pixel_rows = |rows: &Range<usize>| rows.clone().map(|row| images.pixel_rows(row).1).sum::<usize>();
    let lengths: Vec<usize> = parts.iter().map(|rows| pixel_rows(rows) * images.width * kernels.outputs).collect();
    let convolve_part = |part: usize, out: &mut [MaybeUninit<E>]| {
        let rows = parts[part].clone();
        let work = Forward { images, rows, x, padding, kernels: &transformed, outputs: kernels.outputs, finish, out };
        TRANSFORMED.with_borrow_mut(|buffers| Arch::new().dispatch(WithBuffers(work, buffers)));
    };
    // SAFETY: the tiles of a part cover its pixels, and all outputs of each are written.
    unsafe { build_unset(&lengths, convolve_part) }
}

/// The convolution of some rows of tiles.
struct Forward<'a, E> {
    /// Of the result.
    images: Images,
    rows: Range<usize>,
    x: Map<'a, E>,
    padding: usize,
    /// Transformed.
    kernels: &'a [f32],
    outputs: usize,
    finish: Finish<'a>,
    out: &'a mut [MaybeUninit<E>],
}

/// Work with buffers for transformed tiles.
struct WithBuffers<'a, W>(W, &'a mut [Vec<f32>; 2]);

impl<E: Element> WithSimd for WithBuffers<'_, Forward<'_, E>> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(mut work, [first, second]) = self;
        let tiles = work.rows.len() * work.images.tile_columns();
        let (before, after) = (Slabs::new(tiles, work.x.channels()), Slabs::new(tiles, work.outputs));
        let (inputs, sums) = (before.fit(first), after.fit(second));
        before.fill::<Input, E, S, INPUTS>(simd, inputs, (work.images, work.rows.start), (work.x, work.padding));
        let depth = work.x.channels();
        for point in 0..POINTS {
            let values = &inputs[point * before.stride()..];
            let left = Left::new(values, (tiles, before.channels()), (depth, 1));
            let values = &work.kernels[point * depth * BLOCK..];
            let blocks = after.channels() / BLOCK;
            let right = Right { values, blocks, row_stride: BLOCK, block_stride: POINTS * depth * BLOCK };
            multiply(simd, left, right, &mut sums[point * after.stride()..], after.channels(), false);
        }
        work.write(simd, after, sums);
    }
}

impl<E: Element> Forward<'_, E> {
    /// Transforms the sums back and writes the outputs that lie inside the image.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, slabs: Slabs, sums: &[f32]) {
        let Images { height, width, .. } = self.images;
        let least = simd.splat_f32s(if self.finish.relu { 0.0 } else { f32::NEG_INFINITY });
        let (above, _) = self.images.pixel_rows(self.rows.start);
        for at in 0..self.rows.len() * self.images.tile_columns() {
            let tile = self.images.tile(self.rows.start, at);
            let first = (tile.image * height + tile.y - above) * width + tile.x;
            let (rows, columns) = (OUTPUTS.min(height - tile.y), OUTPUTS.min(width - tile.x));
            for channel in (0..self.outputs).step_by(S::F32_LANES) {
                let many = S::F32_LANES.min(self.outputs - channel);
                let bias = match self.finish.bias {
                    Some(bias) => f32::load(simd, &bias[channel..][..many]),
                    None => simd.splat_f32s(0.0),
                };
                let square = on_both_sides::<Output, S, INPUTS, OUTPUTS>(simd, &slabs.load(simd, sums, at, channel));
                for dy in 0..rows {
                    for dx in 0..columns {
                        let value = simd.add_f32s(square[dy][dx], bias);
                        // Unlike a maximum, this keeps what is not a number.
                        let value = simd.select_f32s(simd.less_than_f32s(value, least), least, value);
                        let pixel = first + dy * width + dx;
                        E::store(simd, &mut self.out[pixel * self.outputs + channel..][..many], value);
                    }
                }
            }
        }
    }
}

/// The gradient of kernels \[outputs, inputs, 3, 3\] from the inputs `x` \[batch, height, width, inputs\] and the
/// gradient of the outputs \[batch, height', width', outputs\].
///
/// Each thread sums a share of the tiles, and the shares are added in order: the same bits for the same number of
/// threads. Of many channels a group is worked on at a time, so that the sums stay in the cache.
pub(super) fn weight_gradient<E: Element>(
    from: Padded,
    x: &[E],
    inputs: usize,
    grad: &[E],
    outputs: usize,
) -> Vec<f32> {
    let zeros = vec![E::ZERO; inputs.max(outputs)];
    let (images, padding) = (from.result(), from.padding);
    let (x, grad) = (Map::new(x, from.images, inputs, &zeros), Map::new(grad, images, outputs, &zeros));
    let parts = images.parts();
    let of_inputs = groups(inputs);
    let mut out = Vec::with_capacity(outputs * inputs * TAPS);
    for channels in groups(outputs) {
        let grad = grad.of_channels(channels);
        let stride = padded(grad.channels());
        let threads = rayon::current_num_threads().div_ceil(of_inputs.len().max(1));
        let shares = threads.min(SUMS / (POINTS * inputs * stride).max(1)).max(1);
        let shares: Vec<&[Range<usize>]> = parts.chunks(parts.len().div_ceil(shares).max(1)).collect();
        let sums: Vec<Vec<f32>> = (0..shares.len() * of_inputs.len())
            .into_par_iter()
            .map(|at| {
                let x = x.of_channels(of_inputs[at % of_inputs.len()].clone());
                let mut sums = vec![0.0; POINTS * x.channels() * stride];
                let work = Share { images, parts: shares[at / of_inputs.len()], x, padding, grad, sums: &mut sums };
                TRANSFORMED.with_borrow_mut(|buffers| Arch::new().dispatch(WithBuffers(work, buffers)));
                sums
            })
            .collect();
        let block = |first: usize| BLOCK.min(grad.channels() - first) * inputs * TAPS;
        let lengths: Vec<usize> = (0..grad.channels()).step_by(BLOCK).map(block).collect();
        out.append(&mut build_parts(&lengths, |block, out| {
            let (sums, groups, outputs) = (&sums, &of_inputs, grad.channels());
            Arch::new().dispatch(KernelGradients { sums, groups, outputs, first: block * BLOCK, out });
        }));
    }
    out
}

/// Channels in groups of whole blocks, as equal as can be.
fn groups(channels: usize) -> Vec<Range<usize>> {
    let each = padded(channels.div_ceil(channels.div_ceil(GROUP).max(1))).max(1);
    (0..channels).step_by(each).map(|first| first..(first + each).min(channels)).collect()
}

/// A thread's share of the sums \[point, input, output\].
struct Share<'a, E> {
    /// Of the result.
    images: Images,
    parts: &'a [Range<usize>],
    x: Map<'a, E>,
    padding: usize,
    grad: Map<'a, E>,
    sums: &'a mut [f32],
}

impl<E: Element> WithSimd for WithBuffers<'_, Share<'_, E>> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(Share { images, parts, x, padding, grad, sums }, [first, second]) = self;
        for part in parts {
            let tiles = part.len() * images.tile_columns();
            let (of_x, of_grad) = (Slabs::new(tiles, x.channels()), Slabs::new(tiles, grad.channels()));
            let (inputs, gradients) = (of_x.fit(first), of_grad.fit(second));
            of_x.fill::<Input, E, S, INPUTS>(simd, inputs, (images, part.start), (x, padding));
            of_grad.fill::<Gradient, E, S, OUTPUTS>(simd, gradients, (images, part.start), (grad, 0));
            let (rows, stride) = (x.channels(), of_grad.channels());
            for point in 0..POINTS {
                let values = &inputs[point * of_x.stride()..];
                let left = Left::new(values, (rows, 1), (tiles, of_x.channels()));
                let values = &gradients[point * of_grad.stride()..];
                let right = Right { values, blocks: stride / BLOCK, row_stride: stride, block_stride: BLOCK };
                multiply(simd, left, right, &mut sums[point * rows * stride..], stride, true);
            }
        }
    }
}

/// The gradients of the kernels of a block of outputs, from the sums of all shares: \[share, group of inputs\].
struct KernelGradients<'a> {
    sums: &'a [Vec<f32>],
    groups: &'a [Range<usize>],
    outputs: usize,
    /// The first output of the block.
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for KernelGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sums, groups, outputs, first, out } = self;
        let (stride, inputs) = (padded(outputs), groups.last().map_or(0, |group| group.end));
        for lane in (first..outputs.min(first + BLOCK)).step_by(S::F32_LANES) {
            let many = S::F32_LANES.min(outputs - lane);
            for (number, group) in groups.iter().enumerate() {
                for at in group.clone() {
                    let mut square = [[simd.splat_f32s(0.0); INPUTS]; INPUTS];
                    for point in 0..POINTS {
                        let total = &mut square[point / INPUTS][point % INPUTS];
                        let place = (point * group.len() + at - group.start) * stride + lane;
                        for share in sums[number..].iter().step_by(groups.len()) {
                            *total = simd.add_f32s(*total, f32::load(simd, &share[place..][..S::F32_LANES]));
                        }
                    }
                    let square = on_both_sides::<KernelGradient, S, INPUTS, SIDE>(simd, &square);
                    let mut lanes = [0.0; BLOCK];
                    for tap in 0..TAPS {
                        simd.partial_store_f32s(&mut lanes[..S::F32_LANES], square[tap / SIDE][tap % SIDE]);
                        for (output, &value) in (lane - first..).zip(&lanes[..many]) {
                            out[(output * inputs + at) * TAPS + tap] = value;
                        }
                    }
                }
            }
        }
    }
}
