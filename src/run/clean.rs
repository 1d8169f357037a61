//! Removes what no pipeline needs from the folders of their stages.

use super::cache;
use super::folder::StageFolder;
use super::project::{Look, Project};
use super::record::Record;
use super::verify::{Flaw, survey};
use crate::disk;
use crate::error::{Error, Result};
use crate::images::is_litter;
use crate::lock::{self, LOCK, Lock};
use crate::pipeline::Verdict;
use crate::room;
use crate::temporary::UNFINISHED;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Why something is not needed.
#[derive(Clone, Debug)]
pub enum Unneeded {
    /// None of the pipelines has a stage in this folder.
    Unnamed,
    /// It was made by a pipeline of another name.
    Of(String),
    /// It would be made anew, for these reasons in words.
    Stale(Vec<String>),
    /// A run that was cut off left it over.
    Leftover,
}

/// Something that can be removed.
#[derive(Clone, Debug)]
pub struct Unwanted {
    /// The folder of a stage, or a file in one.
    pub path: PathBuf,
    /// Bytes of all files there; links are not followed.
    pub bytes: u64,
    /// Why nobody needs it.
    pub why: Unneeded,
    stage: StageFolder,
    /// The record that it was judged by.
    record: Record,
}

/// What was found in the caches of some pipelines.
#[derive(Debug, Default)]
pub struct Garbage {
    /// What can be removed.
    pub unwanted: Vec<Unwanted>,
    /// What would be, but for what is said of it.
    pub left: Vec<(PathBuf, String)>,
}

impl Garbage {
    /// Looks through the caches of all the pipelines.
    ///
    /// # Errors
    /// When a folder is no cache of this program, or cannot be read.
    pub fn of(projects: &[Project]) -> Result<Self> {
        let mut caches: BTreeMap<PathBuf, Vec<&Project>> = BTreeMap::new();
        for project in projects {
            let Some(path) = project.cache().filter(|path| path.exists()) else { continue };
            let real = fs::canonicalize(path).map_err(|e| Error::io("find", path, &e))?;
            caches.entry(real).or_default().push(project);
        }
        let mut found = Self::default();
        for users in caches.values() {
            if let Some(path) = users.first().and_then(|project| project.cache()) {
                found.search(path, users)?;
            }
        }
        Ok(found)
    }

    fn search(&mut self, cache: &Path, users: &[&Project]) -> Result<()> {
        if !cache::is_tagged(cache) {
            let fault = format!("`{}` has no `CACHEDIR.TAG` of greedy; nothing was removed", cache.display());
            return Err(Error::failed(fault).hint("name the cache that `greedy run` has made"));
        }
        let mut entries: Vec<PathBuf> = fs::read_dir(cache)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(|e| Error::io("read folder", cache, &e))?;
        entries.sort();
        for path in entries {
            let stage = StageFolder::new(&path);
            if !stage.is_stage() {
                continue;
            }
            if path.is_symlink() {
                self.left.push((path, "it is a link out of the cache".into()));
            } else {
                self.judge(stage, users);
            }
        }
        Ok(())
    }

    fn judge(&mut self, stage: StageFolder, users: &[&Project]) {
        let path = stage.path().to_path_buf();
        let seen = survey(&stage);
        let Some(record) = seen.record else {
            return self.left.push((path, "it has no record that can be read".into()));
        };
        let of = |project: &&Project| {
            let looks = project.nodes().filter(|look| is_same(look.folder.path(), &path));
            looks.map(|look| unneeded(&look, project)).collect::<Vec<_>>()
        };
        let opinions: Vec<Option<Unneeded>> = users.iter().flat_map(of).collect();
        if opinions.iter().any(Option::is_none) {
            if lock::writer(&path).is_some() {
                // What seems left over is what the run there is about to finish.
                return;
            }
            let leftovers = seen.findings.iter().filter(|finding| finding.flaw == Flaw::Leftover);
            self.unwanted.extend(leftovers.map(|finding| {
                let path = path.join(&finding.name);
                let bytes = room::taken(&path);
                Unwanted { path, bytes, why: Unneeded::Leftover, stage: stage.clone(), record: record.clone() }
            }));
        } else if let Some(foreign) = seen.findings.iter().find(|finding| finding.flaw == Flaw::Foreign) {
            self.left.push((path, format!("it holds `{}`, which is not part of a stage", foreign.name.display())));
        } else {
            let why = opinions.into_iter().flatten().next().unwrap_or(Unneeded::Unnamed);
            self.unwanted.push(Unwanted { bytes: room::taken(&path), path, why, stage, record });
        }
    }

    /// Bytes of all that can be removed.
    pub fn bytes(&self) -> u64 {
        self.unwanted.iter().map(|one| one.bytes).sum()
    }

    /// Removes it.
    ///
    /// # Errors
    /// When another process uses a stage that would go, or has changed it since; nothing is removed then. Or when the
    /// disk refuses.
    pub fn remove(&self) -> Result<()> {
        let (parts, stages): (Vec<&Unwanted>, Vec<&Unwanted>) =
            self.unwanted.iter().partition(|one| matches!(one.why, Unneeded::Leftover));
        let locks = stages.iter().map(|one| one.lock()).collect::<Result<Vec<Lock>>>()?;
        stages.iter().try_for_each(|one| one.stage.remove())?;
        drop(locks);
        for part in parts {
            // Where somebody writes at this moment, it may be his.
            if let Ok(_lock) = part.lock() {
                disk::remove(&part.path)?;
            }
        }
        Ok(())
    }
}

impl Unwanted {
    /// Takes the lock of its stage, which must be as it was when it was judged.
    fn lock(&self) -> Result<Lock> {
        let lock = Lock::take(self.stage.path())?;
        match self.stage.record() {
            Ok(record) if record == self.record => Ok(lock),
            _ => Err(Error::failed(format!("`{}` has changed meanwhile", self.stage.path().display()))
                .hint("the same command looks again")),
        }
    }
}

/// Whether two paths lead to the same folder.
fn is_same(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// Why a pipeline does not need a stage as it is; nothing where it does, or where that cannot be told.
fn unneeded(look: &Look<'_>, project: &Project) -> Option<Unneeded> {
    let record = look.trouble.map_or(look.found, |_| None).map(|found| &found.record)?;
    match look.verdict {
        Verdict::Stale(_) | Verdict::ReExtract(_) if record.pipeline != project.pipeline().name => {
            Some(Unneeded::Of(record.pipeline.clone()))
        }
        Verdict::Stale(reasons) => {
            Some(Unneeded::Stale(reasons.iter().map(|reason| reason.say(project.graph())).collect()))
        }
        _ => None,
    }
}

impl StageFolder {
    /// Removes the folder with all that this program has put there. The caller holds its lock.
    fn remove(&self) -> Result<()> {
        self.clear()?;
        let rest = fs::read_dir(self.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        let ours = |path: &PathBuf| path.extension().is_some_and(|ending| ending == UNFINISHED);
        let litter = |path: &PathBuf| path.file_name().is_some_and(is_litter);
        rest.filter(|path| ours(path) || litter(path)).try_for_each(|path| disk::remove(&path))?;
        disk::remove(&self.path().join(LOCK))?;
        fs::remove_dir(self.path()).map_err(|e| Error::io("remove", self.path(), &e))
    }
}
