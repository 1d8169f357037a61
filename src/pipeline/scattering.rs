//! Handcrafted features: a scattering transform in place of the first block, and learned blocks on top of it.

use super::Fault;
use super::layer::{Layer, Shape};
use super::network::{HeadStyle, Init, Keys, Network};
use super::section::Section;

/// Block 1 is the transform, of which nothing is learned; the others are a batch norm, then convolutions as in SimCNN. With
/// `blocks = 0` a single one normalises the coefficients and no more, so that its classifier is all that is trained.
pub(super) fn read(section: &mut Section<'_>, image: Shape, k: usize) -> Result<Network, Fault> {
    let layer = super::custom::read_scattering(section, "scales")?;
    let count: usize = section.within("blocks", 0, 0..=63)?;
    let width = section.within("width", 128, 1..=8192)?;
    let batch_norm = section.get("batch_norm", k > 1)?;
    let transform = (vec![layer], vec![("network.scattering", layer.to_string())]);
    let learned = (0..count.max(1)).map(|number| {
        let norm = (number == 0).then_some(Layer::BatchNorm);
        let unit = super::auxiliary::unit(width, 1, batch_norm).filter(|_| count > 0);
        let mut keys: Keys =
            vec![("network.blocks", if count == 0 { "batch norm only" } else { "convolutions" }.into())];
        if count > 0 {
            keys.push(("network.width", width.to_string()));
            keys.push(("network.batch_norm", batch_norm.to_string()));
        }
        (norm.into_iter().chain(unit).collect(), keys)
    });
    let (blocks, keys) =
        Network::chain(image, std::iter::once(transform).chain(learned)).map_err(|(number, misfit)| {
            section.fault(if number == 1 { "scales" } else { "width" }, format!("does not do: {}", misfit.message))
        })?;
    Ok(Network {
        architecture: "scattering",
        blocks,
        classifier: None,
        init: Init::Uniform,
        torchvision_linears: None,
        keys,
        heads: HeadStyle::Simcnn,
    })
}
