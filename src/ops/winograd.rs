//! 3x3 convolution with padding 1 on images in NHWC order, by Winograd's minimal filtering, forward and backward.
//!
//! Tiles of 6x6 inputs that overlap by two are transformed, one small matrix product is made for each of the 36 points,
//! and the results are transformed back. A few dozen tiles are worked on at a time, so that all of it stays in the cache.

use super::cpu::build_parts;
use super::geometry::{Finish, Images};
use super::panels::{BLOCK, Left, Right, multiply, padded};
use super::transforms::*;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Values of a kernel.
const TAPS: usize = 9;

/// Tiles that are worked on at a time, where rows of tiles are short enough.
const TILES: usize = 48;

/// Values of the weight gradient's sums that all threads hold together at most: 256 MiB.
const SUMS: usize = 1 << 26;

thread_local! {
    /// Transformed tiles; kept, so that a step allocates none.
    static TRANSFORMED: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

impl Images {
    /// Rows of tiles in an image.
    fn rows(&self) -> usize {
        self.height.div_ceil(OUTPUTS)
    }

    /// Tiles in a row.
    fn columns(&self) -> usize {
        self.width.div_ceil(OUTPUTS)
    }

    /// All rows of tiles, in parts that are worked on at a time.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (all, at_once) = (self.batch * self.rows(), (TILES / self.columns()).max(1));
        (0..all).step_by(at_once).map(move |first| first..(first + at_once).min(all))
    }

    /// Rows of pixels that a row of tiles covers: the last of an image may stand out of it.
    fn pixel_rows(&self, row: usize) -> usize {
        OUTPUTS.min(self.height - row % self.rows() * OUTPUTS)
    }

    /// The tiles of some rows: image, and row and column of the first output.
    fn tiles(self, rows: Range<usize>) -> impl Iterator<Item = Tile> {
        rows.flat_map(move |row| {
            let (image, y) = (row / self.rows(), row % self.rows() * OUTPUTS);
            (0..self.columns()).map(move |column| Tile { image, y, x: column * OUTPUTS })
        })
    }

    /// The `N` x `N` pixels whose first lies `before` pixels above and left of a tile's first output.
    fn window<'a, const N: usize>(&self, map: Map<'a>, tile: Tile, before: usize) -> Window<'a, N> {
        let pixels = std::array::from_fn(|dy| {
            std::array::from_fn(|dx| {
                let inside = |at: usize, size: usize| at.checked_sub(before).filter(|&at| at < size);
                match (inside(tile.y + dy, self.height), inside(tile.x + dx, self.width)) {
                    (Some(y), Some(x)) => {
                        let pixel = (tile.image * self.height + y) * self.width + x;
                        &map.values[pixel * map.channels..][..map.channels]
                    }
                    _ => map.zeros,
                }
            })
        });
        Window { pixels, channels: map.channels }
    }
}

#[derive(Clone, Copy)]
struct Tile {
    image: usize,
    y: usize,
    x: usize,
}

/// Values \[batch, height, width, channels\].
#[derive(Clone, Copy)]
struct Map<'a> {
    values: &'a [f32],
    channels: usize,
    /// As many zeros as there are channels: a pixel outside the image.
    zeros: &'a [f32],
}

/// The pixels of a tile, each a slice of `channels` values.
struct Window<'a, const N: usize> {
    pixels: Square<&'a [f32], N>,
    channels: usize,
}

impl<const N: usize> Window<'_, N> {
    /// A vector of channels of every pixel; zeros beyond the last channel.
    #[inline(always)]
    fn load<S: Simd>(&self, simd: S, first: usize) -> Square<S::f32s, N> {
        if first + S::F32_LANES <= self.channels {
            // SAFETY: every pixel has `channels` values.
            self.pixels
                .map(|row| row.map(|pixel| unsafe { pixel.as_ptr().add(first).cast::<S::f32s>().read_unaligned() }))
        } else {
            self.pixels.map(|row| row.map(|pixel| simd.partial_load_f32s(&pixel[first.min(self.channels)..])))
        }
    }
}

/// Transformed tiles: for each point a matrix \[tile, channel\], a cache line longer than it must be, so that the points
/// of a tile do not share their place in the cache.
#[derive(Clone, Copy)]
struct Slabs {
    tiles: usize,
    channels: usize,
}

