//! The classifier that takes the place of the last one: the block stays as it is, and nothing else is trained.

use super::ancestry::Ancestry;
use super::contents::HEAD;
use super::execute::Work;
use super::folder::StageFolder;
use super::learn::Subject;
use super::network::{load_classifier, stage_before};
use super::record::Record;
use crate::error::{Error, Result};
use crate::features::{self, Files, Split};
use crate::network::save_bytes;
use crate::pipeline::{Group, Recipe, Verdict, footprint};
use crate::progress::Progress;
use crate::room;
use crate::training;
use candle_core::Device;

impl Work<'_> {
    /// Trains a classifier on the features of the last stage, as one behind a block is trained that learns nothing.
    pub(super) fn replace_classifier(&self, verdict: &Verdict) -> Result<()> {
        let missing = || Error::failed("the pipeline has no classifier in the place of the last one");
        let (layers, training) = self.pipeline.classifier().ok_or_else(missing)?;
        let stage = self.node.stage;
        let _reading = self.ancestry.share()?;
        let inputs = self.ancestry.features(self.pipeline, stage, training.precision, self.device)?;
        let nearest = self.pipeline.features.nearest(stage + 1);
        let refresh = self.ancestry.refresh(self.pipeline, (training, nearest), &inputs.train, self.device)?;
        let needed = footprint::classifier_on_disk(layers, inputs.val.len(), inputs.classes.len());
        room::require(self.folder.path(), needed + self.views_on_disk(&inputs, refresh.is_some()))?;
        let mut record = self.prepare(verdict)?;
        let group = Group { number: stage, blocks: Vec::new(), head: layers };
        let subject = Subject { groups: vec![group], training, stage, start: None };
        let inputs = self.train(&mut record, &subject, (inputs, refresh), |outcome, record| {
            let learned = outcome.learned.last().ok_or_else(|| Error::failed("no network came out"))?;
            let variables = learned.network.head.variables();
            self.write_weights(record, HEAD, &save_bytes(&variables.tensors(), None)?).map(drop)
        })?;
        let network = load_classifier(self.folder, &record, self.pipeline, self.device)?;
        self.complete_logits(&[&network], training.batch, &inputs)?;
        features::write_files(self.folder.path(), &features::label_files(Split::Val, inputs.val.labels())?)?;
        self.finish(&mut record)
    }
}

/// The files of its node that are a function of its weights and of the features: labels and logits.
///
/// # Errors
/// When the weights or the features are missing or damaged, or the user interrupts.
pub(super) fn files(
    folder: &StageFolder,
    record: &Record,
    pipeline: &Recipe,
    (device, progress): (&Device, &dyn Progress),
) -> Result<Files> {
    let missing = || Error::failed("its record has no settings of its classifier");
    let (_, training) = pipeline.classifier().ok_or_else(missing)?;
    let ancestry = Ancestry::follow(&stage_before(folder, record)?, record.features_of())?;
    let _reading = ancestry.share()?;
    let val = ancestry.features(pipeline, record.stage, training.precision, device)?.val;
    let network = load_classifier(folder, record, pipeline, device)?;
    let logits = training::classify(&network, &val, training.batch, progress)?;
    let mut files = features::label_files(Split::Val, val.labels())?;
    files.extend(features::logit_files(Split::Val, &logits, record.classes.len())?);
    Ok(files)
}
