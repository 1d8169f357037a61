//! The trained network, put together from the folders of its stages.

use super::contents::{BLOCK, HEAD, NETWORK};
use super::folder::StageFolder;
use super::record::{Record, State};
use super::together::members;
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{Loader, Split, View, chw_to_hwc};
use crate::images::{Augmenter, decode_file, most_bytes, read_image};
use crate::network::{Chain, Frozen, Network, Sequence, Variables, load};
use crate::ops::cut;
use crate::pipeline::{self, Average, Encoding, Group, Kind, Layers, Recipe, Settings, Shape};
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use crate::room;
use crate::text::shown;
use crate::training::{Score, ensemble, score};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// All blocks up to a stage, with the classifiers that there are: one for each block where they were trained one by one,
/// one for the last where they were trained together.
pub struct TrainedNetwork {
    /// The settings that its first stage was trained with: those of the images.
    pub pipeline: Recipe,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// What people call each of them, where that is known.
    pub words: Vec<Option<String>>,
    /// The folder of the decoded images.
    images: StageFolder,
    stages: Vec<(Frozen, Option<Frozen>)>,
    device: Device,
    /// What the ensemble of all stages is the mean of; nothing where the last is asked alone.
    ensemble: Option<Average>,
}

/// How well each stage does, and the ensemble of it and all before it.
pub struct Evaluation {
    /// The numbers of the stages that classify.
    pub numbers: Vec<usize>,
    /// The classifier of each of them, first to last.
    pub stages: Vec<Score>,
    /// The ensemble of the first j of them.
    pub ensembles: Vec<Score>,
    /// Samples that were looked at.
    pub samples: usize,
}

/// Samples that are run at once.
const BATCH: usize = 128;

impl TrainedNetwork {
    /// Reads the network whose last stage lies in a folder, or whose ensemble does.
    ///
    /// # Errors
    /// When a stage is missing, not trained or damaged, or none of them classifies.
    pub fn open(node: &StageFolder, device: &Device) -> Result<Self> {
        let record = node.record()?;
        let (ensemble, last) = match record.kind {
            Kind::Ensemble => {
                let (of, mut stages) = members(node, &record)?;
                let last = stages.pop().ok_or_else(|| Error::failed("the record of the ensemble names no stages"))?;
                (Some(of), last.0)
            }
            Kind::Classifier => (None, stage_before(node, &record)?),
            _ => (None, node.clone()),
        };
        let mut network = Self { ensemble, ..Self::open_blocks(&last, device)? };
        if let (Kind::Classifier, Some((_, head))) = (record.kind, network.stages.last_mut()) {
            let pipeline = recipe(node, &record, &[])?;
            *head = Some(load_classifier(node, &record, &pipeline, device)?.head.frozen()?);
        }
        if network.stages.iter().all(|(_, head)| head.is_none()) {
            return Err(Error::usage(format!(
                "`{}` has no classifier, nor has a stage before it",
                node.path().display()
            ))
            .hint("blocks that were trained together have one behind the last: name that stage"));
        }
        Ok(network)
    }

    /// The blocks up to a stage, where its features are all that is asked for: it may do without a classifier.
    ///
    /// # Errors
    /// When a stage is missing, not trained or damaged.
    pub fn open_blocks(last: &StageFolder, device: &Device) -> Result<Self> {
        let record = last.record()?;
        let what = match record.kind {
            Kind::Images => "decoded images, no network",
            Kind::EndToEnd | Kind::Decoupled => "a network that was trained as a whole",
            Kind::Imported => "a network that was imported",
            Kind::Classifier => "a classifier, no features of its own",
            Kind::Ensemble => "an ensemble, no features of its own",
            Kind::Probe => "what was measured of features, no network",
            Kind::Wide => "a block before it was pruned",
            Kind::Block | Kind::Pruned | Kind::Depth | Kind::Scattering => "",
        };
        if !what.is_empty() {
            return Err(Error::usage(format!("`{}` holds {what}", last.path().display()))
                .hint("name the folder of a stage, such as `cache/stage1`"));
        }
        let mut stages = Vec::new();
        let (mut folder, mut next) = (last.clone(), record.clone());
        let mut pipeline = recipe(last, &record, &[])?;
        while let Some(parent) = folder.parent(&next)? {
            // The settings of images count as the first stage has them: it alone reads images.
            pipeline = recipe(&folder, &next, &[])?;
            stages.push(read_stage(&folder, &next, &pipeline, device)?);
            (folder, next) = parent;
        }
        stages.reverse();
        let words = (0..record.classes.len()).map(|class| record.words(class).map(str::to_string)).collect();
        Ok(Self {
            pipeline,
            classes: record.classes,
            words,
            images: folder,
            stages,
            device: device.clone(),
            ensemble: None,
        })
    }

