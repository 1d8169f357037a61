//! The layers of trained blocks and classifiers with their weights, from the folders of stages.

use super::contents::HEAD;
use super::folder::StageFolder;
use super::network::{load_block, load_classifier, load_stage, load_whole, part_of, recipe, stage_before};
use super::record::{Record, State};
use crate::error::{Error, Result};
use crate::network::{Sequence, Variables};
use crate::pipeline::{Kind, Layers, Recipe};
use candle_core::Device;

/// A block or a classifier: its layers, and their weights on the host.
pub struct Part {
    /// The layers.
    pub layers: Layers,
    /// Their weights and running statistics, under the names that the layers give them.
    pub variables: Variables,
}

/// Blocks, first to last, and the classifier of the last.
pub struct Parts {
    /// The blocks.
    pub blocks: Vec<Part>,
    /// The classifier, where the last block has one.
    pub head: Option<Part>,
    /// The settings that the last stage was trained with.
    pub recipe: Recipe,
    /// Whether they are those of all blocks: single stages may have been trained otherwise.
    pub alike: bool,
    /// The record of the last stage, or of the network that was trained as a whole.
    pub record: Record,
}

impl Part {
    /// The block of a stage.
    ///
    /// # Errors
    /// When it is not trained yet, or its weights are missing or damaged.
    pub fn block(folder: &StageFolder, record: &Record) -> Result<Self> {
        refuse_untrained(folder, record)?;
        Self::block_of(folder, record, &recipe(folder, record, &[])?)
    }

    fn block_of(folder: &StageFolder, record: &Record, recipe: &Recipe) -> Result<Self> {
        let variables = load_block(folder, record, recipe, &Device::Cpu)?.variables();
        let stage = recipe.stages.get(record.stage.wrapping_sub(1));
        let stage = stage.ok_or_else(|| Error::failed(format!("{} has no settings", record.title())))?;
        Ok(Self { layers: stage.block.clone(), variables })
    }

    /// The classifier of a stage, where it has one.
    ///
    /// # Errors
    /// When it is not trained yet, or its weights are missing or damaged.
    pub fn head(folder: &StageFolder, record: &Record) -> Result<Option<Self>> {
        refuse_untrained(folder, record)?;
        Self::head_of(folder, record, &recipe(folder, record, &[])?)
    }

    /// A classifier that takes the place of the last one.
    ///
    /// # Errors
    /// When it is not trained yet, or its weights are missing or damaged.
    pub fn classifier(folder: &StageFolder, record: &Record) -> Result<Option<Self>> {
        let recipe = recipe(folder, record, &[])?;
        let variables = load_classifier(folder, record, &recipe, &Device::Cpu)?.head.variables();
        Ok(recipe.classifier().map(|(layers, _)| Self { layers: layers.clone(), variables }))
    }

    fn head_of(folder: &StageFolder, record: &Record, recipe: &Recipe) -> Result<Option<Self>> {
        let stage = recipe.stages.get(record.stage.wrapping_sub(1));
        let layers = stage.and_then(|stage| stage.head.clone()).filter(|_| record.weights.contains_key(HEAD));
        let Some(layers) = layers else { return Ok(None) };
        let variables = load_stage(folder, record, recipe, &Device::Cpu)?.head.variables();
        Ok(Some(Self { layers, variables }))
    }
}

impl Parts {
    /// Reads the network whose last stage lies in a folder, or the whole network in it.
    ///
    /// # Errors
    /// When it holds no weights, or a stage is missing, not trained or damaged.
    pub fn read(folder: &StageFolder) -> Result<Self> {
        let record = folder.record()?;
        match record.kind {
            Kind::Images | Kind::Wide | Kind::Ensemble | Kind::Probe => {
                let held = if record.kind == Kind::Images { "decoded images".into() } else { record.title() };
                let what = format!("`{}` holds {held}, no weights", folder.path().display());
                Err(Error::usage(what).hint("name the folder of a stage, such as `cache/stage3`"))
            }
            Kind::Classifier => {
                let head = Part::classifier(folder, &record)?;
                Ok(Self { head, ..Self::read(&stage_before(folder, &record)?)? })
            }
            Kind::EndToEnd | Kind::Decoupled | Kind::Imported => Self::of_network(folder, record),
            Kind::Block | Kind::Pruned | Kind::Depth | Kind::Scattering => Self::of_stages(folder, record),
        }
    }

    fn of_network(folder: &StageFolder, record: Record) -> Result<Self> {
        refuse_untrained(folder, &record)?;
        let recipe = recipe(folder, &record, &[])?;
        let networks = load_whole(folder, &record, &recipe, &Device::Cpu)?;
        let part = |layers: &Layers, own: &Sequence| Part { layers: layers.clone(), variables: own.variables() };
        let (mut blocks, mut head) = (Vec::new(), None);
        for stage in &recipe.stages {
            let Some((block, own)) = part_of(&networks, stage.number) else { break };
            blocks.push(part(&stage.block, block));
            head = stage.head.as_ref().zip(own).map(|(layers, own)| part(layers, own));
        }
        Ok(Self { blocks, head, recipe, alike: true, record })
    }

    /// Each block is built by the settings of its own stage, which may have been trained by itself.
    fn of_stages(last: &StageFolder, record: Record) -> Result<Self> {
        refuse_untrained(last, &record)?;
        let whole = recipe(last, &record, &[])?;
        let head = Part::head_of(last, &record, &whole)?;
        let mut blocks = Vec::new();
        let mut alike = true;
        let (mut folder, mut next) = (last.clone(), record.clone());
        while let Some(parent) = folder.parent(&next)? {
            let own = recipe(&folder, &next, &[])?;
            let part = Part::block_of(&folder, &next, &own)?;
            alike &= whole.stages.get(next.stage - 1).is_some_and(|stage| stage.block == part.layers);
            blocks.push(part);
            (folder, next) = parent;
        }
        blocks.reverse();
        Ok(Self { blocks, head, recipe: whole, alike, record })
    }
}

fn refuse_untrained(folder: &StageFolder, record: &Record) -> Result<()> {
    match record.state {
        State::Begun => Err(Error::failed(format!("`{}` is not trained yet", folder.path().display()))
            .hint("`greedy run` goes on with it")),
        State::Trained | State::Finished => Ok(()),
    }
}
