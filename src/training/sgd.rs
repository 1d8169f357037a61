//! Stochastic gradient descent with momentum and weight decay, as PyTorch's `SGD` does it.

use crate::network::Variables;
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use std::collections::HashMap;

/// velocity ← momentum · velocity + gradient + decay · weight;  weight ← weight − rate · velocity.
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    parameters: Vec<Parameter>,
}

struct Parameter {
    name: String,
    weight: Var,
    velocity: Tensor,
}

impl Sgd {
    /// Begins with zero velocity.
    ///
    /// # Errors
    /// When the device has no memory for the velocities.
    pub fn new(variables: &Variables, momentum: f64, weight_decay: f64) -> Result<Self> {
        let parameters = variables
            .parameters()
            .map(|(name, weight)| {
                Ok(Parameter { name: name.into(), weight: weight.clone(), velocity: weight.zeros_like()? })
            })
            .collect::<Result<_>>()?;
        Ok(Self { momentum, weight_decay, parameters })
    }

    /// One step. A weight without a gradient stays as it is.
    ///
    /// # Errors
    /// When a gradient does not fit its weight.
    pub fn step(&mut self, gradients: &GradStore, rate: f64) -> Result<()> {
        for Parameter { weight, velocity, .. } in &mut self.parameters {
            let Some(gradient) = gradients.get(weight) else { continue };
            let weights = weight.as_detached_tensor();
            let pull = (gradient + (&weights * self.weight_decay)?)?;
            *velocity = ((&*velocity * self.momentum)? + pull)?.detach();
            weight.set(&(weights - (&*velocity * rate)?)?)?;
        }
        Ok(())
    }

    /// Sets all velocities to zero: a fresh optimiser.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn restart(&mut self) -> Result<()> {
        for Parameter { velocity, .. } in &mut self.parameters {
            *velocity = velocity.zeros_like()?;
        }
        Ok(())
    }

    /// The velocities, as `velocity.…`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.parameters.iter().map(|own| (format!("velocity.{}", own.name), own.velocity.clone())).collect()
    }

    /// Takes the velocities from tensors that [`state`](Self::state) gave. Says whether all were there and fitted;
    /// nothing is changed where not.
    pub fn set_state(&mut self, tensors: &HashMap<String, Tensor>) -> bool {
        let find = |own: &Parameter| {
            let found = tensors.get(&format!("velocity.{}", own.name))?;
            (found.shape() == own.velocity.shape()).then(|| found.clone())
        };
        let Some(found) = self.parameters.iter().map(find).collect::<Option<Vec<_>>>() else { return false };
        self.parameters.iter_mut().zip(found).for_each(|(own, velocity)| own.velocity = velocity);
        true
    }
}
