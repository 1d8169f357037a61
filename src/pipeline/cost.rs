//! What a stage costs, whatever the machine: parameters, floating-point operations, values that are in memory at once.
//!
//! Counted are convolutions and the linear layer, a multiplication and an addition as two operations; what is done once
//! for each value (batch norm, ReLU, pooling, the optimiser) is left out.

use super::{POOLED, Shape, Stage};

/// The costs of one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Learned values of the block.
    pub block_parameters: usize,
    /// Learned values of the classifier.
    pub auxiliary_parameters: usize,
    /// Operations an image of the block alone, forward.
    pub forward: f64,
    /// Operations an image of block and classifier, forward.
    pub classify: f64,
    /// Operations an image of a training step.
    pub training: f64,
    /// Values an image that a training step holds at once: its input, what the gradients are computed from, and the two
    /// gradients that are in flight.
    pub step_values: usize,
}

/// One 3x3 convolution: channels in and out, side of the map.
struct Convolution {
    inputs: usize,
    outputs: usize,
    size: usize,
}

impl Convolution {
    fn operations(&self) -> f64 {
        2.0 * 9.0 * (self.inputs * self.outputs) as f64 * (self.size * self.size) as f64
    }

    /// Weights, and a gain and a shift or a bias for each channel.
    fn parameters(&self, batch_norm: bool) -> usize {
        self.outputs * (9 * self.inputs + if batch_norm { 2 } else { 1 })
    }

    /// Values an image of its output, before and after batch norm.
    fn values(&self, batch_norm: bool) -> usize {
        Shape { channels: self.outputs, size: self.size }.values() * if batch_norm { 2 } else { 1 }
    }
}

impl Cost {
    /// The costs of a stage that tells so many classes apart.
    pub fn of(stage: &Stage, classes: usize) -> Self {
        let (block, auxiliary) = (&stage.block, &stage.auxiliary);
        let unfolded = if block.space_to_depth { 4 } else { 1 };
        let (inputs, Shape { channels: outputs, size }) = (block.input.channels * unfolded, block.output);
        let first = Convolution { inputs, outputs, size };
        let mut channels = outputs;
        let hidden: Vec<Convolution> = (0..auxiliary.convolutions)
            .map(|_| {
                let inputs = std::mem::replace(&mut channels, auxiliary.width);
                Convolution { inputs, outputs: auxiliary.width, size }
            })
            .collect();
        let pooled = channels * POOLED * POOLED;
        let norm = if auxiliary.batch_norm { 2 * channels } else { 0 };
        let hidden_operations: f64 = hidden.iter().map(Convolution::operations).sum();
        let above = hidden_operations + 2.0 * (pooled * classes) as f64;
        let hidden_values: usize = hidden.iter().map(|one| one.values(auxiliary.batch_norm)).sum();
        let largest = hidden.iter().chain([&first]).map(|one| one.values(false)).max().unwrap_or(0);
        let input_values = block.input.values() * if block.space_to_depth { 2 } else { 1 };
        Self {
            block_parameters: first.parameters(block.batch_norm),
            auxiliary_parameters: hidden.iter().map(|one| one.parameters(auxiliary.batch_norm)).sum::<usize>()
                + norm
                + (pooled + 1) * classes,
            forward: first.operations(),
            classify: first.operations() + above,
            // The block needs no gradient of its input, which is a constant.
            training: 2.0 * first.operations() + 3.0 * above,
            step_values: input_values + first.values(block.batch_norm) + hidden_values + 2 * largest,
        }
    }

    /// Learned values of the stage.
    pub fn parameters(&self) -> usize {
        self.block_parameters + self.auxiliary_parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Pipeline;

    fn cost(auxiliary: &str) -> Cost {
        let text = format!(
            "[data]\nsource = \"builtin\"\n[network]\nblocks = 1\nwidth = 5\nspace_to_depth = [1]\n[auxiliary]\n{auxiliary}"
        );
        Cost::of(&Pipeline::parse("p", "p", &text, &[]).unwrap().stages[0], 10)
    }

    #[test]
    fn a_stage_is_counted_as_on_paper() {
        // 12 -> 5 channels at 16 x 16, then 5 -> 7 and 7 -> 7, 7 * 2 * 2 -> 10.
        let [block, one, two, linear] =
            [18 * 12 * 5 * 256, 18 * 5 * 7 * 256, 18 * 7 * 7 * 256, 2 * 28 * 10].map(f64::from);
        let deep = cost("k = 3\nwidth = 7\n");
        assert_eq!(deep.forward, block);
        assert_eq!(deep.classify, block + one + two + linear);
        assert_eq!(deep.training, 2.0 * block + 3.0 * (one + two + linear));
        assert_eq!(deep.block_parameters, 5 * 12 * 9 + 2 * 5);
        assert_eq!(deep.auxiliary_parameters, 7 * 5 * 9 + 14 + 7 * 7 * 9 + 14 + 14 + 29 * 10);
        let (input, first, hidden) = (3 * 1024 * 2, 5 * 256 * 2, 7 * 256 * 2);
        assert_eq!(deep.step_values, input + first + 2 * hidden + 2 * 7 * 256);
    }

    #[test]
    fn without_batch_norm_there_are_biases() {
        let plain = cost("k = 1\n");
        assert_eq!(plain.parameters(), 5 * 12 * 9 + 5 + 21 * 10);
        assert_eq!(plain.step_values, 3 * 1024 * 2 + 5 * 256 + 2 * 5 * 256);
    }
}
