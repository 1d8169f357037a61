//! A list of layers that is trained: forward, backward, and frozen as it is.
//!
//! Layers that one operation computes together are one unit: a convolution with the batch norm and the ReLU behind it, a
//! batch norm or a linear layer with its ReLU. In training an average pooling behind a batch norm is computed along with it.
//! Each unit's `train` gives its result and what its gradients are computed from, and no more than that; the backward pass
//! takes these apart one by one, so that memory is free again as soon as it can be. Feature maps are \[batch, height,
//! width, channels\], flattened samples \[batch, 1, 1, values\].

use super::batch_norm::{BatchNorm, BatchNormPass};
use super::convolution::{Convolution, ConvolutionPass, Input};
use super::direct::Direct;
use super::frozen::{Frozen, FrozenUnit};
use super::gradients::Gradients;
use super::initial::Initial;
use super::linear::{Linear, LinearPass};
use super::noise::Noise;
use super::shapes::{averaged, flattened, rows, samples};
use super::variables::{self, Variables};
use crate::ops::{
    Activation, Scattering, Window, cast, depth_to_space, dropout, max_pool, max_pool_gradient, packed, pool_gradient,
    relu, relu_gradient, space_to_depth, to_nhwc,
};
use crate::pipeline::{Feedback, Layer, Layers, Role, Shape, scattered};
use candle_core::{DType, Result, Tensor, bail};
use std::sync::Arc;

/// A block, or the head that classifies its features.
pub struct Sequence {
    layers: Layers,
    members: Vec<Member>,
}

/// A unit among others.
struct Member {
    unit: Unit,
    /// What its variables are called: those of the convolution, linear layer or batch norm, and those of a batch norm
    /// behind a convolution.
    names: (String, String),
    /// The index of its last layer, and what that gives.
    last: (usize, Shape),
    /// What stands for the gradient of its result, where that is not what comes from the units behind it.
    direct: Option<Direct>,
}

pub(super) enum Unit {
    SpaceToDepth,
    Scattering(Arc<Scattering>),
    Convolution(Convolution),
    BatchNorm(BatchNorm, Activation),
    Relu,
    MaxPool(Window),
    /// The side, and whether a convolution reads the result, which then has the type of its feature maps.
    AvgPool(usize, bool),
    /// The share, and the number among all units.
    Dropout(f64, usize),
    Flatten,
    Linear(Linear),
}

/// What the gradients of a list of layers are computed from.
pub struct Pass {
    /// Of each unit, with the type of its result.
    units: Vec<(UnitPass, DType)>,
}

enum UnitPass {
    Nothing,
    Convolution(ConvolutionPass),
    BatchNorm(BatchNormPass),
    /// The result.
    Relu(Tensor),
    /// The input.
    MaxPool(Tensor),
    /// Height, width and type of the input.
    AvgPool((usize, usize), DType),
    /// The seed of each sample.
    Dropout(Vec<u64>),
    /// Height, width, channels and type of the input.
    Flatten((usize, usize, usize), DType),
    Linear(LinearPass),
}

