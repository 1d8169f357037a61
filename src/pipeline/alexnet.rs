//! AlexNet as torchvision has it (Krizhevsky 2014, "One weird trick").

use super::Fault;
use super::layer::{Layer, Outputs, Shape};
use super::network::{HeadStyle, Init, Network};
use super::section::Section;
use super::vgg::Classifier;

/// Kernel, stride and padding of each convolution, its channels as a multiple of the first's, and whether an overlapping
/// pooling comes behind it.
const CONVOLUTIONS: [(usize, usize, usize, usize, bool); 5] =
    [(11, 4, 2, 1, true), (5, 1, 2, 3, true), (3, 1, 1, 6, false), (3, 1, 1, 4, false), (3, 1, 1, 4, true)];

/// Five blocks of convolution → ReLU → \[max pooling\].
pub(super) fn read(section: &mut Section<'_>, image: Shape, _k: usize) -> Result<Network, Fault> {
    let width = section.within("width", 64, 1..=8192)?;
    let classifier = Classifier::read(section, 6)?;
    let blocks = CONVOLUTIONS.iter().map(|&(kernel, stride, padding, times, pooled)| {
        let channels = times * width;
        let mut layers = vec![Layer::Conv { channels, kernel, stride, padding, bias: true }, Layer::Relu];
        layers.extend(pooled.then_some(Layer::MaxPool { kernel: 3, stride: 2, padding: 0 }));
        (layers, vec![("network.width", channels.to_string())])
    });
    let (blocks, keys) = Network::chain(image, blocks).map_err(|(number, misfit)| {
        section.fault("architecture", format!("does not do for images of {image}: block {number}: {}", misfit.message))
    })?;
    let network = Network {
        architecture: "alexnet",
        blocks,
        classifier: None,
        init: Init::Uniform,
        torchvision_linears: Some([1, 4, 6]),
        keys,
        heads: HeadStyle::Simcnn,
    };
    // Dropout, linear, ReLU: torchvision's AlexNet drops before the linear layer.
    let hidden = |at: &Classifier| {
        [at.dropout(), Some(Layer::Linear { outputs: Outputs::Values(at.hidden) }), Some(Layer::Relu)]
    };
    let layers = [Some(classifier.pooling()), Some(Layer::Flatten)].into_iter();
    let layers = layers.chain(hidden(&classifier)).chain(hidden(&classifier)).flatten();
    let layers: Vec<Layer> = layers.chain([Layer::Linear { outputs: Outputs::Classes }]).collect();
    classifier.on(section, network, image, layers)
}
