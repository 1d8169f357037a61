//! Stochastic gradient descent with momentum and weight decay, as PyTorch's `SGD` does it.

use super::sums::Outcome;
use crate::network::{Gradients, Variables};
use crate::ops::{Descent, Repeated, descend};
use candle_core::{Result, Tensor, Var};
use std::collections::HashMap;

/// Momentum, weight decay, and the velocity of each parameter.
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    parameters: Vec<Parameter>,
    /// Whole steps of the network whose parameters these are.
    pub(super) steps: Repeated<Outcome>,
}

struct Parameter {
    name: String,
    weight: Var,
    velocity: Var,
}

impl Sgd {
    /// Begins with zero velocity.
    ///
    /// # Errors
    /// When the device has no memory for the velocities.
    pub fn new(variables: &Variables, momentum: f64, weight_decay: f64) -> Result<Self> {
        let parameter = |(name, weight): (&str, &Var)| {
            let velocity = Var::from_tensor(&weight.as_detached_tensor().zeros_like()?)?;
            Ok(Parameter { name: name.into(), weight: weight.clone(), velocity })
        };
        let parameters = variables.parameters().map(parameter).collect::<Result<_>>()?;
        Ok(Self { momentum, weight_decay, parameters, steps: Repeated::default() })
    }

    /// One step. A weight without a gradient stays as it is.
    ///
    /// # Errors
    /// When a gradient does not fit its weight.
    pub fn step(&self, gradients: &Gradients, rate: f64) -> Result<()> {
        let settings = Descent { rate, momentum: self.momentum, weight_decay: self.weight_decay };
        let all: Vec<_> = self
            .parameters
            .iter()
            .filter_map(|own| Some((&own.weight, &own.velocity, gradients.get(&own.weight)?)))
            .collect();
        descend(&all, settings)
    }

    /// Sets all velocities to zero: a fresh optimiser.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn restart(&mut self) -> Result<()> {
        self.parameters.iter().try_for_each(|own| own.velocity.set(&own.velocity.as_detached_tensor().zeros_like()?))
    }

    /// The velocities, as `velocity.…`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let state = |own: &Parameter| (format!("velocity.{}", own.name), own.velocity.as_detached_tensor());
        self.parameters.iter().map(state).collect()
    }

    /// Takes the velocities from tensors that [`state`](Self::state) gave. Says whether all were there and fitted;
    /// nothing is changed where not.
    pub fn set_state(&mut self, tensors: &HashMap<String, Tensor>) -> bool {
        let find = |own: &Parameter| {
            let found = tensors.get(&format!("velocity.{}", own.name))?;
            (found.shape() == own.velocity.shape()).then(|| found.clone())
        };
        let Some(found) = self.parameters.iter().map(find).collect::<Option<Vec<_>>>() else { return false };
        self.parameters.iter().zip(found).all(|(own, velocity)| own.velocity.set(&velocity).is_ok())
    }
}
