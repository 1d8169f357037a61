//! 2-d convolution with stride 1 and zero padding, with bias and ReLU in the same pass.

use super::cpu::{build, is_ours, values, with_values};
use super::matrix::{Matrix, multiply};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::cell::RefCell;

/// What is applied to the sums of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// max(x, 0).
    Relu,
}

/// Convolves `x` \[batch, in, height, width\] with `weight` \[out, in, kernel, kernel\], adds `bias` \[out\] where there
/// is one, and applies the activation.
///
/// The input gets a gradient only if it depends on a variable.
///
/// # Errors
/// When the shapes do not fit, or the padding is as large as the kernel.
pub fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    activation: Activation,
) -> Result<Tensor> {
    if !is_ours(x) {
        return by_candle(x, weight, bias, padding, activation);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let op = Convolution { padding, activation };
    match bias {
        None => x.apply_op2(&weight, op),
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
    }
}

fn by_candle(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    activation: Activation,
) -> Result<Tensor> {
    let sums = x.conv2d(weight, padding, 1, 1, 1)?;
    let sums = match bias {
        None => sums,
        Some(bias) => sums.broadcast_add(&bias.reshape((1, (), 1, 1))?)?,
    };
    if activation == Activation::Relu { sums.relu() } else { Ok(sums) }
}

#[derive(Clone, Copy)]
struct Convolution {
    padding: usize,
    activation: Activation,
}

/// All sizes of one convolution.
#[derive(Clone, Copy)]
struct Geometry {
    batch: usize,
    in_channels: usize,
    out_channels: usize,
    height: usize,
    width: usize,
    kernel: usize,
    padding: usize,
}

/// Values of unfolded input that are worked on at a time: 1 MiB, so that they stay in the second-level cache.
const TILE: usize = 1 << 18;

thread_local! {
    /// Unfolded input; kept, so that a step allocates none.
    static UNFOLDED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Geometry {
    fn new(x: &Shape, weight: &Shape, padding: usize) -> Result<Self> {
        let (batch, in_channels, height, width) = x.dims4()?;
        let (out_channels, weight_channels, kernel, kernel_width) = weight.dims4()?;
        let fits = weight_channels == in_channels && kernel == kernel_width && padding < kernel;
        if !fits || height + 2 * padding < kernel || width + 2 * padding < kernel {
            bail!("a convolution of {x:?} with {weight:?} and padding {padding} is not possible")
        }
        Ok(Self { batch, in_channels, out_channels, height, width, kernel, padding })
    }

    fn out_height(&self) -> usize {
        self.height + 2 * self.padding + 1 - self.kernel
    }

    fn out_width(&self) -> usize {
        self.width + 2 * self.padding + 1 - self.kernel
    }

    /// Values in one channel of the output.
    fn plane(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Weights of one output channel: rows of the unfolded input.
    fn taps(&self) -> usize {
        self.in_channels * self.kernel * self.kernel
    }

    fn input_values(&self) -> usize {
        self.in_channels * self.height * self.width
    }

    fn output_values(&self) -> usize {
        self.out_channels * self.plane()
    }

    /// Unfolds an image tile by tile of output rows, and calls `f` with each: \[taps, columns\] and its first column.
    fn for_each_tile(&self, image: &[f32], mut f: impl FnMut(Matrix<'_>, usize)) {
        let rows_at_once = (TILE / (self.taps() * self.out_width())).clamp(1, self.out_height());
        UNFOLDED.with_borrow_mut(|unfolded| {
            for first in (0..self.out_height()).step_by(rows_at_once) {
                let rows = rows_at_once.min(self.out_height() - first);
                let columns = rows * self.out_width();
                unfolded.resize(self.taps() * columns, 0.0);
                self.unfold(image, first, rows, unfolded);
                f(Matrix::new(unfolded, self.taps(), columns, columns), first * self.out_width());
            }
        });
    }

    /// Writes, for every weight of an output channel, the input values that it meets in some rows of the output.
    fn unfold(&self, image: &[f32], first_row: usize, rows: usize, out: &mut [f32]) {
        let (width, out_width) = (self.width, self.out_width());
        let mut lines = out.chunks_exact_mut(out_width);
        for channel in image.chunks_exact(self.height * width) {
            for (dy, dx) in (0..self.kernel).flat_map(|dy| (0..self.kernel).map(move |dx| (dy, dx))) {
                // Columns of the output whose input lies inside the image.
                let left = self.padding.saturating_sub(dx).min(out_width);
                let right = (width + self.padding).saturating_sub(dx).clamp(left, out_width);
                for (row, line) in (first_row..first_row + rows).zip(&mut lines) {
                    match (row + dy).checked_sub(self.padding).filter(|&y| y < self.height) {
                        None => line.fill(0.0),
                        Some(y) => {
                            line[..left].fill(0.0);
                            line[right..].fill(0.0);
                            if left < right {
                                let from = y * width + left + dx - self.padding;
                                line[left..right].copy_from_slice(&channel[from..from + right - left]);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Convolution {
    fn forward(&self, geometry: &Geometry, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let taps = geometry.taps();
        let plane = geometry.plane();
        let weight = Matrix::new(weight, geometry.out_channels, taps, taps);
        build(geometry.batch * geometry.output_values(), geometry.output_values(), |at, out| {
            let image = &x[at * geometry.input_values()..][..geometry.input_values()];
            geometry.for_each_tile(image, |tile, column| multiply(weight, tile, &mut out[column..], plane, false));
            self.finish(out, plane, bias);
        })
    }

    /// Adds the bias to the sums of one image and applies the activation.
    fn finish(&self, out: &mut [f32], plane: usize, bias: Option<&[f32]>) {
        let least = if self.activation == Activation::Relu { 0.0 } else { f32::NEG_INFINITY };
        if bias.is_none() && self.activation == Activation::Identity {
            return;
        }
        for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
            let bias = bias.map_or(0.0, |bias| bias[channel]);
            // Written so that NaN stays NaN: a network that diverged must not look sane.
            out.iter_mut().for_each(|value| {
                let sum = *value + bias;
                *value = if sum < least { least } else { sum };
            });
        }
    }

    /// The gradient of the sums, from that of the result.
    fn through_activation(&self, result: &Tensor, grad: &Tensor) -> Result<Tensor> {
        match self.activation {
            Activation::Identity => grad.contiguous(),
            Activation::Relu => masked(result, grad),
        }
    }

    /// The gradients of the input, if it needs one, and of the weight.
    fn backward(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
        let geometry = Geometry::new(x.shape(), weight.shape(), self.padding)?;
        let weight_grad = with_values([x, grad], |[x, grad]| weight_gradient(&geometry, x, grad))?;
        let weight_grad = Tensor::from_vec(weight_grad, weight.shape(), x.device())?;
        let x_grad = if x.track_op() { Some(self.input_gradient(weight, grad)?) } else { None };
        Ok((x_grad, weight_grad))
    }

    /// The gradient of the input is a convolution of the output's with the kernel turned by half a turn.
    fn input_gradient(&self, weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let kernel = weight.dim(3)?;
        let turned = weight.detach().flip(&[2, 3])?.transpose(0, 1)?.contiguous()?;
        let op = Self { padding: kernel - 1 - self.padding, activation: Activation::Identity };
        grad.detach().apply_op2_no_bwd(&turned, &op)
    }
}

/// The gradient where the ReLU let values through.
fn masked(result: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let masked = with_values([result, grad], |[result, grad]| {
        result.par_iter().zip(grad).map(|(&y, &g)| if y > 0.0 { g } else { 0.0 }).collect::<Vec<f32>>()
    })?;
    Tensor::from_vec(masked, grad.shape(), grad.device())
}

/// Sums each thread's share of the images, then the shares in order: the same bits for the same number of threads.
fn weight_gradient(geometry: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let taps = geometry.taps();
    let share = geometry.batch.div_ceil(rayon::current_num_threads()).max(1);
    let shares: Vec<Vec<f32>> = x
        .par_chunks(share * geometry.input_values())
        .zip(grad.par_chunks(share * geometry.output_values()))
        .map(|(x, grad)| {
            let mut sum = vec![0.0; geometry.out_channels * taps];
            let images = x.chunks_exact(geometry.input_values()).zip(grad.chunks_exact(geometry.output_values()));
            for (image, grad) in images {
                geometry.for_each_tile(image, |tile, column| {
                    let grad = Matrix::new(&grad[column..], geometry.out_channels, tile.columns, geometry.plane());
                    multiply(grad, tile.transposed(), &mut sum, taps, true);
                });
            }
            sum
        })
        .collect();
    let mut shares = shares.into_iter();
    let mut total = shares.next().unwrap_or_else(|| vec![0.0; geometry.out_channels * taps]);
    for share in shares {
        total.iter_mut().zip(share).for_each(|(total, value)| *total += value);
    }
    total
}

fn bias_gradient(geometry: &Geometry, grad: &[f32]) -> Vec<f32> {
    let mut total = vec![0.0f64; geometry.out_channels];
    for image in grad.chunks_exact(geometry.output_values()) {
        for (total, plane) in total.iter_mut().zip(image.chunks_exact(geometry.plane())) {
            *total += f64::from(plane.iter().sum::<f32>());
        }
    }
    total.into_iter().map(|sum| sum as f32).collect()
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let geometry = Geometry::new(xl.shape(), wl.shape(), self.padding)?;
        let out = self.forward(&geometry, values(x, xl)?, values(w, wl)?, None);
        let shape = (geometry.batch, geometry.out_channels, geometry.out_height(), geometry.out_width());
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (x, w) = self.backward(x, w, &self.through_activation(y, grad)?)?;
        Ok((x, Some(w)))
    }
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "convolution with bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let geometry = Geometry::new(xl.shape(), wl.shape(), self.padding)?;
        let bias = values(b, bl)?;
        if bias.len() != geometry.out_channels {
            bail!("{} biases for {} channels", bias.len(), geometry.out_channels)
        }
        let out = self.forward(&geometry, values(x, xl)?, values(w, wl)?, Some(bias));
        let shape = (geometry.batch, geometry.out_channels, geometry.out_height(), geometry.out_width());
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = self.through_activation(y, grad)?;
        let geometry = Geometry::new(x.shape(), w.shape(), self.padding)?;
        let b = with_values([&grad], |[grad]| bias_gradient(&geometry, grad))?;
        let b = Tensor::from_vec(b, geometry.out_channels, x.device())?;
        let (x, w) = self.backward(x, w, &grad)?;
        Ok((x, Some(w), Some(b)))
    }
}