    /// Asks all stages together, whatever was opened.
    pub fn together(self, of: Average) -> Self {
        Self { ensemble: Some(of), ..self }
    }

    /// What the ensemble of all stages is the mean of; nothing where the last stage is asked alone.
    pub fn ensemble(&self) -> Option<Average> {
        self.ensemble
    }

    /// The numbers of the stages that classify, from 1.
    pub fn classifying(&self) -> Vec<usize> {
        (1..).zip(&self.stages).filter(|(_, (_, head))| head.is_some()).map(|(number, _)| number).collect()
    }

    /// The logits of every stage that classifies for a batch of inputs \[sample, y, x, channel\]: one list \[sample, class\] a stage.
    /// With late crops the inputs are whole canvases.
    ///
    /// # Errors
    /// When the values do not fit the network.
    pub fn logits(&self, x: Tensor) -> Result<Vec<Vec<f32>>> {
        let mut x = x;
        let mut all = Vec::with_capacity(self.stages.len());
        for (block, head) in &self.stages {
            let next = block.forward(&x)?;
            let Some(head) = head else {
                x = next;
                continue;
            };
            // A classifier was trained on what its block makes of a crop, the blocks after it on a crop of that.
            let shown =
                if self.pipeline.features.late_crops { block.forward(&self.centre(&x)?)? } else { next.clone() };
            all.push(head.logits(&shown)?.flatten_all()?.to_vec1()?);
            x = next;
        }
        Ok(all)
    }

    /// The features of the last block for a batch of inputs \[sample, y, x, channel\].
    ///
    /// # Errors
    /// When the values do not fit the network.
    pub fn features(&self, x: Tensor) -> Result<Tensor> {
        let mut x = x;
        for (block, _) in &self.stages {
            x = block.forward(&x)?;
        }
        Ok(x)
    }

    /// The shape of a sample's features.
    pub fn features_shape(&self) -> Shape {
        self.stages.iter().fold(self.input(), |shape, (block, _)| block.output(shape))
    }

    /// The shape of an input.
    fn input(&self) -> Shape {
        let image = self.pipeline.image();
        if self.pipeline.features.late_crops { self.pipeline.canvas(image) } else { image }
    }

    /// The centre of canvases, or of feature maps of them.
    fn centre(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, size, _, channels) = x.dims4()?;
        let (offset, crop) = centre_of_canvas(&self.pipeline, Shape { channels, size });
        let offsets = Tensor::from_vec(vec![offset as u32; 2 * batch], (batch, 2), x.device())?;
        Ok(cut(x, &offsets, crop)?)
    }

    /// The images of a split that the network was made with. Whatever it was trained with, it is looked at in single
    /// precision.
    ///
    /// # Errors
    /// When they are missing or damaged.
    pub fn images(&self, split: Split) -> Result<Loader> {
        let none = Chain::new(Vec::new(), &self.device, DType::F32);
        Loader::open(self.images.path(), split, &self.pipeline, self.classes.len(), none)
    }

    /// Runs images through the whole network, without what is cached of any stage.
    ///
    /// # Errors
    /// When an image is damaged or the user interrupts.
    pub fn evaluate(&self, images: &Loader, progress: &dyn Progress) -> Result<Evaluation> {
        let task = progress.start("evaluate", images.len() as u64);
        let mut logits = vec![Vec::new(); self.classifying().len()];
        let order: Vec<u32> = (0..images.len() as u32).collect();
        images.for_each_batch(&order, BATCH, View::CentreCanvas, |batch| {
            progress.check()?;
            let count = batch.len();
            let found = self.logits(batch.x)?;
            logits.iter_mut().zip(found).for_each(|(all, new)| all.extend(new));
            task.advance(count as u64);
            Ok(())
        })?;
        let stages = logits.iter().map(|logits| score(logits, images.labels())).collect();
        let (classes, of) = (self.classes.len(), self.ensemble.unwrap_or(Average::Logits));
        let together = |count: usize| score(&ensemble(&logits[..count], classes, of), images.labels());
        let ensembles = (1..=logits.len()).map(together).collect();
        Ok(Evaluation { numbers: self.classifying(), stages, ensembles, samples: images.len() })
    }

    /// An image file as it is decoded for stage 0.
    ///
    /// # Errors
    /// When it cannot be decoded.
    pub fn decode(&self, path: &Path) -> Result<Vec<u8>> {
        let data = &self.pipeline.data;
        let mut decoded = Vec::new();
        let bytes = read_image(path, most_bytes(data))?;
        decode_file(&bytes, data, &mut decoded).map_err(|e| e.context(format!("`{}`", shown(path))))?;
        Ok(decoded)
    }

    /// A decoded image as the network takes it, cropped as validation images are: \[1, y, x, channel\].
    ///
    /// # Errors
    /// When the device has no memory, or the bytes are no image.
    pub fn input_of(&self, decoded: &[u8]) -> Result<Tensor> {
        let image = self.input();
        let mut values = vec![0.0; image.values()];
        let mut planes = values.clone();
        let augmenter = Augmenter::new(&self.pipeline.augmentation, &self.pipeline.data);
        let pixels = augmenter.image(decoded)?;
        let crop = match self.pipeline.features.late_crops {
            true => augmenter.centre_canvas(self.pipeline.widest_step()).0,
            false => augmenter.centre_crop([pixels.height, pixels.width]),
        };
        augmenter.apply(pixels, &crop, &mut planes);
        chw_to_hwc(&planes, image.channels, &mut values);
        Ok(Tensor::from_vec(values, (1, image.size, image.size, image.channels), &self.device)?)
    }

    /// The probability of each class for an image file, by the last stage's classifier or by the ensemble of all where
    /// that was opened or [asked for](Self::together).
    ///
    /// # Errors
    /// When the image cannot be decoded.
    pub fn predict(&self, path: &Path) -> Result<Vec<f64>> {
        let mut logits = self.logits(self.input_of(&self.decode(path)?)?)?;
        let chosen = match self.ensemble {
            Some(of) => ensemble(&logits, self.classes.len(), of),
            None => logits.pop().unwrap_or_default(),
        };
        Ok(softmax(&chosen))
    }
}

