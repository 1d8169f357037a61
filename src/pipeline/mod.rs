//! WHAT: a pipeline file as values, which stages of it have to be done, and what they cost.
//!
//! Pure: nothing here reads a file, holds a tensor or fails but on the faults of the file itself.

mod choice;
mod cost;
mod data;
mod estimate;
mod fault;
mod features;
mod graph;
mod machine;
mod manifest;
mod network;
mod section;
mod training;
mod tree;

pub use choice::choose;
pub use cost::Cost;
pub use data::{Augmentation, BadImage, Crop, Data, Orientation, Source};
pub use estimate::{Estimate, Limit, Memory, Time};
pub use fault::Fault;
pub use features::{Codec, Dtype, Features, Materialize, Shuffle, bytes};
pub use graph::{Graph, Node, Reason, Seen, Verdict, plan};
pub use machine::{Figures, Machine, Parts, Profile};
pub use manifest::Manifest;
pub use network::{Auxiliary, Block, Network, POOLED, Shape};
pub use training::{Precision, Training};

use network::AuxiliarySettings;
use section::Section;
use std::ops::Range;
use tree::Table;

/// Everything that a pipeline file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// What it is called: `name`, or the file's name.
    pub name: String,
    /// The seed of everything random.
    pub seed: u64,
    /// The folder of its stages.
    pub cache: String,
    /// The images.
    pub data: Data,
    /// How they become inputs of the network.
    pub augmentation: Augmentation,
    /// How the stages, first to last, are built and trained; stage 0, the decoded images, is not among them.
    pub stages: Vec<Stage>,
    /// How features are stored.
    pub features: Features,
    /// The settings with their overrides, as TOML: what a stage's record keeps.
    pub text: String,
}

/// One trained stage of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// Its number, from 1.
    pub number: usize,
    /// Its block.
    pub block: Block,
    /// The classifier that trains the block.
    pub auxiliary: Auxiliary,
    /// How it is trained.
    pub training: Training,
}

impl Pipeline {
    /// Reads the text of a pipeline file.
    ///
    /// `name` is what errors call the text, `default_name` the pipeline's name where the text gives none, and
    /// `overrides` are settings such as `training.epochs=5`, applied in order.
    ///
    /// # Errors
    /// On anything that is not TOML, an unknown key, a wrong type or an impossible value, with its place.
    pub fn parse(name: &str, default_name: &str, text: &str, overrides: &[String]) -> Result<Self, Fault> {
        let mut table = Table::parse(name, text)?;
        for setting in overrides {
            table.merge(Table::parse_override(setting)?);
        }
        let mut root = Section::root(&table);
        let name = root.get("name", default_name.to_string())?;
        let seed = root.within("seed", 0, 0..=i64::MAX as u64)?;
        let cache = data::read_place(&mut root, "cache")?.unwrap_or_else(|| "cache".into());

        let mut data_section = root.section("data")?;
        let mut augmentation_section = root.section("augmentation")?;
        let mut network_section = root.section("network")?;
        let mut auxiliary_section = root.section("auxiliary")?;
        let mut training_section = root.section("training")?;
        let mut features_section = root.section("features")?;
        let stage_section = root.section("stage")?;
        root.finish()?;

        let data = Data::read(&mut data_section)?;
        data_section.finish()?;
        let augmentation = Augmentation::read(&mut augmentation_section, data.size)?;
        augmentation_section.finish()?;
        let auxiliary = AuxiliarySettings::read(&mut auxiliary_section, AuxiliarySettings::DEFAULT)?;
        auxiliary_section.finish()?;
        let image = Shape { channels: data.channels, size: augmentation.size };
        let network = Network::read(&mut network_section, image, auxiliary.k)?;
        network_section.finish()?;
        let training = Training::read(&mut training_section, Training::DEFAULT)?;
        training_section.finish()?;
        let features = Features::read(&mut features_section, network.blocks.len())?;
        features_section.finish()?;
        let stages = read_stages(stage_section, &network, auxiliary, training)?;
        if let Some(fault) = no_late_crops(&features, &data, &augmentation, &network) {
            return Err(Section::root(&table).section("features")?.fault("crop", fault));
        }

        let mut settings = table.to_toml();
        settings.insert("name".into(), name.clone().into());
        Ok(Self { name, seed, cache, data, augmentation, stages, features, text: settings.to_string() })
    }

