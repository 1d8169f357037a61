//! `record.json`: what a stage was made of, how far it is, and what came out.

use super::contents::{self, RECORD, SPARE};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{Layout, Written};
use crate::images::{self, Census};
use crate::ops;
use crate::pipeline::{Keep, Kind, Manifest, Node, Recipe};
use crate::training::Epoch;
use candle_core::Device;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// The version of the layout of a node's folder.
const FORMAT: u32 = 3;
/// The line after the first of a record: a BLAKE3 hash of all the others, so that a flipped bit is noticed.
const SEAL: &str = "  \"blake3\": \"";

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has begun.
    Begun,
    /// Its weights are final.
    Trained,
    /// Its features are written too.
    Finished,
}

/// A node whose output was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its name in the graph.
    pub node: String,
    /// Its folder, from this node's.
    pub folder: String,
    /// The hash of the output that was read.
    pub output: String,
}

/// What the training of a stage came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Top-1 accuracy of the auxiliary classifier on the validation samples, in percent.
    pub accuracy: f64,
    /// Top-5 accuracy, in percent.
    pub top5: f64,
    /// Cross entropy, in nats.
    pub loss: f64,
    /// Top-1 accuracy of the ensemble of this and all earlier stages, where those could be read.
    pub ensemble_accuracy: Option<f64>,
    /// Learned values of the block.
    pub block_parameters: usize,
    /// Learned values of the auxiliary classifier.
    pub auxiliary_parameters: usize,
    /// Training images.
    #[serde(default)]
    pub images: usize,
    /// Epoch by epoch.
    pub history: Vec<Epoch>,
}

/// One feature array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayRecord {
    /// View, sample, channel, y, x.
    pub shape: [usize; 5],
    /// The type of its values.
    pub dtype: String,
    /// Samples in a shard.
    pub samples_in_shard: usize,
    /// Bytes of its values.
    pub logical_bytes: u64,
    /// Bytes of its shards.
    pub stored_bytes: u64,
    /// Key, length and BLAKE3 hash of each shard.
    pub shards: Vec<(String, u64, String)>,
}

impl ArrayRecord {
    pub(super) fn new(written: &Written) -> Self {
        let Layout { views, samples, shape, dtype, samples_in_shard, .. } = written.layout;
        let shards = written.shards.iter().map(|shard| (shard.key.clone(), shard.bytes, shard.blake3.clone()));
        Self {
            shape: [views, samples, shape.channels, shape.size, shape.size],
            dtype: dtype.word().into(),
            samples_in_shard,
            // Only the files tell what whole images take.
            logical_bytes: match written.layout.keep() {
                Keep::Square => written.layout.logical_bytes(),
                Keep::Whole => written.stored_bytes(),
            },
            stored_bytes: written.stored_bytes(),
            shards: shards.collect(),
        }
    }
}

/// Where a stage was made; this changes nothing of what it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOn {
    /// The version of the program.
    pub version: String,
    /// `cpu`, `cuda` or `cuda with --fast`.
    pub device: String,
    /// Threads.
    pub threads: usize,
}

impl MadeOn {
    /// This process, where it computes on a device.
    pub(super) fn here(device: &Device) -> Self {
        let device = match (device.is_cuda(), ops::is_fast(device)) {
            (true, true) => "cuda with --fast",
            (true, false) => "cuda",
            (false, _) => "cpu",
        };
        let threads = rayon::current_num_threads();
        Self { version: env!("CARGO_PKG_VERSION").into(), device: device.into(), threads }
    }
}

/// The record of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the folder's layout.
    pub format: u32,
    /// The name of the pipeline.
    pub pipeline: String,
    /// What the node does.
    #[serde(serialize_with = "write_kind", deserialize_with = "read_kind")]
    pub kind: Kind,
    /// The number of the stage: 0 for the images, and for a network that is trained as a whole.
    pub stage: usize,
    /// How far it is.
    pub state: State,
    /// The hash of the manifest.
    pub key: String,
    /// What it depends on beyond its inputs.
    pub manifest: Map<String, Value>,
    /// The nodes whose output it read, in the order of the graph: the stage before it, and others whose features or
    /// blocks it needed.
    pub inputs: Vec<Input>,
    /// The hash of its weights and features, once they are written.
    pub output: Option<String>,
    /// The settings of the whole pipeline, as TOML: further stages can be made from this folder alone.
    pub settings: String,
    /// The names of the classes.
    pub classes: Vec<String>,
    /// What people call them, where that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// What the training came to.
    pub figures: Option<Figures>,
    /// What each epoch of several networks came to that were trained at once, first to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histories: Vec<Vec<Epoch>>,
    /// What a probe has found, by name: accuracies in percent, losses in nats.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: BTreeMap<String, f64>,
    /// Seconds of training and of writing features (or decoding images).
    pub seconds: BTreeMap<String, f64>,
    /// Length and BLAKE3 hash of the files of weights, by name.
    pub weights: BTreeMap<String, (u64, String)>,
    /// The feature arrays, by their path in the folder.
    pub arrays: BTreeMap<String, ArrayRecord>,
    /// Length and BLAKE3 hash of all other files but this one, by their path in the folder.
    pub files: BTreeMap<String, (u64, String)>,
    /// Images that were left out, and why.
    pub skipped: Vec<(String, String)>,
    /// Images that were read although something was odd about them, and what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warned: Vec<(String, String)>,
    /// What was found where images were looked for, and what of it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub census: Option<Census>,
    /// Where it was made.
    pub made_on: MadeOn,
}

