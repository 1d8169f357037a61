//! Does one stage: decodes the images, or trains a block and writes its features.

use super::folder::StageFolder;
use super::network::load_block;
use super::record::{ArrayRecord, Figures, MadeOn, Parent, Record, State};
use crate::disk::{self, Lock};
use crate::error::{Error, Result};
use crate::features::{self, Loader, Subset, stage_group};
use crate::images::ImageSet;
use crate::network::{FrozenBlock, save_bytes};
use crate::pipeline::{Manifest, Pipeline, Stage, Verdict};
use crate::progress::Progress;
use crate::training::{self, Job, Outcome, ensemble, score};
use candle_core::Device;
use serde_json::{Map, json};
use std::time::Instant;

/// One stage that is to be done.
pub(super) struct Work<'a> {
    pub pipeline: &'a Pipeline,
    pub number: usize,
    pub manifest: &'a Manifest,
    pub folder: &'a StageFolder,
    /// The folder and the output of the stage before it.
    pub parent: Option<(&'a StageFolder, String)>,
    pub device: &'a Device,
    pub progress: &'a dyn Progress,
}

impl Work<'_> {
    /// Does what the verdict says is left of the stage.
    pub fn execute(&self, verdict: &Verdict) -> Result<Record> {
        let _lock = Lock::take(self.folder.path())?;
        let mut record = self.prepare(verdict)?;
        match &self.parent {
            None => self.decode_images(&mut record)?,
            Some((parent, _)) => {
                let stage = self.pipeline.stages.get(self.number - 1).ok_or_else(|| no_such_stage(self))?;
                let inputs = Inputs::open(parent, self.pipeline)?;
                self.train(&mut record, stage, parent, &inputs)?;
                self.write_features(&mut record, stage, &inputs)?;
            }
        }
        self.finish(&mut record)?;
        Ok(record)
    }

    /// Makes the folder agree with the verdict: what is of no use is removed, then the record says what begins.
    fn prepare(&self, verdict: &Verdict) -> Result<Record> {
        match verdict {
            Verdict::Partial(_) => self.folder.record(),
            Verdict::Restore(_) => {
                let old = self.folder.record()?;
                self.folder.clear_features()?;
                let fresh = self.begin()?;
                let (figures, classes, seconds) = (old.figures, old.classes, old.seconds);
                let record = Record { state: State::Trained, figures, classes, seconds, ..fresh };
                record.write(self.folder.path())?;
                Ok(record)
            }
            _ => {
                self.folder.clear()?;
                let record = self.begin()?;
                record.write(self.folder.path())?;
                Ok(record)
            }
        }
    }

    fn begin(&self) -> Result<Record> {
        let parent = match &self.parent {
            None => None,
            Some((parent, output)) => Some(Parent { folder: self.folder.path_to(parent)?, output: output.clone() }),
        };
        let made_on = MadeOn {
            version: env!("CARGO_PKG_VERSION").into(),
            device: if self.device.is_cuda() { "cuda" } else { "cpu" }.into(),
            threads: rayon::current_num_threads(),
        };
        Ok(Record::begin(self.pipeline, self.number, self.manifest, parent, made_on))
    }

    fn decode_images(&self, record: &mut Record) -> Result<()> {
        let started = Instant::now();
        let images = ImageSet::open(&self.pipeline.data, self.pipeline.seed)?;
        record.skipped.clear();
        for (subset, split) in [(Subset::Train, &images.train), (Subset::Val, &images.val)] {
            let decoded = features::decode(self.folder.path(), subset, split, self.pipeline, self.progress)?;
            record.arrays.insert(array_name(subset), ArrayRecord::new(&decoded.written));
            record.skipped.extend(decoded.skipped);
        }
        record.classes = images.classes;
        record.seconds.insert("decode".into(), started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Trains the block, unless that is done.
    fn train(&self, record: &mut Record, stage: &Stage, parent: &StageFolder, inputs: &Inputs) -> Result<()> {
        if record.state != State::Begun {
            return Ok(());
        }
        record.classes = parent.record()?.classes;
        let job = Job {
            stage,
            seed: self.pipeline.seed,
            train: &inputs.train,
            val: &inputs.val,
            classes: record.classes.len(),
            checkpoints: &self.folder.checkpoints(),
            device: self.device,
        };
        let outcome = training::train(&job, self.progress)?;
        self.keep(record, &outcome, inputs, parent)?;
        record.state = State::Trained;
        record.write(self.folder.path())
    }

    /// Writes the weights and notes the figures.
    fn keep(&self, record: &mut Record, outcome: &Outcome, inputs: &Inputs, parent: &StageFolder) -> Result<()> {
        let block = outcome.network.block.variables();
        let auxiliary = outcome.network.auxiliary.variables();
        disk::write(&self.folder.auxiliary(), &save_bytes(&auxiliary.tensors(), None)?)?;
        disk::write(&self.folder.block(), &save_bytes(&block.tensors(), None)?)?;
        features::write_logits(self.folder.path(), Subset::Val, &outcome.logits, record.classes.len())?;
        let together = earlier_logits(parent, &outcome.logits).map(|mut logits| {
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
            history: outcome.history.clone(),
        });
        record.seconds.insert("train".into(), outcome.seconds);
        Ok(())
    }

    fn write_features(&self, record: &mut Record, stage: &Stage, inputs: &Inputs) -> Result<()> {
        let started = Instant::now();
        let block = load_block(self.folder, &stage.block, self.device)?;
        let extraction = features::Extraction {
            stage: self.folder.path(),
            block: &FrozenBlock::new(&block)?,
            output: stage.block.output,
            features: &self.pipeline.features,
            device: self.device,
            progress: self.progress,
        };
        for (subset, input) in [(Subset::Train, &inputs.train), (Subset::Val, &inputs.val)] {
            let written = extraction.write(subset, input)?;
            record.arrays.insert(array_name(subset), ArrayRecord::new(&written));
        }
        record.seconds.insert("features".into(), started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Removes the checkpoints, writes the group's metadata and, last of all, the record that makes the stage count.
    fn finish(&self, record: &mut Record) -> Result<()> {
        disk::remove(&self.folder.checkpoints())?;
        let mut attributes = Map::new();
        let parent = record.parent.as_ref().map(|parent| parent.output.as_str());
        attributes.insert(
            "greedy".into(),
            json!({
                "format": record.format, "pipeline": record.pipeline, "stage": record.stage, "key": record.key,
                "parent": parent, "classes": record.classes,
            }),
        );
        stage_group(self.folder.path(), attributes)?;
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
        if self.number > 0 {
            hasher.update(&disk::read(&self.folder.block())?);
        }
        for array in record.arrays.values() {
            for (key, _, hash) in &array.shards {
                hasher.update(format!("{key} {hash} ").as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// What a stage is trained on and looked at with.
struct Inputs {
    train: Loader,
    val: Loader,
}

impl Inputs {
    fn open(parent: &StageFolder, pipeline: &Pipeline) -> Result<Self> {
        let open = |subset| Loader::open(parent.path(), subset, pipeline);
        Ok(Self { train: open(Subset::Train)?, val: open(Subset::Val)? })
    }
}

fn array_name(subset: Subset) -> String {
    format!("{}/features", subset.name())
}

fn no_such_stage(work: &Work<'_>) -> Error {
    let count = work.pipeline.stages.len();
    Error::usage(format!("pipeline `{}` has stages 1 to {count}, but no stage {}", work.pipeline.name, work.number))
        .hint(format!("add blocks with `--set network.blocks={}`", work.number))
}

/// The validation logits of a stage and all before it, first to last; nothing where one cannot be read.
fn earlier_logits(last: &StageFolder, like: &[f32]) -> Option<Vec<Vec<f32>>> {
    let mut all = Vec::new();
    let mut folder = last.clone();
    loop {
        let record = folder.record().ok()?;
        let Some(parent) = folder.parent(&record) else { break };
        let (logits, _) = features::read_logits(folder.path(), Subset::Val).ok()?;
        all.push(logits);
        folder = parent;
    }
    all.reverse();
    all.iter().all(|logits| logits.len() == like.len()).then_some(all)
}
