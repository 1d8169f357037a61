//! Features of a trained block, and the depths of a network that was trained as a whole.

use super::ancestry::Inputs;
use super::contents::{BLOCK, HEAD};
use super::execute::{Work, note_array};
use super::folder::StageFolder;
use super::network::{load_block, load_stage, load_whole, part_of};
use super::receipt::{Found, Receipts, identity};
use super::record::{Record, State};
use crate::error::{Error, Result};
use crate::features::{self, Split};
use crate::network::{Network, Sequence, save_bytes};
use crate::pipeline::{Kind, Stage, Verdict, footprint};
use crate::room;
use crate::training;
use std::time::Instant;

impl Work<'_> {
    /// Writes the features of a block that is not trained here: a scattering transform has nothing to be trained. Or it
    /// takes the block of a depth from the network, and writes its features; one that the network has a classifier for has
    /// that and logits as well, so that it is as whole as a stage that was trained by itself.
    pub(super) fn take_depth(&self, verdict: &Verdict) -> Result<()> {
        let stage = self.stage()?;
        let missing = || Error::failed("the network that it is taken from is missing");
        let network = self.network.as_ref();
        if self.node.kind == Kind::Depth && network.is_none() {
            return Err(missing());
        }
        let _reading = self.ancestry.share()?;
        let nearest = self.pipeline.features.nearest(stage.number);
        let inputs = self.ancestry.inputs(self.pipeline, stage, nearest, self.device)?;
        let counts = [inputs.train.len(), inputs.val.len()];
        room::require(
            self.folder.path(),
            footprint::stage_on_disk(self.pipeline, stage, counts, inputs.classes.len()),
        )?;
        let mut record = self.prepare(verdict)?;
        record.classes = inputs.classes.clone();
        if record.state != State::Trained {
            let whole = match network {
                Some((source, whole)) => load_whole(source, whole, self.pipeline, self.device)?,
                None => Vec::new(),
            };
            let part = part_of(&whole, stage.number);
            if part.is_none() && network.is_some() {
                return Err(missing());
            }
            let weights = part.map_or_else(Vec::new, |(block, _)| block.variables().tensors());
            if self.write_weights(&mut record, BLOCK, &save_bytes(&weights, None)?)? {
                self.clear_features(&mut record)?;
            }
            if let (Some((_, Some(head))), true) = (part, stage.head.is_some()) {
                self.write_weights(&mut record, HEAD, &save_bytes(&head.variables().tensors(), None)?)?;
            }
            record.state = State::Trained;
            record.write(self.folder.path())?;
        }
        if let (Some(network), true) = (network, stage.head.is_some()) {
            self.take_answers(&mut record, network, stage, &inputs)?;
        }
        let block = load_block(self.folder, &record, self.pipeline, self.device)?;
        self.write_features(&mut record, &block, stage, &inputs)
    }

    /// Logits and figures of a depth that the network has a classifier for. Of blocks that were trained together they are
    /// the network's. Where each had its own classifier they are found as those of a stage that was trained by itself:
    /// from the features that it reads, as they are stored.
    fn take_answers(
        &self,
        record: &mut Record,
        (source, whole): &(StageFolder, Record),
        stage: &Stage,
        inputs: &Inputs,
    ) -> Result<()> {
        if whole.kind != Kind::Decoupled {
            record.figures = whole.figures.clone();
            let (logits, _) = features::read_logits(source.path(), Split::Val)?;
            let files = features::logit_files(Split::Val, &logits, record.classes.len())?;
            return features::write_files(self.folder.path(), &files);
        }
        let network = load_stage(self.folder, record, self.pipeline, self.device)?;
        self.complete_logits(&[&network], self.pipeline.training.batch, inputs)?;
        let (logits, _) = features::read_logits(self.folder.path(), Split::Val)?;
        let groups = self.pipeline.whole().map_or_else(Vec::new, |whole| whole.groups());
        let history = groups.iter().zip(&whole.histories).find(|(group, _)| group.number == stage.number);
        let history = history.map_or_else(Vec::new, |(_, history)| history.clone());
        record.figures = Some(self.figures(&[&network], vec![logits], history, inputs)?);
        Ok(())
    }

    /// Writes the logits of the last of some networks again where they got lost.
    pub(super) fn complete_logits(&self, networks: &[&Network], batch: usize, inputs: &Inputs) -> Result<()> {
        if features::read_logits(self.folder.path(), Split::Val).is_ok() {
            return Ok(());
        }
        let logits = training::classify_all(networks, &inputs.val, batch, self.progress)?.pop().unwrap_or_default();
        let files = features::logit_files(Split::Val, &logits, inputs.classes.len())?;
        features::write_files(self.folder.path(), &files)
    }

    /// Runs a block over the data set and writes labels and, where they are cached, its features, but for those that workers
    /// have receipts of. Then the node is finished; or it is left to workers before the first shard.
    pub(super) fn write_features(
        &self,
        record: &mut Record,
        block: &Sequence,
        stage: &Stage,
        inputs: &Inputs,
    ) -> Result<()> {
        let started = Instant::now();
        for (split, input) in [(Split::Train, &inputs.train), (Split::Val, &inputs.val)] {
            features::write_files(self.folder.path(), &features::label_files(split, input.labels())?)?;
        }
        if self.node.kind == Kind::Wide || !self.pipeline.features.caches(stage.number) {
            return self.finish(record);
        }
        let extraction = features::Extraction {
            stage: self.folder.path(),
            block: &block.frozen()?,
            features: &self.pipeline.features,
            encoding: self.pipeline.features.encoding(&stage.block),
            progress: self.progress,
        };
        let splits = [(Split::Train, &inputs.train), (Split::Val, &inputs.val)];
        if self.scatters {
            return splits.into_iter().try_for_each(|(split, input)| extraction.begin(split, input));
        }
        let receipts = Receipts::read(self.folder, &identity(record, &Found::default()));
        if let Some(made_on) = receipts.made_on()? {
            let mut missing = 0;
            for (split, input) in splits {
                missing += extraction.unknown(split, input, &receipts.sums(split))?;
            }
            receipts.refuse_to_add(missing, &record.made_on, self.folder)?;
            receipts.say(missing, self.progress);
            record.made_on = made_on;
        }
        self.write_arrays(record, |record| {
            for (split, input) in splits {
                let written = extraction.write(split, input, &receipts.sums(split))?;
                note_array(record, split, &written);
            }
            Ok(())
        })?;
        record.spend("features", started.elapsed());
        self.finish(record)
    }
}
