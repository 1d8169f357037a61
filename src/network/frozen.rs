//! Layers in evaluation mode, as they are when they are frozen, with batch norm folded into convolutions.

use super::convolution::FrozenConvolution;
use super::linear::FrozenLinear;
use super::shapes::{averaged, flattened, rows, samples};
use crate::ops::{Scattering, Window, affine, max_pool, relu, space_to_depth};
use crate::pipeline::{Layers, Shape};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// A block or a head that only runs forward.
pub struct Frozen {
    layers: Layers,
    units: Vec<FrozenUnit>,
}

pub(super) enum FrozenUnit {
    SpaceToDepth,
    Scattering(Arc<Scattering>),
    Convolution(FrozenConvolution),
    /// A batch norm that no convolution took over.
    Affine {
        scale: Tensor,
        shift: Tensor,
        relu: bool,
    },
    Relu,
    MaxPool(Window),
    AvgPool(usize, bool),
    Flatten,
    Linear(FrozenLinear),
}

impl Frozen {
    pub(super) fn new(layers: Layers, units: Vec<FrozenUnit>) -> Self {
        Self { layers, units }
    }

    /// The shape of what it makes of an input.
    pub fn output(&self, input: Shape) -> Shape {
        self.layers.output_of(input)
    }

    /// \[batch, height, width, channels\] → the result of the last layer: features \[batch, height', width', channels'\].
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for unit in &self.units {
            x = unit.forward(&x)?;
        }
        Ok(x)
    }

    /// The same of a head: logits \[batch, classes\].
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        rows(&self.forward(x)?)
    }
}

impl FrozenUnit {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::SpaceToDepth => space_to_depth(x),
            Self::Scattering(own) => own.forward(x),
            Self::Convolution(own) => own.forward(x),
            Self::Affine { scale, shift, relu: rectified } => {
                let y = affine(x, scale, shift)?;
                if *rectified { relu(&y) } else { Ok(y) }
            }
            Self::Relu => relu(x),
            Self::MaxPool(window) => max_pool(x, *window),
            Self::AvgPool(side, convolved) => averaged(x, *side, *convolved),
            Self::Flatten => flattened(x),
            Self::Linear(own) => samples(&own.forward(&rows(x)?)?),
        }
    }
}
