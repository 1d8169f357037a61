//! Holds every file of stages against what their records say, in parallel and as fast as the disk.

use super::folder::StageFolder;
use super::record::{self, Record, State};
use crate::disk;
use crate::error::{Error, Result};
use crate::lock::{LOCK, Lock};
use crate::progress::{Progress, Task};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is recorded, but not there.
    Missing,
    /// Its bytes are not the recorded ones.
    Damaged,
    /// This program has not written it.
    Foreign,
    /// Left over from a run that was cut off; it does no harm.
    Leftover,
}

impl Flaw {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Foreign => "foreign",
            Self::Leftover => "leftover",
        }
    }
}

/// A file with something wrong about it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its path in the folder of the stage.
    pub name: String,
    /// What is wrong.
    pub flaw: Flaw,
    /// How that shows.
    pub note: String,
}

/// What was found of one stage.
#[derive(Debug)]
pub struct Verified {
    /// Its folder.
    pub folder: StageFolder,
    /// Its record, where it can be read.
    pub record: Option<Record>,
    /// The files that were held against their sums, and their bytes.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// What is wrong, by path.
    pub findings: Vec<Finding>,
    /// Who writes there, where somebody does; nothing is looked at then.
    pub in_use: Option<Error>,
}

impl Verified {
    fn new(folder: &StageFolder) -> Self {
        let folder = folder.clone();
        Self { folder, record: None, files: 0, bytes: 0, findings: Vec::new(), in_use: None }
    }
}

/// Length and BLAKE3 hash, as recorded.
pub(super) type Sum = (u64, String);

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Looks at all files of some stages, but for stages that are being written.
///
/// # Errors
/// When the user interrupts.
pub fn verify(folders: &[StageFolder], progress: &dyn Progress) -> Result<Vec<Verified>> {
    let reading: Vec<_> = folders.iter().map(|folder| Lock::share(folder.path())).collect();
    let look = |(folder, lock): (&StageFolder, &Result<_>)| match lock {
        Ok(_) => survey(folder),
        Err(e) => Verified { in_use: Some(e.clone()), ..Verified::new(folder) },
    };
    let mut all: Vec<Verified> = folders.iter().zip(&reading).map(look).collect();
    let expected = |(at, found): (usize, &Verified)| {
        let sums = found.record.as_ref().map(sums).unwrap_or_default();
        sums.into_iter().map(move |(name, sum)| (at, name, sum)).collect::<Vec<_>>()
    };
    let files: Vec<(usize, String, Sum)> = all.iter().enumerate().flat_map(expected).collect();
    let task = progress.start_bytes("verify", files.iter().map(|(_, _, (bytes, _))| bytes).sum());
    let check = |(at, name, sum): &(usize, String, Sum)| {
        let found = check_file(&folders[*at].path().join(name), sum, &*task, progress)?;
        Ok(found.map(|(flaw, note)| (*at, Finding { name: name.clone(), flaw, note })))
    };
    let findings = files.par_iter().map(check).collect::<Result<Vec<_>>>()?;
    for (at, _, (bytes, _)) in &files {
        all[*at].files += 1;
        all[*at].bytes += bytes;
    }
    findings.into_iter().flatten().for_each(|(at, finding)| all[at].findings.push(finding));
    all.iter_mut().for_each(|one| one.findings.sort_by(|a, b| a.name.cmp(&b.name)));
    Ok(all)
}

/// The files of a stage that have recorded sums. Of a stage that is under way only the weights have final ones.
pub(super) fn sums(record: &Record) -> BTreeMap<String, Sum> {
    let mut all = BTreeMap::new();
    if record.state != State::Begun {
        all.extend(record.weights.clone());
    }
    if record.state == State::Finished {
        all.extend(record.files.clone());
        for (array, written) in &record.arrays {
            let shards = written.shards.iter();
            all.extend(shards.map(|(key, bytes, hash)| (format!("{array}/{key}"), (*bytes, hash.clone()))));
        }
    }
    all
}

