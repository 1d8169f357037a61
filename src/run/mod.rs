//! DO: look at the disk, plan, run the nodes, record what was done.

mod ancestry;
mod cache;
mod choice;
mod clean;
mod clearing;
mod contents;
mod decode;
mod device;
#[cfg(test)]
mod elsewhere;
mod execute;
mod extract;
#[cfg(test)]
mod faulty_disk;
mod folder;
mod learn;
mod network;
mod observe;
mod record;
mod repair;
mod update;
mod verify;

pub use cache::stages;
pub use choice::{recall_choice, remember_choice};
pub use clean::{Rubbish, Unneeded, Unwanted};
pub use device::device;
pub use folder::StageFolder;
pub use network::{Evaluation, TrainedNetwork, settings};
pub use observe::{Observation, observe};
pub use record::{ArrayRecord, Figures, Input, MadeOn, Record, State};
pub use repair::{Outcome, Repair};
pub use update::{Look, Project, Update};
pub use verify::{Finding, Flaw, Verified, verify};

use crate::error::{Error, Result};
use crate::pipeline::{Fault, Recipe, Settings};
use crate::room;
use std::path::Path;

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let error = Self::usage(fault.to_string());
        match fault.way_out() {
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
    let text = std::fs::read_to_string(path).map_err(|e| {
        let error = Error::usage(Error::io("read", path, &e).to_string());
        error.hint("name a pipeline file, such as `pipelines/demo.toml`")
    })?;
    let default_name = path.file_stem().map_or_else(|| "pipeline".into(), |stem| stem.to_string_lossy().into_owned());
    Ok(Settings::parse(&path.display().to_string(), &default_name, &text, overrides)?)
}

/// The recipe of a pipeline's settings for a cache, with what was planned for it and with half of the memory that is free
/// now.
pub fn resolve(settings: Settings, cache: &Path) -> Recipe {
    let kept = recall_choice(cache, &settings);
    settings.resolve(kept, room::free_memory() / 2)
}
