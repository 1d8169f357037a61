//! `[network]`: the architectures by their names.

use super::layer::Shape;
use super::network::{Init, Network};
use super::section::Section;
use super::{Fault, alexnet, custom, scattering, simcnn, vgg};

/// Reads the rest of `[network]` for an image of a shape, where `k` hidden layers are trained at a stage.
type Read = fn(&mut Section<'_>, Shape, usize) -> Result<Network, Fault>;

const ARCHITECTURES: [(&str, Read); 12] = [
    ("simcnn", simcnn::read),
    ("vgg11", |section, image, _| vgg::read(section, image, &vgg::VGG11, false)),
    ("vgg11_bn", |section, image, _| vgg::read(section, image, &vgg::VGG11, true)),
    ("vgg13", |section, image, _| vgg::read(section, image, &vgg::VGG13, false)),
    ("vgg13_bn", |section, image, _| vgg::read(section, image, &vgg::VGG13, true)),
    ("vgg16", |section, image, _| vgg::read(section, image, &vgg::VGG16, false)),
    ("vgg16_bn", |section, image, _| vgg::read(section, image, &vgg::VGG16, true)),
    ("vgg19", |section, image, _| vgg::read(section, image, &vgg::VGG19, false)),
    ("vgg19_bn", |section, image, _| vgg::read(section, image, &vgg::VGG19, true)),
    ("alexnet", alexnet::read),
    ("scattering", scattering::read),
    ("custom", custom::read),
];

/// Reads the table; `image` is the shape of the network's input, `k` the hidden layers trained at a stage.
pub(super) fn read(section: &mut Section<'_>, image: Shape, k: usize) -> Result<Network, Fault> {
    let indices: Vec<(&str, usize)> = ARCHITECTURES.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
    let (name, read) = ARCHITECTURES[section.choice("architecture", 0, &indices)?];
    let network = read(section, image, k)?;
    let init = section.choice("init", network.init, &Init::WORDS)?;
    Ok(Network { architecture: name, init, ..network })
}
