//! `[auxiliary]`: the classifiers that train the blocks, fitted to each of them.

use super::Fault;
use super::custom;
use super::layer::{Layer, Outputs};
use super::layers::{Layers, Misfit};
use super::network::{HeadStyle, Keys, Network};
use super::section::Section;

/// The side that features are averaged to before the last layer (section 3.2 of the paper).
pub(super) const POOLED: usize = 2;

/// A 3x3 convolution with a batch norm or a bias, and a ReLU.
pub(super) fn unit(channels: usize, padding: usize, batch_norm: bool) -> impl Iterator<Item = Layer> {
    let conv = Layer::Conv { channels, kernel: 3, stride: 1, padding, bias: !batch_norm };
    [Some(conv), batch_norm.then_some(Layer::BatchNorm), Some(Layer::Relu)].into_iter().flatten()
}

/// The settings of `[auxiliary]`, before they are fitted to a block.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AuxiliarySettings {
    pub k: usize,
    /// Where the file does not say: as the architecture has it.
    width: Option<usize>,
    doubling: bool,
    /// Where the file does not say: for k > 1, as in the paper.
    batch_norm: Option<bool>,
    /// Of convolutions of VGG's classifiers.
    padding: usize,
    /// The user's own list.
    layers: Option<Vec<Layer>>,
}

impl AuxiliarySettings {
    /// What a file without an `[auxiliary]` table has.
    pub const DEFAULT: Self = Self { k: 2, width: None, doubling: true, batch_norm: None, padding: 0, layers: None };

    /// Reads the table; what it does not say is that of `default`. Its own keys take the place of a list of layers there.
    pub fn read(section: &mut Section<'_>, default: &Self) -> Result<Self, Fault> {
        let own = custom::read_head(section)?;
        let fitted = ["k", "width", "doubling", "batch_norm", "padding"].into_iter().find(|key| section.has(key));
        let layers = match (own, fitted) {
            (Some(_), Some(key)) => return Err(section.fault(key, "has no meaning beside `layers`")),
            (None, Some(_)) => None,
            (own, None) => own.or_else(|| default.layers.clone()),
        };
        Ok(Self {
            k: section.within("k", default.k, 1..=16)?,
            width: match section.has("width") {
                true => Some(section.within("width", 0, 1..=8192)?),
                false => default.width,
            },
            doubling: section.get("doubling", default.doubling)?,
            batch_norm: section.optional("batch_norm")?.or(default.batch_norm),
            padding: section.within("padding", default.padding, 0..=1)?,
            layers,
        })
    }

    /// The classifier of a block, counted from 1, and the settings that it comes from. The last block of an architecture
    /// that has a classifier of its own gets that.
    ///
    /// # Errors
    /// With the first layer that does not fit.
    pub fn fit(&self, network: &Network, number: usize) -> Result<(Layers, Keys), Misfit> {
        if let (Some((layers, keys)), true) = (&network.classifier, number == network.blocks.len()) {
            return Ok((layers.clone(), keys.clone()));
        }
        let features = network.blocks[number - 1].output;
        if let Some(layers) = &self.layers {
            let layers = Layers::new(features, layers.clone())?;
            let keys = vec![("auxiliary.layers", layers.to_string())];
            return Ok((layers, keys));
        }
        let batch_norm = self.batch_norm.unwrap_or(self.k > 1);
        let factor = if self.doubling { 1 << network.halvings(number) } else { 1 };
        let mut keys = vec![("auxiliary.k", self.k.to_string()), ("auxiliary.batch_norm", batch_norm.to_string())];
        let (shrunk, width, padding) = match network.heads {
            HeadStyle::Simcnn => (None, self.width.unwrap_or(128).saturating_mul(factor), 1),
            HeadStyle::Vgg => {
                let width = self.width.map_or(2 * features.channels, |width| width.saturating_mul(factor));
                (Some(Layer::AvgPool { size: features.size.div_ceil(2) }), width, self.padding)
            }
        };
        if self.k > 1 {
            keys.push(("auxiliary.width", width.to_string()));
        }
        if network.heads == HeadStyle::Vgg {
            keys.push(("auxiliary.padding", padding.to_string()));
        }
        let hidden = (1..self.k).flat_map(|_| unit(width, padding, batch_norm));
        let end = [Some(Layer::AvgPool { size: POOLED }), batch_norm.then_some(Layer::BatchNorm), Some(Layer::Flatten)];
        let linear = Layer::Linear { outputs: Outputs::Classes };
        let layers = shrunk.into_iter().chain(hidden).chain(end.into_iter().flatten()).chain([linear]).collect();
        Ok((Layers::new(features, layers)?, keys))
    }
}
