//! Holds every file of stages against what their records say, in parallel and as fast as the disk.

use super::contents::{self, Class, RECORD, SPARE, is_leftover, may_be_linked};
use super::folder::{StageFolder, files};
use super::record::{Record, State};
use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::progress::{Progress, Task};
use crate::temporary;
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
    pub name: PathBuf,
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

/// Looks at all files of some stages, one stage after the other, but for stages that are being written.
///
/// # Errors
/// When the user interrupts.
pub fn verify(folders: &[StageFolder], progress: &dyn Progress) -> Result<Vec<Verified>> {
    folders.iter().map(|folder| verify_stage(folder, progress)).collect()
}

fn verify_stage(folder: &StageFolder, progress: &dyn Progress) -> Result<Verified> {
    // A run that wants to write here waits: it is kept out for no longer than this stage takes.
    let _reading = match Lock::share(folder.path()) {
        Err(e) => return Ok(Verified { in_use: Some(e), ..Verified::new(folder) }),
        lock => lock,
    };
    let mut found = survey(folder);
    let sums = found.record.as_ref().map(sums).unwrap_or_default();
    found.files = sums.len() as u64;
    found.bytes = sums.values().map(|(bytes, _)| bytes).sum();
    let name = folder.path().file_name().unwrap_or_default().to_string_lossy();
    let task = progress.start_bytes(&format!("verify {name}"), found.bytes);
    let check = |(name, sum): (&String, &Sum)| {
        let flaw = check_file(&folder.path().join(name), sum, &*task, progress)?;
        Ok(flaw.map(|(flaw, note)| Finding { name: name.into(), flaw, note }))
    };
    let flaws = sums.par_iter().map(check).collect::<Result<Vec<_>>>()?;
    found.findings.extend(flaws.into_iter().flatten());
    found.findings.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
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
        findings.push(Finding { name: RECORD.into(), flaw, note });
    }
    if record.as_ref().is_some_and(|record| record.state == State::Finished) {
        findings.extend([RECORD, SPARE].into_iter().filter_map(|name| check_record(folder, name)));
    }
    let known = record.as_ref().map(sums).unwrap_or_default();
    for name in files(folder.path()) {
        let found = intruder(folder, &name, record.as_ref(), &known);
        findings.extend(found.map(|(flaw, note)| Finding { name, flaw, note: note.into() }));
    }
    Verified { record, findings, ..Verified::new(folder) }
}

/// What is wrong with one of the two files of the record of a finished stage.
pub(super) fn check_record(folder: &StageFolder, name: &str) -> Option<Finding> {
    let fault = Record::whole(folder.path(), name).err()?;
    let flaw = if folder.path().join(name).exists() { Flaw::Damaged } else { Flaw::Missing };
    Some(Finding { name: name.into(), flaw, note: fault.to_string() })
}

/// What is wrong with a file for being there.
fn intruder(
    folder: &StageFolder,
    name: &Path,
    record: Option<&Record>,
    known: &BTreeMap<String, Sum>,
) -> Option<(Flaw, &'static str)> {
    let text = name.to_str().unwrap_or_default();
    if may_be_linked(name) && folder.path().join(name).is_symlink() {
        return None;
    }
    if is_leftover(name) {
        let abandoned = temporary::is_abandoned(&folder.path().join(name));
        return abandoned.then_some((Flaw::Leftover, "a run was cut off while it was written"));
    }
    let finished = record.is_some_and(|record| record.state == State::Finished);
    match contents::class(text, record.map(|record| record.kind)) {
        None => Some((Flaw::Foreign, "greedy has not written it")),
        Some(Class::Record | Class::Lock | Class::Receipt) => None,
        Some(Class::Checkpoint) if finished => Some((Flaw::Leftover, "the training it belongs to is over")),
        Some(Class::Transient) => Some((Flaw::Leftover, "the run that wrote it was cut off")),
        // What a node under way, or one without a record, holds has no sums yet.
        Some(_) if known.contains_key(text) || !finished => None,
        Some(_) => Some((Flaw::Foreign, "greedy has not written it")),
    }
}
