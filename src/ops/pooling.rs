//! Average pooling to a fixed size with its gradient, and 2x2 space-to-depth.

use super::cpu::{build, build_unset, equal_parts, with_values};
use super::element::Element;
use super::{to_nchw, to_nhwc};
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use half::bf16;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Averages `x` \[batch, height, width, channels\] to \[batch, side, side, channels\].
///
/// Cell i of n covers positions floor(i * size / n) to ceil((i + 1) * size / n), so cells overlap or repeat where the
/// size is no multiple (PyTorch's `adaptive_avg_pool2d`). Means of bf16 are f32.
///
/// # Errors
/// When `x` has not four dimensions.
pub fn pool(x: &Tensor, side: usize) -> Result<Tensor> {
    let (_, height, width, channels) = x.dims4()?;
    if side == 0 || height * width * channels == 0 {
        bail!("{:?} cannot be pooled to {side} x {side}", x.shape())
    }
    on_gpu!(x, crate::cuda::pool(x, side));
    on_cpu!(x, E => own_pool::<E>(x, side), by_candle(x, side))
}

fn own_pool<E: Element>(x: &Tensor, side: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let values = with_values([x], |[x]: [&[E]; 1]| {
        build(batch * side * side * channels, side * side * channels, |image, out: &mut [f32]| {
            let image = &x[image * height * width * channels..];
            for ((rows, columns), out) in cells(height, width, side).zip(out.chunks_exact_mut(channels)) {
                let share = 1.0 / (rows.len() * columns.len()) as f32;
                for_each_pixel(width, rows, columns, |pixel| {
                    let values = &image[pixel * channels..][..channels];
                    out.iter_mut().zip(values).for_each(|(out, value)| *out += value.widen());
                });
                out.iter_mut().for_each(|out| *out *= share);
            }
        })
    })?;
    Tensor::from_vec(values, (batch, side, side, channels), x.device())
}

/// The gradient of the input \[batch, height, width, channels\] of [`pool`], from the gradient of its result \[batch,
/// side, side, channels\], in the type of the input.
///
/// # Errors
/// When the shape of the gradient does not fit.
pub fn pool_gradient(grad: &Tensor, (height, width): (usize, usize), dtype: DType) -> Result<Tensor> {
    let (batch, side, columns, channels) = grad.dims4()?;
    if side != columns || side * height * width * channels == 0 {
        bail!("a gradient of {:?} for a square result", grad.shape())
    }
    let shape = (batch, height, width, channels);
    on_gpu!(grad, crate::cuda::pool_gradient(grad, (height, width), dtype));
    match (grad.device(), grad.dtype(), dtype) {
        (Device::Cpu, DType::F32, DType::F32) => own_pool_gradient::<f32>(grad, shape),
        (Device::Cpu, DType::F32, DType::BF16) => own_pool_gradient::<bf16>(grad, shape),
        (_, found, dtype) if found == dtype => {
            let x = Var::zeros(shape, dtype, grad.device())?;
            let mut store = (by_candle(&x, side)? * grad)?.sum_all()?.backward()?;
            store.remove(&x).map_or_else(|| x.zeros_like(), Ok)
        }
        (_, found, dtype) => bail!("a gradient in {} for an input in {}", found.as_str(), dtype.as_str()),
    }
}

/// From the gradient of the means in f32 to one in the type of the maps.
fn own_pool_gradient<E: Element>(grad: &Tensor, shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    let ((batch, height, width, channels), side) = (shape, grad.dim(1)?);
    let values = with_values([grad], |[grad]: [&[f32]; 1]| {
        let image = height * width * channels;
        let gradient = |at: usize, out: &mut [MaybeUninit<E>]| {
            let grad = &grad[at * side * side * channels..];
            E::sum(out, |out| {
                for ((rows, columns), grad) in cells(height, width, side).zip(grad.chunks_exact(channels)) {
                    let share = 1.0 / (rows.len() * columns.len()) as f32;
                    for_each_pixel(width, rows, columns, |pixel| {
                        let out = &mut out[pixel * channels..][..channels];
                        out.iter_mut().zip(grad).for_each(|(out, &grad)| *out += grad * share);
                    });
                }
            });
        };
        // SAFETY: all sums are written.
        unsafe { build_unset(&equal_parts(batch * image, image), gradient) }
    })?;
    Tensor::from_vec(values, shape, grad.device())
}

/// Rows and columns of every cell.
fn cells(height: usize, width: usize, side: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    (0..side * side).map(move |at| (cell(at / side, height, side), cell(at % side, width, side)))
}