/// What is wrong with a file that should have this sum.
///
/// # Errors
/// When the user interrupts.
pub(super) fn check_file(
    path: &Path,
    (bytes, blake3): &Sum,
    task: &dyn Task,
    progress: &dyn Progress,
) -> Result<Option<(Flaw, String)>> {
    let damaged = |note: String| Ok(Some((Flaw::Damaged, note)));
    let length = match fs::metadata(path) {
        Ok(found) if found.is_file() => found.len(),
        Ok(_) => return damaged("it is no file".into()),
        Err(_) => return Ok(Some((Flaw::Missing, "it is recorded, but not there".into()))),
    };
    if length != *bytes {
        return damaged(format!("it has {length} bytes instead of {bytes}"));
    }
    match hash(path, task, progress) {
        Ok(found) if found.to_hex().as_str() == blake3 => Ok(None),
        Ok(_) => damaged("its hash is not the recorded one".into()),
        Err(e) if e.kind() == crate::error::Kind::Interrupted => Err(e),
        Err(e) => damaged(e.to_string()),
    }
}

fn hash(path: &Path, task: &dyn Task, progress: &dyn Progress) -> Result<blake3::Hash> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        progress.check()?;
        match file.read(&mut piece).map_err(|e| Error::io("read", path, &e))? {
            0 => return Ok(hasher.finalize()),
            count => {
                hasher.update(&piece[..count]);
                task.advance(count as u64);
            }
        }
    }
}

/// The record of a stage, and the files that should not be there.
pub(super) fn survey(folder: &StageFolder) -> Verified {
    let mut findings = Vec::new();
    let (record, trouble) = match Record::read(folder.path()) {
        Ok(Some(record)) => (Some(record), None),
        Ok(None) => (None, Some((Flaw::Missing, "a stage without its record counts for nothing".to_string()))),
        Err(e) => (None, Some((Flaw::Damaged, e.to_string()))),
    };
    if let Some((flaw, note)) = trouble {
        findings.push(Finding { name: record::NAME.into(), flaw, note });
    }
    if record.as_ref().is_some_and(|record| record.state == State::Finished && !record.files.is_empty()) {
        findings.extend([record::NAME, record::SPARE].into_iter().filter_map(|name| check_record(folder, name)));
    }
    let mut present = Vec::new();
    list(folder.path(), Path::new(""), &mut present);
    let known = record.as_ref().map(sums).unwrap_or_default();
    for name in present {
        let text = name.to_string_lossy().into_owned();
        let found = match &record {
            _ if is_unfinished(&name) => Some((Flaw::Leftover, "a run was cut off while it was written")),
            Some(record) if record.state == State::Finished && name.starts_with("checkpoint") => {
                Some((Flaw::Leftover, "the training it belongs to is over"))
            }
            record if known.contains_key(&text) || belongs(folder, &name, record.as_ref()) => None,
            // A link to a folder that lies on another disk.
            _ if known.keys().any(|known| Path::new(known).starts_with(&name)) => None,
            _ => Some((Flaw::Foreign, "greedy has not written it")),
        };
        findings.extend(found.map(|(flaw, note)| Finding { name: text, flaw, note: note.into() }));
    }
    Verified { record, findings, ..Verified::new(folder) }
}

/// What is wrong with one of the two files of the record of a finished stage.
pub(super) fn check_record(folder: &StageFolder, name: &str) -> Option<Finding> {
    let fault = Record::whole(folder.path(), name).err()?;
    let flaw = if folder.path().join(name).exists() { Flaw::Damaged } else { Flaw::Missing };
    Some(Finding { name: name.into(), flaw, note: fault.to_string() })
}

fn is_unfinished(name: &Path) -> bool {
    name.extension().is_some_and(|ending| ending == disk::UNFINISHED)
}

/// Whether a file may lie in a stage's folder without a recorded sum.
fn belongs(folder: &StageFolder, name: &Path, record: Option<&Record>) -> bool {
    if [record::NAME, record::SPARE, LOCK].iter().any(|own| name == Path::new(own)) {
        return true;
    }
    match record {
        // Records of version 1 have no sums of small files.
        Some(record) if record.state == State::Finished => {
            record.files.is_empty() && folder.small_files(record.stage).iter().any(|known| name == Path::new(known))
        }
        // What a stage under way, or one without a record, holds has no sums yet.
        _ => StageFolder::may_hold(name),
    }
}

/// The paths below `root` of all that is no folder; links are not followed.
fn list(root: &Path, below: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let name = below.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list(root, &name, out),
            _ => out.push(name),
        }
    }
}