impl Sequence {
    /// The layers with initial weights; `role` names them.
    ///
    /// # Errors
    /// When the device has no memory.
    pub(super) fn new(layers: &Layers, role: Role, classes: usize, initial: &mut Initial<'_>) -> Result<Self> {
        let names = layers.names(role);
        let all: Vec<_> = layers.shapes(classes).collect();
        let follows = |at: usize, layer: Layer| all.get(at).is_some_and(|(own, ..)| *own == layer);
        let name = |at: usize| names.get(at).cloned().flatten().unwrap_or_default();
        let mut members = Vec::new();
        let mut at = 0;
        while let Some(&(layer, input, output)) = all.get(at) {
            let mut taken = 1;
            let unit = match layer {
                Layer::SpaceToDepth => Unit::SpaceToDepth,
                Layer::Scattering { scales, angles, order } => {
                    let [padded, _] = scattered(input.size, scales).unwrap_or_default();
                    Unit::Scattering(Arc::new(Scattering::new([input.size, padded], scales, angles, order)?))
                }
                Layer::Conv { channels, kernel, stride, padding, bias } => {
                    let norm = follows(at + 1, Layer::BatchNorm);
                    taken += usize::from(norm);
                    let relu = follows(at + taken, Layer::Relu);
                    taken += usize::from(relu);
                    let window = Window::new(kernel, stride, padding);
                    Unit::Convolution(Convolution::new(
                        (input.channels, channels),
                        window,
                        (bias, norm, relu),
                        initial,
                    )?)
                }
                Layer::BatchNorm => {
                    let relu = follows(at + 1, Layer::Relu);
                    taken += usize::from(relu);
                    let activation = if relu { Activation::Relu } else { Activation::Identity };
                    Unit::BatchNorm(BatchNorm::new(input.channels, initial.device)?, activation)
                }
                Layer::Relu => Unit::Relu,
                Layer::MaxPool { kernel, stride, padding } => Unit::MaxPool(Window::new(kernel, stride, padding)),
                Layer::AvgPool { size } => {
                    let convolved = all[at + 1..].iter().any(|(layer, ..)| matches!(layer, Layer::Conv { .. }));
                    Unit::AvgPool(size, convolved)
                }
                Layer::Dropout { rate } => Unit::Dropout(rate, members.len()),
                Layer::Flatten => Unit::Flatten,
                Layer::Linear { .. } => {
                    let relu = follows(at + 1, Layer::Relu);
                    taken += usize::from(relu);
                    Unit::Linear(Linear::new(input.values(), output.values(), relu, initial)?)
                }
            };
            let last = at + taken - 1;
            let output = all.get(last).map_or(output, |(_, _, output)| *output);
            members.push(Member { unit, names: (name(at), name(at + 1)), last: (last, output), direct: None });
            at += taken;
        }
        Ok(Self { layers: layers.clone(), members })
    }