    /// The shape of the network's input.
    pub fn image(&self) -> Shape {
        Shape { channels: self.data.channels, size: self.augmentation.size }
    }

    /// The stages whose output a stage reads: the nearest features that are written and the blocks after them, or, where
    /// views are refreshed, everything from the images on.
    pub fn reads(&self, stage: usize) -> Range<usize> {
        let first = if self.refresh() > 0.0 { 0 } else { self.features.nearest(stage) };
        first..stage
    }

    /// The share of the training samples that get a new view at every epoch. Where the file does not say, that is a
    /// quarter: measured to learn as well from one view as from fresh ones at every epoch, for a quarter of their cost.
    pub fn refresh(&self) -> f64 {
        if self.augmentation.is_random() { self.features.refresh.unwrap_or(0.25) } else { 0.0 }
    }

    /// What becomes of a feature map (or of the image itself) where the whole padded image is run instead of a crop.
    pub fn canvas(&self, crop: Shape) -> Shape {
        let image = canvas_size(&self.data, &self.augmentation);
        Shape { size: crop.size * image / self.augmentation.size, ..crop }
    }

    /// The feature map of a crop, from that of the whole padded image.
    pub fn crop(&self, canvas: Shape) -> Shape {
        let image = canvas_size(&self.data, &self.augmentation);
        Shape { size: canvas.size * self.augmentation.size / image, ..canvas }
    }

    /// The most pixels of the image that a step of a feature map spans, at the end of the network.
    pub fn widest_step(&self) -> usize {
        let steps = self.stages.iter().map(|stage| self.augmentation.size / stage.block.output.size);
        steps.max().unwrap_or(1)
    }
}

/// The side of an image with its padding.
fn canvas_size(data: &Data, augmentation: &Augmentation) -> usize {
    match augmentation.crop {
        Crop::Padded { padding } => data.size + 2 * padding,
        Crop::Centre | Crop::Resized { .. } => data.size,
    }
}

/// Why features cannot be cropped late, where that is asked for.
fn no_late_crops(features: &Features, data: &Data, augmentation: &Augmentation, network: &Network) -> Option<String> {
    if !features.late_crops {
        return None;
    }
    if network.blocks.len() > 1 && !features.keeps(1) {
        return Some("is \"late\", but the features of stage 1 are not kept (`features.materialize`)".into());
    }
    if matches!(augmentation.crop, Crop::Resized { .. }) {
        return Some("is \"late\", but crops that are scaled cannot be taken from features".into());
    }
    let side = canvas_size(data, augmentation);
    let steps = network.blocks.iter().map(|block| augmentation.size / block.output.size);
    let step = steps.max().unwrap_or(1);
    (!side.is_multiple_of(step) || !augmentation.size.is_multiple_of(step)).then(|| {
        format!("is \"late\", but {side} pixels, the image with its padding, are no multiple of the {step} pixels that a step of the last features spans")
    })
}

/// Fits the classifier and the training to each block; `[stage.3.training]` and `[stage.3.auxiliary]` override both.
fn read_stages(
    mut all: Section<'_>,
    network: &Network,
    auxiliary: AuxiliarySettings,
    training: Training,
) -> Result<Vec<Stage>, Fault> {
    let mut stages = Vec::with_capacity(network.blocks.len());
    for (number, &block) in (1..).zip(&network.blocks) {
        let mut own = all.section(&number.to_string())?;
        let mut section = own.section("auxiliary")?;
        let auxiliary = AuxiliarySettings::read(&mut section, auxiliary)?.fit(network, number);
        section.finish()?;
        let mut section = own.section("training")?;
        let training = Training::read(&mut section, training)?;
        section.finish()?;
        own.finish()?;
        stages.push(Stage { number, block, auxiliary, training });
    }
    if let Some(key) = all.keys().find(|key| !(1..=stages.len()).any(|number| number.to_string() == *key)) {
        return Err(all.fault(key, format!("is no stage; stages are 1 to {}", stages.len())));
    }
    all.finish()?;
    Ok(stages)
}
