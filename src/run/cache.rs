//! The folder of all stages.

use super::contents::{CHOICE, RECORD, SPARE};
use super::folder::{StageFolder, refuse_file};
use crate::disk;
use crate::error::{Error, Result};
use crate::images::{INDEX, is_litter};
use crate::temporary;
use crate::text::{counted, shown};
use std::fs;
use std::path::{Path, PathBuf};

/// The file that marks a folder as a cache, so that backups leave it out (bford.info/cachedir).
const TAG: &str = "CACHEDIR.TAG";
const TAG_TEXT: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Stages of greedy; `greedy run` can make them again.\n";

/// The pipeline that was made for a cache, where it was not the user's own file.
const PIPELINE: &str = "pipeline.toml";

/// The file that remembers what the images looked like.
pub(super) const SEEN: &str = "images.seen";

/// The files beside the stages.
const OWN: [&str; 5] = [TAG, SEEN, INDEX, CHOICE, PIPELINE];

/// Marks a folder as a cache where it holds nothing else: a project that keeps its stages beside its own files must not
/// vanish from its backups.
pub(super) fn tag(cache: &Path) -> Result<()> {
    disk::create_folder(cache)?;
    let entries = fs::read_dir(cache).map_err(|e| Error::io("read folder", cache, &e))?;
    if !entries.flatten().all(|entry| is_ours(&entry.path())) {
        return Ok(());
    }
    disk::ensure(&cache.join(TAG), TAG_TEXT.as_bytes())
}

/// Removes what runs that were cut off have left over beside the stages.
pub(super) fn sweep(cache: &Path) -> Result<()> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path());
    let own = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        temporary::target(&name).is_some_and(|target| OWN.contains(&target))
    };
    entries.filter(own).filter(|path| temporary::is_abandoned(path)).try_for_each(|path| disk::remove(&path))
}

/// Writes the text of a pipeline into its cache, and gives the file.
///
/// # Errors
/// When the disk refuses.
pub fn keep_pipeline(cache: &Path, text: &str) -> Result<PathBuf> {
    tag(cache)?;
    let path = cache.join(PIPELINE);
    disk::write(&path, text.as_bytes())?;
    Ok(path)
}

/// Whether it is something that this program puts into a cache.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = temporary::target(&name).unwrap_or(&name);
    let stage = StageFolder::new(path);
    let litter = path.file_name().is_some_and(is_litter);
    litter || OWN.contains(&name) || stage.named_number().is_some() || stage.is_stage()
}

/// Whether a folder was marked by this program.
pub(super) fn is_tagged(cache: &Path) -> bool {
    disk::read_text(&cache.join(TAG)).is_ok_and(|text| text.as_deref() == Some(TAG_TEXT))
}

/// The folders of stages that a path names, stages that others are made of first: itself, or those in a cache.
///
/// # Errors
/// When there are none.
pub fn stages(path: &Path) -> Result<Vec<StageFolder>> {
    let own = StageFolder::new(path);
    if own.is_stage() {
        return Ok(vec![own]);
    }
    refuse_file(path)?;
    let mut stages = inside(path)?;
    stages.sort_by_cached_key(|stage| (stage.place(), stage.path().to_path_buf()));
    if stages.is_empty() {
        return Err(Error::failed(format!("`{}` is neither a stage nor a cache with stages", path.display()))
            .hint(what_instead(path, "cache` or `cache/stage3")));
    }
    Ok(stages)
}

/// What to name instead of a path that holds no pipeline.
pub(super) fn pipeline_instead(path: &Path) -> String {
    const EXAMPLE: &str = "name a pipeline file, such as `pipelines/demo.toml`";
    let own = path.join(PIPELINE);
    if own.is_file() {
        return format!("it is the folder of the stages of `{}`: name that file", shown(&own));
    }
    let stages = inside(path).unwrap_or_default();
    match stages.iter().find_map(|stage| stage.record().ok()) {
        Some(record) => format!("it is the folder of the stages of pipeline `{}`: name its file", record.pipeline),
        None => EXAMPLE.into(),
    }
}

fn inside(cache: &Path) -> Result<Vec<StageFolder>> {
    let entries = fs::read_dir(cache).map_err(|e| Error::io("read folder", cache, &e))?;
    Ok(entries.flatten().map(|entry| StageFolder::new(entry.path())).filter(StageFolder::is_stage).collect())
}

/// What to name instead of a folder without stages: the caches in it, where there are any.
pub fn what_instead(path: &Path, example: &str) -> String {
    let folders = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut caches: Vec<PathBuf> =
        folders.filter(|path| path.is_dir() && inside(path).is_ok_and(|stages| !stages.is_empty())).collect();
    caches.sort();
    match &caches[..] {
        [] => format!("name a folder such as `{example}`"),
        [one] => format!("there are stages in `{}`", shown(one)),
        [first, others @ ..] => {
            let more = counted(others.len() as u64, "other folder");
            format!("there are stages in `{}` and in {more} of it", shown(first))
        }
    }
}

impl StageFolder {
    /// Whether it holds a stage, be it one that has lost its record.
    pub(super) fn is_stage(&self) -> bool {
        let holds = |name: &str| self.path().join(name).symlink_metadata().is_ok();
        holds(RECORD) || holds(SPARE) || (self.named_number().is_some() && (holds("zarr.json") || holds("train")))
    }

    /// The number of its stage, by its record or else by its name; what says something about stages comes after them.
    fn place(&self) -> (bool, usize) {
        let record = self.record().ok();
        let number = record.as_ref().map(|record| record.stage).or_else(|| self.named_number()).unwrap_or(usize::MAX);
        (record.is_some_and(|record| record.kind.is_leaf()), number)
    }

    fn named_number(&self) -> Option<usize> {
        self.path().file_name()?.to_str()?.strip_prefix("stage")?.parse().ok()
    }
}
