//! `[network]` and `[auxiliary]`: the blocks of a SimCNN and the classifiers that train them (section 3.2 of the paper).

use super::Fault;
use super::section::Section;

/// The shape of one sample: channels, height, width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Height and width, in pixels or steps of the feature grid.
    pub size: usize,
}

impl Shape {
    /// Values in one sample.
    pub fn values(&self) -> usize {
        self.channels * self.size * self.size
    }
}

/// One block: \[2x2 space-to-depth\] → 3x3 convolution → \[batch norm\] → ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it reads.
    pub input: Shape,
    /// What it makes.
    pub output: Shape,
    /// Whether a 2x2 space-to-depth comes first.
    pub space_to_depth: bool,
    /// Batch norm, or a bias.
    pub batch_norm: bool,
}

impl Block {
    /// Values of its weights and, where it has batch norm, of its running statistics.
    pub fn weights(&self) -> usize {
        let inputs = self.input.channels * if self.space_to_depth { 4 } else { 1 };
        convolution_weights(inputs, self.output.channels, self.batch_norm)
    }
}

/// The classifier that trains a block: (k-1) x \[3x3 convolution → batch norm → ReLU\] → average pooling to 2x2 →
/// batch norm → linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auxiliary {
    /// What it reads: the block's output.
    pub input: Shape,
    /// Hidden convolutions: k - 1.
    pub convolutions: usize,
    /// Their channels.
    pub width: usize,
    /// Batch norm after each convolution and after the pooling, or biases.
    pub batch_norm: bool,
}

impl Auxiliary {
    /// Values of its weights and running statistics, for so many classes.
    pub fn weights(&self, classes: usize) -> usize {
        let mut channels = self.input.channels;
        let mut all = 0;
        for _ in 0..self.convolutions {
            all += convolution_weights(channels, self.width, self.batch_norm);
            channels = self.width;
        }
        let norm = if self.batch_norm { 4 * channels } else { 0 };
        all + norm + (channels * POOLED * POOLED + 1) * classes
    }
}

/// A 3x3 convolution with a bias for each channel, or with gain, shift, running mean and variance.
fn convolution_weights(inputs: usize, outputs: usize, batch_norm: bool) -> usize {
    outputs * (9 * inputs + if batch_norm { 4 } else { 1 })
}

/// The whole network, without its classifiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
}

/// The side of a feature map that the auxiliary classifier pools to.
pub const POOLED: usize = 2;

impl Network {
    /// Reads the table; `image` is the shape of the network's input, `k` the hidden layers trained at a stage.
    pub(super) fn read(section: &mut Section<'_>, image: Shape, k: usize) -> Result<Self, Fault> {
        section.choice("architecture", (), &[("simcnn", ())])?;
        let count = section.within("blocks", 4, 1..=64)?;
        let width = section.within("width", 128, 1..=8192)?;
        let batch_norm = section.get("batch_norm", k > 1)?;
        let downsampled: Vec<usize> = section.get("space_to_depth", Vec::new())?;
        if let Some(block) = downsampled.iter().find(|&&block| !(1..=count).contains(&block)) {
            return Err(section.fault("space_to_depth", format!("names block {block}, but blocks are 1 to {count}")));
        }
        if let Some(block) =
            downsampled.iter().find(|&block| downsampled.iter().filter(|other| *other == block).count() > 1)
        {
            return Err(section.fault("space_to_depth", format!("names block {block} twice")));
        }
        let mut blocks = Vec::with_capacity(count);
        let mut input = image;
        let mut channels = width;
        for number in 1..=count {
            let space_to_depth = downsampled.contains(&number);
            if space_to_depth && !input.size.is_multiple_of(2) {
                let message = format!("halves {} pixels before block {number}; that number must be even", input.size);
                return Err(section.fault("space_to_depth", message));
            }
            // The paper doubles the width at each downsampling, but for the one that turns the image into 12 channels.
            if space_to_depth && number > 1 {
                channels *= 2;
            }
            let output = Shape { channels, size: if space_to_depth { input.size / 2 } else { input.size } };
            blocks.push(Block { input, output, space_to_depth, batch_norm });
            input = output;
        }
        Ok(Self { blocks })
    }

    /// How often the width has doubled at a block, counted from 1.
    fn doublings(&self, number: usize) -> u32 {
        self.blocks[..number].iter().skip(1).filter(|block| block.space_to_depth).count() as u32
    }
}

/// The settings of `[auxiliary]`, before they are fitted to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AuxiliarySettings {
    pub k: usize,
    width: usize,
    doubling: bool,
    /// Where the file does not say: for k > 1, as in the paper.
    batch_norm: Option<bool>,
}

impl AuxiliarySettings {
    /// What a file without an `[auxiliary]` table has.
    pub const DEFAULT: Self = Self { k: 2, width: 128, doubling: true, batch_norm: None };

    pub fn read(section: &mut Section<'_>, default: Self) -> Result<Self, Fault> {
        Ok(Self {
            k: section.within("k", default.k, 1..=16)?,
            width: section.within("width", default.width, 1..=8192)?,
            doubling: section.get("doubling", default.doubling)?,
            batch_norm: section.optional("batch_norm")?.or(default.batch_norm),
        })
    }

    /// The classifier of a block, counted from 1.
    pub fn fit(&self, network: &Network, number: usize) -> Auxiliary {
        let factor = if self.doubling { 1 << network.doublings(number) } else { 1 };
        Auxiliary {
            input: network.blocks[number - 1].output,
            convolutions: self.k - 1,
            width: self.width * factor,
            batch_norm: self.batch_norm.unwrap_or(self.k > 1),
        }
    }
}
