//! WHAT: a pipeline file as values, which stages of it have to be done, and what they cost.
//!
//! Pure: nothing here reads a file, holds a tensor or fails but on the faults of the file itself.

mod alexnet;
mod architecture;
mod auxiliary;
mod choice;
mod compression;
mod cost;
mod custom;
mod data;
mod ensemble;
mod estimate;
mod fault;
mod features;
pub mod footprint;
mod graph;
mod kind;
mod layer;
mod layers;
mod machine;
mod manifest;
mod measuring;
mod network;
mod place;
mod plan;
mod pretrained;
mod probes;
mod scattering;
mod section;
mod simcnn;
mod torchvision;
mod training;
mod tree;
mod vgg;

pub use choice::choose;
pub use compression::Pruning;
pub use cost::{Cost, Costs};
pub use data::{Augmentation, BadImage, Crop, Data, Keep, LONGEST, Orientation, Source};
pub use ensemble::Average;
pub use estimate::{Estimate, Limit, Time};
pub use fault::Fault;
pub use features::{Codec, CodecChoice, Dtype, Encoding, Features, Shuffle, bytes};
pub use footprint::{Memory, Processor};
pub use graph::{Graph, Node};
pub use kind::Kind;
pub use layer::{Layer, Outputs, Shape, scattered};
pub use layers::{Layers, Role};
pub use machine::{Figures, Machine, Parts, Profile};
pub use manifest::Manifest;
pub use network::{Init, Keys, Network};
pub use plan::{NAMES_AND_TIMES, Reason, Seen, Verdict, plan};
pub use pretrained::{Group, Pretrained, Weight, Whole};
pub use probes::{Probe, ProbeKind, Probed};
pub use torchvision::torchvision_network;
pub use training::{Feedback, Method, Precision, Training};

use auxiliary::AuxiliarySettings;
use compression::{Compression, Pruned};
use features::{Materialize, Open};
use section::Section;
use std::ops::Range;
use tree::Table;

/// What a pipeline file says, with its overrides; some of it may be left to the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    recipe: Recipe,
    open: Open,
}

/// All that a pipeline does, with nothing left open: what everything below takes its part of.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
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
    /// What the network is called.
    pub architecture: &'static str,
    /// How its weights begin.
    pub init: Init,
    /// The numbers of the linear layers in the classifier of torchvision's network of this name, where it has one.
    torchvision_linears: Option<[usize; 3]>,
    /// Where its weights come from, where they are not trained here, or not all of them.
    pub pretrained: Option<Pretrained>,
    /// Whether blocks are trained one after the other or together.
    pub method: Method,
    /// What carries gradients back where blocks are trained together.
    pub feedback: Feedback,
    /// Batches that wait before each block where blocks are trained at once; 0 where each is used once, in order.
    pub replay: usize,
    /// How the whole network is trained where blocks are trained together.
    pub training: Training,
    /// How the stages, first to last, are built and trained; stage 0, the decoded images, is not among them.
    pub stages: Vec<Stage>,
    /// How features are stored.
    pub features: Features,
    /// How all stages are asked together, where that is a node.
    pub ensemble: Option<Average>,
    /// What is measured of the features of stages; and the classifier that takes the place of the last one, where one does.
    pub probes: Vec<Probe>,
    /// The settings with their overrides, as TOML: what a stage's record keeps.
    pub text: String,
}

/// One depth of a pipeline's network: a block, and how it is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its number, from 1.
    pub number: usize,
    /// Its block.
    pub block: Layers,
    /// The classifier that trains the block; where blocks are trained together only the last has one, of those that come
    /// from a file that of the file, and of a scattering transform nothing is trained.
    pub head: Option<Layers>,
    /// The settings that block and classifier come from.
    pub keys: Keys,
    /// How it is trained.
    pub training: Training,
    /// What block and classifier are before some of the block's channels are pruned, where they are: those above are what is
    /// left.
    pub pruning: Option<Pruning>,
}

impl Settings {
    /// The recipe as far as the file tells: what it leaves to a plan counts as cached, and no memory is assumed.
    pub fn as_written(&self) -> &Recipe {
        &self.recipe
    }

    /// Whether it is left to a plan which features are cached (`features.materialize = "auto"`).
    pub fn leaves_plan_open(&self) -> bool {
        self.open.materialize == Materialize::Auto
    }

