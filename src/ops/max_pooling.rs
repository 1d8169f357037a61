//! Max pooling and its gradient.

use super::cpu::{build_unset, with_values};
use super::element::{Element, store_over};
use super::window::Window;
use super::{to_nchw, to_nhwc};
use candle_core::{DType, Device, Result, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Values that are worked on at a time: 128 KiB, so that they stay in the cache.
const AT_ONCE: usize = 1 << 15;

/// The largest value of each window of `x` \[batch, height, width, channels\]: \[batch, height', width', channels\].
/// Padding is smaller than any value.
///
/// # Errors
/// When no window fits, or the padding exceeds half of a window.
pub fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    let windows = Windows::of(x, window)?;
    on_gpu!(x, crate::cuda::max_pool(x, window.on_gpu((windows.rows, windows.columns))));
    on_cpu!(x, E => windows.largest::<E>(x), by_candle(x, window))
}

/// The gradient of the input from the gradient of the result. Of equally large values the first gets it, row by row,
/// as in PyTorch.
///
/// # Errors
/// When the shapes do not fit.
pub fn max_pool_gradient(x: &Tensor, grad: &Tensor, window: Window) -> Result<Tensor> {
    let windows = Windows::of(x, window)?;
    if grad.dims4()? != windows.result() {
        bail!("a gradient of {:?} for a result of {:?}", grad.shape(), windows.result())
    }
    on_gpu!(x, crate::cuda::max_pool_gradient(x, grad, window.on_gpu((windows.rows, windows.columns))));
    on_cpu!(x, E => windows.gradient::<E>(x, grad), one_by_one(x, grad, &windows))
}

fn by_candle(x: &Tensor, Window { kernel, stride, padding }: Window) -> Result<Tensor> {
    let mut x = to_nchw(x)?;
    for dim in [2, 3] {
        let mut shape = x.dims().to_vec();
        shape[dim] = padding;
        let outside = Tensor::full(f32::NEG_INFINITY, shape, x.device())?.to_dtype(x.dtype())?;
        x = Tensor::cat(&[&outside, &x, &outside], dim)?;
    }
    to_nhwc(&x.max_pool2d_with_stride(kernel, stride)?)
}

/// The gradient for other types: candle's own is wrong by a factor (0.11). It is computed in f64, which holds them all.
fn one_by_one(x: &Tensor, grad: &Tensor, windows: &Windows) -> Result<Tensor> {
    let values =
        |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (values, grad) = (values(x)?, values(grad)?);
    let (channels, in_image) = (windows.channels, windows.rows * windows.columns);
    let mut out = vec![0.0; values.len()];
    for (at, grad) in grad.iter().enumerate() {
        let (window, channel) = (at / channels, at % channels);
        let first = window / in_image * windows.values() + channel;
        let (row, column) = (window % in_image / windows.columns, window % windows.columns);
        let places = windows.pixels(row, column).map(|(y, x)| first + (y * windows.width + x) * channels);
        let larger = |best: usize, at: usize| if values[at] > values[best] || values[at].is_nan() { at } else { best };
        if let Some(largest) = places.reduce(larger) {
            out[largest] += grad;
        }
    }
    Tensor::from_vec(out, x.shape(), &Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())
}

/// Rows of each image that are worked on at a time, for so many values a row.
fn bands(batch: usize, rows: usize, row: usize) -> Vec<(usize, Range<usize>)> {
    let bands = rows.div_ceil((AT_ONCE / row.max(1)).max(1));
    let band = |at: usize| (at / bands, at % bands * rows / bands..(at % bands + 1) * rows / bands);
    (0..batch * bands).map(band).collect()
}

/// The windows of every image of a batch.
struct Windows {
    window: Window,
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    rows: usize,
    columns: usize,
}

impl Windows {
    fn of(x: &Tensor, window: Window) -> Result<Self> {
        let (batch, height, width, channels) = x.dims4()?;
        match window.outputs(height, width) {
            // So that every window holds a pixel.
            Some((rows, columns)) if window.padding <= window.kernel / 2 && height * width * channels > 0 => {
                Ok(Self { window, batch, height, width, channels, rows, columns })
            }
            _ => bail!("{window:?} does not fit into {:?}", x.shape()),
        }
    }

