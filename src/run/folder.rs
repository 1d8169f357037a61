//! The folder of a node: its record, its inputs, and whether its files are there.

use super::contents::{self, BLOCK, HEAD, LOGITS, NETWORK};
use super::record::{Input, Record, State};
use crate::disk;
use crate::error::{Error, Result};
use crate::images::is_litter;
use crate::pipeline::{Kind, Node};
use crate::text::shown;
use crate::training::{Epoch, unfinished_history};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageFolder {
    path: PathBuf,
}

/// Bytes of a `zarr.json` of ours at most.
const MOST_METADATA: u64 = 1 << 20;

impl StageFolder {
    /// A folder by its path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder of a stage of a cache.
    pub fn in_cache(cache: &Path, stage: usize) -> Self {
        Self::new(cache.join(Node::stage_id(stage)))
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
        refuse_file(&self.path)?;
        Record::read(&self.path)?.ok_or_else(|| {
            let inside = (0..).map(|number| Self::in_cache(&self.path, number)).take_while(|stage| stage.path.is_dir());
            Error::failed(format!("`{}` is no folder of a stage: it has no `record.json`", self.path.display())).hint(
                match inside.last() {
                    Some(stage) => format!("it holds stages; name one of them, such as `{}`", stage.path.display()),
                    None => "`greedy run` makes such folders, `cache/stage1` and so on".into(),
                },
            )
        })
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// What the epochs behind the newest checkpoint came to, where training is under way or was cut off.
    pub fn unfinished_history(&self) -> Vec<Epoch> {
        unfinished_history(&self.checkpoints()).unwrap_or_default()
    }

    /// The folder of the stage that a record names as its parent, and that stage's record.
    ///
    /// # Errors
    /// When there is no such folder, or it does not hold the output that this stage was made of.
    pub fn parent(&self, record: &Record) -> Result<Option<(Self, Record)>> {
        let Some(folder) = self.parent_folder(record) else { return Ok(None) };
        let parent = folder.record()?;
        let whose = || format!("`{}` is not what `{}` was made of", folder.path.display(), self.path.display());
        if !record.follows(&parent) {
            return Err(Error::failed(whose()).hint("`greedy run` brings the stages up to date"));
        }
        Ok(Some((folder, parent)))
    }

    /// The same, but nothing where that folder is gone or holds another output by now.
    pub(super) fn parent_if_there(&self, record: &Record) -> Result<Option<(Self, Record)>> {
        let Some(folder) = self.parent_folder(record) else { return Ok(None) };
        let parent = Record::read(&folder.path)?.filter(|parent| record.follows(parent));
        Ok(parent.map(|parent| (folder, parent)))
    }

    fn parent_folder(&self, record: &Record) -> Option<Self> {
        Some(self.folder_of(record.parent()?))
    }

    /// The folder of a node that this one read.
    pub(super) fn folder_of(&self, link: &Input) -> Self {
        match link.folder.strip_prefix("../") {
            Some(name) if self.path.file_name().is_some() => Self::new(self.path.with_file_name(name)),
            _ => Self::new(self.path.join(&link.folder)),
        }
    }

    /// Whether final weights are here, with their recorded lengths.
    pub(super) fn holds_weights(&self, record: &Record) -> bool {
        let whole = |name: &str| {
            let recorded = record.weights.get(name).map(|(bytes, _)| *bytes);
            recorded.is_some() && std::fs::metadata(self.path.join(name)).ok().map(|file| file.len()) == recorded
        };
        let needed: &[&str] = match record.kind {
            Kind::Images => return true,
            Kind::Ensemble | Kind::Probe => &[],
            Kind::Classifier => &[HEAD],
            Kind::Block | Kind::Wide | Kind::Pruned => &[BLOCK, HEAD],
            Kind::Depth | Kind::Scattering => &[BLOCK],
            Kind::EndToEnd | Kind::Decoupled | Kind::Imported => &[NETWORK],
        };
        record.state != State::Begun
            && needed.iter().all(|name| record.weights.contains_key(*name))
            && record.weights.keys().all(|name| whole(name))
    }

    /// The paths in the folder of all files of a finished stage but for weights, shards and the record.
    pub(super) fn small_files(&self, record: &Record) -> Vec<String> {
        let mut all: Vec<String> = ["zarr.json", "train/zarr.json", "val/zarr.json"].map(str::to_string).into();
        all.extend(record.arrays.keys().map(|array| format!("{array}/zarr.json")));
        for split in contents::labelled(record.kind).iter().map(|split| split.name()) {
            all.extend(["labels/zarr.json", "labels/c/0"].map(|name| format!("{split}/{name}")));
            let skipped = format!("{split}/skipped.json");
            if record.kind == Kind::Images && self.path.join(&skipped).exists() {
                all.push(skipped);
            }
        }
        let classifies = match record.kind {
            Kind::EndToEnd | Kind::Decoupled | Kind::Ensemble => true,
            Kind::Imported => record.figures.is_some(),
            _ => record.weights.contains_key(HEAD),
        };
        if classifies {
            all.extend(["val/logits/zarr.json", LOGITS].map(str::to_string));
        }
        all
    }

    /// Length and hash of all small files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(super) fn sum_small_files(&self, record: &Record) -> Result<BTreeMap<String, (u64, String)>> {
        let sum = |name: String| {
            let bytes = disk::read(&self.path.join(&name))?;
            Ok((name, (bytes.len() as u64, blake3::hash(&bytes).to_hex().to_string())))
        };
        self.small_files(record).into_iter().map(sum).collect()
    }

    /// Whether all small files of a finished stage are here: metadata with their recorded bytes, the others with their
    /// recorded lengths.
    ///
    /// # Errors
    /// When metadata are there but cannot be read.
    pub(super) fn holds_small_files(&self, record: &Record) -> Result<bool> {
        if !self.small_files(record).iter().all(|name| record.files.contains_key(name)) {
            return Ok(false);
        }
        for (name, (length, hash)) in &record.files {
            let path = self.path.join(name);
            if !std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == *length) {
                return Ok(false);
            }
            let checked = *length <= MOST_METADATA && name.ends_with("zarr.json");
            if checked && blake3::hash(&disk::read(&path)?).to_hex().as_str() != hash {
                return Ok(false);
            }
        }
        Ok(true)
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
}

/// Fails where a path that should be a folder of stages is a file.
///
/// # Errors
/// As said.
pub fn refuse_file(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let fault = Error::usage(format!("`{}` is a file, not a folder of stages", shown(path)));
    Err(fault.hint("stages lie in the folder that `cache` in a pipeline's file says, or `--cache DIR`; `greedy status FILE` lists them"))
}

/// The paths below a folder of all that is no folder; links are not followed. What systems and file managers leave
/// wherever they look is nobody's.
pub(super) fn files(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    list(root, Path::new(""), &mut all);
    all.sort();
    all
}

fn list(root: &Path, below: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let name = below.join(entry.file_name());
        if is_litter(&entry.file_name()) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list(root, &name, out),
            _ => out.push(name),
        }
    }
}