    /// Whether the file itself says how many views are refreshed.
    pub fn says_refresh(&self) -> bool {
        self.open.refresh.is_some()
    }

    /// The recipe with nothing left open: the stages whose features are cached, where they were planned or are known
    /// otherwise, and the bytes of memory that features may take where the file does not say.
    pub fn resolve(self, cached: Option<Vec<usize>>, memory: u64) -> Recipe {
        let Self { mut recipe, open } = self;
        recipe.features.memory = open.memory.unwrap_or(memory);
        if let Some(mut cached) = cached {
            cached.sort_unstable();
            cached.dedup();
            recipe.features.cached = cached;
        }
        recipe
    }

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
        let mut compression_section = root.section("compression")?;
        let stage_section = root.section("stage")?;
        let method = Method::read(&mut training_section)?;
        let feedback = Feedback::read(&mut training_section, method)?;
        let replay = method.read_replay(&mut training_section)?;
        let ensemble = Average::read(&mut root, method)?;
        let probe_items = root.list("probes")?.unwrap_or_default();
        root.finish()?;

        let data = Data::read(&mut data_section)?;
        data_section.finish()?;
        let augmentation = Augmentation::read(&mut augmentation_section, &data)?;
        augmentation_section.finish()?;
        let auxiliary = AuxiliarySettings::read(&mut auxiliary_section, &AuxiliarySettings::DEFAULT)?;
        auxiliary_section.finish()?;
        let image = Shape { channels: data.channels, size: augmentation.size };
        let network = architecture::read(&mut network_section, image, auxiliary.k)?;
        let pretrained = Pretrained::read(&mut network_section, network.blocks.len(), method)?;
        network_section.finish()?;
        let training = Training::read(&mut training_section, Training::DEFAULT)?;
        training_section.finish()?;
        let compression = Compression::read(&mut compression_section, training)?;
        let compresses = compression.is_some() || compression_section.has("classifier");
        if compresses && (method != Method::Layerwise || pretrained.is_some()) {
            let fault = "has no meaning where blocks are not trained one after the other";
            return Err(Section::root(&table).fault("compression", fault));
        }
        let (network, pruned) = match compression {
            Some(compression) => {
                let pruned = compression.prune(&compression_section, network, image)?;
                (pruned.network.clone(), Some(pruned))
            }
            None => (network, None),
        };
        let mut classifier_section = compression_section.section("classifier")?;
        let classifier = compression::read_classifier(&mut classifier_section, &network, (&auxiliary, training))?;
        classifier_section.finish()?;
        compression_section.finish()?;
        let (features, open) = Features::read(&mut features_section, network.blocks.len(), augmentation.is_random())?;
        features_section.finish()?;
        let stages = read_stages(
            stage_section,
            (&network, pruned.as_ref()),
            (auxiliary, training),
            (method, pretrained.as_ref()),
        )?;
        if ensemble.is_some()
            && pretrained.as_ref().is_some_and(|own| own.blocks.is_none_or(|blocks| blocks == stages.len()))
        {
            let fault = "has no meaning where all blocks come from a file: one classifier at most is there";
            return Err(Section::root(&table).fault("ensemble", fault));
        }
        let mut probes = Probe::read_all(probe_items, &stages, (image, &training))?;
        probes.extend(classifier);
        if let Some(fault) = no_late_crops(&features, &data, &augmentation, &network) {
            return Err(Section::root(&table).section("features")?.fault("crop", fault));
        }

        let mut settings = table.to_toml();
        settings.insert("name".into(), name.clone().into());
        let (architecture, init) = (network.architecture, network.init);
        let text = settings.to_string();
        let recipe = Recipe {
            name,
            seed,
            cache,
            data,
            augmentation,
            architecture,
            init,
            torchvision_linears: network.torchvision_linears,
            pretrained,
            method,
            feedback,
            replay,
            training,
            stages,
            features,
            ensemble,
            probes,
            text,
        };
        Ok(Self { recipe, open })
    }
}

impl Recipe {
    /// Reads the text of a pipeline file as [`Settings::parse`] does, and takes it [as written](Settings::as_written).
    ///
    /// # Errors
    /// Those of [`Settings::parse`].
    pub fn parse(name: &str, default_name: &str, text: &str, overrides: &[String]) -> Result<Self, Fault> {
        Ok(Settings::parse(name, default_name, text, overrides)?.recipe)
    }

