//! Looks at the disk once: what is there of each stage.

use super::folder::StageFolder;
use super::record::{Record, State};
use crate::error::Result;
use crate::features::{Layout, Split};
use crate::pipeline::{Kind, Seen};
use crate::training::latest_checkpoint;

/// What was seen of one stage.
#[derive(Clone, Debug)]
pub struct Observation {
    /// As the plan takes it.
    pub seen: Seen,
    /// The record.
    pub record: Record,
}

/// Looks at one stage. Features are looked at by the names and lengths of their shards, not by their contents.
///
/// # Errors
/// When its record is damaged, or metadata cannot be read.
pub fn observe(folder: &StageFolder) -> Result<Option<Observation>> {
    let Some(record) = Record::read(folder.path())? else { return Ok(None) };
    let trained = folder.holds_weights(&record);
    let (present, all) = shards(folder, &record);
    let finished = record.state == State::Finished;
    let whole = trained && finished && present == all && folder.holds_small_files(&record)?;
    let progress = match (record.state, trained) {
        (State::Finished, true) if present < all => format!("{present} of {all} shards"),
        (State::Finished, true) => "small files are missing or damaged".into(),
        (State::Finished | State::Trained, false) => "weights are missing or cut off".into(),
        (State::Begun, _) if record.kind == Kind::Images => "images not all decoded".into(),
        (State::Trained, true)
            if matches!(record.kind, Kind::EndToEnd | Kind::Decoupled | Kind::Wide | Kind::Classifier) =>
        {
            "trained".into()
        }
        (State::Trained, true) if record.kind == Kind::Imported => "weights copied".into(),
        (State::Trained, true) => features_written(folder),
        _ => match latest_checkpoint(&folder.checkpoints()) {
            Some((epochs, 0)) => format!("trained for {epochs} of {} epochs", epochs_of(&record)),
            Some((epochs, steps)) => {
                format!("trained for {epochs} of {} epochs and {steps} steps", epochs_of(&record))
            }
            None => "begun".into(),
        },
    };
    let seen = Seen {
        manifest: record.manifest(),
        inputs: record.inputs.iter().map(|input| input.output.clone()).collect(),
        output: record.output.clone().filter(|_| whole),
        progress,
    };
    Ok(Some(Observation { seen, record }))
}

fn epochs_of(record: &Record) -> String {
    let names = ["training.epochs", "compression.epochs", "compression.classifier.epochs"];
    let epochs = names.iter().find_map(|name| record.manifest.get(*name));
    epochs.and_then(|value| value.as_str()).unwrap_or("?").into()
}

/// How far the writing of features is.
fn features_written(folder: &StageFolder) -> String {
    let arrays = Split::BOTH.map(|split| split.array(folder.path(), "features"));
    let counts = arrays.iter().filter_map(|array| {
        let layout = Layout::open(array).ok()?;
        let there = layout.shards().filter(|&(view, at)| array.join(layout.shard_key((view, at))).is_file());
        Some((there.count(), layout.shards().count()))
    });
    let (present, all) = counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    format!("trained, {present} of {all} shards")
}

/// Shards that are there with their recorded length, and all shards.
fn shards(folder: &StageFolder, record: &Record) -> (usize, usize) {
    let mut found = (0, 0);
    for (array, written) in &record.arrays {
        for (key, bytes, _) in &written.shards {
            let there = std::fs::metadata(folder.path().join(array).join(key)).is_ok_and(|file| file.len() == *bytes);
            found = (found.0 + usize::from(there), found.1 + 1);
        }
    }
    found
}
