//! Checkpoints: all that the rest of a stage's training depends on, written after every epoch.

use super::sgd::Sgd;
use crate::disk;
use crate::error::{Error, Result};
use crate::network::{self, Variables};
use crate::progress::Progress;
use candle_core::{Device, Tensor};
use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
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
    /// Percentage of training samples that were right, as they were met.
    pub train_accuracy: f64,
    /// Top-1 accuracy on the validation samples, in epochs that looked at them.
    pub accuracy: Option<f64>,
    /// Seconds of training, without validation.
    pub seconds: f64,
}

/// The part of a checkpoint that is no tensor.
#[derive(Serialize, Deserialize)]
struct State {
    history: Vec<Epoch>,
    /// Hash of all tensors.
    blake3: String,
}

/// Checkpoints that are kept: should the newest be damaged, the one before it serves.
const KEPT: usize = 2;
/// The name of the note that holds the state.
const NOTE: &str = "state";

/// Writes the checkpoint after an epoch and removes those that are no longer needed.
pub(super) fn save(folder: &Path, variables: &Variables, sgd: &Sgd, history: &[Epoch]) -> Result<()> {
    let mut tensors = variables.tensors();
    tensors.extend(sgd.state());
    let state = State { history: history.to_vec(), blake3: digest(&tensors)? };
    let state = serde_json::to_string(&state).map_err(|e| Error::failed(e.to_string()))?;
    disk::create_folder(folder)?;
    let path = folder.join(format!("epoch-{:06}.safetensors", history.len()));
    disk::write(&path, &network::save_bytes(&tensors, Some((NOTE, state)))?)?;
    list(folder).iter().rev().skip(KEPT).try_for_each(|old| disk::remove(old))
}

/// Puts variables and optimiser into the state of the newest checkpoint that is whole; gives the epochs behind it.
/// Without one nothing is changed and there are none.
pub(super) fn restore(
    folder: &Path,
    variables: &Variables,
    sgd: &mut Sgd,
    device: &Device,
    progress: &dyn Progress,
) -> Vec<Epoch> {
    for path in list(folder).iter().rev() {
        if let Ok((state, tensors)) = read(path, device)
            && variables.set(&tensors, &path.display().to_string()).is_ok()
            && sgd.set_state(&tensors)
        {
            return state.history;
        }
        progress.say(&format!("checkpoint `{}` is damaged and was left out", path.display()));
    }
    Vec::new()
}

/// The number of epochs behind the newest checkpoint in a folder.
pub fn latest(folder: &Path) -> Option<usize> {
    let newest = list(folder).pop()?;
    newest.file_stem()?.to_str()?.strip_prefix("epoch-")?.parse().ok()
}

fn read(path: &Path, device: &Device) -> Result<(State, HashMap<String, Tensor>)> {
    let damaged = || Error::failed(format!("`{}` is damaged", path.display()));
    let bytes = disk::read(path)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| damaged())?;
    let note = header.metadata().as_ref().and_then(|notes| notes.get(NOTE)).ok_or_else(damaged)?;
    let state: State = serde_json::from_str(note).map_err(|_| damaged())?;
    let tensors = network::load(&bytes, &path.display().to_string(), device)?;
    let named: Vec<(String, Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    if digest(&named)? == state.blake3 { Ok((state, tensors)) } else { Err(damaged()) }
}

/// The checkpoints in a folder, oldest first.
fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    paths.sort();
    paths
}

/// A hash of names, shapes and values, whatever their order.
fn digest(tensors: &[(String, Tensor)]) -> Result<String> {
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in sorted {
        hasher.update(format!("{name} {:?} ", tensor.dims()).as_bytes());
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        values.iter().for_each(|value| {
            hasher.update(&value.to_le_bytes());
        });
    }
    Ok(hasher.finalize().to_hex().to_string())
}
