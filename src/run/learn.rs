//! Nodes that learn: a block with its classifier on frozen features, or all blocks together on the images.

use super::ancestry::Inputs;
use super::contents::{BLOCK, HEAD, NETWORK};
use super::execute::Work;
use super::folder::StageFolder;
use super::network::load_stage;
use super::record::{Figures, Record, State};
use crate::error::{Error, Result};
use crate::features::{self, Refresh, Split};
use crate::network::save_bytes;
use crate::pipeline::{Average, Kind, Layers, Stage, Training, Verdict, footprint};
use crate::room;
use crate::training::{self, Job, Outcome, ensemble, score};

/// Blocks that are trained together with a head, and how.
struct Subject<'a> {
    blocks: Vec<&'a Layers>,
    head: &'a Layers,
    training: &'a Training,
    /// The number of the stage, 0 for a whole network.
    stage: usize,
}

impl Work<'_> {
    /// Trains a block and writes its features.
    pub(super) fn train_block(&self, verdict: &Verdict) -> Result<()> {
        let stage = self.stage()?;
        // Inputs are opened before anything is removed: a stage that cannot be made leaves the old one as it is.
        let _reading = self.ancestry.share()?;
        let nearest = self.pipeline.features.nearest(stage.number);
        let inputs = self.ancestry.inputs(self.pipeline, stage, nearest, self.device)?;
        let refresh = self.ancestry.refresh(self.pipeline, (stage, nearest), &inputs.train, self.device)?;
        let more = self.views_on_disk(&inputs, refresh.is_some());
        let counts = [inputs.train.len(), inputs.val.len()];
        let needed = footprint::stage_on_disk(self.pipeline, stage, counts, inputs.classes.len()) + more;
        room::require(self.folder.path(), needed)?;
        let mut record = self.prepare(verdict)?;
        let subject = Subject {
            blocks: vec![&stage.block],
            head: head_of(stage)?,
            training: &stage.training,
            stage: stage.number,
        };
        let inputs =
            self.train(&mut record, &subject, (inputs, refresh), |outcome, record| self.keep_stage(outcome, record))?;
        let network = load_stage(self.folder, &record, self.pipeline, self.device)?;
        self.complete_logits(&network, stage.training.batch, &inputs)?;
        self.write_features(&mut record, &network.blocks[0], stage, &inputs)
    }

    /// Trains all blocks together.
    pub(super) fn train_network(&self, verdict: &Verdict) -> Result<()> {
        let stages = &self.pipeline.stages;
        let (Some(first), Some(last)) = (stages.first(), stages.last()) else {
            return Err(Error::failed("a network without blocks cannot be trained"));
        };
        let _reading = self.ancestry.share()?;
        // It reads the images, as its first block would by itself.
        let inputs = self.ancestry.inputs(self.pipeline, first, 0, self.device)?;
        room::require(
            self.folder.path(),
            footprint::network_on_disk(self.pipeline, inputs.val.len(), inputs.classes.len()),
        )?;
        let mut record = self.prepare(verdict)?;
        let subject = Subject {
            blocks: stages.iter().map(|stage| &stage.block).collect(),
            head: head_of(last)?,
            training: &self.pipeline.training,
            stage: 0,
        };
        let inputs = self.train(&mut record, &subject, (inputs, None), |outcome, record| {
            let variables = outcome.network.variables();
            self.write_weights(record, NETWORK, &save_bytes(&variables.tensors(), None)?).map(drop)
        })?;
        let network = super::network::load_network(self.folder, &record, self.pipeline, self.device)?;
        self.complete_logits(&network, self.pipeline.training.batch, &inputs)?;
        features::write_files(self.folder.path(), &features::label_files(Split::Val, inputs.val.labels())?)?;
        self.finish(&mut record)
    }

    /// The settings of the node's stage.
    pub(super) fn stage(&self) -> Result<&Stage> {
        let stage = self.node.stage.checked_sub(1).and_then(|at| self.pipeline.stages.get(at));
        stage.ok_or_else(|| Error::failed(format!("the pipeline has no stage {}", self.node.stage)))
    }

    /// Bytes of the file of new views, where there is no memory for them.
    fn views_on_disk(&self, inputs: &Inputs, refreshes: bool) -> u64 {
        let stored = inputs.train.layout().logical_bytes();
        if refreshes && stored > self.pipeline.features.memory { stored } else { 0 }
    }

    /// Trains, unless that is done, and keeps the weights; gives the inputs back.
    fn train(
        &self,
        record: &mut Record,
        subject: &Subject<'_>,
        (inputs, refresh): (Inputs, Option<Refresh>),
        keep: impl FnOnce(&Outcome, &mut Record) -> Result<()>,
    ) -> Result<Inputs> {
        if record.state == State::Trained && record.figures.is_some() {
            return Ok(inputs);
        }
        record.classes = inputs.classes.clone();
        let title = self.node.title();
        let batch = (subject.stage, subject.training.batch);
        let inputs = inputs.prepare(refresh, self.pipeline, (&title, batch, self.folder), self.progress)?;
        let job = Job {
            blocks: subject.blocks.clone(),
            head: subject.head,
            init: self.pipeline.init,
            training: subject.training,
            stage: subject.stage,
            seed: self.pipeline.seed,
            manifest: &self.node.manifest,
            train: &inputs.train,
            val: &inputs.val,
            classes: record.classes.len(),
            checkpoints: &self.folder.checkpoints(),
            device: self.device,
        };
        let outcome = training::train(&job, self.progress)?;
        keep(&outcome, record)?;
        self.note(record, &outcome, &inputs)?;
        record.state = State::Trained;
        record.write(self.folder.path())?;
        Ok(inputs)
    }

    /// Writes the weights of a block and its classifier.
    fn keep_stage(&self, outcome: &Outcome, record: &mut Record) -> Result<()> {
        for (name, part) in [(BLOCK, &outcome.network.blocks[0]), (HEAD, &outcome.network.head)] {
            let changed = self.write_weights(record, name, &save_bytes(&part.variables().tensors(), None)?)?;
            if name == BLOCK && changed {
                // Weights that got lost came out otherwise: the features are still those of the old ones.
                self.clear_features(record)?;
            }
        }
        Ok(())
    }

    /// Writes the logits and notes the figures.
    fn note(&self, record: &mut Record, outcome: &Outcome, inputs: &Inputs) -> Result<()> {
        let logits = features::logit_files(Split::Val, &outcome.logits, record.classes.len())?;
        features::write_files(self.folder.path(), &logits)?;
        let together = earlier_logits(&self.ancestry.parent()?.0, &outcome.logits)?.map(|mut logits| {
            logits.push(outcome.logits.clone());
            score(&ensemble(&logits, record.classes.len(), Average::Logits), inputs.val.labels()).top1
        });
        let network = &outcome.network;
        record.figures = Some(Figures {
            accuracy: outcome.score.top1,
            top5: outcome.score.top5,
            loss: outcome.score.loss,
            ensemble_accuracy: together,
            block_parameters: network.blocks.iter().map(|block| block.variables().parameter_count()).sum(),
            auxiliary_parameters: network.head.variables().parameter_count(),
            images: inputs.train.len(),
            history: outcome.history.clone(),
        });
        record.seconds.insert("train".into(), outcome.seconds);
        Ok(())
    }
}

fn head_of(stage: &Stage) -> Result<&Layers> {
    stage.head.as_ref().ok_or_else(|| Error::failed(format!("stage {} has no classifier of its own", stage.number)))
}

/// The validation logits of a stage and all before it, first to last; nothing where one is no longer there.
///
/// # Errors
/// When one is there but cannot be read: what is made of it must not depend on a fault of the disk.
fn earlier_logits(last: &StageFolder, like: &[f32]) -> Result<Option<Vec<Vec<f32>>>> {
    let mut all = Vec::new();
    let (mut folder, mut record) = (last.clone(), last.record()?);
    while record.stage > 0 {
        // A scattering transform has no classifier.
        if record.kind != Kind::Scattering {
            if !features::has_logits(folder.path(), Split::Val) {
                return Ok(None);
            }
            all.push(features::read_logits(folder.path(), Split::Val)?.0);
        }
        let Some(parent) = folder.parent_if_there(&record)? else { return Ok(None) };
        (folder, record) = parent;
    }
    all.reverse();
    Ok(all.iter().all(|logits| logits.len() == like.len()).then_some(all))
}
