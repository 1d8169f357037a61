//! One step of gradient descent with momentum and weight decay, in place.

use super::cpu::is_ours;
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::HashSet;

/// The settings of a step.
#[derive(Clone, Copy, Debug)]
pub struct Descent {
    /// The learning rate.
    pub rate: f64,
    /// The share of the velocity that stays.
    pub momentum: f64,
    /// The pull of weights towards zero.
    pub weight_decay: f64,
}

/// velocity ← momentum · velocity + gradient + decay · weight;  weight ← weight − rate · velocity, for each of some weights with
/// its velocity and its gradient.
///
/// # Errors
/// When the shapes do not fit, or a tensor is among them twice.
pub fn descend(weights: &[(&Var, &Var, &Tensor)], settings: Descent) -> Result<()> {
    if weights.is_empty() {
        return Ok(());
    }
    for (weight, velocity, gradient) in weights {
        if weight.shape() != gradient.shape() || weight.shape() != velocity.shape() {
            bail!("a gradient of {:?} for weights of {:?}", gradient.shape(), weight.shape())
        }
    }
    let ids = |&(weight, velocity, gradient): &(&Var, &Var, &Tensor)| [weight.id(), velocity.id(), gradient.id()];
    let mut seen = HashSet::with_capacity(3 * weights.len());
    if !weights.iter().flat_map(ids).all(|id| seen.insert(id)) {
        bail!("weights, velocities and gradients must all be different tensors")
    }
    on_gpu!(weights[0].0, {
        let Descent { rate, momentum, weight_decay: decay } = settings;
        crate::cuda::descend(weights, weights[0].0.device(), &crate::cuda::Step { rate, momentum, decay })
    });
    weights.iter().try_for_each(|(weight, velocity, gradient)| descend_one(weight, velocity, gradient, settings))
}

fn descend_one(weight: &Var, velocity: &Var, gradient: &Tensor, settings: Descent) -> Result<()> {
    if is_ours(weight) {
        return velocity.inplace_op2(&gradient.contiguous()?, &OnVelocity { weight, settings });
    }
    let weights = weight.as_detached_tensor();
    let pull = (gradient + (&weights * settings.weight_decay)?)?;
    velocity.set(&((velocity.as_detached_tensor() * settings.momentum)? + pull)?)?;
    weight.set(&(weights - (velocity.as_detached_tensor() * settings.rate)?)?)
}

/// Values that one task changes.
const PART: usize = 1 << 14;

/// Opens the velocity for writing, and then the weights, so that one pass changes both.
struct OnVelocity<'a> {
    weight: &'a Var,
    settings: Descent,
}

impl InplaceOp2 for OnVelocity<'_> {
    fn name(&self) -> &'static str {
        "descent"
    }

    fn cpu_fwd(&self, velocity: &mut CpuStorage, own: &Layout, gradient: &CpuStorage, gl: &Layout) -> Result<()> {
        let velocity = RefCell::new(values_mut(velocity, own)?);
        self.weight.inplace_op1(&OnWeight { velocity, gradient: values(gradient, gl)?, settings: self.settings })
    }
}

struct OnWeight<'a> {
    velocity: RefCell<&'a mut [f32]>,
    gradient: &'a [f32],
    settings: Descent,
}

impl InplaceOp1 for OnWeight<'_> {
    fn name(&self) -> &'static str {
        "descent"
    }

    fn cpu_fwd(&self, weight: &mut CpuStorage, own: &Layout) -> Result<()> {
        let Descent { rate, momentum, weight_decay } = self.settings;
        let (rate, momentum, decay) = (rate as f32, momentum as f32, weight_decay as f32);
        let mut velocity = self.velocity.borrow_mut();
        let parts = values_mut(weight, own)?.par_chunks_mut(PART).zip(velocity.par_chunks_mut(PART));
        parts.zip(self.gradient.par_chunks(PART)).for_each(|((weight, velocity), gradient)| {
            for ((weight, velocity), gradient) in weight.iter_mut().zip(velocity).zip(gradient) {
                *velocity = momentum * *velocity + (gradient + decay * *weight);
                *weight -= rate * *velocity;
            }
        });
        Ok(())
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected contiguous values") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let CpuStorage::F32(all) = storage else { bail!("expected f32 values") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut all[start..end]),
        None => bail!("expected contiguous values"),
    }
}
