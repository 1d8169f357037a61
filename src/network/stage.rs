//! What one stage trains: a block and the auxiliary classifier on top of it (section 3 of the paper).

use super::frozen::{FrozenAuxiliary, FrozenBlock, flattened};
use super::gradients::Gradients;
use super::layer::{BatchNorm, BatchNormPass, ConvolutionUnit, Input, Linear, UnitPass};
use super::weights::Variables;
use crate::ops::{Activation, pool, pool_gradient, space_to_depth, to_nhwc};
use crate::pipeline::{self, POOLED};
use crate::random::Stream;
use candle_core::{DType, Device, Result, Tensor};

/// \[2x2 space-to-depth\] → 3x3 convolution → batch norm or bias → ReLU.
pub struct Block {
    space_to_depth: bool,
    unit: ConvolutionUnit,
}

impl Block {
    /// A block with random weights.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn new(spec: &pipeline::Block, draw: &mut Stream, device: &Device) -> Result<Self> {
        let inputs = if spec.space_to_depth { spec.input.channels * 4 } else { spec.input.channels };
        let unit = ConvolutionUnit::new(inputs, spec.output.channels, spec.batch_norm, draw, device)?;
        Ok(Self { space_to_depth: spec.space_to_depth, unit })
    }

    fn train(&self, x: &Tensor) -> Result<(Tensor, UnitPass)> {
        if self.space_to_depth { self.unit.train(&space_to_depth(x)?) } else { self.unit.train(x) }
    }

    /// The block as it is now, in evaluation mode.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn frozen(&self) -> Result<FrozenBlock> {
        Ok(FrozenBlock { space_to_depth: self.space_to_depth, unit: self.unit.frozen()? })
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

/// What the gradients of a classifier are computed from.
struct AuxiliaryPass {
    hidden: Vec<UnitPass>,
    /// Height, width and type before pooling.
    size: (usize, usize),
    dtype: DType,
    norm: Option<BatchNormPass>,
    /// What the linear layer reads.
    flat: Tensor,
}

impl Auxiliary {
    /// A classifier with random weights.
    ///
    /// # Errors
    /// When the device has no memory.
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

    fn train(&self, x: Tensor) -> Result<(Tensor, AuxiliaryPass)> {
        let mut x = x;
        let mut hidden = Vec::with_capacity(self.hidden.len());
        for unit in &self.hidden {
            let (y, pass) = unit.train(&x)?;
            hidden.push(pass);
            x = y;
        }
        let ((_, height, width, _), dtype) = (x.dims4()?, x.dtype());
        x = pool(&x, POOLED)?;
        let mut norm = None;
        if let Some(own) = &self.norm {
            let (y, pass) = own.train(x, Activation::Identity)?;
            norm = Some(pass);
            x = y;
        }
        let flat = flattened(&x)?;
        Ok((self.linear.forward(&flat)?, AuxiliaryPass { hidden, size: (height, width), dtype, norm, flat }))
    }

    /// Gives the gradient of the input.
    fn gradients(&self, pass: &AuxiliaryPass, grad: &Tensor, out: &mut Gradients) -> Result<Tensor> {
        let grad = self.linear.gradients(&pass.flat, grad, out)?;
        let mut grad = to_nhwc(&grad.reshape((grad.dim(0)?, (), POOLED, POOLED))?)?;
        if let (Some(norm), Some(pass)) = (&self.norm, &pass.norm) {
            grad = norm.gradients(pass, &grad, out)?;
        }
        grad = pool_gradient(&grad, pass.size, pass.dtype)?;
        for (unit, pass) in self.hidden.iter().zip(&pass.hidden).rev() {
            if let Some(before) = unit.gradients(pass, &grad, Input::Computed, out)? {
                grad = before;
            }
        }
        Ok(grad)
    }

    /// The classifier as it is now, in evaluation mode.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn frozen(&self) -> Result<FrozenAuxiliary> {
        Ok(FrozenAuxiliary {
            hidden: self.hidden.iter().map(ConvolutionUnit::frozen).collect::<Result<_>>()?,
            affine: self.norm.as_ref().map(BatchNorm::frozen).transpose()?,
            linear: self.linear.frozen()?,
        })
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

/// What the gradients of a stage are computed from.
pub struct Pass {
    block: UnitPass,
    auxiliary: AuxiliaryPass,
}

impl StageNetwork {
    /// Both with random weights.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn new(stage: &pipeline::Stage, classes: usize, draw: &mut Stream, device: &Device) -> Result<Self> {
        let block = Block::new(&stage.block, draw, device)?;
        let auxiliary = Auxiliary::new(&stage.auxiliary, classes, draw, device)?;
        Ok(Self { block, auxiliary })
    }

    /// \[batch, height, width, channels\] → logits \[batch, classes\] in training mode: batch norm uses the statistics
    /// of the batch and moves the running ones.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn train(&self, x: &Tensor) -> Result<(Tensor, Pass)> {
        let (features, block) = self.block.train(x)?;
        let (logits, auxiliary) = self.auxiliary.train(features)?;
        Ok((logits, Pass { block, auxiliary }))
    }

    /// The gradients of all parameters, from the gradient of the logits. The input gets none: it is a constant.
    ///
    /// # Errors
    /// When the pass is not one of this network.
    pub fn gradients(&self, pass: &Pass, grad: &Tensor) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        let grad = self.auxiliary.gradients(&pass.auxiliary, grad, &mut gradients)?;
        self.block.unit.gradients(&pass.block, &grad, Input::Constant, &mut gradients)?;
        Ok(gradients)
    }

    /// All variables, as `block.…` and `auxiliary.…`.
    pub fn variables(&self) -> Variables {
        let mut all = self.block.variables().under("block");
        all.append(self.auxiliary.variables().under("auxiliary"));
        all
    }
}
