//! Batch norm in training mode with a ReLU in the same pass, and its gradients.

use super::Activation;
use super::channels::{Terms, channel_map, channel_sums};
use super::cpu::with_values;
use super::element::Element;
use candle_core::{Result, Tensor, Var, bail};
use pulp::Simd;

/// Mean and biased variance of each channel of a batch, as tensors \[channels\].
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// Mean.
    pub mean: Tensor,
    /// Mean squared distance from the mean.
    pub variance: Tensor,
}

/// What batch norm and its gradients are computed with.
#[derive(Clone, Copy)]
pub struct BatchNorm<'a> {
    /// The scale of each channel.
    pub gamma: &'a Tensor,
    /// The shift of each channel.
    pub beta: &'a Tensor,
    /// What is added to variances.
    pub epsilon: f64,
    /// What is applied at the end.
    pub activation: Activation,
}

/// Gradients of what went into batch norm.
pub struct BatchNormGradients {
    /// Of the input \[batch, height, width, channels\].
    pub x: Tensor,
    /// Of the scale \[channels\].
    pub gamma: Tensor,
    /// Of the shift \[channels\].
    pub beta: Tensor,
}

impl BatchNorm<'_> {
    /// Normalises each channel of `x` \[batch, height, width, channels\] over the batch, scales and shifts it, and
    /// applies the activation. Also gives the statistics of the batch.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, BatchStatistics)> {
        self.channels(x)?;
        on_gpu!(x, {
            let (y, [mean, variance]) = self.on_gpu(None).forward(x, None)?;
            Ok((y, BatchStatistics { mean, variance }))
        });
        self.forward_on_cpu(x)
    }

    /// The same, and moves running means and variances \[channels\] towards those of the batch: running ← (1 − share) ·
    /// running + share · new, where new variances are unbiased ones.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn train(&self, x: &Tensor, running: [&Var; 2], share: f64) -> Result<(Tensor, BatchStatistics)> {
        let factors = self.factors(x, running)?;
        on_gpu!(x, self.train_on_gpu(x, (running, share), None));
        let (y, new) = self.forward_on_cpu(x)?;
        for ((running, new), factor) in running.into_iter().zip([&new.mean, &new.variance]).zip(factors) {
            let kept = (running.as_detached_tensor() * (1.0 - share))?;
            running.set(&(kept + ((new * factor)? * share)?)?)?;
        }
        Ok((y, new))
    }

    /// What running means and variances take those of a batch times: unbiased variances are larger than biased ones.
    fn factors(&self, x: &Tensor, running: [&Var; 2]) -> Result<[f64; 2]> {
        let channels = self.channels(x)?;
        if running.iter().any(|own| own.dims() != [channels]) {
            bail!("statistics of {:?} for {channels} channels", running.map(|own| own.shape()))
        }
        let count = (x.elem_count() / channels) as f64;
        Ok([1.0, count / (count - 1.0).max(1.0)])
    }

    #[cfg(feature = "cuda")]
    pub(super) fn train_on_gpu(
        &self,
        x: &Tensor,
        (running, share): ([&Var; 2], f64),
        pool: Option<usize>,
    ) -> Result<(Tensor, BatchStatistics)> {
        let shares = self.factors(x, running)?.map(|factor| share * factor);
        let moving = crate::cuda::Moving { running, kept: 1.0 - share, shares };
        let (y, [mean, variance]) = self.on_gpu(pool).forward(x, Some(&moving))?;
        Ok((y, BatchStatistics { mean, variance }))
    }

    /// By our own code or by candle's.
    fn forward_on_cpu(&self, x: &Tensor) -> Result<(Tensor, BatchStatistics)> {
        on_cpu!(x, E => self.own_forward::<E>(x), self.by_candle(x))
    }

    fn own_forward<E: Element>(&self, x: &Tensor) -> Result<(Tensor, BatchStatistics)> {
        let channels = self.channels(x)?;
        let (mean, variance) = with_values([x], |[x]: [&[E]; 1]| moments(x, channels))?;
        let statistics = BatchStatistics {
            mean: Tensor::from_vec(mean, channels, x.device())?,
            variance: Tensor::from_vec(variance, channels, x.device())?,
        };
        let line = self.line(&statistics)?;
        let values = with_values([x], |[x]: [&[E]; 1]| match self.activation {
            Activation::Identity => channel_map(Normalised, [x], channels, line.constants()),
            Activation::Relu => channel_map(NormalisedRelu, [x], channels, line.constants()),
        })?;
        Ok((Tensor::from_vec(values, x.shape(), x.device())?, statistics))
    }

    /// The gradients, from what [`forward`](Self::forward) was given and gave, and the gradient of its result.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn gradients(&self, x: &Tensor, statistics: &BatchStatistics, grad: &Tensor) -> Result<BatchNormGradients> {
        self.channels(x)?;
        if grad.shape() != x.shape() {
            bail!("a gradient of {:?} for a result of {:?}", grad.shape(), x.shape())
        }
        on_gpu!(x, self.gradients_on_gpu(x, statistics, grad, None));
        on_cpu!(x, E => self.own_gradients::<E>(x, statistics, grad), self.gradients_by_candle(x, grad))
    }

    fn own_gradients<E: Element>(
        &self,
        x: &Tensor,
        statistics: &BatchStatistics,
        grad: &Tensor,
    ) -> Result<BatchNormGradients> {
        let channels = self.channels(x)?;
        let line = self.line(statistics)?;
        let (x_grad, gamma, beta) = with_values([x, grad], |[x, grad]: [&[E]; 2]| {
            let [plain, weighted] = match self.activation {
                Activation::Identity => channel_sums(Through, [x, grad], channels, line.constants()),
                Activation::Relu => channel_sums(ThroughRelu, [x, grad], channels, line.constants()),
            };
            let count = (x.len() / channels.max(1)) as f64;
            let mean: Vec<f32> = plain.iter().map(|&sum| (sum / count) as f32).collect();
            let slope = line.slope(&weighted, count);
            let [centre, scale, shift] = line.constants();
            let constants = [centre, scale, shift, &mean, &slope];
            let x_grad = match self.activation {
                Activation::Identity => channel_map(InputGradient, [x, grad], channels, constants),
                Activation::Relu => channel_map(InputGradientRelu, [x, grad], channels, constants),
            };
            let gamma = weighted.iter().zip(&line.inverse).map(|(&sum, &inverse)| (sum * f64::from(inverse)) as f32);
            let gamma: Vec<f32> = gamma.collect();
            (x_grad, gamma, plain.iter().map(|&sum| sum as f32).collect::<Vec<f32>>())
        })?;
        Ok(BatchNormGradients {
            x: Tensor::from_vec(x_grad, x.shape(), x.device())?,
            gamma: Tensor::from_vec(gamma, channels, x.device())?,
            beta: Tensor::from_vec(beta, channels, x.device())?,
        })
    }

    #[cfg(feature = "cuda")]
    pub(super) fn gradients_on_gpu(
        &self,
        x: &Tensor,
        statistics: &BatchStatistics,
        grad: &Tensor,
        pool: Option<usize>,
    ) -> Result<BatchNormGradients> {
        let (channels, statistics) = (self.channels(x)?, [&statistics.mean, &statistics.variance]);
        if statistics.iter().any(|found| found.dims() != [channels]) {
            bail!("statistics of {:?} for {channels} channels", statistics.map(Tensor::shape))
        }
        let [x, gamma, beta] = self.on_gpu(pool).gradients(x, statistics, grad)?;
        Ok(BatchNormGradients { x, gamma, beta })
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(&self, pool: Option<usize>) -> crate::cuda::Norm<'_> {
        let relu = self.activation == Activation::Relu;
        crate::cuda::Norm { affine: [self.gamma, self.beta], epsilon: self.epsilon, relu, pool }
    }

    fn channels(&self, x: &Tensor) -> Result<usize> {
        let (_, _, _, channels) = x.dims4()?;
        if x.elem_count() == 0 {
            bail!("batch norm of an empty batch {:?}", x.shape())
        }
        if self.gamma.dims() != [channels] || self.beta.dims() != [channels] {
            bail!("batch norm of {channels} channels with {:?} and {:?}", self.gamma.shape(), self.beta.shape())
        }
        Ok(channels)
    }

    fn line(&self, statistics: &BatchStatistics) -> Result<Line> {
        let mean: Vec<f32> = statistics.mean.to_vec1()?;
        let variance: Vec<f32> = statistics.variance.to_vec1()?;
        if [mean.len(), variance.len()] != [self.gamma.elem_count(); 2] {
            bail!("statistics of {} channels for {}", mean.len(), self.gamma.elem_count())
        }
        let inverse = |&variance: &f32| (1.0 / (f64::from(variance) + self.epsilon).sqrt()) as f32;
        let inverse: Vec<f32> = variance.iter().map(inverse).collect();
        let gamma: Vec<f32> = self.gamma.to_vec1()?;
        let scale = gamma.iter().zip(&inverse).map(|(gamma, inverse)| gamma * inverse).collect();
        Ok(Line { mean, inverse, scale, shift: self.beta.to_vec1()? })
    }

    fn by_candle(&self, x: &Tensor) -> Result<(Tensor, BatchStatistics)> {
        let mean = x.mean_keepdim((0, 1, 2))?;
        let centred = x.broadcast_sub(&mean)?;
        let variance = centred.sqr()?.mean_keepdim((0, 1, 2))?;
        let normal = centred.broadcast_div(&(&variance + self.epsilon)?.sqrt()?)?;
        let y = normal.broadcast_mul(self.gamma)?.broadcast_add(self.beta)?;
        let y = if self.activation == Activation::Relu { y.relu()? } else { y };
        let flat = |tensor: &Tensor| tensor.detach().flatten_all();
        Ok((y, BatchStatistics { mean: flat(&mean)?, variance: flat(&variance)? }))
    }

    fn gradients_by_candle(&self, x: &Tensor, grad: &Tensor) -> Result<BatchNormGradients> {
        let [x, gamma, beta] = [x, self.gamma, self.beta].map(|tensor| Var::from_tensor(&tensor.detach()));
        let (x, gamma, beta) = (x?, gamma?, beta?);
        let own = BatchNorm { gamma: &gamma, beta: &beta, ..*self };
        let mut store = (own.by_candle(&x)?.0 * grad)?.sum_all()?.backward()?;
        let mut take = |of: &Var| match store.remove(of) {
            Some(gradient) => Ok(gradient),
            None => bail!("candle gave no gradient"),
        };
        Ok(BatchNormGradients { x: take(&x)?, gamma: take(&gamma)?, beta: take(&beta)? })
    }
}