impl Record {
    /// The record of a stage that begins.
    pub(super) fn begin(pipeline: &Recipe, node: &Node, inputs: Vec<Input>, made_on: MadeOn) -> Self {
        let entries = node.manifest.entries().map(|(name, value)| (name.to_string(), Value::from(value)));
        Self {
            format: FORMAT,
            pipeline: pipeline.name.clone(),
            kind: node.kind,
            stage: node.stage,
            state: State::Begun,
            key: node.manifest.key(),
            manifest: entries.collect(),
            inputs,
            output: None,
            settings: pipeline.text.clone(),
            classes: Vec::new(),
            words: Vec::new(),
            figures: None,
            histories: Vec::new(),
            measures: BTreeMap::new(),
            seconds: BTreeMap::new(),
            weights: BTreeMap::new(),
            arrays: BTreeMap::new(),
            files: BTreeMap::new(),
            skipped: Vec::new(),
            warned: Vec::new(),
            census: None,
            made_on,
        }
    }

    /// Reads the record in a stage's folder, if there is one.
    ///
    /// # Errors
    /// When both it and its copy are missing or damaged, or of another version.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let absent =
            |name| std::fs::symlink_metadata(folder.join(name)).is_err_and(|e| e.kind() == ErrorKind::NotFound);
        if absent(RECORD) && absent(SPARE) {
            return Ok(None);
        }
        let (record, _) = Self::whole(folder, RECORD).or_else(|fault| Self::whole(folder, SPARE).map_err(|_| fault))?;
        Ok(Some(record))
    }

    /// The record in one of its two files, and its text.
    pub(super) fn whole(folder: &Path, name: &str) -> Result<(Self, String)> {
        let path = folder.join(name);
        let damaged = |fault: &dyn std::fmt::Display| {
            Error::failed(format!("`{}` is no record of this program: {fault}", path.display()))
                .hint(format!("if nothing in `{}` is needed any more, remove it", folder.display()))
        };
        let text = disk::read_text(&path)?.ok_or_else(|| damaged(&"there is no such file"))?;
        let record: Self = serde_json::from_str(&text).map_err(|e| damaged(&e))?;
        if let Some(name) = record.names().find(|name| contents::class(name, Some(record.kind)).is_none()) {
            return Err(damaged(&format!("`{name}` is no file of a stage")));
        }
        match record.format {
            FORMAT if !is_sealed(&text) => Err(damaged(&"its hash is not that of its contents")),
            FORMAT => Ok((record, text)),
            other => Err(damaged(&format!("its format is {other}, not {FORMAT}"))),
        }
    }

    /// The paths of all files that it has sums of.
    fn names(&self) -> impl Iterator<Item = String> {
        let shard = |(array, written): (&String, &ArrayRecord)| {
            written.shards.iter().map(|(key, ..)| format!("{array}/{key}")).collect::<Vec<_>>()
        };
        self.weights.keys().chain(self.files.keys()).cloned().chain(self.arrays.iter().flat_map(shard))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        Self::write_text(folder, &sealed(&text))
    }

    /// Writes both files from the one that is whole.
    pub(super) fn restore(folder: &Path) -> Result<()> {
        let (_, text) = Self::whole(folder, RECORD).or_else(|fault| Self::whole(folder, SPARE).map_err(|_| fault))?;
        Self::write_text(folder, &text)
    }

    /// The copy first: a run that is cut off in between writes both again.
    fn write_text(folder: &Path, text: &str) -> Result<()> {
        let spare = folder.join(SPARE);
        spare.parent().map_or(Ok(()), disk::create_folder)?;
        disk::write(&spare, text.as_bytes())?;
        disk::write(&folder.join(RECORD), text.as_bytes())
    }

    /// What people call it.
    pub fn title(&self) -> String {
        self.kind.title(self.stage, &self.manifest())
    }

    /// Top-1 accuracy on the validation samples, of whatever classifies here, in percent.
    pub fn accuracy(&self) -> Option<f64> {
        self.figures.as_ref().map(|figures| figures.accuracy).or_else(|| self.measures.get("accuracy").copied())
    }

    /// How often the right class was among the first five, where there are more.
    pub fn top5(&self) -> Option<f64> {
        self.figures.as_ref().filter(|_| self.classes.len() > 5).map(|figures| figures.top5)
    }

    /// The stage right before it: its input, if it has one. Of a node that says something about stages, the last of them.
    pub fn parent(&self) -> Option<&Input> {
        let before = match self.kind {
            Kind::Images => return None,
            Kind::EndToEnd | Kind::Decoupled | Kind::Imported => 0,
            Kind::Block | Kind::Wide | Kind::Pruned | Kind::Depth | Kind::Scattering => self.stage.checked_sub(1)?,
            Kind::Classifier | Kind::Ensemble | Kind::Probe => self.stage,
        };
        let id = Node::stage_id(before);
        self.inputs.iter().find(|input| input.node == id)
    }

    /// The stage whose features it read; 0 where it read the images.
    pub fn features_of(&self) -> usize {
        let named = self.manifest().value("input.features_of").and_then(|number| number.parse().ok());
        named.unwrap_or_else(|| if self.kind.is_leaf() { self.stage } else { self.stage.saturating_sub(1) })
    }

    /// What people call a class, where that is known.
    pub fn words(&self, class: usize) -> Option<&str> {
        let own = self.words.get(class).map(String::as_str).filter(|words| !words.is_empty());
        own.or_else(|| images::words(self.classes.get(class)?))
    }

    /// What it depends on.
    pub fn manifest(&self) -> Manifest {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
        Manifest::new(self.manifest.iter().map(|(name, value)| (name.clone(), text(value))))
    }

    /// Whether it was made of the output of another stage as that is now.
    pub(super) fn follows(&self, parent: &Self) -> bool {
        let Some(read) = self.parent() else { return false };
        parent.kind.is_stage()
            && read.node == Node::stage_id(parent.stage)
            && Some(&read.output) == parent.output.as_ref()
    }

    /// Adds to the seconds of a part of the work; a run that goes on has spent some already.
    pub(super) fn spend(&mut self, part: &str, time: Duration) {
        *self.seconds.entry(part.into()).or_default() += time.as_secs_f64();
    }

    /// All seconds spent on it.
    pub fn total_seconds(&self) -> f64 {
        self.seconds.values().fold(0.0, |all, seconds| all + seconds)
    }

    /// Training images a second over all epochs.
    pub fn images_per_second(&self) -> Option<f64> {
        let figures = self.figures.as_ref()?;
        let trained = figures.images as f64 * figures.history.len() as f64;
        let seconds = self.seconds.get("train").filter(|seconds| **seconds > 0.0)?;
        Some(trained / seconds)
    }

    /// Bytes of all its shards.
    pub fn stored_bytes(&self) -> u64 {
        self.arrays.values().map(|array| array.stored_bytes).sum()
    }
}

