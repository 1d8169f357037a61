//! Batch norm on candle's tensors, with what follows it in the same pass.

use super::engine::engine;
use super::gpu::{Element, Pointer};
use super::normalise::{Line, NormGradients, Running};
use super::pointers::{Unset, in_place, make, require, with_pointers};
use super::tensors::images;
use candle_core::{DType, Result, Tensor, Var};

/// What batch norm is computed with besides its input.
pub(crate) struct Norm<'a> {
    /// Scale, shift: \[channels\].
    pub affine: [&'a Tensor; 2],
    /// What is added to variances.
    pub epsilon: f64,
    /// Whether a ReLU follows.
    pub relu: bool,
    /// Along an axis, the cells to which the result is averaged, which then is f32. See [`pools`].
    pub pool: Option<usize>,
}

/// Running statistics \[channels\] that those of a batch move: running ← kept · running + share · new.
pub(crate) struct Moving<'a> {
    /// Means and variances.
    pub running: [&'a Var; 2],
    /// The share of what there was.
    pub kept: f64,
    /// The share of the batch's means, and that of its biased variances.
    pub shares: [f64; 2],
}

/// Whether batch norm can average its result in the same pass.
///
/// # Errors
/// When `x` has not four dimensions, or is of a type that a GPU does not compute with.
pub(crate) fn pools(x: &Tensor, side: usize) -> Result<bool> {
    Ok(images(x)?.pools_normalised(side))
}

/// Calls a function with where running statistics lie, if there are any.
fn with_running(moving: Option<&Moving<'_>>, f: impl Fn(Option<Running>) -> Result<()>) -> Result<()> {
    let Some(&Moving { running: [mean, variance], kept, shares }) = moving else { return f(None) };
    require([mean, variance], DType::F32)?;
    in_place(mean, "statistics", |mean| {
        in_place(variance, "statistics", |variance| f(Some(Running { mean, variance, kept, shares })))
    })
}

impl Norm<'_> {
    /// The normalised maps, and mean and variance of each channel, by which running statistics are moved.
    pub fn forward(&self, x: &Tensor, moving: Option<&Moving<'_>>) -> Result<(Tensor, [Tensor; 2])> {
        let engine = engine(x.device())?;
        let (images, [gamma, beta]) = (images(x)?, self.affine);
        require(self.affine, DType::F32)?;
        let [mean, variance] = [0, 1].map(|_| Unset::new(&engine.device, images.channels, Element::F32));
        let (mean, variance) = (mean?, variance?);
        let (side, element) = match self.pool {
            Some(side) => ((side, side), Element::F32),
            None => ((images.height, images.width), images.element),
        };
        let y = make(&engine, (images.batch, side.0, side.1, images.channels), element, |y| {
            with_pointers(&engine, [x, gamma, beta], |[x, gamma, beta]| {
                let line = self.line(mean.pointer, variance.pointer, gamma, beta);
                with_running(moving, |running| {
                    let by = (line, running);
                    // SAFETY: as many values as the maps or their cells have, and one f32 a channel.
                    unsafe {
                        match self.pool {
                            Some(side) => images.normalise_pool(&*engine, x, by, side, y),
                            None => images.maps().normalise_by_moments(&*engine, x, by, y),
                        }
                    }
                })
            })
        })?;
        Ok((y, [mean.written(), variance.written()]))
    }

    /// The gradients of input, scale and shift.
    pub fn gradients(&self, x: &Tensor, statistics: [&Tensor; 2], grad: &Tensor) -> Result<[Tensor; 3]> {
        let engine = engine(x.device())?;
        let images = images(x)?;
        let ([gamma, beta], [mean, variance]) = (self.affine, statistics);
        require([gamma, beta, mean, variance], DType::F32)?;
        require([grad], if self.pool.is_some() { DType::F32 } else { x.dtype() })?;
        let [of_gamma, of_beta] = [0, 1].map(|_| Unset::new(&engine.device, images.channels, Element::F32));
        let (of_gamma, of_beta) = (of_gamma?, of_beta?);
        let of_x = make(&engine, x.shape(), images.element, |to| {
            with_pointers(&engine, [x, grad, mean, variance, gamma, beta], |[x, grad, mean, variance, gamma, beta]| {
                let line = self.line(mean, variance, gamma, beta);
                let to = NormGradients { x: to, gamma: of_gamma.pointer, beta: of_beta.pointer };
                // SAFETY: as many values as the maps or their cells have, and one f32 a channel.
                unsafe {
                    match self.pool {
                        Some(side) => images.normalise_pool_gradients(&*engine, (x, grad), (line, side), to),
                        None => images.maps().normalise_gradients(&*engine, (x, grad), line, to),
                    }
                }
            })
        })?;
        Ok([of_x, of_gamma.written(), of_beta.written()])
    }

    fn line(&self, mean: Pointer, variance: Pointer, gamma: Pointer, beta: Pointer) -> Line {
        Line { mean, variance, gamma, beta, epsilon: self.epsilon, relu: self.relu }
    }
}