/// y = (x - mean) * scale + shift, for each channel.
struct Line {
    mean: Vec<f32>,
    /// 1 / deviation.
    inverse: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Line {
    /// Mean, scale and shift.
    fn constants(&self) -> [&[f32]; 3] {
        [&self.mean, &self.scale, &self.shift]
    }

    /// How the input's gradient falls with the distance from the mean.
    fn slope(&self, weighted: &[f64], count: f64) -> Vec<f32> {
        let squared = self.inverse.iter().map(|&inverse| f64::from(inverse).powi(2));
        weighted.iter().zip(squared).map(|(&sum, squared)| (sum / count * squared) as f32).collect()
    }
}

/// Pixels from which the place of each channel is estimated before all are summed.
const SAMPLE: usize = 256;

/// Mean and biased variance of each channel of `x` \[pixel, channel\], in one pass over all pixels.
///
/// Distances are taken from the mean of some pixels: near enough to the mean of all that no digits are lost when the
/// square of what lies between is taken off.
fn moments<E: Element>(x: &[E], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let sample = &x[..x.len().min(SAMPLE * channels)];
    let zeros = vec![0.0; channels];
    let [sums, _] = channel_sums(Distances, [sample], channels, [&zeros]);
    let share = channels.max(1) as f64 / sample.len() as f64;
    let centre: Vec<f32> = sums.iter().map(|sum| (sum * share) as f32).collect();
    let [sums, squares] = channel_sums(Distances, [x], channels, [&centre]);
    let count = (x.len() / channels.max(1)) as f64;
    let mean = sums.iter().zip(&centre).map(|(sum, &centre)| (f64::from(centre) + sum / count) as f32).collect();
    // A variance below zero is rounding; unlike a maximum, this keeps what is not a number.
    let floored = |variance: f64| if variance < 0.0 { 0.0 } else { variance as f32 };
    let variance = squares.iter().zip(&sums).map(|(square, sum)| floored(square / count - (sum / count).powi(2)));
    (mean, variance.collect())
}

/// Distances from a constant, and their squares.
struct Distances;

impl Terms<1, 1, 2> for Distances {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [x]: [S::f32s; 1], [centre]: [S::f32s; 1]) -> [S::f32s; 2] {
        let distance = simd.sub_f32s(x, centre);
        [distance, simd.mul_f32s(distance, distance)]
    }
}

