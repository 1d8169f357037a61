//! What a large folder of images looked like, kept beside the stages, so that a million files need not be looked at
//! again where the times of their folders say that none came, went or was replaced.
//!
//! A folder's times change when an entry of it is made, removed or renamed, which is how nearly all programs replace a
//! file. They do not change when a file is rewritten in place. So this is used with care: some hundred files, spread
//! over all, are looked at every time, small sets and those with links to files in full, and whenever the images are
//! decoded, all of them.

use super::folder::Survey;
use crate::disk;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So few files are looked at in full each time.
const FEW: usize = 2000;
/// Files that are looked at all the same.
const SAMPLES: usize = 512;
/// Times of folders younger than this may not tell a change that follows at once: some disks count in seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// To be changed whenever other files are taken for images.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", 2");

/// What was seen of a folder of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The version of the program and of what it takes for images.
    version: String,
    /// The real path of the folder.
    root: PathBuf,
    /// What [`look`](super::look) said.
    fingerprint: String,
    /// All folders that were looked into, from the root.
    folders: Vec<(PathBuf, Trace)>,
    /// Some of the files.
    files: Vec<(PathBuf, Trace)>,
}

/// What tells one state of a file or folder from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trace {
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds of the last change of contents, and of anything at all.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Trace {
    fn of(found: &Metadata) -> Self {
        Self {
            inode: found.ino(),
            // The size of a folder says nothing that its times do not.
            bytes: if found.is_dir() { 0 } else { found.len() },
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: Duration) -> bool {
        let (seconds, nanoseconds) = self.modified.max(self.changed);
        let since_1970 = Duration::new(seconds.max(0) as u64, nanoseconds.clamp(0, 999_999_999) as u32);
        since_1970.saturating_add(SETTLED) < now
    }
}

impl Memory {
    /// What is worth to be remembered of a survey, sorted by path, that was begun at `began`; nothing where the times of folders would
    /// not tell all changes.
    pub(super) fn of(root: &Path, survey: &Survey, fingerprint: &str, began: SystemTime) -> Option<Self> {
        let now = began.duration_since(UNIX_EPOCH).ok()?;
        if survey.images.len() <= FEW || survey.images.iter().any(|(_, found)| found.is_link) {
            return None;
        }
        let folders: Vec<(PathBuf, Trace)> =
            survey.folders.iter().map(|(path, found)| (path.clone(), Trace::of(found))).collect();
        if !folders.iter().all(|(_, trace)| trace.is_settled(now)) {
            return None;
        }
        let chosen = (0..SAMPLES).map(|at| &survey.images[at * survey.images.len() / SAMPLES].0);
        let trace = |path: &PathBuf| Some((path.clone(), Trace::of(&fs::metadata(root.join(path)).ok()?)));
        Some(Self {
            version: VERSION.into(),
            root: fs::canonicalize(root).ok()?,
            fingerprint: fingerprint.into(),
            folders,
            files: chosen.map(trace).collect::<Option<_>>()?,
        })
    }

    /// The remembered fingerprint of a folder, if nothing that is looked at has changed. A file that is damaged or of
    /// another folder is as good as none.
    pub fn recall(file: &Path, root: &Path) -> Option<String> {
        let text = fs::read_to_string(file).ok()?;
        let (hash, rest) = text.split_once('\n')?;
        if blake3::hash(rest.as_bytes()).to_hex().as_str() != hash {
            return None;
        }
        let memory: Self = serde_json::from_str(rest).ok()?;
        let same = memory.version == VERSION && fs::canonicalize(root).ok()? == memory.root;
        let mut path = PathBuf::new();
        let mut unchanged = |(below, trace): &(PathBuf, Trace)| {
            path.clear();
            path.extend([&memory.root, below]);
            fs::metadata(&path).is_ok_and(|found| Trace::of(&found) == *trace)
        };
        let unchanged = same && memory.folders.iter().all(&mut unchanged) && memory.files.iter().all(&mut unchanged);
        unchanged.then_some(memory.fingerprint)
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// When the disk refuses, or a path is no text.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| Error::failed(e.to_string()))?;
        disk::write(file, format!("{}\n{text}", blake3::hash(text.as_bytes()).to_hex()).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fingerprint, look};
    use super::*;
    use crate::pipeline::Source;
    use std::fs::File;

    /// A folder of so many empty images in two classes; waits until its times are settled.
    fn images(root: &Path, count: usize) {
        for class in ["train/a", "val/a"] {
            fs::create_dir_all(root.join(class)).unwrap();
            (0..count / 2).for_each(|at| drop(File::create(root.join(format!("{class}/{at}.png"))).unwrap()));
        }
        std::thread::sleep(SETTLED + Duration::from_millis(50));
    }

    fn seen(root: &Path) -> Fingerprint {
        look(&Source::Folder(root.to_path_buf())).unwrap()
    }

    #[test]
    fn changes_that_folders_tell_are_noticed_and_small_or_fresh_sets_not_remembered() {
        let space = tempfile::tempdir().unwrap();
        let (root, file) = (space.path().join("images"), space.path().join("memory"));
        let (few, linked) = (space.path().join("few"), space.path().join("linked"));
        for folder in [&few, &linked] {
            fs::create_dir_all(folder.join("train/a")).unwrap();
        }
        std::os::unix::fs::symlink(&root, linked.join("train/all")).unwrap();
        std::os::unix::fs::symlink(root.join("val/a/1.png"), linked.join("train/a/1.png")).unwrap();
        images(&root, 3000);
        assert!(seen(&few).memory.is_none() && seen(&linked).memory.is_none());

        let Fingerprint { text: fingerprint, memory } = seen(&root);
        memory.unwrap().write(&file).unwrap();
        assert_eq!(Memory::recall(&file, &root), Some(fingerprint));
        assert_eq!(Memory::recall(&file, &few), None);

        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replacen("3000 files", "3001 files", 1)).unwrap();
        assert_eq!(Memory::recall(&file, &root), None);
        fs::write(&file, &text).unwrap();
        assert!(Memory::recall(&file, &root).is_some());

        // Every file rewritten in place: the folders do not tell, the files that are looked at do.
        let inplace =
            |class: &str| (0..1500).for_each(|at| fs::write(root.join(format!("{class}/{at}.png")), "x").unwrap());
        inplace("train/a");
        assert_eq!(Memory::recall(&file, &root), None);

        fs::write(&file, &text).unwrap();
        File::create(root.join("val/a/new.png")).unwrap();
        assert_eq!(Memory::recall(&file, &root), None);
        assert!(seen(&root).memory.is_none(), "a folder that has just changed is remembered");
    }
}
