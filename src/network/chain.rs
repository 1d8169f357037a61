//! Frozen blocks that are run one after the other, on the fly.

use super::frozen::FrozenBlock;
use crate::pipeline::Shape;
use candle_core::{Device, Result, Tensor};

/// Values that go through the blocks at once at most: 64 MiB of f32. Results do not depend on it.
const AT_ONCE: usize = 1 << 24;

/// Frozen blocks between what is stored and what a network takes.
pub struct Chain {
    blocks: Vec<FrozenBlock>,
    device: Device,
}

impl Chain {
    /// Blocks in the order in which they are run, and where.
    pub fn new(blocks: Vec<FrozenBlock>, device: &Device) -> Self {
        Self { blocks, device: device.clone() }
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
    pub fn run(&self, values: Vec<f32>, input: Shape) -> Result<Vec<f32>> {
        if self.blocks.is_empty() {
            return Ok(values);
        }
        let shapes = self.blocks.iter().scan(input, |shape, block| {
            *shape = block.output(*shape);
            Some(shape.values())
        });
        let at_once = (AT_ONCE / shapes.fold(input.values(), usize::max).max(1)).max(1);
        if values.len() <= at_once * input.values() {
            return self.run_at_once(values, input);
        }
        let mut all = Vec::with_capacity(values.len() / input.values() * self.output(input).values());
        for part in values.chunks(at_once * input.values()) {
            all.extend(self.run_at_once(part.to_vec(), input)?);
        }
        Ok(all)
    }

    fn run_at_once(&self, values: Vec<f32>, input: Shape) -> Result<Vec<f32>> {
        let count = values.len() / input.values();
        let mut x = Tensor::from_vec(values, (count, input.size, input.size, input.channels), &self.device)?;
        // On a thread of the pool, as a training step.
        rayon::scope(|_| {
            for block in &self.blocks {
                x = block.forward(&x)?;
            }
            x.flatten_all()?.to_vec1()
        })
    }
}