impl Slabs {
    fn new(tiles: usize, channels: usize) -> Self {
        Self { tiles, channels: padded(channels) }
    }

    fn stride(&self) -> usize {
        self.tiles * self.channels + BLOCK
    }

    /// Makes a buffer large enough.
    fn fit<'a>(&self, buffer: &'a mut Vec<f32>) -> &'a mut [f32] {
        let length = POINTS * self.stride();
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
        &mut buffer[..length]
    }

    #[inline(always)]
    fn store<S: Simd>(&self, slabs: &mut [f32], tile: usize, channel: usize, square: &Square<S::f32s, INPUTS>) {
        assert!(tile < self.tiles && channel + S::F32_LANES <= self.channels && slabs.len() == POINTS * self.stride());
        for (point, &values) in square.iter().flatten().enumerate() {
            let at = point * self.stride() + tile * self.channels + channel;
            // SAFETY: the assert keeps every point of the tile inside the slabs.
            unsafe { slabs.as_mut_ptr().add(at).cast::<S::f32s>().write_unaligned(values) };
        }
    }

    #[inline(always)]
    fn load<S: Simd>(&self, slabs: &[f32], tile: usize, channel: usize) -> Square<S::f32s, INPUTS> {
        assert!(tile < self.tiles && channel + S::F32_LANES <= self.channels && slabs.len() == POINTS * self.stride());
        std::array::from_fn(|row| {
            std::array::from_fn(|column| {
                let at = (row * INPUTS + column) * self.stride() + tile * self.channels + channel;
                // SAFETY: the assert keeps every point of the tile inside the slabs.
                unsafe { slabs.as_ptr().add(at).cast::<S::f32s>().read_unaligned() }
            })
        })
    }

    /// Transforms the windows of tiles into slabs.
    #[inline(always)]
    fn fill<'a, S: Simd, const N: usize>(
        &self,
        simd: S,
        slabs: &mut [f32],
        windows: impl Iterator<Item = Window<'a, N>>,
        line: impl Fn([S::f32s; N]) -> [S::f32s; INPUTS],
    ) {
        for (tile, window) in windows.enumerate() {
            for channel in (0..self.channels).step_by(S::F32_LANES) {
                self.store::<S>(slabs, tile, channel, &on_both_sides(window.load(simd, channel), &line));
            }
        }
    }
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
        build_parts(&vec![block; self.outputs.div_ceil(BLOCK)], |block, out| {
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
        let inputs = self.kernels.inputs;
        let outputs = BLOCK.min(self.kernels.outputs - self.first);
        let mut taps = [[0.0; BLOCK]; TAPS];
        for at in 0..inputs {
            for (tap, values) in taps.iter_mut().enumerate() {
                let values = values[..outputs].iter_mut().enumerate();
                values.for_each(|(output, value)| *value = self.kernels.value(self.first + output, at, tap));
            }
            for lane in (0..BLOCK).step_by(S::F32_LANES) {
                let load = |tap: usize| simd.partial_load_f32s(&taps[tap][lane..][..S::F32_LANES]);
                let square = std::array::from_fn(|row| std::array::from_fn(|column| load(row * 3 + column)));
                let square = on_both_sides(square, |line| kernel(simd, line));
                for (point, &values) in square.iter().flatten().enumerate() {
                    let out = &mut self.out[(point * inputs + at) * BLOCK + lane..][..S::F32_LANES];
                    simd.partial_store_f32s(out, values);
                }
            }
        }
    }
}

/// Convolves `x` \[batch, height, width, inputs\] with kernels: \[batch, height, width, outputs\].
pub(super) fn convolve(images: Images, x: &[f32], kernels: Kernels<'_>, finish: Finish<'_>) -> Vec<f32> {
    let transformed = kernels.transformed();
    let zeros = vec![0.0; kernels.inputs];
    let x = Map { values: x, channels: kernels.inputs, zeros: &zeros };
    let parts: Vec<_> = images.parts().collect();
    let length = |rows: &Range<usize>| -> usize {
        rows.clone().map(|row| images.pixel_rows(row)).sum::<usize>() * images.width * kernels.outputs
    };
    let lengths: Vec<usize> = parts.iter().map(length).collect();
    build_parts(&lengths, |part, out| {
        let rows = parts[part].clone();
        Arch::new().dispatch(Forward { images, rows, x, kernels: &transformed, outputs: kernels.outputs, finish, out });
    })
}

