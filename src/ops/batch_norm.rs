//! Batch norm in training mode, with a ReLU in the same pass.

use super::Activation;
use super::cpu::{build, is_ours, values, with_values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Mean and biased variance of each channel of a batch, as tensors \[channels\].
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// Mean.
    pub mean: Tensor,
    /// Mean squared distance from the mean.
    pub variance: Tensor,
}

/// Normalises each channel of `x` \[batch, channels, height, width\] over the batch, scales it by `gamma` \[channels\],
/// shifts it by `beta` \[channels\], and applies the activation. Also gives the statistics of the batch.
///
/// # Errors
/// When the shapes do not fit.
pub fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    epsilon: f64,
    activation: Activation,
) -> Result<(Tensor, BatchStatistics)> {
    let (_, channels, _, _) = x.dims4()?;
    if gamma.dims() != [channels] || beta.dims() != [channels] {
        bail!("batch norm of {channels} channels with {:?} and {:?}", gamma.shape(), beta.shape())
    }
    if !is_ours(x) {
        return by_candle(x, gamma, beta, epsilon, activation);
    }
    let x = x.contiguous()?;
    let sizes = Sizes::of(x.shape())?;
    let moments = with_values([&x], |[x]| moments(&sizes, x))?;
    let column =
        |pick: fn(&Moments) -> f64| Tensor::from_iter(moments.iter().map(|channel| pick(channel) as f32), x.device());
    let statistics = BatchStatistics { mean: column(|channel| channel.mean)?, variance: column(|c| c.variance)? };
    let inverse = |channel: &Moments| (1.0 / (channel.variance + epsilon).sqrt()) as f32;
    let normalisation = moments.iter().map(|channel| (channel.mean as f32, inverse(channel))).collect();
    let y = x.apply_op3(gamma, beta, BatchNorm { normalisation, activation })?;
    Ok((y, statistics))
}

fn by_candle(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    epsilon: f64,
    activation: Activation,
) -> Result<(Tensor, BatchStatistics)> {
    let by_channel = |tensor: &Tensor| tensor.reshape((1, (), 1, 1));
    let mean = x.mean_keepdim((0, 2, 3))?;
    let centred = x.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
    let normal = centred.broadcast_div(&(&variance + epsilon)?.sqrt()?)?;
    let y = normal.broadcast_mul(&by_channel(gamma)?)?.broadcast_add(&by_channel(beta)?)?;
    let y = if activation == Activation::Relu { y.relu()? } else { y };
    let flat = |tensor: &Tensor| tensor.detach().flatten_all();
    Ok((y, BatchStatistics { mean: flat(&mean)?, variance: flat(&variance)? }))
}

#[derive(Clone, Copy)]
struct Sizes {
    channels: usize,
    /// Values in one channel of one image.
    plane: usize,
}

impl Sizes {
    fn of(shape: &Shape) -> Result<Self> {
        let (_, channels, height, width) = shape.dims4()?;
        Ok(Self { channels, plane: height * width })
    }

    /// The planes of one channel, image by image.
    fn planes<'a>(&self, channel: usize, values: &'a [f32]) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        values.chunks_exact(self.plane).skip(channel).step_by(self.channels)
    }
}

struct Moments {
    mean: f64,
    variance: f64,
}

/// Sums of a plane in f32 in eight lanes, which keeps both speed and precision; planes are added in f64.
fn sum(values: impl Iterator<Item = f32>) -> f64 {
    let mut lanes = [0.0f32; 8];
    values.enumerate().for_each(|(at, value)| lanes[at % 8] += value);
    lanes.into_iter().map(f64::from).sum()
}

fn moments(sizes: &Sizes, x: &[f32]) -> Vec<Moments> {
    let count = (x.len() / sizes.channels) as f64;
    (0..sizes.channels)
        .into_par_iter()
        .map(|channel| {
            let planes = || sizes.planes(channel, x);
            let mean = planes().map(|plane| sum(plane.iter().copied())).sum::<f64>() / count;
            let centre = mean as f32;
            let squares = |plane: &[f32]| sum(plane.iter().map(|&value| (value - centre) * (value - centre)));
            // `centre` is the mean rounded to f32; the second term takes that rounding out again.
            let variance = planes().map(squares).sum::<f64>() / count - (mean - f64::from(centre)).powi(2);
            Moments { mean, variance: variance.max(0.0) }
        })
        .collect()
}

