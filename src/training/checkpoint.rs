//! Checkpoints: all that the rest of a stage's training depends on, written after every epoch and in between.

use super::queue::Waiting;
use crate::disk;
use crate::error::{Error, Result};
use crate::network;
use crate::pipeline::Manifest;
use crate::progress::Progress;
use candle_core::{Device, Tensor};
use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What one epoch came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: usize,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Mean cross entropy over the training samples, as they were met.
    pub loss: f64,
    /// Percentage of training samples that were correct, as they were met.
    pub train_accuracy: f64,
    /// Top-1 accuracy on the validation samples, in epochs that looked at them.
    pub accuracy: Option<f64>,
    /// Seconds of training, without validation.
    pub seconds: f64,
}

/// How far the training of a stage is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    /// What the epochs behind it came to; of several networks that are trained at once, for the last.
    pub history: Vec<Epoch>,
    /// The same for each of those before it, first to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<Vec<Epoch>>,
    /// Steps of the epoch after them.
    pub step: usize,
    /// Seconds that those steps took.
    pub seconds: f64,
    /// Seconds of all looks at the validation samples.
    #[serde(default)]
    pub validating: f64,
    /// What waits for each of several networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Waiting>,
}

impl Position {
    /// The epoch at hand, counted from 0.
    pub fn epoch(&self) -> usize {
        self.history.len()
    }

    /// The best accuracy on the validation samples so far, with the number of its epoch.
    pub fn best(&self) -> Option<(usize, f64)> {
        let seen = self.history.iter().filter_map(|epoch| Some((epoch.epoch, epoch.accuracy?)));
        seen.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
    }
}

/// The part of a checkpoint that is no tensor.
#[derive(Serialize, Deserialize)]
struct State {
    /// What the training depends on; a checkpoint made with other settings is of no use.
    settings: BTreeMap<String, String>,
    position: Position,
}

/// Checkpoints that are kept: should the newest be damaged, the one before it serves.
const KEPT: usize = 2;
/// Bytes of the header of a checkpoint that are read at most for its note.
const MOST_HEADER: u64 = 16 << 20;
/// The name of the note that holds a hash and the state.
const NOTE: &str = "state";

/// The checkpoints of one stage.
pub(super) struct Checkpoints<'a> {
    folder: &'a Path,
    settings: BTreeMap<String, String>,
}

impl<'a> Checkpoints<'a> {
    /// Those in a folder, of a stage that depends on what the manifest says. How its output is stored does not count.
    pub fn new(folder: &'a Path, manifest: &Manifest) -> Self {
        let settings = manifest.entries().filter(|(name, _)| !Manifest::is_storage(name));
        Self { folder, settings: settings.map(|(name, value)| (name.into(), value.into())).collect() }
    }

    /// Writes a checkpoint of tensors with different names, and removes those that are no longer needed.
    pub fn save(&self, position: &Position, tensors: &[(String, Tensor)]) -> Result<()> {
        let state = State { settings: self.settings.clone(), position: position.clone() };
        let state = serde_json::to_string(&state).map_err(|e| Error::failed(e.to_string()))?;
        let note = format!("{} {state}", digest(&state, tensors)?);
        disk::create_folder(self.folder)?;
        let path = self.folder.join(name((position.epoch(), position.step)));
        disk::write(&path, &network::save_bytes(tensors, Some((NOTE, note)))?)?;
        list(self.folder).iter().rev().skip(KEPT).try_for_each(|old| disk::remove(old))
    }

    /// Reads the newest checkpoint that is whole, if there is one. What is damaged or of other settings is removed:
    /// it would pass for the newest again.
    ///
    /// # Errors
    /// When one cannot be read at all: who knows what it holds.
    pub fn newest(
        &self,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Option<(Position, HashMap<String, Tensor>)>> {
        for path in list(self.folder).iter().rev() {
            let bytes = disk::read(path)?;
            let fault = match parse(&bytes, device) {
                Some((state, tensors)) if state.settings == self.settings => {
                    return Ok(Some((state.position, tensors)));
                }
                Some(_) => "was made with other settings",
                None => "is damaged",
            };
            progress.say(&format!("checkpoint `{}` {fault} and was removed", path.display()));
            disk::remove(path)?;
        }
        Ok(None)
    }
}

/// Epochs behind the newest checkpoint in a folder, and steps of the epoch after them.
pub fn latest(folder: &Path) -> Option<(usize, usize)> {
    let newest = list(folder).pop()?;
    position_in(newest.file_name()?.to_str()?)
}

/// What the epochs behind the newest checkpoint in a folder came to, by the note in it, whose hash is not looked at: for
/// pictures, not to go on from. Nothing where there is no checkpoint, or its header is damaged.
pub fn unfinished_history(folder: &Path) -> Option<Vec<Epoch>> {
    let mut file = File::open(list(folder).pop()?).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    let mut header = Vec::new();
    file.take(length.min(MOST_HEADER)).read_to_end(&mut header).ok()?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    let (_, state) = header.get("__metadata__")?.get(NOTE)?.as_str()?.split_once(' ')?;
    let state: State = serde_json::from_str(state).ok()?;
    Some(state.position.history)
}

/// State and tensors of a checkpoint; nothing where a single bit of either is not as it was written.
fn parse(bytes: &[u8], device: &Device) -> Option<(State, HashMap<String, Tensor>)> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let (hash, state) = header.metadata().as_ref()?.get(NOTE)?.split_once(' ')?;
    let tensors = network::load(bytes, "", device).ok()?;
    let named: Vec<(String, Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    let whole = digest(state, &named).ok()? == hash;
    whole.then(|| Some((serde_json::from_str(state).ok()?, tensors)))?
}

/// The checkpoints in a folder, oldest first.
fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(is_checkpoint);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(ours).collect();
    paths.sort();
    paths
}

