//! VGG-11 to VGG-19 (Simonyan & Zisserman 2015), with torchvision's classifier.
//!
//! Each convolution is a block, and a pooling belongs to the block of the convolution behind it, as in the paper; the last
//! pooling belongs to the classifier.

use super::Fault;
use super::layer::{Layer, Outputs, Shape};
use super::layers::Layers;
use super::network::{HeadStyle, Init, Keys, Network};
use super::section::Section;

/// Convolutions between poolings; their width doubles from group to group, up to eight times the first.
pub(super) type Groups = [usize; 5];
pub(super) const VGG11: Groups = [1, 1, 2, 2, 2];
pub(super) const VGG13: Groups = [2, 2, 2, 2, 2];
pub(super) const VGG16: Groups = [2, 2, 3, 3, 3];
pub(super) const VGG19: Groups = [2, 2, 4, 4, 4];

/// Blocks of \[max pooling\] → convolution with a bias → \[batch norm\] → ReLU.
pub(super) fn read(
    section: &mut Section<'_>,
    image: Shape,
    groups: &Groups,
    batch_norm: bool,
) -> Result<Network, Fault> {
    let width = section.within("width", 64, 1..=8192)?;
    let classifier = Classifier::read(section, 7)?;
    let block = |group: usize, first: bool| {
        let channels = width << group.min(3);
        let mut layers = Vec::from_iter((group > 0 && first).then_some(Layer::max_pool(2)));
        layers.push(Layer::conv3x3(channels, true));
        layers.extend(batch_norm.then_some(Layer::BatchNorm));
        layers.push(Layer::Relu);
        (layers, vec![("network.width", channels.to_string())])
    };
    let blocks = groups.iter().enumerate().flat_map(|(group, &count)| (0..count).map(move |at| block(group, at == 0)));
    let (blocks, keys) = Network::chain(image, blocks).map_err(|(number, misfit)| {
        section.fault("architecture", format!("does not do for images of {image}: block {number}: {}", misfit.message))
    })?;
    let network = Network {
        architecture: "vgg",
        blocks,
        classifier: None,
        init: Init::KaimingNormal,
        torchvision_linears: Some([0, 3, 6]),
        keys,
        heads: HeadStyle::Vgg,
    };
    // Linear, ReLU, dropout: torchvision's VGG drops behind the ReLU.
    let hidden = |at: &Classifier| {
        [Some(Layer::Linear { outputs: Outputs::Values(at.hidden) }), Some(Layer::Relu), at.dropout()]
    };
    let layers = [Some(Layer::max_pool(2)), Some(classifier.pooling()), Some(Layer::Flatten)].into_iter();
    let layers = layers.chain(hidden(&classifier)).chain(hidden(&classifier)).flatten();
    let layers: Vec<Layer> = layers.chain([Layer::Linear { outputs: Outputs::Classes }]).collect();
    classifier.on(section, network, image, layers)
}

/// The settings of a classifier of two hidden linear layers, as VGG and AlexNet have it.
pub(super) struct Classifier {
    pub hidden: usize,
    pooled: usize,
    dropout: f64,
}

impl Classifier {
    /// Reads them; `pooled` is the side that features are pooled to where the file does not say.
    pub fn read(section: &mut Section<'_>, pooled: usize) -> Result<Self, Fault> {
        Ok(Self {
            hidden: section.within("hidden", 4096, 1..=65_536)?,
            pooled: section.within("pooled", pooled, 1..=64)?,
            dropout: section.within("dropout", 0.5, 0.0..=0.99)?,
        })
    }

    /// The pooling before the first linear layer.
    pub fn pooling(&self) -> Layer {
        Layer::AvgPool { size: self.pooled }
    }

    /// The dropout, where there is one.
    pub fn dropout(&self) -> Option<Layer> {
        (self.dropout > 0.0).then_some(Layer::Dropout { rate: self.dropout })
    }

    /// The network with these layers as its classifier.
    pub fn on(
        &self,
        section: &Section<'_>,
        network: Network,
        image: Shape,
        layers: Vec<Layer>,
    ) -> Result<Network, Fault> {
        let layers = Layers::new(network.features(image), layers).map_err(|misfit| {
            section.fault("architecture", format!("does not do for images of {image}: classifier: {}", misfit.message))
        })?;
        let keys: Keys = vec![
            ("network.hidden", self.hidden.to_string()),
            ("network.pooled", self.pooled.to_string()),
            ("network.dropout", self.dropout.to_string()),
        ];
        Ok(Network { classifier: Some((layers, keys)), ..network })
    }
}