fn write_kind<S: Serializer>(kind: &Kind, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(kind.word())
}

fn read_kind<'a, D: Deserializer<'a>>(from: D) -> std::result::Result<Kind, D::Error> {
    let word = String::deserialize(from)?;
    let known = Kind::ALL.into_iter().find(|kind| kind.word() == word);
    known.ok_or_else(|| serde::de::Error::custom(format!("`{word}` is no kind of node")))
}

/// The text with its seal.
pub(super) fn sealed(text: &str) -> String {
    let hash = blake3::hash(text.as_bytes()).to_hex();
    text.replacen("{\n", &format!("{{\n{SEAL}{hash}\",\n"), 1)
}

pub(super) fn is_sealed(text: &str) -> bool {
    let parts = text.split_once(SEAL).and_then(|(start, rest)| Some((start, rest.split_once("\",\n")?)));
    parts.is_some_and(|(start, (hash, rest))| {
        start == "{\n" && blake3::hash(format!("{start}{rest}").as_bytes()).to_hex().as_str() == hash
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_breaks_the_seal() {
        let text = sealed("{\n  \"stage\": 1,\n  \"seconds\": 0.25\n}");
        assert!(is_sealed(&text) && serde_json::from_str::<Value>(&text).unwrap()["stage"] == 1);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(!is_sealed(&String::from_utf8(bytes).unwrap()), "byte {at}");
        }
    }
}
