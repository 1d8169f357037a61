//! Weights of a whole network in one file, under the names that other programs know.

use super::contents::HEAD;
use super::folder::StageFolder;
use super::network::{load_block, load_network, load_stage, recipe};
use super::record::{Record, State};
use crate::disk;
use crate::error::{Error, Result};
use crate::network::{Variables, save_bytes};
use crate::pipeline::{Kind, Recipe};
use candle_core::{Device, Tensor};
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

/// Blocks, first to last, and the classifier of the last.
struct Parts {
    blocks: Vec<Variables>,
    head: Option<Variables>,
    /// The recipe of all of it; nothing where blocks come from different ones.
    recipe: Option<Recipe>,
}

impl Exported {
    /// Reads the weights of the network whose last stage lies in a folder, or of the whole network in it.
    ///
    /// # Errors
    /// When it holds no weights, or a stage is missing, not trained or damaged.
    pub fn read(folder: &StageFolder) -> Result<Self> {
        let record = folder.record()?;
        let parts = match record.kind {
            Kind::Images | Kind::Ensemble | Kind::Probe => {
                let what = format!("`{}` holds {}, no weights", folder.path().display(), record.title());
                return Err(Error::usage(what).hint("name the folder of a stage, such as `cache/stage3`"));
            }
            Kind::EndToEnd => Parts::of_network(folder, &record)?,
            Kind::Block | Kind::Depth | Kind::Scattering => Parts::of_stages(folder, &record)?,
        };
        let mut tensors = Vec::new();
        for (number, block) in (1..).zip(&parts.blocks) {
            tensors.extend(block.clone().under(&format!("block{number}")).tensors());
        }
        tensors.extend(parts.head.iter().flat_map(|head| head.clone().under("auxiliary").tensors()));
        let torchvision = parts.torchvision();
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

impl Parts {
    fn of_network(folder: &StageFolder, record: &Record) -> Result<Self> {
        refuse_untrained(folder, record)?;
        let recipe = recipe(folder, record, &[])?;
        let network = load_network(folder, record, &recipe, &Device::Cpu)?;
        let blocks = network.blocks.iter().map(|block| block.variables()).collect();
        Ok(Self { blocks, head: Some(network.head.variables()), recipe: Some(recipe) })
    }

    /// Each block is built by the settings of its own stage, which may have been trained by itself.
    fn of_stages(last: &StageFolder, record: &Record) -> Result<Self> {
        refuse_untrained(last, record)?;
        let whole = recipe(last, record, &[])?;
        let head = match record.weights.contains_key(HEAD) {
            true => Some(load_stage(last, record, &whole, &Device::Cpu)?.head.variables()),
            false => None,
        };
        let mut blocks = Vec::new();
        let mut alike = true;
        let (mut folder, mut next) = (last.clone(), record.clone());
        while let Some(parent) = folder.parent(&next)? {
            let own = recipe(&folder, &next, &[])?;
            blocks.push(load_block(&folder, &next, &own, &Device::Cpu)?.variables());
            let block = |recipe: &Recipe| recipe.stages.get(next.stage - 1).map(|stage| stage.block.clone());
            alike &= block(&own) == block(&whole);
            (folder, next) = parent;
        }
        blocks.reverse();
        Ok(Self { blocks, head, recipe: alike.then_some(whole) })
    }

    /// The architecture and torchvision's names of its layers, where all of it is here: with fewer blocks, or with a
    /// classifier that only trains a block, it is not that network.
    fn torchvision(&self) -> Option<(&'static str, Vec<(String, String)>)> {
        let recipe = self.recipe.as_ref()?;
        let whole = self.head.is_some() && self.blocks.len() == recipe.stages.len();
        Some((recipe.architecture, recipe.torchvision_names().filter(|_| whole)?))
    }
}

fn refuse_untrained(folder: &StageFolder, record: &Record) -> Result<()> {
    match record.state {
        State::Begun => Err(Error::failed(format!("`{}` is not trained yet", folder.path().display()))
            .hint("`greedy run` goes on with it")),
        State::Trained | State::Finished => Ok(()),
    }
}

/// The other name of a tensor, where its layer has one.
fn renamed(own: &str, layers: &[(String, String)]) -> String {
    let found = own.rsplit_once('.').and_then(|(layer, value)| {
        let (_, theirs) = layers.iter().find(|(name, _)| name == layer)?;
        Some(format!("{theirs}.{value}"))
    });
    found.unwrap_or_else(|| own.to_string())
}
