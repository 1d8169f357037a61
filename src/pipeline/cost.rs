//! What a stage costs, whatever the machine: parameters, floating-point operations, values that are in memory at once.
//!
//! Counted are convolutions and linear layers, a multiplication and an addition as two operations; what is done once for
//! each value (batch norm, ReLU, pooling, the optimiser) is left out.

use super::layer::Layer;
use super::{Feedback, Layers, Recipe, Role, Stage};
use std::iter::Sum;

/// The costs of one stage, or of a network that is trained as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Learned values of the block, or of all blocks.
    pub block_parameters: usize,
    /// Learned values of the classifier.
    pub head_parameters: usize,
    /// Operations an image of the block alone, forward.
    pub forward: f64,
    /// Operations an image of block and classifier, forward.
    pub classify: f64,
    /// Operations an image of a training step.
    pub training: f64,
    /// Values an image that a training step holds at once: its input, what the gradients are computed from, and the two
    /// gradients that are in flight.
    pub step_values: usize,
    /// Fixed values by which gradients go back in the place of weights.
    pub feedback_values: usize,
}

/// The costs of all that a pipeline trains.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// Of each stage, first to last.
    pub stages: Vec<Cost>,
    /// Of the whole network, where stages are taken of one.
    pub network: Option<Cost>,
    /// Operations of each probe, as [`Probed::operations`](super::Probed::operations) has them.
    pub probes: Vec<[f64; 2]>,
}

impl Costs {
    /// The costs of a pipeline that tells so many classes apart.
    pub fn of(recipe: &Recipe, classes: usize) -> Self {
        let stages = recipe.stages.iter().map(|stage| Cost::of(stage, classes)).collect();
        let of_network = |blocks: &[&Layers], head| {
            Cost::of_network(blocks, head, classes).fed_back(recipe.feedback, (blocks, head), classes)
        };
        let network = recipe.whole().map(|whole| match whole.head {
            None => of_network(&whole.stages.iter().map(|stage| &stage.block).collect::<Vec<_>>(), None),
            Some(_) => whole.groups().iter().map(|group| of_network(&group.blocks, Some(group.head))).sum(),
        });
        let probes = recipe.probed().map(|probed| probed.operations(classes)).collect();
        Self { stages, network, probes }
    }
}

impl Cost {
    /// The costs of a stage that tells so many classes apart.
    pub fn of(stage: &Stage, classes: usize) -> Self {
        let own = Self::of_network(&[&stage.block], stage.head.as_ref(), classes);
        // Before it is pruned it takes more memory.
        let wide = stage.pruning.as_ref().map(|wide| Self::of_network(&[&wide.block], Some(&wide.head), classes));
        Self { step_values: wide.map_or(own.step_values, |wide| wide.step_values.max(own.step_values)), ..own }
    }

    /// The costs of blocks that are trained together with a classifier of the last.
    pub fn of_network(blocks: &[&Layers], head: Option<&Layers>, classes: usize) -> Self {
        let forward: f64 = blocks.iter().map(|block| block.operations(classes)).sum();
        let classify = forward + head.map_or(0.0, |head| head.operations(classes));
        let all = blocks.iter().copied().chain(head);
        let steps: Vec<(f64, Kept)> = all.flat_map(|layers| kept(layers, classes)).collect();
        // The first layer needs no gradient of its input, which is a constant.
        let first = steps.iter().map(|(operations, _)| *operations).find(|operations| *operations > 0.0).unwrap_or(0.0);
        let input = blocks.first().map_or(0, |block| block.input.values());
        let trained = steps.iter().skip_while(|(operations, _)| *operations == 0.0);
        let largest = trained.map(|(_, kept)| kept.output).max().unwrap_or(0);
        Self {
            block_parameters: blocks.iter().map(|block| block.parameters(classes)).sum(),
            head_parameters: head.map_or(0, |head| head.parameters(classes)),
            forward,
            classify,
            training: 3.0 * classify - first,
            step_values: input + steps.iter().map(|(_, kept)| kept.values).sum::<usize>() + 2 * largest,
            feedback_values: 0,
        }
    }

    /// The costs of the same blocks and classifier where gradients go back by fixed weights.
    fn fed_back(self, feedback: Feedback, (blocks, head): (&[&Layers], Option<&Layers>), classes: usize) -> Self {
        let all = blocks.iter().map(|block| (*block, Role::Block)).chain(head.map(|head| (head, Role::Head)));
        let (mut training, mut aligned, mut direct) = (0.0, 0, 0);
        // Whether a layer's input gets a gradient: not the first of those that learn, nor one whose input is fed directly.
        let mut wanted = false;
        for (layers, role) in all {
            let fed = layers.fed_directly(role);
            for (at, (layer, input, output)) in layers.shapes(classes).enumerate() {
                let operations = layer.operations(input, output);
                training += operations * if wanted { 3.0 } else { 2.0 };
                wanted = (wanted || operations > 0.0) && !fed.contains(&at);
                aligned += layer.weights(input, classes);
                direct += if fed.contains(&at) { output.values() * classes } else { 0 };
            }
        }
        match feedback {
            Feedback::Exact => self,
            Feedback::Aligned => Self { feedback_values: aligned, ..self },
            Feedback::Direct => Self { feedback_values: direct, training: training + 2.0 * direct as f64, ..self },
        }
    }