/// The convolution of some rows of tiles.
struct Forward<'a> {
    images: Images,
    rows: Range<usize>,
    x: Map<'a>,
    /// Transformed.
    kernels: &'a [f32],
    outputs: usize,
    finish: Finish<'a>,
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let tiles = self.rows.len() * self.images.columns();
        let (before, after) = (Slabs::new(tiles, self.x.channels), Slabs::new(tiles, self.outputs));
        TRANSFORMED.with_borrow_mut(|[first, second]| {
            let (inputs, sums) = (before.fit(first), after.fit(second));
            let windows = self.images.tiles(self.rows.clone()).map(|tile| self.images.window(self.x, tile, 1));
            before.fill(simd, inputs, windows, |line| input(simd, line));
            let depth = self.x.channels;
            for point in 0..POINTS {
                let values = &inputs[point * before.stride()..];
                let left = Left { values, rows: tiles, columns: depth, row_stride: before.channels, column_stride: 1 };
                let values = &self.kernels[point * depth * BLOCK..];
                let blocks = after.channels / BLOCK;
                let right = Right { values, blocks, row_stride: BLOCK, block_stride: POINTS * depth * BLOCK };
                multiply(simd, left, right, &mut sums[point * after.stride()..], after.channels, false);
            }
            self.write(simd, after, sums);
        });
    }
}

impl Forward<'_> {
    /// Transforms the sums back and writes the outputs that lie inside the image.
    #[inline(always)]
    fn write<S: Simd>(self, simd: S, slabs: Slabs, sums: &[f32]) {
        let Self { images, rows, outputs, finish, out, .. } = self;
        let least = simd.splat_f32s(if finish.relu { 0.0 } else { f32::NEG_INFINITY });
        let first_row = |row: usize| row / images.rows() * images.height + row % images.rows() * OUTPUTS;
        let above = first_row(rows.start);
        for (at, tile) in images.tiles(rows).enumerate() {
            let first = (tile.image * images.height + tile.y - above) * images.width + tile.x;
            let (height, width) = (OUTPUTS.min(images.height - tile.y), OUTPUTS.min(images.width - tile.x));
            for channel in (0..outputs).step_by(S::F32_LANES) {
                let many = S::F32_LANES.min(outputs - channel);
                let bias = match finish.bias {
                    Some(bias) => simd.partial_load_f32s(&bias[channel..][..many]),
                    None => simd.splat_f32s(0.0),
                };
                let square = on_both_sides(slabs.load::<S>(sums, at, channel), |line| output(simd, line));
                for (dy, row) in square.iter().enumerate().take(height) {
                    for (dx, &value) in row.iter().enumerate().take(width) {
                        let value = simd.add_f32s(value, bias);
                        // Unlike a maximum, this keeps what is not a number.
                        let value = simd.select_f32s(simd.less_than_f32s(value, least), least, value);
                        let pixel = first + dy * images.width + dx;
                        store(simd, &mut out[pixel * outputs + channel..][..many], value);
                    }
                }
            }
        }
    }
}

/// Stores the first values of a vector.
#[inline(always)]
fn store<S: Simd>(simd: S, out: &mut [f32], values: S::f32s) {
    if out.len() == S::F32_LANES {
        // SAFETY: the slice is as long as the vector.
        unsafe { out.as_mut_ptr().cast::<S::f32s>().write_unaligned(values) }
    } else {
        simd.partial_store_f32s(out, values);
    }
}

