//! DO: look at the disk, plan, run the nodes, record what was done.

mod ancestry;
mod cache;
mod choice;
mod classifier;
mod clean;
mod clearing;
mod contents;
#[cfg(test)]
mod cross_device;
mod decode;
mod device;
mod ensemble;
mod execute;
mod extract;
#[cfg(test)]
mod faulty_disk;
mod folder;
mod import;
mod learn;
mod network;
mod observe;
mod parts;
mod probe;
mod project;
mod receipt;
mod receipt_file;
mod record;
mod repair;
mod shards;
mod together;
mod underway;
mod update;
mod verify;

pub use cache::{keep_pipeline, stages, what_instead};
pub use choice::{recall_choice, remember_choice};
pub use clean::{Garbage, Unneeded, Unwanted};
pub use device::{check_device, device};
pub use folder::{StageFolder, refuse_file};
pub use network::{Evaluation, TrainedNetwork, centre_of_canvas, settings, softmax};
pub use observe::{Observation, observe};
pub use parts::{Part, Parts};
pub use project::{Look, Project};
pub use receipt::{Found, Receipt};
pub use record::{ArrayRecord, Figures, Input, MadeOn, Record, State};
pub use repair::{Outcome, Repair};
pub use shards::{ShardWorker, verify_part};
pub use underway::{Activity, Underway};
pub use update::Update;
pub use verify::{Finding, Flaw, Verified, verify};

use crate::error::{Error, Result};
use crate::pipeline::{Fault, Recipe, Settings};
use crate::room;
use crate::text::shown;
pub use crate::training::Epoch;
use std::path::Path;

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let error = Self::usage(fault.to_string());
        match fault.hint_text() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Reads a pipeline file.
///
/// # Errors
/// When there is no such file or something in it is wrong.
pub fn open_pipeline(path: &Path, overrides: &[String]) -> Result<Settings> {
    let bytes = std::fs::read(path).map_err(|e| {
        let error = Error::usage(Error::io("read", path, &e).to_string());
        error.hint(cache::pipeline_instead(path))
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let found = match e.as_bytes() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16".to_string(),
            _ => format!("in another encoding (byte {} is no UTF-8)", e.utf8_error().valid_up_to()),
        };
        let error = Error::usage(format!("`{}` is {found}, but pipeline files are UTF-8", shown(path)));
        error.hint("save it as UTF-8; editors call that the encoding of the file")
    })?;
    let default_name = path.file_stem().map_or_else(|| "pipeline".into(), |stem| stem.to_string_lossy().into_owned());
    Ok(Settings::parse(&path.display().to_string(), &default_name, &text, overrides)?)
}

/// A pipeline that no file says: its name, and settings such as `data.source=builtin`.
///
/// # Errors
/// When something in the settings is wrong or missing.
pub fn new_pipeline(name: &str, overrides: &[String]) -> Result<Settings> {
    Ok(Settings::parse("the settings", name, "", overrides)?)
}

/// The recipe of a pipeline's settings for a cache, with what was planned for it and with half of the memory that is free
/// now.
pub fn resolve(settings: Settings, cache: &Path) -> Recipe {
    let cached = recall_choice(cache, &settings);
    settings.resolve(cached, room::free_memory() / 2)
}
