//! A network as an architecture makes it: blocks, how their weights begin, and a classifier where it has one of its own.

use super::layer::{Layer, Shape};
use super::layers::{Layers, Misfit};

/// How weights begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Uniform within 1 / sqrt(fan in), biases too: what PyTorch's layers begin with by default.
    Uniform,
    /// Convolutions normal with variance 2 / fan out (He et al. 2015), linear layers normal with deviation 0.01, biases 0:
    /// torchvision's VGG, and the paper's.
    KaimingNormal,
}

impl Init {
    pub(super) const WORDS: [(&str, Self); 2] = [("uniform", Self::Uniform), ("kaiming_normal", Self::KaimingNormal)];

    /// What the pipeline file calls it.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize].0
    }
}

/// The classifiers that train the blocks of an architecture where the file does not list their layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadStyle {
    /// Those of SimCNN: convolutions that keep the size.
    Simcnn,
    /// Those of the paper's VGG-11: half the size first, then convolutions without padding, twice as wide as the block.
    Vgg,
}

/// Settings that a part of a network comes from, by their keys in the pipeline file, as they come out for this part.
pub type Keys = Vec<(&'static str, String)>;

/// A network: its blocks, without the classifiers that train them one by one.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// What the pipeline file calls it.
    pub architecture: &'static str,
    /// The blocks, first to last.
    pub blocks: Vec<Layers>,
    /// The classifier that belongs to the architecture, with its keys; it is trained with the last block.
    pub(super) classifier: Option<(Layers, Keys)>,
    /// How weights begin.
    pub init: Init,
    /// The numbers of the linear layers in the classifier of torchvision's network of this name, where it has one.
    pub(super) torchvision_linears: Option<[usize; 3]>,
    /// The settings of each block.
    pub(super) keys: Vec<Keys>,
    pub(super) heads: HeadStyle,
}

impl Network {
    /// Puts blocks together, each with its keys: one reads what the one before it gives.
    ///
    /// # Errors
    /// With the number of the first block that does not fit, and what is wrong with which layer.
    pub(super) fn chain(
        image: Shape,
        blocks: impl IntoIterator<Item = (Vec<Layer>, Keys)>,
    ) -> Result<(Vec<Layers>, Vec<Keys>), (usize, Misfit)> {
        let mut input = image;
        let chained = (1..).zip(blocks).map(|(number, (layers, keys))| {
            let block = Layers::new(input, layers).map_err(|misfit| (number, misfit))?;
            input = block.output;
            Ok((block, keys))
        });
        Ok(chained.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
    }

    /// The features of the last block.
    pub(super) fn features(&self, image: Shape) -> Shape {
        self.blocks.last().map_or(image, |block| block.output)
    }

    /// How often the size has halved from the first block's features to those of another, counted from 1.
    pub(super) fn halvings(&self, number: usize) -> u32 {
        let ratio = self.blocks[0].output.size / self.blocks[number - 1].output.size.max(1);
        ratio.max(1).ilog2()
    }
}