struct BatchNorm {
    /// Mean and inverse deviation of each channel.
    normalisation: Vec<(f32, f32)>,
    activation: Activation,
}

/// Sums over one channel that its gradients are made of.
struct GradientSums {
    /// Of the gradient: the gradient of beta.
    plain: f32,
    /// Of the gradient times the normalised input: the gradient of gamma.
    weighted: f32,
}

impl BatchNorm {
    fn lets_through(&self, y: f32) -> bool {
        self.activation == Activation::Identity || y > 0.0
    }

    fn gradient_sums(&self, sizes: &Sizes, x: &[f32], y: &[f32], grad: &[f32]) -> Vec<GradientSums> {
        let channels = self.normalisation.par_iter().enumerate();
        channels
            .map(|(channel, &(mean, inverse))| {
                let (mut plain, mut weighted) = (0.0f64, 0.0f64);
                let values = sizes.planes(channel, x).zip(sizes.planes(channel, y)).zip(sizes.planes(channel, grad));
                for ((x, y), grad) in values {
                    let passed = || y.iter().zip(grad).map(|(&y, &g)| if self.lets_through(y) { g } else { 0.0 });
                    plain += sum(passed());
                    weighted += sum(passed().zip(x).map(|(g, &x)| g * (x - mean)));
                }
                GradientSums { plain: plain as f32, weighted: (weighted * f64::from(inverse)) as f32 }
            })
            .collect()
    }

    fn input_gradient(&self, sizes: &Sizes, [x, y, grad, gamma]: [&[f32]; 4], sums: &[GradientSums]) -> Vec<f32> {
        let count = (x.len() / sizes.channels) as f32;
        build(x.len(), sizes.plane, |at, out| {
            let channel = at % sizes.channels;
            let (mean, inverse) = self.normalisation[channel];
            let (shift, slope) = (sums[channel].plain / count, sums[channel].weighted / count * inverse);
            let scale = gamma[channel] * inverse;
            let range = at * sizes.plane..(at + 1) * sizes.plane;
            let values = x[range.clone()].iter().zip(&y[range.clone()]).zip(&grad[range]);
            for (out, ((&x, &y), &grad)) in out.iter_mut().zip(values) {
                let passed = if self.lets_through(y) { grad } else { 0.0 };
                *out = scale * (passed - shift - (x - mean) * slope);
            }
        })
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        gamma: &CpuStorage,
        gl: &Layout,
        beta: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(xl.shape())?;
        let (x, gamma, beta) = (values(x, xl)?, values(gamma, gl)?, values(beta, bl)?);
        let least = if self.activation == Activation::Relu { 0.0 } else { f32::NEG_INFINITY };
        let out = build(x.len(), sizes.plane, |at, out| {
            let channel = at % sizes.channels;
            let (mean, inverse) = self.normalisation[channel];
            let (scale, shift) = (gamma[channel] * inverse, beta[channel]);
            for (out, &x) in out.iter_mut().zip(&x[at * sizes.plane..]) {
                let y = (x - mean) * scale + shift;
                *out = if y < least { least } else { y };
            }
        });
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::of(x.shape())?;
        let (x_grad, sums) = with_values([x, y, grad, gamma], |all| {
            let [x_values, y, grad, _] = all;
            let sums = self.gradient_sums(&sizes, x_values, y, grad);
            let x_grad = x.track_op().then(|| self.input_gradient(&sizes, all, &sums));
            (x_grad, sums)
        })?;
        let x_grad = x_grad.map(|values| Tensor::from_vec(values, x.shape(), x.device())).transpose()?;
        let gamma_grad = Tensor::from_iter(sums.iter().map(|sums| sums.weighted), x.device())?;
        let beta_grad = Tensor::from_iter(sums.iter().map(|sums| sums.plain), x.device())?;
        Ok((x_grad, Some(gamma_grad), Some(beta_grad)))
    }
}
