//! Initial weights, drawn from a stream of random numbers in the order of the layers.

use crate::pipeline::Init;
use crate::random::Stream;
use candle_core::{Device, Result, Var};

/// Draws the weights of one network.
pub(super) struct Initial<'a> {
    pub init: Init,
    pub rng: &'a mut Stream,
    pub device: &'a Device,
}

impl Initial<'_> {
    /// Weights \[outputs, inputs, kernel, kernel\].
    pub fn convolution(&mut self, outputs: usize, inputs: usize, kernel: usize) -> Result<Var> {
        let shape = [outputs, inputs, kernel, kernel];
        match self.init {
            Init::Uniform => self.uniform(&shape, inputs * kernel * kernel),
            Init::KaimingNormal => self.normal(&shape, (2.0 / (outputs * kernel * kernel) as f64).sqrt()),
        }
    }

    /// Weights \[outputs, inputs\].
    pub fn linear(&mut self, outputs: usize, inputs: usize) -> Result<Var> {
        match self.init {
            Init::Uniform => self.uniform(&[outputs, inputs], inputs),
            Init::KaimingNormal => self.normal(&[outputs, inputs], 0.01),
        }
    }

    /// A matrix \[classes, values\] from the gradient of the logits to a feature map of so many values.
    pub fn direct(&mut self, classes: usize, values: usize) -> Result<Var> {
        self.uniform(&[classes, values], values)
    }

    /// The biases of a layer whose outputs are made of so many values.
    pub fn bias(&mut self, outputs: usize, fan_in: usize) -> Result<Var> {
        match self.init {
            Init::Uniform => self.uniform(&[outputs], fan_in),
            Init::KaimingNormal => Var::from_vec(vec![0f32; outputs], outputs, self.device),
        }
    }

    /// As PyTorch draws weights by default (He et al. 2015, with a negative slope of the square root of 5): uniform within
    /// 1 / sqrt(fan in). The published code trains SimCNN from these.
    fn uniform(&mut self, shape: &[usize], fan_in: usize) -> Result<Var> {
        let bound = 1.0 / (fan_in as f64).sqrt();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.rng.uniform(-bound, bound) as f32).collect();
        Var::from_vec(values, shape, self.device)
    }

    fn normal(&mut self, shape: &[usize], std: f64) -> Result<Var> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| (std * self.rng.normal()) as f32).collect();
        Var::from_vec(values, shape, self.device)
    }
}
