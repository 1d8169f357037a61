//! Nodes that learn: a block with its classifier on frozen features, or all blocks of a network on the images.

use super::ancestry::Inputs;
use super::contents::{BLOCK, HEAD, NETWORK};
use super::execute::Work;
use super::folder::StageFolder;
use super::network::{load_stage, load_whole, whole_variables};
use super::record::{Figures, Record, State};
use crate::error::{Error, Result};
use crate::features::{self, Refresh, Split};
use crate::network::{Network, prune, save_bytes};
use crate::pipeline::{Average, Group, Kind, Layers, Pruning, Stage, Training, Verdict, footprint};
use crate::room;
use crate::text::counted;
use crate::training::{self, Epoch, Job, Outcome, ensemble, score};
use candle_core::Tensor;
use std::collections::HashMap;

/// What is trained at once, and how.
pub(super) struct Subject<'a> {
    pub groups: Vec<Group<'a>>,
    pub training: &'a Training,
    /// The number of the stage, 0 for a whole network.
    pub stage: usize,
    /// What weights begin as, where they were trained before.
    pub start: Option<HashMap<String, Tensor>>,
}

impl Work<'_> {
    /// Trains a block and writes its features.
    pub(super) fn train_block(&self, verdict: &Verdict) -> Result<()> {
        let stage = &self.own_stage()?;
        // Inputs are opened before anything is removed: a stage that cannot be made leaves the old one as it is.
        let _reading = self.ancestry.share()?;
        let nearest = self.pipeline.features.nearest(stage.number);
        let inputs = self.ancestry.inputs(self.pipeline, stage, nearest, self.device)?;
        let refresh = self.ancestry.refresh(self.pipeline, (&stage.training, nearest), &inputs.train, self.device)?;
        let more = self.views_on_disk(&inputs, refresh.is_some());
        let counts = [inputs.train.len(), inputs.val.len()];
        let needed = footprint::stage_on_disk(self.pipeline, stage, counts, inputs.classes.len()) + more;
        room::require(self.folder.path(), needed)?;
        let mut record = self.prepare(verdict)?;
        let subject = Subject {
            groups: vec![Group { number: stage.number, blocks: vec![&stage.block], head: head_of(stage)? }],
            training: &stage.training,
            stage: stage.number,
            start: self.pruned(&record, stage)?,
        };
        let inputs =
            self.train(&mut record, &subject, (inputs, refresh), |outcome, record| self.keep_stage(outcome, record))?;
        let network = load_stage(self.folder, &record, self.pipeline, self.device)?;
        self.complete_logits(&[&network], stage.training.batch, &inputs)?;
        self.write_features(&mut record, &network.blocks[0], stage, &inputs)
    }

    /// Trains all blocks, together or each by its own classifier.
    pub(super) fn train_network(&self, verdict: &Verdict) -> Result<()> {
        let (Some(first), Some(whole)) = (self.pipeline.stages.first(), self.pipeline.whole()) else {
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
        let subject = Subject { groups: whole.groups(), training: &self.pipeline.training, stage: 0, start: None };
        let inputs = self.train(&mut record, &subject, (inputs, None), |outcome, record| {
            let networks: Vec<&Network> = outcome.learned.iter().map(|learned| &learned.network).collect();
            let variables = whole_variables(&subject.groups, &networks);
            self.write_weights(record, NETWORK, &save_bytes(&variables.tensors(), None)?).map(drop)
        })?;
        let networks = load_whole(self.folder, &record, self.pipeline, self.device)?;
        let networks: Vec<&Network> = networks.iter().collect();
        self.complete_logits(&networks, self.pipeline.training.batch, &inputs)?;
        features::write_files(self.folder.path(), &features::label_files(Split::Val, inputs.val.labels())?)?;
        self.finish(&mut record)
    }

    /// The settings of the node's stage as this node trains it: before it is pruned, or what is left then.
    fn own_stage(&self) -> Result<Stage> {
        let stage = self.stage()?;
        Ok(match self.node.kind {
            Kind::Wide => stage.wide().ok_or_else(|| Error::failed(format!("stage {} is not pruned", stage.number)))?,
            _ => Stage { training: *stage.last_training(), ..stage.clone() },
        })
    }

    /// What is left of the block that is pruned, and of its classifier: what training begins with. Nothing where nothing is
    /// pruned, or it is trained already.
    fn pruned(&self, record: &Record, stage: &Stage) -> Result<Option<HashMap<String, Tensor>>> {
        let (Kind::Pruned, Some(Pruning { block, head, .. })) = (self.node.kind, &stage.pruning) else {
            return Ok(None);
        };
        if record.state == State::Trained && record.figures.is_some() {
            return Ok(None);
        }
        let (folder, wide) = self.network.as_ref().ok_or_else(|| Error::failed("the block to be pruned is missing"))?;
        let whole = load_stage(folder, wide, self.pipeline, self.device)?;
        let weights = whole.variables().tensors().into_iter().collect();
        let (left, kept) = prune(&weights, (block, head), (&stage.block, head_of(stage)?))?;
        let title = self.node.title();
        self.progress.say(&format!("{title}: {} of {} channels stay", kept.len(), block.output.channels));
        Ok(Some(left))
    }

    /// The settings of the node's stage.
    pub(super) fn stage(&self) -> Result<&Stage> {
        let stage = self.node.stage.checked_sub(1).and_then(|at| self.pipeline.stages.get(at));
        stage.ok_or_else(|| Error::failed(format!("the pipeline has no stage {}", self.node.stage)))
    }

    /// Bytes of the file of new views, where there is no memory for them.
    pub(super) fn views_on_disk(&self, inputs: &Inputs, refreshes: bool) -> u64 {
        let stored = inputs.train.layout().logical_bytes();
        if refreshes && stored > self.pipeline.features.memory { stored } else { 0 }
    }

    /// Trains, unless that is done, and keeps the weights; gives the inputs back.
    pub(super) fn train(
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
        let samples = inputs.train.len();
        if samples < batch.1 {
            let words = counted(samples as u64, "training image");
            self.progress.say(&format!("{title}: each step takes all {words}: `training.batch` is {}", batch.1));
        }
        let inputs = inputs.prepare(refresh, self.pipeline, (&title, batch, self.folder), self.progress)?;
        let job = Job {
            title: &title,
            groups: subject.groups.clone(),
            init: self.pipeline.init,
            start: subject.start.as_ref(),
            feedback: self.pipeline.feedback,
            replay: self.pipeline.replay,
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
        let network = outcome.learned.last().map(|learned| &learned.network);
        let parts = network.and_then(|network| Some([(BLOCK, network.blocks.first()?), (HEAD, &network.head)]));
        for (name, part) in parts.into_iter().flatten() {
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
        let Some(last) = outcome.learned.last() else { return Err(Error::failed("no network came out")) };
        let logits = features::logit_files(Split::Val, &last.logits, record.classes.len())?;
        features::write_files(self.folder.path(), &logits)?;
        let networks: Vec<&Network> = outcome.learned.iter().map(|learned| &learned.network).collect();
        let all = outcome.learned.iter().map(|learned| learned.logits.clone()).collect();
        record.figures = Some(self.figures(&networks, all, last.history.clone(), inputs)?);
        if outcome.learned.len() > 1 {
            record.histories = outcome.learned.iter().map(|learned| learned.history.clone()).collect();
        }
        record.seconds.extend([("train".into(), outcome.seconds), ("validate".into(), outcome.validating)]);
        Ok(())
    }

    /// What networks have come to by their logits for the validation samples: the last of them, and all together with the
    /// stages before this node.
    pub(super) fn figures(
        &self,
        networks: &[&Network],
        logits: Vec<Vec<f32>>,
        history: Vec<Epoch>,
        inputs: &Inputs,
    ) -> Result<Figures> {
        let last = logits.last().map(Vec::as_slice).unwrap_or_default();
        let own = score(last, inputs.val.labels());
        let earlier = earlier_logits(&self.ancestry.parent()?.0, last)?;
        let together = earlier.map(|mut all| {
            if self.node.kind == Kind::Classifier {
                // It takes the place of the last.
                all.pop();
            }
            all.extend(logits);
            score(&ensemble(&all, inputs.classes.len(), Average::Logits), inputs.val.labels()).top1
        });
        let blocks = networks.iter().flat_map(|network| &network.blocks);
        Ok(Figures {
            accuracy: own.top1,
            top5: own.top5,
            loss: own.loss,
            ensemble_accuracy: together,
            block_parameters: blocks.map(|block| block.variables().parameter_count()).sum(),
            auxiliary_parameters: networks.iter().map(|network| network.head.variables().parameter_count()).sum(),
            images: inputs.train.len(),
            history,
        })
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
        // A scattering transform has no classifier, nor has a block that comes from a whole network.
        if record.weights.contains_key(HEAD) {
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
