//! Weights of a whole network in one file, under the names that other programs know.

use crate::disk;
use crate::error::Result;
use crate::network::save_bytes;
use crate::run::{Parts, StageFolder};
use candle_core::Tensor;
use std::path::Path;

/// The weights of a network up to a stage, or of one that was trained as a whole.
pub struct Exported {
    /// The blocks in it.
    pub blocks: usize,
    /// Whether a classifier of the last block is in it.
    pub classifies: bool,
    /// The architecture, where the names are those of torchvision's.
    pub torchvision: Option<&'static str>,
    tensors: Vec<(String, Tensor)>,
}

impl Exported {
    /// Reads the weights of the network whose last stage lies in a folder, or of the whole network in it.
    ///
    /// # Errors
    /// When it holds no weights, or a stage is missing, not trained or damaged.
    pub fn read(folder: &StageFolder) -> Result<Self> {
        let parts = Parts::read(folder)?;
        let mut tensors = Vec::new();
        for (number, block) in (1..).zip(&parts.blocks) {
            tensors.extend(block.variables.clone().under(&format!("block{number}")).tensors());
        }
        tensors.extend(parts.head.iter().flat_map(|head| head.variables.clone().under("auxiliary").tensors()));
        let torchvision = torchvision(&parts);
        if let Some((_, names)) = &torchvision {
            tensors = tensors.into_iter().map(|(own, tensor)| (renamed(&own, names), tensor)).collect();
        }
        Ok(Self {
            blocks: parts.blocks.len(),
            classifies: parts.head.is_some(),
            torchvision: torchvision.map(|(architecture, _)| architecture),
            tensors,
        })
    }

    /// How many tensors there are.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Writes them as a safetensors file, and gives its bytes. The same weights give the same bytes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<usize> {
        // The note by which other programs know that tensors lie in memory as PyTorch has them.
        let bytes = save_bytes(&self.tensors, Some(("format", "pt".into())))?;
        disk::write(path, &bytes)?;
        Ok(bytes.len())
    }
}

/// The architecture and torchvision's names of its layers, where all of it is here: with fewer blocks, or with a
/// classifier that only trains a block, it is not that network.
fn torchvision(parts: &Parts) -> Option<(&'static str, Vec<(String, String)>)> {
    let recipe = &parts.recipe;
    let whole = parts.alike && parts.head.is_some() && parts.blocks.len() == recipe.stages.len();
    Some((recipe.architecture, recipe.torchvision_names().filter(|_| whole)?))
}

/// The other name of a tensor, where its layer has one.
fn renamed(own: &str, layers: &[(String, String)]) -> String {
    let found = own.rsplit_once('.').and_then(|(layer, value)| {
        let (_, theirs) = layers.iter().find(|(name, _)| name == layer)?;
        Some(format!("{theirs}.{value}"))
    });
    found.unwrap_or_else(|| own.to_string())
}