/// Whether a file has the name of a checkpoint.
pub fn is_checkpoint(name: &str) -> bool {
    position_in(name).is_some()
}

/// Epochs, and steps of the epoch after them, as the name of a checkpoint says.
fn position_in(name: &str) -> Option<(usize, usize)> {
    let (epochs, steps) = name.strip_prefix("epoch-")?.strip_suffix(".safetensors")?.split_once("-step-")?;
    let position = (epochs.parse().ok()?, steps.parse().ok()?);
    (name == self::name(position)).then_some(position)
}

fn name((epochs, steps): (usize, usize)) -> String {
    format!("epoch-{epochs:06}-step-{steps:08}.safetensors")
}

/// A hash of the state and of names, shapes and values of tensors, whatever their order.
fn digest(state: &str, tensors: &[(String, Tensor)]) -> Result<String> {
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hasher = blake3::Hasher::new();
    hasher.update(state.as_bytes());
    for (name, tensor) in sorted {
        hasher.update(format!("{name} {:?} ", tensor.dims()).as_bytes());
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        values.iter().for_each(|value| {
            hasher.update(&value.to_le_bytes());
        });
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::fs;

    fn manifest(epochs: &str) -> Manifest {
        Manifest::new([("training.epochs".to_string(), epochs.to_string())])
    }

    fn position(step: usize) -> Position {
        let epoch = Epoch {
            epoch: 1,
            learning_rate: 0.1,
            loss: 2.3,
            train_accuracy: 10.0,
            accuracy: Some(0.1 + 0.2),
            seconds: 1.5,
        };
        Position { history: vec![epoch], step, seconds: 0.25, ..Position::default() }
    }

    fn tensors(value: f32) -> Vec<(String, Tensor)> {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        vec![("weight".into(), tensor(&[value, -0.0, 1e-40])), ("velocity".into(), tensor(&[value]))]
    }

    fn values(tensors: &HashMap<String, Tensor>) -> Vec<u32> {
        let mut names: Vec<&String> = tensors.keys().collect();
        names.sort();
        let bits = |name: &String| tensors[name].to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits);
        names.into_iter().flat_map(bits).collect()
    }

    #[test]
    fn every_changed_byte_of_the_newer_one_is_found_and_the_older_one_used() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path(), &manifest("5"));
        (1..=3).for_each(|step| checkpoints.save(&position(step), &tensors(step as f32)).unwrap());
        let paths = list(folder.path());
        assert_eq!(paths.len(), KEPT);
        let whole = fs::read(&paths[1]).unwrap();
        let newest = || {
            let (position, tensors) = checkpoints.newest(&Device::Cpu, &Silent).unwrap().unwrap();
            (position, values(&tensors))
        };
        let expected = (newest().0, newest().1);
        assert_eq!(expected.0, position(3));
        let mut found = 0;
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&paths[1], &changed).unwrap();
            let read = newest();
            found += usize::from(read.0 == position(2) && read.1[0] == 2f32.to_bits());
            assert!(read == expected || read.0 == position(2), "byte {at} of {} was missed", whole.len());
        }
        // The rest are spaces that fill up the header.
        assert!(found >= whole.len() - 8, "{found} of {}", whole.len());
    }

    #[test]
    fn one_of_other_settings_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        Checkpoints::new(folder.path(), &manifest("5")).save(&position(1), &tensors(1.0)).unwrap();
        assert!(Checkpoints::new(folder.path(), &manifest("6")).newest(&Device::Cpu, &Silent).unwrap().is_none());
        assert!(list(folder.path()).is_empty());
    }

    #[test]
    fn one_that_cannot_be_read_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("epoch-000001-step-00000000.safetensors")).unwrap();
        let error = Checkpoints::new(folder.path(), &manifest("5")).newest(&Device::Cpu, &Silent).err().unwrap();
        assert!(error.to_string().contains("epoch-000001"), "{error}");
        assert_eq!(latest(folder.path()), Some((1, 0)));
    }

    #[test]
    fn the_first_of_equal_accuracies_is_the_best() {
        let mut position = position(0);
        position.history.push(Epoch { epoch: 2, ..position.history[0].clone() });
        assert_eq!(position.best().map(|best| best.0), Some(1));
    }
}
