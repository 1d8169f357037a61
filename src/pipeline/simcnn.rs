//! SimCNN, the paper's own network (section 3.2): 3x3 convolutions, and 2x2 space-to-depth where it downsamples.

use super::Fault;
use super::layer::{Layer, Shape};
use super::network::{HeadStyle, Init, Keys, Network};
use super::section::Section;

/// Blocks of \[space-to-depth\] → convolution → batch norm (or a bias) → ReLU.
pub(super) fn read(section: &mut Section<'_>, image: Shape, k: usize) -> Result<Network, Fault> {
    let count = section.within("blocks", 4, 1..=64)?;
    let width = section.within("width", 128, 1..=8192)?;
    let batch_norm = section.get("batch_norm", k > 1)?;
    let downsampled: Vec<usize> = section.get("space_to_depth", Vec::new())?;
    if let Some(block) = downsampled.iter().find(|&&block| !(1..=count).contains(&block)) {
        return Err(section.fault("space_to_depth", format!("names block {block}, but blocks are 1 to {count}")));
    }
    let times = |block: usize| downsampled.iter().filter(|&&other| other == block).count();
    if let Some(block) = downsampled.iter().find(|&&block| times(block) > 1) {
        return Err(section.fault("space_to_depth", format!("names block {block} twice")));
    }
    let mut channels: usize = width;
    let blocks: Vec<(Vec<Layer>, Keys)> = (1..=count)
        .map(|number| {
            let halves = downsampled.contains(&number);
            // The paper doubles the width at each downsampling, but for the one that turns the image into 12 channels.
            if halves && number > 1 {
                channels = channels.saturating_mul(2);
            }
            let mut layers = Vec::from_iter(halves.then_some(Layer::SpaceToDepth));
            layers.extend(super::auxiliary::unit(channels, 1, batch_norm));
            let keys = vec![
                ("network.space_to_depth", halves.to_string()),
                ("network.width", channels.to_string()),
                ("network.batch_norm", batch_norm.to_string()),
            ];
            (layers, keys)
        })
        .collect();
    let (blocks, keys) = Network::chain(image, blocks).map_err(|(number, misfit)| {
        let key = if downsampled.contains(&number) { "space_to_depth" } else { "width" };
        section.fault(key, format!("does not do for block {number}: {}", misfit.message))
    })?;
    Ok(Network {
        architecture: "simcnn",
        blocks,
        classifier: None,
        init: Init::Uniform,
        torchvision_linears: None,
        keys,
        heads: HeadStyle::Simcnn,
    })
}