    /// Draws the fixed weights by which gradients go back.
    ///
    /// # Errors
    /// When the device has no memory.
    pub(super) fn feed_back(
        &mut self,
        feedback: Feedback,
        (role, classes): (Role, usize),
        initial: &mut Initial<'_>,
    ) -> Result<()> {
        let ends = self.layers.fed_directly(role);
        for Member { unit, last: (last, output), direct, .. } in &mut self.members {
            match (feedback, unit) {
                (Feedback::Aligned, Unit::Convolution(own)) => own.align(initial)?,
                (Feedback::Aligned, Unit::Linear(own)) => own.align(initial)?,
                (Feedback::Direct, _) if ends.contains(last) => {
                    *direct = Some(Direct::new(*output, classes, initial)?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// \[batch, height, width, channels\] → the result of the last layer in training mode: batch norm uses the statistics
    /// of the batch and moves the running ones, dropout draws from the noise.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn train(&self, x: Tensor, noise: &Noise<'_>) -> Result<(Tensor, Pass)> {
        let mut x = x;
        let mut passes = Vec::with_capacity(self.members.len());
        let weights: Vec<&Tensor> = self.members.iter().filter_map(|member| member.unit.convolved()).collect();
        let mut weights = packed(&weights, x.dtype())?.into_iter();
        // The type of the maps that the unit below has averaged.
        let mut averaged = None;
        for (at, member) in self.members.iter().enumerate() {
            let (y, pass) = match (&member.unit, averaged.take()) {
                (Unit::AvgPool(_, true), Some(dtype)) => (cast(&x, dtype)?, UnitPass::Nothing),
                (Unit::AvgPool(_, false), Some(_)) => (x, UnitPass::Nothing),
                (unit, _) => {
                    let pool = self.pooled_above(at);
                    averaged = pool.map(|_| x.dtype());
                    unit.train(x, (noise, &mut weights), pool)?
                }
            };
            passes.push((pass, y.dtype()));
            x = y;
        }
        Ok((x, Pass { units: passes }))
    }

    /// The side of the grid to which the unit above averages the result of a unit, where both are one: the result is of no
    /// use for anything else, and the unit can average it as it goes.
    fn pooled_above(&self, at: usize) -> Option<usize> {
        match self.members.get(at..at + 2)? {
            [Member { unit, direct: None, .. }, Member { unit: Unit::AvgPool(side, _), .. }] if unit.pools() => {
                Some(*side)
            }
            _ => None,
        }
    }

    /// Adds the gradients of all parameters, from the gradient of the result and that of the logits \[batch, classes\], which
    /// direct feedback takes. Gives the gradient of the input where it is wanted.
    ///
    /// # Errors
    /// When the pass is not one of these layers.
    pub(super) fn gradients(
        &self,
        pass: Pass,
        (grad, logits_grad): (Option<Tensor>, &Tensor),
        input: Input,
        out: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let wanted = self.wanted(input);
        let mut grad = grad;
        for (at, (member, (pass, dtype))) in self.members.iter().zip(pass.units).enumerate().rev() {
            if let Some(direct) = &member.direct {
                grad = Some(direct.signal(logits_grad, dtype)?);
            }
            grad = match grad {
                _ if wanted[at] == Input::Constant && !member.unit.learns() => None,
                Some(grad) => member.unit.gradients(pass, grad, wanted[at], out)?,
                None => bail!("no gradient comes to a layer that learns"),
            };
        }
        Ok(grad.filter(|_| input == Input::Computed))
    }

    /// Of which units the gradient of the input is wanted, where that of the first is or not; the last entry is whether that
    /// of the result is of any use. Below the first unit that learns there is nothing to be computed unless somebody wants
    /// the input's gradient, and none goes past a result that is fed directly.
    pub(super) fn wanted(&self, input: Input) -> Vec<Input> {
        let mut wanted = vec![input];
        for Member { unit, direct, .. } in &self.members {
            let below = unit.learns() || wanted.last() == Some(&Input::Computed);
            wanted.push(if direct.is_none() && below { Input::Computed } else { Input::Constant });
        }
        wanted
    }

    /// Whether a step asks the same of a device whatever the samples are: nothing is drawn, nothing is computed on the host.
    pub(super) fn repeats(&self) -> bool {
        !self.members.iter().any(|member| matches!(member.unit, Unit::Dropout(..) | Unit::Scattering(_)))
    }

    /// The layers as they are now, in evaluation mode.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn frozen(&self) -> Result<Frozen> {
        let units = self.members.iter().filter_map(|member| member.unit.frozen().transpose()).collect::<Result<_>>()?;
        Ok(Frozen::new(self.layers.clone(), units))
    }

    /// The variables, named as PyTorch would.
    pub fn variables(&self) -> Variables {
        let mut all = Variables::default();
        for Member { unit, names: (name, norm_name), .. } in &self.members {
            match unit {
                Unit::Convolution(own) => own.variables(name, norm_name, &mut all),
                Unit::BatchNorm(own, _) => own.variables(name, &mut all),
                Unit::Linear(own) => own.variables(name, &mut all),
                _ => {}
            }
        }
        all
    }

    /// The fixed weights by which gradients go back, named as those in whose place they are, or `….direct`.
    pub(super) fn feedback(&self) -> Variables {
        let mut all = Variables::default();
        for Member { unit, names: (name, _), direct, .. } in &self.members {
            match unit {
                Unit::Convolution(own) => own.feedback(name, &mut all),
                Unit::Linear(own) => own.feedback(name, &mut all),
                _ => {}
            }
            if let Some(direct) = direct {
                let name = if name.is_empty() { "direct".into() } else { format!("{name}.direct") };
                all.add(name, variables::Role::Feedback, &direct.weight);
            }
        }
        all
    }
}

impl Unit {
    fn learns(&self) -> bool {
        matches!(self, Self::Convolution(_) | Self::BatchNorm(..) | Self::Linear(_))
    }

    /// Whether it can average its result in the same pass.
    fn pools(&self) -> bool {
        match self {
            Self::Convolution(own) => own.normalises(),
            Self::BatchNorm(..) => true,
            _ => false,
        }
    }

    /// The weights of a convolution.
    fn convolved(&self) -> Option<&Tensor> {
        match self {
            Self::Convolution(own) => Some(own.weight()),
            _ => None,
        }
    }

    /// The weights of convolutions come as they are read, in order. A unit that [can](Self::pools) averages its result to so
    /// many cells along an axis.
    fn train(
        &self,
        x: Tensor,
        (noise, weights): (&Noise<'_>, &mut impl Iterator<Item = Tensor>),
        pool: Option<usize>,
    ) -> Result<(Tensor, UnitPass)> {
        Ok(match self {
            Self::SpaceToDepth => (space_to_depth(&x)?, UnitPass::Nothing),
            Self::Scattering(own) => (own.forward(&x)?, UnitPass::Nothing),
            Self::Convolution(own) => {
                let weight = weights.next().unwrap_or_else(|| own.weight().clone());
                let (y, pass) = own.train(x, weight, pool)?;
                (y, UnitPass::Convolution(pass))
            }
            Self::BatchNorm(own, activation) => {
                let (y, pass) = own.train(x, *activation, pool)?;
                (y, UnitPass::BatchNorm(pass))
            }
            Self::Relu => {
                let y = relu(&x)?;
                (y.clone(), UnitPass::Relu(y))
            }
            Self::MaxPool(window) => (max_pool(&x, *window)?, UnitPass::MaxPool(x)),
            Self::AvgPool(side, convolved) => {
                let (_, height, width, _) = x.dims4()?;
                (averaged(&x, *side, *convolved)?, UnitPass::AvgPool((height, width), x.dtype()))
            }
            Self::Dropout(rate, number) => {
                let seeds = noise.seeds(*number, x.dim(0)?)?;
                (dropout(&x, *rate, &seeds)?, UnitPass::Dropout(seeds))
            }
            Self::Flatten => {
                let (_, height, width, channels) = x.dims4()?;
                (flattened(&x)?, UnitPass::Flatten((height, width, channels), x.dtype()))
            }
            Self::Linear(own) => {
                let (y, pass) = own.train(rows(&x)?)?;
                (samples(&y)?, UnitPass::Linear(pass))
            }
        })
    }

    fn gradients(&self, pass: UnitPass, grad: Tensor, input: Input, out: &mut Gradients) -> Result<Option<Tensor>> {
        Ok(Some(match (self, pass) {
            (Self::SpaceToDepth, UnitPass::Nothing) => depth_to_space(&grad)?,
            (Self::Convolution(own), UnitPass::Convolution(pass)) => return own.gradients(pass, grad, input, out),
            (Self::BatchNorm(own, _), UnitPass::BatchNorm(pass)) => own.gradients(pass, &grad, out)?,
            (Self::Relu, UnitPass::Relu(y)) => relu_gradient(&y, &grad)?,
            (Self::MaxPool(window), UnitPass::MaxPool(x)) => max_pool_gradient(&x, &grad, *window)?,
            // The unit below goes on from the gradient of the cells.
            (Self::AvgPool(_, true), UnitPass::Nothing) => cast(&grad, DType::F32)?,
            (Self::AvgPool(_, false), UnitPass::Nothing) => grad,
            (Self::AvgPool(_, convolved), UnitPass::AvgPool(size, dtype)) => {
                let grad = if *convolved { cast(&grad, DType::F32)? } else { grad };
                pool_gradient(&grad, size, dtype)?
            }
            (Self::Dropout(rate, _), UnitPass::Dropout(seeds)) => dropout(&grad, *rate, &seeds)?,
            (Self::Flatten, UnitPass::Flatten((height, width, channels), dtype)) => {
                let planes = grad.reshape((grad.dim(0)?, channels, height, width))?;
                cast(&to_nhwc(&planes)?, dtype)?
            }
            (Self::Linear(own), UnitPass::Linear(pass)) => {
                let grad = own.gradients(pass, rows(&grad)?, input, out)?;
                return grad.map(|grad| samples(&grad)).transpose();
            }
            (Self::Scattering(_), UnitPass::Nothing) => {
                bail!("a scattering transform has no gradient: it reads images")
            }
            _ => bail!("the pass is not one of these layers"),
        }))
    }

    /// The unit as it is now; nothing where it does nothing in evaluation mode.
    fn frozen(&self) -> Result<Option<FrozenUnit>> {
        Ok(Some(match self {
            Self::SpaceToDepth => FrozenUnit::SpaceToDepth,
            Self::Scattering(own) => FrozenUnit::Scattering(Arc::clone(own)),
            Self::Convolution(own) => FrozenUnit::Convolution(own.frozen()?),
            Self::BatchNorm(own, activation) => {
                let (scale, shift) = own.frozen()?;
                FrozenUnit::Affine { scale, shift, relu: *activation == Activation::Relu }
            }
            Self::Relu => FrozenUnit::Relu,
            Self::MaxPool(window) => FrozenUnit::MaxPool(*window),
            Self::AvgPool(side, convolved) => FrozenUnit::AvgPool(*side, *convolved),
            Self::Dropout(..) => return Ok(None),
            Self::Flatten => FrozenUnit::Flatten,
            Self::Linear(own) => FrozenUnit::Linear(own.frozen()?),
        }))
    }
}