/// The first row of the centre of a canvas, or of a feature map of one, and its rows; columns are the same.
pub fn centre_of_canvas(pipeline: &Recipe, canvas: Shape) -> (usize, usize) {
    let crop = pipeline.crop(canvas).size;
    let augmenter = Augmenter::new(&pipeline.augmentation, &pipeline.data);
    let (_, offset) = augmenter.centre_canvas(pipeline.widest_step());
    (offset * crop / pipeline.augmentation.size, crop)
}

/// The probability of each class.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The settings that a record was made with, some of them overridden.
///
/// # Errors
/// When the record's settings or the overrides cannot be read.
pub fn settings(folder: &StageFolder, record: &Record, overrides: &[String]) -> Result<Settings> {
    let name = folder.path().join("record.json").display().to_string();
    Ok(Settings::parse(&format!("settings in {name}"), &record.pipeline, &record.settings, overrides)?)
}

/// The recipe that a record was made with, some settings overridden.
///
/// # Errors
/// When the record's settings or the overrides cannot be read.
pub(super) fn recipe(folder: &StageFolder, record: &Record, overrides: &[String]) -> Result<Recipe> {
    let mut recipe = settings(folder, record, overrides)?.resolve(None, room::free_memory() / 2);
    // An earlier version may have stored features otherwise by itself.
    if let Some(Encoding { dtype, codec }) = record.manifest().encoding() {
        (recipe.features.dtype, recipe.features.codec) = (Some(dtype), Some(codec));
    }
    Ok(recipe)
}

fn read_stage(
    folder: &StageFolder,
    record: &Record,
    pipeline: &Recipe,
    device: &Device,
) -> Result<(Frozen, Option<Frozen>)> {
    let name = folder.path().display();
    if record.state == State::Begun {
        return Err(Error::failed(format!("`{name}` is not trained yet")).hint("`greedy run` goes on with it"));
    }
    if !record.weights.contains_key(HEAD) {
        return Ok((load_block(folder, record, pipeline, device)?.frozen()?, None));
    }
    let network = load_stage(folder, record, pipeline, device)?;
    let [block] = &network.blocks[..] else { return Err(Error::failed(format!("`{name}` holds several blocks"))) };
    Ok((block.frozen()?, Some(network.head.frozen()?)))
}

/// The settings of a stage in those of its pipeline.
fn stage_of(folder: &StageFolder, record: &Record, pipeline: &Recipe) -> Result<pipeline::Stage> {
    let stage = record.stage.checked_sub(1).and_then(|at| pipeline.stages.get(at));
    let stage = if record.kind == Kind::Wide { stage.and_then(pipeline::Stage::wide) } else { stage.cloned() };
    stage.ok_or_else(|| {
        Error::failed(format!("the record in `{}` has no settings of its stage", folder.path().display()))
    })
}

/// The block of a stage with the weights in its folder.
pub(super) fn load_block(
    folder: &StageFolder,
    record: &Record,
    pipeline: &Recipe,
    device: &Device,
) -> Result<Sequence> {
    let mut unused = Stream::new(Purpose::Weights, 0, (0, 0));
    let stage = stage_of(folder, record, pipeline)?;
    let block = Network::block(&stage.block, (pipeline.init, &mut unused, device))?;
    read_weights(folder, record, BLOCK, &block.variables(), device)?;
    Ok(block)
}

