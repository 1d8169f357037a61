//! What is trained at once: the block of a stage with the head on top of it (section 3 of the paper), or all blocks of a
//! network with the head of the last.

use super::convolution::Input;
use super::gradients::Gradients;
use super::initial::Initial;
use super::noise::Noise;
use super::sequence::{Pass, Sequence};
use super::variables::Variables;
use crate::pipeline::{Feedback, Init, Layers, Role, Stage};
use crate::random::Stream;
use candle_core::{Device, Result, Tensor, bail};

/// Blocks, and the head that classifies the features of the last.
pub struct Network {
    /// The blocks, which stay.
    pub blocks: Vec<Sequence>,
    /// The classifier.
    pub head: Sequence,
}

/// What the gradients of a network are computed from.
pub struct NetworkPass {
    blocks: Vec<Pass>,
    head: Pass,
}

impl Network {
    /// Blocks and head with initial weights, drawn in this order.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn new(
        blocks: &[&Layers],
        head: &Layers,
        classes: usize,
        (init, rng, device): (Init, &mut Stream, &Device),
    ) -> Result<Self> {
        let initial = &mut Initial { init, rng, device };
        let blocks = blocks.iter().map(|block| Sequence::new(block, Role::Block, classes, initial));
        let blocks = blocks.collect::<Result<_>>()?;
        Ok(Self { blocks, head: Sequence::new(head, Role::Head, classes, initial)? })
    }

    /// The same with fixed weights on the way back, drawn in the order of the layers, where feedback is not exact.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn with_feedback(
        mut self,
        feedback: Feedback,
        classes: usize,
        (init, rng, device): (Init, &mut Stream, &Device),
    ) -> Result<Self> {
        let initial = &mut Initial { init, rng, device };
        for block in &mut self.blocks {
            block.feed_back(feedback, (Role::Block, classes), initial)?;
        }
        self.head.feed_back(feedback, (Role::Head, classes), initial)?;
        Ok(self)
    }

    /// The block and the head of a stage that is trained by itself.
    ///
    /// # Errors
    /// When it has no head, or the device has no memory.
    pub fn of_stage(stage: &Stage, classes: usize, start: (Init, &mut Stream, &Device)) -> Result<Self> {
        let Some(head) = &stage.head else { bail!("stage {} has no classifier of its own", stage.number) };
        Self::new(&[&stage.block], head, classes, start)
    }

    /// A single block with initial weights.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn block(block: &Layers, (init, rng, device): (Init, &mut Stream, &Device)) -> Result<Sequence> {
        Sequence::new(block, Role::Block, 1, &mut Initial { init, rng, device })
    }

    /// \[batch, height, width, channels\] → logits \[batch, classes\] in training mode: batch norm uses the statistics
    /// of the batch and moves the running ones, dropout draws from the noise.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn train(&self, x: &Tensor, noise: &Noise<'_>) -> Result<(Tensor, NetworkPass)> {
        let (_, logits, pass) = self.train_for_next(x, noise)?;
        Ok((logits, pass))
    }

    /// The same, and the features of the last block first: what another network is trained on.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn train_for_next(&self, x: &Tensor, noise: &Noise<'_>) -> Result<(Tensor, Tensor, NetworkPass)> {
        let mut x = x.clone();
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for (number, block) in self.blocks.iter().enumerate() {
            let (y, pass) = block.train(x, &noise.of_part(number))?;
            blocks.push(pass);
            x = y;
        }
        let (logits, head) = self.head.train(x.clone(), &noise.of_part(self.blocks.len()))?;
        Ok((x, logits.flatten_from(1)?, NetworkPass { blocks, head }))
    }

    /// The gradients of all parameters, from the gradient of the logits. The input gets none: it is a constant.
    ///
    /// # Errors
    /// When the pass is not one of this network.
    pub fn gradients(&self, pass: NetworkPass, grad: &Tensor) -> Result<Gradients> {
        let mut out = Gradients::default();
        let (batch, classes) = grad.dims2()?;
        // Of which blocks the gradient of the input is wanted.
        let mut inputs = Vec::with_capacity(self.blocks.len());
        let mut below = Input::Constant;
        for block in &self.blocks {
            inputs.push(below);
            below = *block.wanted(below).last().unwrap_or(&below);
        }
        let own = Some(grad.reshape((batch, 1, 1, classes))?);
        let mut above = self.head.gradients(pass.head, (own, grad), below, &mut out)?;
        for ((block, pass), input) in self.blocks.iter().zip(pass.blocks).zip(inputs).rev() {
            above = block.gradients(pass, (above, grad), input, &mut out)?;
        }
        Ok(out)
    }

    /// Whether a training step asks the same of a device whatever the samples are.
    pub fn repeats(&self) -> bool {
        self.blocks.iter().chain([&self.head]).all(Sequence::repeats)
    }

    /// All variables: `block.…`, or `block1.…` and so on where there are several, and `auxiliary.…`.
    pub fn variables(&self) -> Variables {
        self.named(Sequence::variables)
    }

    /// The fixed weights by which gradients go back, under the names of those in whose place they are; `….direct` is a
    /// matrix from the logits.
    pub fn feedback(&self) -> Variables {
        self.named(Sequence::feedback)
    }

    fn named(&self, of: impl Fn(&Sequence) -> Variables) -> Variables {
        let mut all = Variables::default();
        for (number, block) in (1..).zip(&self.blocks) {
            let name = if self.blocks.len() == 1 { "block".into() } else { format!("block{number}") };
            all.append(of(block).under(&name));
        }
        all.append(of(&self.head).under("auxiliary"));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cross_entropy;
    use crate::pipeline::{Layer, Outputs, Recipe, Shape};
    use crate::random::Purpose;

    #[test]
    fn pooling_behind_a_batch_norm_gives_the_bits_that_it_gives_by_itself() {
        let conv = Layer::conv3x3(5, false);
        let end = [Layer::BatchNorm, Layer::Flatten, Layer::Linear { outputs: Outputs::Classes }];
        let layers = [&[conv, Layer::BatchNorm, Layer::Relu, Layer::AvgPool { size: 2 }][..], &end].concat();
        let mut rng = Stream::new(Purpose::Bench, 1, (0, 0));
        let values: Vec<f32> = (0..4 * 7 * 7 * 3).map(|_| rng.uniform(-1.0, 1.0) as f32).collect();
        let x = Tensor::from_vec(values, (4, 7, 7, 3), &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0u32, 2, 1, 0], &Device::Cpu).unwrap();
        // The pooling is of the list with the batch norm, or of that behind it.
        let step = |split: usize| {
            let block = Layers::new(Shape { channels: 3, size: 7 }, layers[..split].to_vec()).unwrap();
            let head = Layers::new(block.output, layers[split..].to_vec()).unwrap();
            let mut rng = Stream::new(Purpose::Weights, 0, (0, 0));
            let network = Network::new(&[&block], &head, 3, (Init::Uniform, &mut rng, &Device::Cpu)).unwrap();
            let noise = Noise::new(0, (1, 0), &[0, 1, 2, 3]);
            let (logits, pass) = network.train(&x, &noise).unwrap();
            let loss = cross_entropy(&logits, &labels).unwrap();
            let gradients = network.gradients(pass, &loss.gradient).unwrap();
            let variables = network.variables();
            let all = variables.iter().flat_map(|(_, own)| [Some(own.as_tensor()), gradients.get(own)]);
            let bits = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            all.chain([Some(&logits)]).map(|tensor| tensor.map(bits)).collect::<Vec<_>>()
        };
        assert_eq!(step(4), step(3));
    }

    #[test]
    fn weights_are_counted_as_the_network_has_them() {
        let text = "[data]\nsource = \"builtin\"\n[network]\nwidth = 5\nspace_to_depth = [1, 3]\n[auxiliary]\nwidth = 7\n\
                    [stage.2.auxiliary]\nk = 1\n[stage.4.auxiliary]\nbatch_norm = false\nk = 4\n";
        let networks = ["vgg11", "vgg16_bn", "alexnet"].map(|name| {
            format!(
                "[data]\nsource = \"builtin\"\nsize = 64\n[network]\narchitecture = \"{name}\"\nwidth = 2\nhidden = 5\n\
                     [auxiliary]\npadding = 1\n"
            )
        });
        for text in [text].into_iter().chain(networks.iter().map(String::as_str)) {
            let recipe = Recipe::parse("p.toml", "p", text, &[]).unwrap();
            for stage in &recipe.stages {
                let mut rng = Stream::new(Purpose::Weights, 0, (0, 0));
                let network = Network::of_stage(stage, 9, (recipe.init, &mut rng, &Device::Cpu)).unwrap();
                let all: usize = network.variables().iter().map(|(_, variable)| variable.elem_count()).sum();
                let counted = stage.block.weights(9) + stage.head.as_ref().unwrap().weights(9);
                assert_eq!(counted, all, "{} stage {}", recipe.architecture, stage.number);
            }
        }
    }
}
