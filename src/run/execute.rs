//! Does one node: what its kind stands for, from what is there to a finished record.

use super::ancestry::Ancestry;
use super::contents::{BLOCK, HEAD, LOGITS, NETWORK, array_name, labelled};
use super::folder::StageFolder;
use super::receipt::forget_begun;
use super::record::{ArrayRecord, Input, MadeOn, Record, State};
use super::underway;
use crate::disk;
use crate::error::Result;
use crate::features::{self, Split};
use crate::pipeline::{Kind, Node, Probe, Recipe, Verdict};
use crate::progress::Progress;
use candle_core::Device;
use serde_json::{Map, Value, json};

/// One node that is to be done.
pub(super) struct Work<'a> {
    pub pipeline: &'a Recipe,
    pub node: &'a Node,
    pub folder: &'a StageFolder,
    /// The stages that it reads, in order.
    pub ancestry: Ancestry,
    /// What else it reads: the network that a depth is taken from, or the block that is pruned, as it was seen.
    pub network: Option<(StageFolder, Record)>,
    /// What a probe measures.
    pub probe: Option<&'a Probe>,
    /// All that it reads, as its record will name it.
    pub inputs: Vec<Input>,
    pub device: &'a Device,
    pub progress: &'a dyn Progress,
    /// Whether it is left where its shards come next, for workers to write them.
    pub scatters: bool,
}

impl Work<'_> {
    /// Does what the verdict says is left of the node. The caller holds the lock of its folder.
    pub fn execute(&self, verdict: &Verdict) -> Result<()> {
        self.folder.sweep()?;
        match self.node.kind {
            Kind::Images => self.decode(verdict),
            Kind::Block | Kind::Wide | Kind::Pruned => self.train_block(verdict),
            Kind::EndToEnd | Kind::Decoupled => self.train_network(verdict),
            Kind::Imported => self.import_network(verdict),
            Kind::Depth | Kind::Scattering => self.take_depth(verdict),
            Kind::Classifier => self.replace_classifier(verdict),
            Kind::Ensemble => self.ask_together(verdict),
            Kind::Probe => self.probe(verdict),
        }
    }

    /// Makes the folder agree with the verdict: what is of no use is removed, then the record says what begins.
    pub(super) fn prepare(&self, verdict: &Verdict) -> Result<Record> {
        let words = self.ancestry.parent().map_or_else(|_| Vec::new(), |(_, parent)| parent.words.clone());
        let begun = Record::begin(self.pipeline, self.node, self.inputs.clone(), MadeOn::here(self.device));
        let fresh = Record { words, ..begun };
        let record = match verdict {
            Verdict::Partial(_) => {
                let old = self.folder.record()?;
                Record { format: fresh.format, state: self.state(&old), made_on: fresh.made_on, ..old }
            }
            Verdict::ReExtract(_) => {
                let old = self.folder.record()?;
                self.folder.clear_features()?;
                let state = self.state(&old);
                let Record { figures, weights, classes, mut seconds, .. } = old;
                seconds.retain(|part, _| part == "train" || part == "validate");
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

    /// How far a node is by what is left of it.
    fn state(&self, old: &Record) -> State {
        let trained = self.node.kind != Kind::Images && self.folder.holds_weights(old);
        if trained { State::Trained } else { State::Begun }
    }

    /// Removes the features, and what the record says of them.
    pub(super) fn clear_features(&self, record: &mut Record) -> Result<()> {
        self.folder.clear_features()?;
        record.arrays.clear();
        Ok(())
    }

    /// Writes the features and notes their sums; shards that are there are kept. Where the record has sums, those that
    /// got lost must get their bytes back. Another device or version may round otherwise, and shards of two kinds are
    /// not to lie side by side: then all are written anew.
    pub(super) fn write_arrays(&self, record: &mut Record, write: impl Fn(&mut Record) -> Result<()>) -> Result<()> {
        let recorded = record.arrays.clone();
        write(record)?;
        if recorded.is_empty() || record.arrays == recorded {
            return Ok(());
        }
        self.clear_features(record)?;
        record.write(self.folder.path())?;
        write(record)
    }

    /// Writes a file of weights and notes its sum; says whether the record had another one.
    pub(super) fn write_weights(&self, record: &mut Record, name: &str, bytes: &[u8]) -> Result<bool> {
        disk::write(&self.folder.path().join(name), bytes)?;
        let sum = (bytes.len() as u64, blake3::hash(bytes).to_hex().to_string());
        let before = record.weights.insert(name.into(), sum.clone());
        Ok(before.is_some_and(|before| before != sum))
    }

    /// Removes the checkpoints, writes the group's metadata and, last of all, the record that makes the node count.
    pub(super) fn finish(&self, record: &mut Record) -> Result<()> {
        disk::remove(&self.folder.checkpoints())?;
        underway::forget(self.folder);
        forget_begun(self.folder)?;
        features::write_files(self.folder.path(), &features::group_files(attributes(record))?)?;
        record.files = self.folder.sum_small_files(record)?;
        record.output = Some(self.output(record)?);
        record.state = State::Finished;
        record.write(self.folder.path())
    }

    /// The hash of all that a later node reads, or else of what came out: classes, labels, weights of blocks, shards.
    fn output(&self, record: &Record) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(json!(record.classes).to_string().as_bytes());
        // The labels of the network are those of the images, which it was made of.
        if !record.kind.is_network() {
            for &split in labelled(record.kind) {
                let labels = features::read_labels(self.folder.path(), split)?;
                labels.iter().for_each(|label| {
                    hasher.update(&label.to_le_bytes());
                });
            }
        }
        // Of those that only say something, that is what they say.
        if matches!(record.kind, Kind::Ensemble | Kind::Probe) {
            let logits = record.files.get(LOGITS).map(|(_, hash)| hash);
            hasher.update(json!([record.figures, record.measures, logits]).to_string().as_bytes());
        }
        let weights = if record.kind == Kind::Classifier { &[HEAD][..] } else { &[BLOCK, NETWORK] };
        for (_, hash) in weights.iter().filter_map(|name| record.weights.get(*name)) {
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

/// Notes the array of a split.
pub(super) fn note_array(record: &mut Record, split: Split, written: &features::Written) {
    record.arrays.insert(array_name(split), ArrayRecord::new(written));
}

/// What the metadata of a node's group say of it.
pub(super) fn attributes(record: &Record) -> Map<String, Value> {
    let parent = record.parent().map(|parent| parent.output.as_str());
    let greedy = json!({
        "format": record.format, "pipeline": record.pipeline, "kind": record.kind.word(), "stage": record.stage,
        "key": record.key, "parent": parent, "classes": record.classes,
    });
    Map::from_iter([("greedy".to_string(), greedy)])
}