/// The gradient of kernels \[outputs, inputs, 3, 3\] from the inputs `x` \[batch, height, width, inputs\] and the
/// gradient of the outputs \[batch, height, width, outputs\].
///
/// Each thread sums a share of the tiles, and the shares are added in order: the same bits for the same number of
/// threads.
pub(super) fn weight_gradient(images: Images, x: &[f32], inputs: usize, grad: &[f32], outputs: usize) -> Vec<f32> {
    let zeros = vec![0.0; inputs.max(outputs)];
    let x = Map { values: x, channels: inputs, zeros: &zeros[..inputs] };
    let grad = Map { values: grad, channels: outputs, zeros: &zeros[..outputs] };
    let parts: Vec<_> = images.parts().collect();
    let length = POINTS * inputs * padded(outputs);
    let shares = rayon::current_num_threads().min(SUMS / length).clamp(1, parts.len().max(1));
    let sums: Vec<Vec<f32>> = parts
        .par_chunks(parts.len().div_ceil(shares).max(1))
        .map(|parts| {
            let mut sums = vec![0.0; length];
            Arch::new().dispatch(Share { images, parts, x, grad, sums: &mut sums });
            sums
        })
        .collect();
    let lengths: Vec<usize> =
        (0..outputs).step_by(BLOCK).map(|first| BLOCK.min(outputs - first) * inputs * TAPS).collect();
    build_parts(&lengths, |block, out| {
        Arch::new().dispatch(KernelGradients { sums: &sums, inputs, outputs, first: block * BLOCK, out });
    })
}

/// A thread's share of the sums \[point, input, output\].
struct Share<'a> {
    images: Images,
    parts: &'a [Range<usize>],
    x: Map<'a>,
    grad: Map<'a>,
    sums: &'a mut [f32],
}

impl WithSimd for Share<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { images, parts, x, grad, sums } = self;
        TRANSFORMED.with_borrow_mut(|[first, second]| {
            for rows in parts {
                let tiles = rows.len() * images.columns();
                let (of_x, of_grad) = (Slabs::new(tiles, x.channels), Slabs::new(tiles, grad.channels));
                let (inputs, gradients) = (of_x.fit(first), of_grad.fit(second));
                let windows = images.tiles(rows.clone()).map(|tile| images.window(x, tile, 1));
                of_x.fill(simd, inputs, windows, |line| input(simd, line));
                let windows = images.tiles(rows.clone()).map(|tile| images.window(grad, tile, 0));
                of_grad.fill(simd, gradients, windows, |line| gradient(simd, line));
                for (point, sums) in sums.chunks_exact_mut(x.channels * of_grad.channels).enumerate() {
                    let values = &inputs[point * of_x.stride()..];
                    let (rows, columns) = (x.channels, tiles);
                    let left = Left { values, rows, columns, row_stride: 1, column_stride: of_x.channels };
                    let values = &gradients[point * of_grad.stride()..];
                    let (row_stride, blocks) = (of_grad.channels, of_grad.channels / BLOCK);
                    let right = Right { values, blocks, row_stride, block_stride: BLOCK };
                    multiply(simd, left, right, sums, of_grad.channels, true);
                }
            }
        });
    }
}

/// The gradients of the kernels of a block of outputs, from the sums of all shares.
struct KernelGradients<'a> {
    sums: &'a [Vec<f32>],
    inputs: usize,
    outputs: usize,
    /// The first output of the block.
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for KernelGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sums, inputs, outputs, first, out } = self;
        let stride = padded(outputs);
        for lane in (0..BLOCK.min(outputs - first)).step_by(S::F32_LANES) {
            for at in 0..inputs {
                let load = |point: usize| {
                    let place = (point * inputs + at) * stride + first + lane;
                    let load = |sums: &Vec<f32>| simd.partial_load_f32s(&sums[place..][..S::F32_LANES]);
                    sums.iter().map(load).fold(simd.splat_f32s(0.0), |a, b| simd.add_f32s(a, b))
                };
                let square = std::array::from_fn(|row| std::array::from_fn(|column| load(row * INPUTS + column)));
                let square: Square<_, 3> = on_both_sides(square, |line| kernel_gradient(simd, line));
                for (tap, &values) in square.iter().flatten().enumerate() {
                    let mut lanes = [0.0; BLOCK];
                    simd.partial_store_f32s(&mut lanes[..S::F32_LANES], values);
                    let many = S::F32_LANES.min(outputs - first - lane);
                    let lanes = lanes[..many].iter().enumerate();
                    lanes.for_each(|(output, &value)| out[((lane + output) * inputs + at) * TAPS + tap] = value);
                }
            }
        }
    }
}