/// Block and classifier of a stage with the weights in its folder.
pub(super) fn load_stage(folder: &StageFolder, record: &Record, pipeline: &Recipe, device: &Device) -> Result<Network> {
    let mut unused = Stream::new(Purpose::Weights, 0, (0, 0));
    let stage = stage_of(folder, record, pipeline)?;
    let network = Network::of_stage(&stage, record.classes.len(), (pipeline.init, &mut unused, device))?;
    for block in &network.blocks {
        read_weights(folder, record, BLOCK, &block.variables(), device)?;
    }
    read_weights(folder, record, HEAD, &network.head.variables(), device)?;
    Ok(network)
}

/// The folder of the stage whose classifier another one takes the place of.
pub(super) fn stage_before(folder: &StageFolder, record: &Record) -> Result<StageFolder> {
    let parent = folder.parent(record)?;
    let (stage, _) = parent.ok_or_else(|| Error::failed("the record of the classifier names no stage before it"))?;
    Ok(stage)
}

/// The classifier that takes the place of the last one, with the weights in its folder: a network without blocks.
pub(super) fn load_classifier(
    folder: &StageFolder,
    record: &Record,
    pipeline: &Recipe,
    device: &Device,
) -> Result<Network> {
    let name = folder.path().display();
    if record.state == State::Begun {
        return Err(Error::failed(format!("`{name}` is not trained yet")).hint("`greedy run` goes on with it"));
    }
    let (layers, _) = pipeline
        .classifier()
        .ok_or_else(|| Error::failed(format!("the record in `{name}` has no settings of its classifier")))?;
    let mut unused = Stream::new(Purpose::Weights, 0, (0, 0));
    let network = Network::new(&[], layers, record.classes.len(), (pipeline.init, &mut unused, device))?;
    read_weights(folder, record, HEAD, &network.head.variables(), device)?;
    Ok(network)
}

/// What stages are taken of, with the weights in its folder: one network, or several that were trained at once.
pub(super) fn load_whole(
    folder: &StageFolder,
    record: &Record,
    pipeline: &Recipe,
    device: &Device,
) -> Result<Vec<Network>> {
    let unknown = || Error::failed("the settings have no network of which stages are taken");
    let whole = pipeline.whole().ok_or_else(unknown)?;
    let mut groups = whole.groups();
    // Blocks that come without a classifier have an empty one.
    let none = whole.stages.last().and_then(|last| Layers::new(last.block.output, Vec::new()).ok());
    if whole.head.is_none() {
        let blocks = whole.stages.iter().map(|stage| &stage.block).collect();
        groups.push(Group { number: 0, blocks, head: none.as_ref().ok_or_else(unknown)? });
    }
    let mut unused = Stream::new(Purpose::Weights, 0, (0, 0));
    let mut networks = Vec::with_capacity(groups.len());
    for Group { blocks, head, .. } in &groups {
        networks.push(Network::new(blocks, head, record.classes.len(), (pipeline.init, &mut unused, device))?);
    }
    let variables = whole_variables(&groups, &networks.iter().collect::<Vec<_>>());
    read_weights(folder, record, NETWORK, &variables, device)?;
    Ok(networks)
}

/// The variables of all networks that were trained at once: those of a single one as they are, else each under `stage2.…`.
pub(super) fn whole_variables(groups: &[Group<'_>], networks: &[&Network]) -> Variables {
    let mut all = Variables::default();
    for (group, network) in groups.iter().zip(networks) {
        let own = network.variables();
        all.append(if networks.len() == 1 { own } else { own.under(&format!("stage{}", group.number)) });
    }
    all
}

/// The block of a stage in what it is taken of, and the classifier behind it where there is one.
pub(super) fn part_of(networks: &[Network], stage: usize) -> Option<(&Sequence, Option<&Sequence>)> {
    let parts = networks.iter().flat_map(|network| {
        let last = network.blocks.len().saturating_sub(1);
        let part = move |(at, block)| (block, (at == last).then_some(&network.head));
        network.blocks.iter().enumerate().map(part)
    });
    parts.into_iter().nth(stage.checked_sub(1)?)
}

/// Sets variables from a file of weights that is still as it was written.
fn read_weights(
    folder: &StageFolder,
    record: &Record,
    name: &str,
    variables: &Variables,
    device: &Device,
) -> Result<()> {
    let path = folder.path().join(name);
    let bytes = disk::read(&path)?;
    let hash = blake3::hash(&bytes).to_hex();
    if record.weights.get(name).is_none_or(|(_, recorded)| *recorded != *hash) {
        return Err(Error::failed(format!("`{}` is damaged: its hash is not the recorded one", path.display()))
            .hint("remove that file; `greedy run` then trains the stage again"));
    }
    let origin = path.display().to_string();
    variables.set(&load(&bytes, &origin, device)?, &origin)
}
