//! The folder of a stage: what lies in it, and what may be removed from it.

use super::record::Record;
use crate::disk;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The folder of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageFolder {
    path: PathBuf,
}

/// All that this program puts into a stage's folder, but for the lock.
const CONTENTS: [&str; 7] =
    ["record.json", "zarr.json", "block.safetensors", "auxiliary.safetensors", "checkpoint", "train", "val"];

impl StageFolder {
    /// A folder by its path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder of a stage of a cache.
    pub fn in_cache(cache: &Path, stage: usize) -> Self {
        Self::new(cache.join(format!("stage{stage}")))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its record.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn record(&self) -> Result<Record> {
        Record::read(&self.path)?.ok_or_else(|| {
            Error::failed(format!("`{}` is no folder of a stage: it has no `record.json`", self.path.display()))
                .hint("`greedy run` makes such folders, `cache/stage1` and so on")
        })
    }

    /// The frozen weights of the block.
    pub fn block(&self) -> PathBuf {
        self.path.join("block.safetensors")
    }

    /// The weights of the auxiliary classifier.
    pub fn auxiliary(&self) -> PathBuf {
        self.path.join("auxiliary.safetensors")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// The folder of the stage that a record names as its parent.
    pub fn parent(&self, record: &Record) -> Option<Self> {
        record.parent.as_ref().map(|parent| Self::new(self.path.join(&parent.folder)))
    }

    /// The path of another stage's folder as a record names it: from here where both lie side by side.
    pub(super) fn path_to(&self, other: &Self) -> Result<String> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(|e| Error::io("find", path, &e));
        let (own, other) = (absolute(&self.path)?, absolute(&other.path)?);
        let path = match other.file_name() {
            Some(name) if own.parent() == other.parent() => Path::new("..").join(name),
            _ => other,
        };
        Ok(path.to_string_lossy().into_owned())
    }

    /// Removes everything that this program has put here.
    ///
    /// # Errors
    /// When the folder holds something else: then it is nobody's to empty.
    pub(super) fn clear(&self) -> Result<()> {
        self.refuse_foreign()?;
        CONTENTS.iter().try_for_each(|name| disk::remove(&self.path.join(name)))
    }

    /// Removes the feature arrays, but not what was learned.
    pub(super) fn clear_features(&self) -> Result<()> {
        ["train", "val"].iter().try_for_each(|subset| disk::remove(&self.path.join(subset).join("features")))
    }

    fn refuse_foreign(&self) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return Ok(()) };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let ours = |name: &str| name == ".lock" || name.ends_with(".unfinished") || CONTENTS.contains(&name);
        match names.into_iter().find(|name| !ours(name)) {
            None => Ok(()),
            Some(name) => Err(Error::failed(format!(
                "`{}` holds `{name}`, which is not part of a stage; nothing was removed",
                self.path.display()
            ))
            .hint("give the stages a folder of their own with `--cache DIR`")),
        }
    }
}