    fn largest<E: Element>(&self, x: &Tensor) -> Result<Tensor> {
        let parts = bands(self.batch, self.rows, self.columns * self.channels);
        let lengths: Vec<usize> = parts.iter().map(|(_, rows)| rows.len() * self.columns * self.channels).collect();
        let values = with_values([x], |[x]: [&[E]; 1]| {
            let largest = |part: usize, out: &mut [MaybeUninit<E>]| {
                let (image, rows) = parts[part].clone();
                let x = &x[image * self.values()..][..self.values()];
                Arch::new().dispatch(Largest { windows: self, x, rows, out });
            };
            // SAFETY: all channels of the windows of each row are written.
            unsafe { build_unset(&lengths, largest) }
        })?;
        Tensor::from_vec(values, self.result(), x.device())
    }

    fn gradient<E: Element>(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let parts = bands(self.batch, self.height, self.width * self.channels);
        let lengths: Vec<usize> = parts.iter().map(|(_, rows)| rows.len() * self.width * self.channels).collect();
        let values = with_values([x, grad], |[x, grad]: [&[E]; 2]| {
            let gradient = |part: usize, out: &mut [MaybeUninit<E>]| {
                let (image, rows) = parts[part].clone();
                let x = &x[image * self.values()..][..self.values()];
                let grad = &grad[image * self.results()..][..self.results()];
                E::sum(out, |out| Arch::new().dispatch(Gradient { windows: self, x, grad, rows, out }));
            };
            // SAFETY: all sums are written.
            unsafe { build_unset(&lengths, gradient) }
        })?;
        Tensor::from_vec(values, x.shape(), x.device())
    }

    fn result(&self) -> (usize, usize, usize, usize) {
        (self.batch, self.rows, self.columns, self.channels)
    }

    /// Values of an image.
    fn values(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Results of an image.
    fn results(&self) -> usize {
        self.rows * self.columns * self.channels
    }

    /// The positions that a window has within a side of the image.
    #[inline(always)]
    fn inside(&self, at: usize, size: usize) -> Range<usize> {
        let Window { kernel, stride, padding } = self.window;
        (at * stride).saturating_sub(padding)..(at * stride + kernel - padding).min(size)
    }

    /// Row and column of the pixels of a window that lie inside the image, row by row.
    #[inline(always)]
    fn pixels(&self, row: usize, column: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let columns = self.inside(column, self.width);
        self.inside(row, self.height).flat_map(move |y| columns.clone().map(move |x| (y, x)))
    }

    /// The rows of windows that hold one of some rows of the image.
    fn reaching(&self, rows: &Range<usize>) -> Range<usize> {
        let Window { kernel, stride, padding } = self.window;
        let first = (rows.start + padding + 1).saturating_sub(kernel).div_ceil(stride);
        first..(rows.end + padding).div_ceil(stride).min(self.rows)
    }
}

/// The largest values of some rows of windows of an image.
struct Largest<'a, E> {
    windows: &'a Windows,
    x: &'a [E],
    rows: Range<usize>,
    out: &'a mut [MaybeUninit<E>],
}

impl<E: Element> WithSimd for Largest<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { windows, x, rows, out } = self;
        let Windows { channels, columns, width, .. } = *windows;
        let places = rows.flat_map(|row| (0..columns).map(move |column| (row, column)));
        for ((row, column), out) in places.zip(out.chunks_exact_mut(channels)) {
            for first in (0..channels).step_by(S::F32_LANES) {
                let many = S::F32_LANES.min(channels - first);
                let mut best = simd.splat_f32s(f32::NEG_INFINITY);
                for y in windows.inside(row, windows.height) {
                    for x_at in windows.inside(column, width) {
                        let value = E::load(simd, &x[(y * width + x_at) * channels + first..][..many]);
                        // Unlike a maximum, this keeps what is not a number.
                        let larger = simd.select_f32s(simd.less_than_or_equal_f32s(value, best), best, value);
                        best = simd.select_f32s(simd.equal_f32s(best, best), larger, best);
                    }
                }
                E::store(simd, &mut out[first..][..many], best);
            }
        }
    }
}

