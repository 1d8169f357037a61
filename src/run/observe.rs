//! Looks at the disk once: what is there of each stage.

use super::folder::StageFolder;
use super::record::{Record, State};
use crate::error::Result;
use crate::pipeline::Seen;
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
/// When its record is damaged.
pub fn observe(folder: &StageFolder) -> Result<Option<Observation>> {
    let Some(record) = Record::read(folder.path())? else { return Ok(None) };
    let trained = record.state != State::Begun && (record.stage == 0 || folder.block().is_file());
    let (present, all) = shards(folder, &record);
    let whole = trained && record.state == State::Finished && present == all;
    let progress = match (record.state, trained) {
        (State::Finished, true) => format!("{present} of {all} shards"),
        (State::Trained, true) => "trained, features not all written".into(),
        _ if record.stage == 0 => "images not all decoded".into(),
        _ => match latest_checkpoint(&folder.checkpoints()) {
            Some(epochs) => format!("trained for {epochs} of {} epochs", epochs_of(&record)),
            None => "begun".into(),
        },
    };
    let seen = Seen {
        manifest: record.manifest(),
        inputs: record.parent.iter().map(|parent| parent.output.clone()).collect(),
        output: record.output.clone().filter(|_| whole),
        trained,
        progress,
    };
    Ok(Some(Observation { seen, record }))
}

fn epochs_of(record: &Record) -> String {
    record.manifest.get("training.epochs").and_then(|value| value.as_str()).unwrap_or("?").into()
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
