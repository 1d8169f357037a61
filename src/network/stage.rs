//! What one stage trains: a block and the auxiliary classifier on top of it (section 3 of the paper).

use super::layer::{BatchNorm, ConvolutionUnit, Linear, Mode};
use super::weights::Variables;
use crate::ops::{Activation, pool, space_to_depth};
use crate::pipeline::{self, POOLED};
use crate::random::Stream;
use candle_core::{Device, Result, Tensor};

/// \[2x2 space-to-depth\] → 3x3 convolution → batch norm or bias → ReLU.
pub struct Block {
    pub(super) space_to_depth: bool,
    pub(super) unit: ConvolutionUnit,
}

impl Block {
    /// A block with random weights.
    pub fn new(spec: &pipeline::Block, draw: &mut Stream, device: &Device) -> Result<Self> {
        let inputs = if spec.space_to_depth { spec.input.channels * 4 } else { spec.input.channels };
        let unit = ConvolutionUnit::new(inputs, spec.output.channels, spec.batch_norm, draw, device)?;
        Ok(Self { space_to_depth: spec.space_to_depth, unit })
    }

    /// \[batch, channels, height, width\] → \[batch, width, height or height / 2, width or width / 2\].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        if self.space_to_depth { self.unit.forward(&space_to_depth(x)?, mode) } else { self.unit.forward(x, mode) }
    }

    /// Its variables, named as PyTorch would.
    pub fn variables(&self) -> Variables {
        let mut all = Variables::default();
        self.unit.variables("", &mut all);
        all
    }
}

/// (k-1) x \[3x3 convolution → batch norm or bias → ReLU\] → average pooling to 2x2 → \[batch norm\] → linear.
pub struct Auxiliary {
    hidden: Vec<ConvolutionUnit>,
    norm: Option<BatchNorm>,
    linear: Linear,
}

impl Auxiliary {
    /// A classifier with random weights.
    pub fn new(spec: &pipeline::Auxiliary, classes: usize, draw: &mut Stream, device: &Device) -> Result<Self> {
        let mut channels = spec.input.channels;
        let mut hidden = Vec::with_capacity(spec.convolutions);
        for _ in 0..spec.convolutions {
            hidden.push(ConvolutionUnit::new(channels, spec.width, spec.batch_norm, draw, device)?);
            channels = spec.width;
        }
        let norm = if spec.batch_norm { Some(BatchNorm::new(channels, device)?) } else { None };
        let linear = Linear::new(channels * POOLED * POOLED, classes, draw, device)?;
        Ok(Self { hidden, norm, linear })
    }

    /// \[batch, channels, height, width\] → logits \[batch, classes\].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = x.clone();
        for unit in &self.hidden {
            x = unit.forward(&x, mode)?;
        }
        x = pool(&x, POOLED)?;
        if let Some(norm) = &self.norm {
            x = norm.forward(&x, Activation::Identity, mode)?;
        }
        self.linear.forward(&x.flatten_from(1)?)
    }

    /// Its variables, named as PyTorch would.
    pub fn variables(&self) -> Variables {
        let mut all = Variables::default();
        for (number, unit) in (1..).zip(&self.hidden) {
            unit.variables(&format!("{number}"), &mut all);
        }
        if let Some(norm) = &self.norm {
            norm.variables("bn", &mut all);
        }
        self.linear.variables(&mut all);
        all
    }
}

/// A block and its auxiliary classifier.
pub struct StageNetwork {
    /// The block, which stays.
    pub block: Block,
    /// The classifier, which is needed no more once the block is trained.
    pub auxiliary: Auxiliary,
}

impl StageNetwork {
    /// Both with random weights.
    pub fn new(stage: &pipeline::Stage, classes: usize, draw: &mut Stream, device: &Device) -> Result<Self> {
        let block = Block::new(&stage.block, draw, device)?;
        let auxiliary = Auxiliary::new(&stage.auxiliary, classes, draw, device)?;
        Ok(Self { block, auxiliary })
    }

    /// \[batch, channels, height, width\] → logits \[batch, classes\].
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.auxiliary.forward(&self.block.forward(x, mode)?, mode)
    }

    /// All variables, as `block.…` and `auxiliary.…`.
    pub fn variables(&self) -> Variables {
        let mut all = self.block.variables().under("block");
        all.append(self.auxiliary.variables().under("auxiliary"));
        all
    }
}
