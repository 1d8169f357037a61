//! One step of gradient descent with momentum and weight decay, in place.

use super::cpu::is_ours;
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

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

/// velocity ← momentum · velocity + gradient + decay · weight;  weight ← weight − rate · velocity.
///
/// # Errors
/// When the shapes do not fit.
pub fn descend(weight: &Var, velocity: &Var, gradient: &Tensor, settings: Descent) -> Result<()> {
    if weight.shape() != gradient.shape() || weight.shape() != velocity.shape() {
        bail!("a gradient of {:?} for weights of {:?}", gradient.shape(), weight.shape())
    }
    if is_ours(weight) {
        velocity.inplace_op3(&gradient.contiguous()?, weight, &Accelerate(settings))?;
        return weight.inplace_op2(velocity, &Move(settings));
    }
    let weights = weight.as_detached_tensor();
    let pull = (gradient + (&weights * settings.weight_decay)?)?;
    velocity.set(&((velocity.as_detached_tensor() * settings.momentum)? + pull)?)?;
    weight.set(&(weights - (velocity.as_detached_tensor() * settings.rate)?)?)
}

/// Values that one task changes.
const PART: usize = 1 << 14;

struct Accelerate(Descent);

impl InplaceOp3 for Accelerate {
    fn name(&self) -> &'static str {
        "velocity"
    }

    fn cpu_fwd(
        &self,
        velocity: &mut CpuStorage,
        own: &Layout,
        gradient: &CpuStorage,
        gl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
    ) -> Result<()> {
        let (momentum, decay) = (self.0.momentum as f32, self.0.weight_decay as f32);
        let (gradient, weight) = (values(gradient, gl)?, values(weight, wl)?);
        let parts = values_mut(velocity, own)?.par_chunks_mut(PART).zip(gradient.par_chunks(PART));
        parts.zip(weight.par_chunks(PART)).for_each(|((velocity, gradient), weight)| {
            let pulls = gradient.iter().zip(weight).map(|(gradient, weight)| gradient + decay * weight);
            velocity.iter_mut().zip(pulls).for_each(|(velocity, pull)| *velocity = momentum * *velocity + pull);
        });
        Ok(())
    }
}

struct Move(Descent);

impl InplaceOp2 for Move {
    fn name(&self) -> &'static str {
        "step"
    }

    fn cpu_fwd(&self, weight: &mut CpuStorage, own: &Layout, velocity: &CpuStorage, vl: &Layout) -> Result<()> {
        let rate = self.0.rate as f32;
        let parts = values_mut(weight, own)?.par_chunks_mut(PART).zip(values(velocity, vl)?.par_chunks(PART));
        parts.for_each(|(weight, velocity)| {
            weight.iter_mut().zip(velocity).for_each(|(weight, velocity)| *weight -= rate * velocity);
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
