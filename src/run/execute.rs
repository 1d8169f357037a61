//! Does one stage: decodes the images, or trains a block and writes its features.

use super::ancestry::{Ancestry, Inputs};
use super::folder::{AUXILIARY, BLOCK, StageFolder};
use super::forecast;
use super::network::load_stage;
use super::record::{ArrayRecord, Figures, MadeOn, Record, State};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{self, Renewal, Subset};
use crate::images::ImageSet;
use crate::network::{StageNetwork, save_bytes};
use crate::ops;
use crate::pipeline::{Manifest, Pipeline, Shape, Stage, Verdict};
use crate::progress::Progress;
use crate::room;
use crate::training::{self, Job, Outcome, ensemble, score};
use candle_core::Device;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// One stage that is to be done.
pub(super) struct Work<'a> {
    pub pipeline: &'a Pipeline,
    pub number: usize,
    pub manifest: &'a Manifest,
    pub folder: &'a StageFolder,
    /// What a trained stage reads; stage 0 reads the images.
    pub source: Option<Source<'a>>,
    pub device: &'a Device,
    pub progress: &'a dyn Progress,
}

/// What a stage is trained from.
pub(super) struct Source<'a> {
    pub stage: &'a Stage,
    pub ancestry: Ancestry,
}

impl Work<'_> {
    /// Does what the verdict says is left of the stage. The caller holds the lock of its folder.
    pub fn execute(&self, verdict: &Verdict) -> Result<()> {
        let Some(source) = &self.source else {
            let images = ImageSet::open(&self.pipeline.data, self.pipeline.seed)?;
            images.census.lines().iter().for_each(|line| self.progress.say(&format!("  {line}")));
            let (data, count) = (&self.pipeline.data, images.train.len() + images.val.len());
            let stored = Shape { channels: data.channels, size: data.size };
            room::require(self.folder.path(), forecast::images(stored, count))?;
            let mut record = self.prepare(verdict)?;
            self.decode_images(&mut record, &images)?;
            return self.finish(&mut record);
        };
        // Inputs are opened before anything is removed: a stage that cannot be made leaves the old one as it is.
        let _reading = source.ancestry.share()?;
        let nearest = self.pipeline.features.nearest(self.number);
        let inputs = source.ancestry.inputs(self.pipeline, source.stage, nearest, self.device)?;
        let renewal = source.ancestry.renewal(self.pipeline, (source.stage, nearest), &inputs.train, self.device)?;
        room::require(self.folder.path(), self.forecast(source.stage, &inputs, renewal.is_some()))?;
        let mut record = self.prepare(verdict)?;
        let inputs = self.train(&mut record, source, (inputs, renewal))?;
        let network = load_stage(self.folder, &record, source.stage, self.device)?;
        self.complete_logits(&network, source.stage, &inputs)?;
        self.write_features(&mut record, &network, source.stage, &inputs)?;
        self.finish(&mut record)
    }

    /// Bytes that the stage will write at most, with the file of new views where there is no memory for them.
    fn forecast(&self, stage: &Stage, inputs: &Inputs, renews: bool) -> u64 {
        let counts = [inputs.train.len(), inputs.val.len()];
        let stored = inputs.train.layout().logical_bytes();
        let views = if renews && stored > Ancestry::memory(self.pipeline) { stored } else { 0 };
        forecast::stage(self.pipeline, stage, counts, inputs.classes.len()) + views
    }

    /// Makes the folder agree with the verdict: what is of no use is removed, then the record says what begins.
    fn prepare(&self, verdict: &Verdict) -> Result<Record> {
        let fresh = self.begin()?;
        let record = match verdict {
            Verdict::Partial(_) => {
                let old = self.folder.record()?;
                let state = if self.folder.holds_weights(&old) { State::Trained } else { State::Begun };
                Record { format: fresh.format, state, made_on: fresh.made_on, ..old }
            }
            Verdict::Restore(_) => {
                let old = self.folder.record()?;
                self.folder.clear_features()?;
                let state = if self.folder.holds_weights(&old) { State::Trained } else { State::Begun };
                let Record { figures, weights, classes, mut seconds, .. } = old;
                seconds.retain(|part, _| part == "train");
                Record { state, figures, weights, classes, seconds, ..fresh }
            }
            _ => {
                self.folder.clear()?;
                fresh
            }
        };
        record.write(self.folder.path())?;
        Ok(record)
    }

    fn begin(&self) -> Result<Record> {
        let links = match &self.source {
            None => (None, Vec::new()),
            Some(source) => source.ancestry.links(self.folder)?,
        };
        let made_on = MadeOn {
            version: env!("CARGO_PKG_VERSION").into(),
            device: match (self.device.is_cuda(), ops::is_fast(self.device)) {
                (true, true) => "cuda with --fast",
                (true, false) => "cuda",
                (false, _) => "cpu",
            }
            .into(),
            threads: rayon::current_num_threads(),
        };
        let words = match &self.source {
            None => Vec::new(),
            Some(source) => source.ancestry.parent()?.1.words.clone(),
        };
        Ok(Record { words, ..Record::begin(self.pipeline, self.number, self.manifest, links, made_on) })
    }

    fn decode_images(&self, record: &mut Record, images: &ImageSet) -> Result<()> {
        let started = Instant::now();
        let splits = [(Subset::Train, &images.train), (Subset::Val, &images.val)];
        // A finished stage knows what it left out: without the list every later image would move up.
        if !record.skipped.is_empty() {
            let mut noted = 0;
            for (subset, split) in splits {
                noted += features::note_skipped(self.folder.path(), subset, split, &record.skipped)?;
            }
            self.require_all_noted(noted, record.skipped.len())?;
        }
        self.write_arrays(record, |record| {
            record.skipped.clear();
            let mut census = images.census.clone();
            let mut hindrances = features::Hindrances::default();
            let folder = self.folder.path();
            for (subset, split) in splits {
                let known = (&mut hindrances, self.progress);
                let Some(decoded) = features::decode_noting(folder, subset, split, self.pipeline, known)? else {
                    continue;
                };
                record.arrays.insert(array_name(subset), ArrayRecord::new(&decoded.written));
                if let Some(note) = split.empty_classes(&images.classes, decoded.kept.iter().copied()) {
                    let note = format!("{note} among the {} good {} images", decoded.kept.len(), subset.name());
                    if !decoded.skipped.is_empty() {
                        self.progress.say(&format!("  {note}"));
                        census.notes.push(note);
                    }
                }
                record.skipped.extend(decoded.skipped);
                // What an earlier run has decoded is not looked at again.
                record.warned.extend(decoded.warned);
            }
            record.warned.sort();
            record.warned.dedup();
            record.census = Some(census);
            hindrances.refuse()
        })?;
        record.classes = images.classes.clone();
        if images.words.iter().any(|words| !words.is_empty()) {
            record.words = images.words.clone();
        }
        record.spend("decode", started.elapsed());
        Ok(())
    }

    /// Fails where images that were left out are no longer to be found.
    fn require_all_noted(&self, noted: usize, known: usize) -> Result<()> {
        if noted == known {
            return Ok(());
        }
        let folder = self.folder.path().display();
        let fault = format!("of {known} bad images that `{folder}` left out, {noted} are among the images");
        Err(Error::failed(fault).hint(format!("remove `{folder}`; `greedy run` then decodes all images again")))
    }

    /// Trains the block, unless that is done; gives the inputs back.
    fn train(
        &self,
        record: &mut Record,
        source: &Source<'_>,
        (inputs, renewal): (Inputs, Option<Renewal>),
    ) -> Result<Inputs> {
        if record.state == State::Trained && record.figures.is_some() {
            return Ok(inputs);
        }
        record.classes = inputs.classes.clone();
        let inputs = inputs.prepare(renewal, self.pipeline, (source.stage, self.folder), self.progress)?;
        let job = Job {
            stage: source.stage,
            seed: self.pipeline.seed,
            manifest: self.manifest,
            train: &inputs.train,
            val: &inputs.val,
            classes: record.classes.len(),
            checkpoints: &self.folder.checkpoints(),
            device: self.device,
        };
        let outcome = training::train(&job, self.progress)?;
        self.keep(record, &outcome, &inputs, &source.ancestry.parent()?.0)?;
        record.state = State::Trained;
        record.write(self.folder.path())?;
        Ok(inputs)
    }

    /// Writes the weights and notes the figures.
    fn keep(&self, record: &mut Record, outcome: &Outcome, inputs: &Inputs, parent: &StageFolder) -> Result<()> {
        let block = outcome.network.block.variables();
        let auxiliary = outcome.network.auxiliary.variables();
        for (name, variables) in [(BLOCK, &block), (AUXILIARY, &auxiliary)] {
            let bytes = save_bytes(&variables.tensors(), None)?;
            disk::write(&self.folder.path().join(name), &bytes)?;
            let sum = (bytes.len() as u64, blake3::hash(&bytes).to_hex().to_string());
            let before = record.weights.insert(name.into(), sum.clone());
            if name == BLOCK && before.is_some_and(|before| before != sum) {
                // Weights that got lost came out otherwise: the features are still those of the old ones.
                self.clear_features(record)?;
            }
        }
        let logits = features::logit_files(Subset::Val, &outcome.logits, record.classes.len())?;
        features::write_files(self.folder.path(), &logits)?;
        let together = earlier_logits(parent, &outcome.logits)?.map(|mut logits| {
            logits.push(outcome.logits.clone());
            score(&ensemble(&logits), inputs.val.labels()).top1
        });
        record.figures = Some(Figures {
            accuracy: outcome.score.top1,
            top5: outcome.score.top5,
            loss: outcome.score.loss,
            ensemble_accuracy: together,
            block_parameters: block.parameter_count(),
            auxiliary_parameters: auxiliary.parameter_count(),
            images: inputs.train.len(),
            history: outcome.history.clone(),
        });
        record.seconds.insert("train".into(), outcome.seconds);
        Ok(())
    }

    /// Removes the features, and what the record says of them.
    fn clear_features(&self, record: &mut Record) -> Result<()> {
        self.folder.clear_features()?;
        record.arrays.clear();
        Ok(())
    }

    /// Writes the features and notes their sums; shards that are there are kept. Where the record has sums, those that
    /// got lost must get their bytes back. Another device or version may round otherwise, and shards of two kinds are
    /// not to lie side by side: then all are written anew.
    fn write_arrays(&self, record: &mut Record, write: impl Fn(&mut Record) -> Result<()>) -> Result<()> {
        let recorded = record.arrays.clone();
        write(record)?;
        if recorded.is_empty() || record.arrays == recorded {
            return Ok(());
        }
        self.clear_features(record)?;
        record.write(self.folder.path())?;
        write(record)
    }

    /// Writes the logits again where they got lost.
    fn complete_logits(&self, network: &StageNetwork, stage: &Stage, inputs: &Inputs) -> Result<()> {
        if features::read_logits(self.folder.path(), Subset::Val).is_ok() {
            return Ok(());
        }
        let logits = training::classify(network, &inputs.val, stage.training.batch, self.progress)?;
        let files = features::logit_files(Subset::Val, &logits, inputs.classes.len())?;
        features::write_files(self.folder.path(), &files)
    }

    fn write_features(
        &self,
        record: &mut Record,
        network: &StageNetwork,
        stage: &Stage,
        inputs: &Inputs,
    ) -> Result<()> {
        let started = Instant::now();
        for (subset, input) in [(Subset::Train, &inputs.train), (Subset::Val, &inputs.val)] {
            features::write_files(self.folder.path(), &features::label_files(subset, input.labels())?)?;
        }
        if !self.pipeline.features.keeps(stage.number) {
            return Ok(());
        }
        let extraction = features::Extraction {
            stage: self.folder.path(),
            block: &network.block.frozen()?,
            features: &self.pipeline.features,
            progress: self.progress,
        };
        self.write_arrays(record, |record| {
            for (subset, input) in [(Subset::Train, &inputs.train), (Subset::Val, &inputs.val)] {
                let written = extraction.write(subset, input)?;
                record.arrays.insert(array_name(subset), ArrayRecord::new(&written));
            }
            Ok(())
        })?;
        record.spend("features", started.elapsed());
        Ok(())
    }

    /// Removes the checkpoints, writes the group's metadata and, last of all, the record that makes the stage count.
    fn finish(&self, record: &mut Record) -> Result<()> {
        disk::remove(&self.folder.checkpoints())?;
        features::write_files(self.folder.path(), &features::group_files(attributes(record))?)?;
        record.files = self.folder.sum_small_files(record)?;
        record.output = Some(self.output(record)?);
        record.state = State::Finished;
        record.write(self.folder.path())
    }

    /// The hash of all that a later stage reads: classes, labels, weights of the block, shards.
    fn output(&self, record: &Record) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(json!(record.classes).to_string().as_bytes());
        for subset in Subset::BOTH {
            let labels = features::read_labels(self.folder.path(), subset)?;
            labels.iter().for_each(|label| {
                hasher.update(&label.to_le_bytes());
            });
        }
        if let Some((_, hash)) = record.weights.get(BLOCK) {
            hasher.update(hash.as_bytes());
        }
        for array in record.arrays.values() {
            for (key, _, hash) in &array.shards {
                hasher.update(format!("{key} {hash} ").as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// What the metadata of a stage's group say of it.
pub(super) fn attributes(record: &Record) -> Map<String, Value> {
    let parent = record.parent.as_ref().map(|parent| parent.output.as_str());
    let greedy = json!({
        "format": record.format, "pipeline": record.pipeline, "stage": record.stage, "key": record.key,
        "parent": parent, "classes": record.classes,
    });
    Map::from_iter([("greedy".to_string(), greedy)])
}

/// The name of a subset's features in a record.
pub(super) fn array_name(subset: Subset) -> String {
    format!("{}/features", subset.name())
}

/// The validation logits of a stage and all before it, first to last; nothing where one is no longer there.
///
/// # Errors
/// When one is there but cannot be read: what is made of it must not depend on a fault of the disk.
fn earlier_logits(last: &StageFolder, like: &[f32]) -> Result<Option<Vec<Vec<f32>>>> {
    let mut all = Vec::new();
    let (mut folder, mut record) = (last.clone(), last.record()?);
    while record.stage > 0 {
        if !features::has_logits(folder.path(), Subset::Val) {
            return Ok(None);
        }
        all.push(features::read_logits(folder.path(), Subset::Val)?.0);
        let Some(parent) = folder.parent_if_there(&record)? else { return Ok(None) };
        (folder, record) = parent;
    }
    all.reverse();
    Ok(all.iter().all(|logits| logits.len() == like.len()).then_some(all))
}
