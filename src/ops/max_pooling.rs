//! Max pooling and its gradient.

use super::cpu::{build, is_ours, with_values};
use super::window::Window;
use super::{to_nchw, to_nhwc};
use candle_core::{DType, Device, Result, Tensor, bail};

/// The largest value of each window of `x` \[batch, height, width, channels\]: \[batch, height', width', channels\].
/// Padding is smaller than any value.
///
/// # Errors
/// When no window fits, or the padding exceeds half of a window.
pub fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    let windows = Windows::of(x, window)?;
    on_gpu!(x, crate::cuda::max_pool(x, window.on_gpu((windows.rows, windows.columns))));
    if !is_ours(x) {
        return by_candle(x, window);
    }
    let channels = windows.channels;
    let values = with_values([x], |[x]| {
        build(windows.batch * windows.results(), windows.results(), |image, out| {
            let image = &x[image * windows.values()..];
            for (at, out) in out.chunks_exact_mut(channels).enumerate() {
                out.fill(f32::NEG_INFINITY);
                for pixel in windows.pixels(at) {
                    let values = &image[pixel * channels..][..channels];
                    // Unlike a maximum, this keeps what is not a number.
                    let keeps = |out: f32, value: f32| value <= out || out.is_nan();
                    let pairs = out.iter_mut().zip(values);
                    pairs.for_each(|(out, &value)| *out = if keeps(*out, value) { *out } else { value });
                }
            }
        })
    })?;
    Tensor::from_vec(values, windows.result(), x.device())
}

/// The gradient of the input from the gradient of the result. Of equally large values the first gets it, row by row,
/// as in PyTorch.
///
/// # Errors
/// When the shapes do not fit.
pub fn max_pool_gradient(x: &Tensor, grad: &Tensor, window: Window) -> Result<Tensor> {
    let windows = Windows::of(x, window)?;
    let channels = windows.channels;
    if grad.dims4()? != windows.result() {
        bail!("a gradient of {:?} for a result of {:?}", grad.shape(), windows.result())
    }
    on_gpu!(x, crate::cuda::max_pool_gradient(x, grad, window.on_gpu((windows.rows, windows.columns))));
    if !is_ours(x) {
        // candle's own gradient is wrong by a factor (0.11), so that it is computed on the CPU.
        let single = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32);
        return max_pool_gradient(&single(x)?, &single(grad)?, window)?.to_dtype(x.dtype())?.to_device(x.device());
    }
    let values = with_values([x, grad], |[x, grad]| {
        build(x.len(), windows.values(), |image, out| {
            let (x, grad) = (&x[image * windows.values()..], &grad[image * windows.results()..]);
            for (at, grad) in grad.chunks_exact(channels).take(windows.rows * windows.columns).enumerate() {
                for (channel, grad) in grad.iter().enumerate() {
                    let mut largest = windows.pixels(at).map(|pixel| pixel * channels + channel);
                    let first = largest.next().unwrap_or(channel);
                    out[largest.fold(
                        first,
                        |best, place| if x[place] > x[best] || x[place].is_nan() { place } else { best },
                    )] += grad;
                }
            }
        })
    })?;
    Tensor::from_vec(values, x.shape(), x.device())
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

    /// The pixels of a window that lie inside the image, row by row.
    fn pixels(&self, window: usize) -> impl Iterator<Item = usize> {
        let Window { kernel, stride, padding } = self.window;
        let inside = |at: usize, size: usize| {
            let first = at * stride;
            first.saturating_sub(padding)..(first + kernel - padding).min(size)
        };
        let (rows, columns) = (inside(window / self.columns, self.height), inside(window % self.columns, self.width));
        let width = self.width;
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
    }
}
