//! Frozen blocks that are run one after the other, on the fly.

use super::frozen::Frozen;
use crate::pipeline::{Shape, footprint};
use candle_core::{DType, Device, Result, Tensor};

/// Frozen blocks between what is stored and what a network takes.
pub struct Chain {
    blocks: Vec<Frozen>,
    device: Device,
    dtype: DType,
}

impl Chain {
    /// Blocks in the order in which they are run, where, and on feature maps of which type.
    pub fn new(blocks: Vec<Frozen>, device: &Device, dtype: DType) -> Self {
        Self { blocks, device: device.clone(), dtype }
    }

    /// Where the blocks run.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of the feature maps that they read and give.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether there is nothing to be run.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The number of blocks.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// What the last block makes of an input.
    pub fn output(&self, input: Shape) -> Shape {
        self.blocks.iter().fold(input, |shape, block| block.output(shape))
    }

    /// \[sample, y, x, channel\] → the same of the last block.
    ///
    /// # Errors
    /// When the values do not fit the first block.
    pub fn run(&self, x: Tensor) -> Result<Tensor> {
        if self.blocks.is_empty() {
            return Ok(x);
        }
        let (count, size, _, channels) = x.dims4()?;
        let input = Shape { channels, size };
        let shapes = self.blocks.iter().scan(input, |shape, block| {
            *shape = block.output(*shape);
            Some(shape.values())
        });
        let at_once = footprint::chain_batch(shapes.fold(input.values(), usize::max));
        if count <= at_once {
            return self.run_at_once(x);
        }
        let part = |first| self.run_at_once(x.narrow(0, first, at_once.min(count - first))?);
        Tensor::cat(&(0..count).step_by(at_once).map(part).collect::<Result<Vec<_>>>()?, 0)
    }

    fn run_at_once(&self, mut x: Tensor) -> Result<Tensor> {
        // On a thread of the pool, as a training step.
        rayon::scope(|_| {
            for block in &self.blocks {
                x = block.forward(&x)?;
            }
            Ok(x)
        })
    }
}