/// The positions that a cell covers along one axis.
fn cell(at: usize, size: usize, cells: usize) -> Range<usize> {
    at * size / cells..((at + 1) * size).div_ceil(cells)
}

fn for_each_pixel(width: usize, rows: Range<usize>, columns: Range<usize>, mut f: impl FnMut(usize)) {
    rows.for_each(|row| columns.clone().for_each(|column| f(row * width + column)));
}

fn by_candle(x: &Tensor, side: usize) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let cell = |row: usize, column: usize| {
        let (rows, columns) = (cell(row, height, side), cell(column, width, side));
        let part = x.narrow(1, rows.start, rows.len())?.narrow(2, columns.start, columns.len())?;
        part.mean_keepdim((1, 2))
    };
    let row = |row: usize| Tensor::cat(&(0..side).map(|column| cell(row, column)).collect::<Result<Vec<_>>>()?, 2);
    Tensor::cat(&(0..side).map(row).collect::<Result<Vec<_>>>()?, 1)
}

/// Moves each 2x2 square of `x` \[batch, height, width, channels\] into channels: \[batch, height / 2, width / 2,
/// 4 channels\], in the order of PyTorch's `pixel_unshuffle`.
///
/// # Errors
/// When height or width is odd.
pub fn space_to_depth(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    if height % 2 != 0 || width % 2 != 0 {
        bail!("squares of 2x2 do not fill {height} x {width} pixels")
    }
    on_gpu!(x, crate::cuda::space_to_depth(x));
    on_cpu!(x, E => own_space_to_depth::<E>(x), {
        let squares = to_nchw(x)?.reshape((batch, channels, height / 2, 2, width / 2, 2))?;
        let squares = squares.permute((0, 1, 3, 5, 2, 4))?;
        to_nhwc(&squares.reshape((batch, 4 * channels, height / 2, width / 2))?)
    })
}

fn own_space_to_depth<E: Element>(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let values = with_values([x], |[x]: [&[E]; 1]| {
        let row = width / 2 * 4 * channels;
        // Rows of squares follow each other over all images, since the height is even.
        build(x.len(), row, |row, out: &mut [E]| {
            for (column, out) in out.chunks_exact_mut((4 * channels).max(1)).enumerate() {
                for (at, (dy, dx)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
                    let pixel = &x[((2 * row + dy) * width + 2 * column + dx) * channels..][..channels];
                    pixel.iter().zip(out[at..].iter_mut().step_by(4)).for_each(|(&value, out)| *out = value);
                }
            }
        })
    })?;
    Tensor::from_vec(values, (batch, height / 2, width / 2, 4 * channels), x.device())
}

/// The inverse of [`space_to_depth`], which is its gradient: \[batch, height, width, 4 channels\] → \[batch, 2 height,
/// 2 width, channels\].
///
/// # Errors
/// When the channels are no multiple of four.
pub fn depth_to_space(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, deep) = x.dims4()?;
    if deep % 4 != 0 {
        bail!("{deep} channels do not make squares of 2x2")
    }
    let channels = deep / 4;
    on_cpu!(x, E => own_depth_to_space::<E>(x), {
        let squares = to_nchw(x)?.reshape((batch, channels, 2, 2, height, width))?.permute((0, 1, 4, 2, 5, 3))?;
        to_nhwc(&squares.reshape((batch, channels, 2 * height, 2 * width))?)
    })
}

fn own_depth_to_space<E: Element>(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, deep) = x.dims4()?;
    let channels = deep / 4;
    let values = with_values([x], |[x]: [&[E]; 1]| {
        let row = 2 * width * channels;
        build(x.len(), row, |row, out: &mut [E]| {
            let (square, dy) = (row / 2 * width, row % 2);
            for (column, out) in out.chunks_exact_mut(channels.max(1)).enumerate() {
                let from = &x[(square + column / 2) * deep + 2 * dy + column % 2..];
                out.iter_mut().zip(from.iter().step_by(4)).for_each(|(out, &value)| *out = value);
            }
        })
    })?;
    Tensor::from_vec(values, (batch, 2 * height, 2 * width, channels), x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn squares_become_pixels_again() {
        for shape in [(2, 4, 6, 3), (1, 2, 2, 1), (3, 6, 4, 5)] {
            let x = Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
            let double = x.to_dtype(DType::F64).unwrap();
            let values = |x: &Tensor| x.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            for x in [&x, &double] {
                let back = depth_to_space(&space_to_depth(x).unwrap()).unwrap();
                assert_eq!((back.dims(), values(&back)), (x.dims(), values(x)));
            }
        }
        assert!(depth_to_space(&Tensor::ones((1, 1, 1, 6), DType::F32, &Device::Cpu).unwrap()).is_err());
    }
}