    /// Learned values of the stage.
    pub fn parameters(&self) -> usize {
        self.block_parameters + self.head_parameters
    }
}

impl Sum for Cost {
    /// Of networks that are trained at once.
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, own| Self {
            block_parameters: sum.block_parameters + own.block_parameters,
            head_parameters: sum.head_parameters + own.head_parameters,
            forward: sum.forward + own.forward,
            classify: sum.classify + own.classify,
            training: sum.training + own.training,
            step_values: sum.step_values + own.step_values,
            feedback_values: sum.feedback_values + own.feedback_values,
        })
    }
}

/// Values an image of a layer's output, and those of them that stay for the gradients.
struct Kept {
    output: usize,
    values: usize,
}

/// Operations of each layer, and what stays of its output. A ReLU is computed together with what is before it.
fn kept(layers: &Layers, classes: usize) -> impl Iterator<Item = (f64, Kept)> + '_ {
    layers.shapes(classes).map(|(layer, input, output)| {
        let own = match layer {
            Layer::Relu | Layer::Flatten => 0,
            _ => output.values(),
        };
        (layer.operations(input, output), Kept { output: output.values(), values: own })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Recipe;

    fn cost(auxiliary: &str) -> Cost {
        let text = format!(
            "[data]\nsource = \"builtin\"\n[network]\nblocks = 1\nwidth = 5\nspace_to_depth = [1]\n[auxiliary]\n{auxiliary}"
        );
        Cost::of(&Recipe::parse("p", "p", &text, &[]).unwrap().stages[0], 10)
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
        assert_eq!(deep.head_parameters, 7 * 5 * 9 + 14 + 7 * 7 * 9 + 14 + 14 + 29 * 10);
        let (input, first, hidden) = (3 * 1024 * 2, 5 * 256 * 2, 7 * 256 * 2);
        let (pooled, normalised, logits) = (28, 28, 10);
        assert_eq!(deep.step_values, input + first + 2 * hidden + pooled + normalised + logits + 2 * 7 * 256);
    }

    #[test]
    fn without_batch_norm_there_are_biases() {
        let plain = cost("k = 1\n");
        assert_eq!(plain.parameters(), 5 * 12 * 9 + 5 + 21 * 10);
        assert_eq!(plain.step_values, 3 * 1024 * 2 + 5 * 256 + 20 + 10 + 2 * 5 * 256);
    }

    #[test]
    fn fixed_weights_take_memory_and_direct_ones_spare_what_goes_back_between_blocks() {
        let text = "[data]\nsource = \"builtin\"\n[network]\nblocks = 2\nwidth = 5\nbatch_norm = false\n\
                    [auxiliary]\nwidth = 7\n[training]\nmethod = \"end_to_end\"\n";
        let cost = |feedback: &str| {
            let recipe = Recipe::parse("p", "p", &format!("{text}feedback = \"{feedback}\"\n"), &[]).unwrap();
            Costs::of(&recipe, 10).network.unwrap()
        };
        let [exact, aligned, direct] = ["exact", "aligned", "direct"].map(cost);
        let weights = 5 * 27 + 5 * 45 + 7 * 45 + 28 * 10;
        assert_eq!(aligned, Cost { feedback_values: weights, ..exact });
        // Two blocks and the hidden layer of the classifier: none of them gives a gradient to what is below.
        let matrices = (2 * 5 + 7) * 1024 * 10;
        let [first, second, hidden, linear] =
            [18 * 3 * 5 * 1024, 18 * 5 * 5 * 1024, 18 * 5 * 7 * 1024, 2 * 28 * 10].map(f64::from);
        assert_eq!(exact.training, 2.0 * first + 3.0 * (second + hidden + linear));
        let training = 2.0 * (first + second + hidden + linear) + 2.0 * f64::from(matrices);
        assert_eq!(direct, Cost { feedback_values: matrices as usize, training, ..exact });
    }

    #[test]
    fn a_network_that_is_trained_as_a_whole_costs_what_its_layers_cost() {
        let text =
            "[data]\nsource = \"builtin\"\n[network]\nblocks = 2\nwidth = 5\nbatch_norm = false\n[auxiliary]\nk = 1\n";
        let stages = Recipe::parse("p", "p", text, &[]).unwrap().stages;
        let blocks: Vec<&Layers> = stages.iter().map(|stage| &stage.block).collect();
        let whole = Cost::of_network(&blocks, stages[1].head.as_ref(), 10);
        let [first, second, linear] = [18 * 3 * 5 * 1024, 18 * 5 * 5 * 1024, 2 * 20 * 10].map(f64::from);
        assert_eq!(whole.training, 2.0 * first + 3.0 * (second + linear));
        assert_eq!(whole.step_values, 3 * 1024 + 2 * 5 * 1024 + 20 + 10 + 2 * 5 * 1024);
    }
}