    /// The shape of the network's input.
    pub fn image(&self) -> Shape {
        Shape { channels: self.data.channels, size: self.augmentation.size }
    }

    /// The stages whose output a stage reads: the nearest features that are written and the blocks after them, or, where
    /// views are refreshed, everything from the images on.
    pub fn reads(&self, stage: usize) -> Range<usize> {
        let first = if self.features.refresh > 0.0 { 0 } else { self.features.nearest(stage) };
        first..stage
    }

    /// What has to be overridden of the settings for a stage that is trained by itself; blocks before it may come from a
    /// file.
    pub fn alone(&self, number: usize) -> Vec<String> {
        let mut overrides = vec![format!("training.method={}", Method::Layerwise.word())];
        if self.feedback != Feedback::Exact {
            overrides.push(format!("training.feedback={}", Feedback::Exact.word()));
        }
        if self.replay > 0 {
            overrides.push("training.replay=0".into());
        }
        if self.pretrained.is_some() {
            overrides.push(format!("network.imported={}", number.saturating_sub(1)));
        }
        overrides
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
    if network.blocks.len() > 1 && !features.caches(1) {
        return Some("is \"late\", but the features of stage 1 are not cached (`features.materialize`)".into());
    }
    if data.keep == Keep::Whole {
        return Some(
            "is \"late\", but `data.keep = \"whole\"` keeps images of any shape, and canvases are square".into(),
        );
    }
    if matches!(augmentation.crop, Crop::Resized { .. }) {
        return Some("is \"late\", but crops that are scaled cannot be taken from features".into());
    }
    if !network.blocks.iter().all(Layers::keeps_shifts) {
        return Some("is \"late\", but not all layers give shifted features of a shifted image (strides, poolings that overlap, padding that changes the size)".into());
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
    (network, pruned): (&Network, Option<&Pruned>),
    (auxiliary, training): (AuxiliarySettings, Training),
    (method, pretrained): (Method, Option<&Pretrained>),
) -> Result<Vec<Stage>, Fault> {
    let count = network.blocks.len();
    let imported = pretrained.map_or(0, |own| own.blocks.unwrap_or(count.saturating_sub(1)));
    let taken = pretrained.map_or(0, |own| own.blocks.unwrap_or(count));
    let mut stages = Vec::with_capacity(count);
    for (number, block) in (1..).zip(&network.blocks) {
        let mut own = all.section(&number.to_string())?;
        let mut section = own.section("auxiliary")?;
        let auxiliary = AuxiliarySettings::read(&mut section, &auxiliary)?;
        let mut keys = network.keys[number - 1].clone();
        let mut pruning = None;
        let head = match method {
            _ if number <= imported => None,
            Method::EndToEnd if number < count => None,
            Method::Layerwise | Method::Decoupled if block.is_handcrafted() => None,
            Method::Layerwise | Method::EndToEnd | Method::Decoupled => {
                let fitted = match pruned {
                    Some(pruned) => pruned.fit(&auxiliary, number),
                    None => auxiliary.fit(network, number).map(|(head, keys)| (head, keys, None)),
                };
                let (head, more, before) = fitted.map_err(|misfit| {
                    section.fault("layers", format!("do not fit block {number}: {}", misfit.message))
                })?;
                keys.extend(more);
                pruning = before;
                Some(head)
            }
        };
        section.finish()?;
        let mut section = own.section("training")?;
        if let Some(key) = section.keys().next() {
            if method.is_whole() {
                return Err(section.fault(key, "has no meaning where all blocks are trained together"));
            }
            if number <= taken {
                return Err(section.fault(key, "has no meaning: the block comes from a file (`network.weights`)"));
            }
        }
        let training = Training::read(&mut section, training)?;
        section.finish()?;
        own.finish()?;
        stages.push(Stage { number, block: block.clone(), head, keys, training, pruning });
    }
    if let Some(key) = all.keys().find(|key| !(1..=stages.len()).any(|number| number.to_string() == *key)) {
        return Err(all.fault(key, format!("is no stage; stages are 1 to {}", stages.len())));
    }
    all.finish()?;
    Ok(stages)
}