/// The gradient of some rows of an image.
struct Gradient<'a, E> {
    windows: &'a Windows,
    x: &'a [E],
    grad: &'a [E],
    rows: Range<usize>,
    out: &'a mut [f32],
}

impl<E: Element> WithSimd for Gradient<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { windows, x, grad, rows, out } = self;
        let Windows { channels, columns, width, .. } = *windows;
        let places = windows.reaching(&rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        // Where the pixels of a window lie in the image, and in what is made here, if they do.
        let mut pixels: Vec<(usize, Option<usize>)> = Vec::new();
        for (row, column) in places {
            let grad = &grad[(row * columns + column) * channels..][..channels];
            let place = |y: usize, x: usize| (y * width + x) * channels;
            let own = |y: usize, x: usize| if rows.contains(&y) { Some(place(y - rows.start, x)) } else { None };
            pixels.clear();
            pixels.extend(windows.pixels(row, column).map(|(y, x)| (place(y, x), own(y, x))));
            let mut first = 0;
            while first < channels {
                let left = channels - first;
                // Several vectors at once, because each comparison must wait for the one before it.
                let (at_once, lanes) =
                    if left >= 4 * S::F32_LANES { (4, S::F32_LANES) } else { (1, left.min(S::F32_LANES)) };
                let of = Channels { pixels: &pixels, first, lanes, x, grad };
                if at_once == 4 {
                    of.add::<S, 4>(simd, out)
                } else {
                    of.add::<S, 1>(simd, out)
                }
                first += at_once * lanes;
            }
        }
    }
}

/// Some channels of a window: vectors of so many lanes.
struct Channels<'a, E> {
    pixels: &'a [(usize, Option<usize>)],
    first: usize,
    lanes: usize,
    x: &'a [E],
    grad: &'a [E],
}

impl<E: Element> Channels<'_, E> {
    /// Adds the gradient of each channel to that of its largest pixel.
    #[inline(always)]
    fn add<S: Simd, const VECTORS: usize>(&self, simd: S, out: &mut [f32]) {
        let Self { pixels, first, x, grad, .. } = *self;
        let lanes = if VECTORS > 1 { S::F32_LANES } else { self.lanes };
        let mut best = [simd.splat_f32s(f32::NEG_INFINITY); VECTORS];
        let mut largest = [simd.splat_f32s(0.0); VECTORS];
        for (number, (place, _)) in pixels.iter().enumerate() {
            let (values, number) = (&x[place + first..][..VECTORS * lanes], simd.splat_f32s(number as f32));
            for at in 0..VECTORS {
                let value = E::load(simd, &values[at * lanes..][..lanes]);
                let (larger, counts) = (simd.greater_than_f32s(value, best[at]), simd.equal_f32s(value, value));
                let takes = simd.or_m32s(larger, simd.not_m32s(counts));
                best[at] = simd.select_f32s(takes, value, best[at]);
                largest[at] = simd.select_f32s(takes, number, largest[at]);
            }
        }
        let zero = simd.splat_f32s(0.0);
        let grad = &grad[first..][..VECTORS * lanes];
        for (number, (_, own)) in pixels.iter().enumerate() {
            let Some(own) = own else { continue };
            let (out, number) = (&mut out[own + first..][..VECTORS * lanes], simd.splat_f32s(number as f32));
            for at in 0..VECTORS {
                let (out, grad) = (&mut out[at * lanes..][..lanes], E::load(simd, &grad[at * lanes..][..lanes]));
                let takes = simd.equal_f32s(largest[at], number);
                let sum = simd.add_f32s(f32::load(simd, out), simd.select_f32s(takes, grad, zero));
                store_over(simd, out, sum);
            }
        }
    }
}
