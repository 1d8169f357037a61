//! Frozen blocks that are run one after the other, on the fly.

use super::frozen::Frozen;
use crate::ops::{compute, concat};
use crate::pipeline::{Shape, footprint};
use candle_core::{DType, Device, Result, Tensor};

/// Frozen blocks between what is stored and what a network takes.
pub struct Chain {
    blocks: Vec<Frozen>,
    device: Device,
    dtype: DType,
    group: Option<usize>,
}

impl Chain {
    /// Blocks in the order in which they are run, where, and on feature maps of which type.
    pub fn new(blocks: Vec<Frozen>, device: &Device, dtype: DType) -> Self {
        Self { blocks, device: device.clone(), dtype, group: None }
    }

    /// Lets a GPU always take so many samples at once: it takes another kernel for another number, whose sums have other
    /// last bits. So a sample comes out the same whatever it is run together with. On a CPU it always does.
    pub fn in_groups_of(self, samples: usize) -> Self {
        Self { group: (!self.device.is_cpu()).then_some(samples.max(1)), ..self }
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
        let most = footprint::chain_batch(shapes.fold(input.values(), usize::max), self.device.is_cpu());
        let at_once = self.group.map_or(most, |group| group.min(most));
        let part = |first| self.run_part(x.narrow(0, first, at_once.min(count - first))?, at_once);
        concat(&(0..count).step_by(at_once).map(part).collect::<Result<Vec<_>>>()?)
    }

    /// Runs a part of the samples; where their number is fixed, some are run again to make it up.
    fn run_part(&self, x: Tensor, at_once: usize) -> Result<Tensor> {
        let count = x.dim(0)?;
        if self.group.is_none() || count == at_once {
            return self.run_at_once(x);
        }
        let mut parts = vec![x.clone(); at_once / count];
        parts.push(x.narrow(0, 0, at_once % count)?);
        self.run_at_once(concat(&parts)?)?.narrow(0, 0, count)
    }

    fn run_at_once(&self, mut x: Tensor) -> Result<Tensor> {
        compute(&self.device, || {
            for block in &self.blocks {
                x = block.forward(&x)?;
            }
            Ok(x)
        })
    }
}
