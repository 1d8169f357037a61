//! The gradients of a network's parameters.

use candle_core::{Tensor, Var};

/// A gradient for each parameter that a backward pass reached.
#[derive(Default)]
pub struct Gradients {
    all: Vec<(Var, Tensor)>,
}

impl Gradients {
    pub(super) fn add(&mut self, parameter: &Var, gradient: Tensor) {
        self.all.push((parameter.clone(), gradient));
    }

    /// The gradient of a parameter.
    pub fn get(&self, parameter: &Var) -> Option<&Tensor> {
        self.all.iter().find(|(own, _)| own.id() == parameter.id()).map(|(_, gradient)| gradient)
    }
}