/// The line.
struct Normalised;

impl Terms<1, 3, 1> for Normalised {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [x]: [S::f32s; 1], [mean, scale, shift]: [S::f32s; 3]) -> [S::f32s; 1] {
        [simd.mul_add_e_f32s(simd.sub_f32s(x, mean), scale, shift)]
    }
}

/// The line where it is positive.
struct NormalisedRelu;

impl Terms<1, 3, 1> for NormalisedRelu {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, x: [S::f32s; 1], constants: [S::f32s; 3]) -> [S::f32s; 1] {
        let [y] = Normalised::terms(simd, x, constants);
        let zero = simd.splat_f32s(0.0);
        [simd.select_f32s(simd.less_than_f32s(y, zero), zero, y)]
    }
}

/// The gradient, and the gradient times the distance from the mean.
struct Through;

impl Terms<2, 3, 2> for Through {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [x, grad]: [S::f32s; 2], [mean, _, _]: [S::f32s; 3]) -> [S::f32s; 2] {
        [grad, simd.mul_f32s(grad, simd.sub_f32s(x, mean))]
    }
}

/// The same where the result is positive.
struct ThroughRelu;

impl Terms<2, 3, 2> for ThroughRelu {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [x, grad]: [S::f32s; 2], constants: [S::f32s; 3]) -> [S::f32s; 2] {
        Through::terms(simd, [x, where_positive(simd, x, grad, constants)], constants)
    }
}

/// The gradient of the input, with the means that it is freed of.
struct InputGradient;

impl Terms<2, 5, 1> for InputGradient {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [x, grad]: [S::f32s; 2], constants: [S::f32s; 5]) -> [S::f32s; 1] {
        let [mean, scale, _, plain, slope] = constants;
        let sloping = simd.mul_f32s(simd.sub_f32s(x, mean), slope);
        [simd.mul_f32s(scale, simd.sub_f32s(simd.sub_f32s(grad, plain), sloping))]
    }
}

/// The same where the result is positive.
struct InputGradientRelu;

impl Terms<2, 5, 1> for InputGradientRelu {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [x, grad]: [S::f32s; 2], constants: [S::f32s; 5]) -> [S::f32s; 1] {
        let [mean, scale, shift, ..] = constants;
        InputGradient::terms(simd, [x, where_positive(simd, x, grad, [mean, scale, shift])], constants)
    }
}

/// The gradient where the line is positive, 0 elsewhere.
#[inline(always)]
fn where_positive<S: Simd>(simd: S, x: S::f32s, grad: S::f32s, constants: [S::f32s; 3]) -> S::f32s {
    let [y] = Normalised::terms(simd, [x], constants);
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_or_equal_f32s(y, zero), zero, grad)
}
