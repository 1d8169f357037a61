//! Max pooling and its gradient.

use super::cpu::{build, is_ours, with_values};
use super::{to_nchw, to_nhwc};
use candle_core::{DType, Device, Result, Tensor, bail};

/// Square windows without padding.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool {
    /// Pixels along a side of a window.
    pub side: usize,
    /// Pixels between neighbouring windows.
    pub stride: usize,
}

impl MaxPool {
    /// The largest value of each window of `x` \[batch, height, width, channels\]: \[batch, height', width', channels\].
    ///
    /// # Errors
    /// When no window fits.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let windows = self.windows(x)?;
        on_gpu!(x, crate::cuda::max_pool(x, windows.on_gpu()));
        if !is_ours(x) {
            return to_nhwc(&to_nchw(x)?.max_pool2d_with_stride(self.side, self.stride)?);
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
        Tensor::from_vec(values, (windows.batch, windows.rows, windows.columns, channels), x.device())
    }

    /// The gradient of the input from the gradient of the result. Of equally large values the first gets it, row by row,
    /// as in PyTorch.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn gradient(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let windows = self.windows(x)?;
        let channels = windows.channels;
        if grad.dims() != [windows.batch, windows.rows, windows.columns, channels] {
            bail!("a gradient of {:?} for {} x {} windows", grad.shape(), windows.rows, windows.columns)
        }
        on_gpu!(x, crate::cuda::max_pool_gradient(x, grad, windows.on_gpu()));
        if !is_ours(x) {
            // candle's own gradient is wrong by a factor (0.11), so that it is computed on the CPU.
            let single = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32);
            return self.gradient(&single(x)?, &single(grad)?)?.to_dtype(x.dtype())?.to_device(x.device());
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

    fn windows(&self, x: &Tensor) -> Result<Windows> {
        let (batch, height, width, channels) = x.dims4()?;
        let Self { side, stride } = *self;
        if side == 0 || stride == 0 || height < side || width < side || channels == 0 {
            bail!("windows of {side} x {side} every {stride} pixels do not fit into {:?}", x.shape())
        }
        let (rows, columns) = ((height - side) / stride + 1, (width - side) / stride + 1);
        Ok(Windows { pool: *self, batch, height, width, channels, rows, columns })
    }
}

/// The windows of every image of a batch.
struct Windows {
    pool: MaxPool,
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    rows: usize,
    columns: usize,
}

impl Windows {
    #[cfg(feature = "cuda")]
    fn on_gpu(&self) -> crate::cuda::Windows {
        let MaxPool { side, stride } = self.pool;
        crate::cuda::Windows { side, stride, rows: self.rows, columns: self.columns }
    }

    /// Values of an image.
    fn values(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Results of an image.
    fn results(&self) -> usize {
        self.rows * self.columns * self.channels
    }

    /// The pixels of a window, row by row.
    fn pixels(&self, window: usize) -> impl Iterator<Item = usize> {
        let MaxPool { side, stride } = self.pool;
        let first = window / self.columns * stride * self.width + window % self.columns * stride;
        let width = self.width;
        (0..side * side).map(move |at| first + at / side * width + at % side)
    }
}
