//! Files that are whole or absent: written beside their place, synced, renamed.

use crate::error::{Error, Result};
use crate::size;
use crate::temporary::unfinished;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Whatever is done to the disk passes here first, with the bytes that are to be written, and is told how many may be:
/// tests have a disk that fails.
#[cfg(not(test))]
fn pass(_: &Path, bytes: usize) -> io::Result<usize> {
    Ok(bytes)
}
#[cfg(test)]
use crate::faults::pass;

/// The flag that lets a file be opened only where its name is no link: what is written must not end up elsewhere.
pub const NO_LINK: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// Bytes of a large file after which the disk begins to take them, while more are written.
const SYNC_EVERY: usize = 8 << 20;

/// A file that takes its name only when it is whole and on the disk.
///
/// Dropped before [`finish`](Self::finish), it leaves nothing at its final path.
pub struct NewFile {
    file: File,
    /// Bytes that were written since the disk was last asked to take them.
    unsynced: usize,
    /// The answer to that.
    syncing: Option<JoinHandle<io::Result<()>>>,
    temporary: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl NewFile {
    /// Begins a file that will be called `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let temporary = unfinished(path);
        let created = pass(&temporary, 0).and_then(|_| File::create_new(&temporary));
        let file = created.map_err(|e| Error::io("create", &temporary, &e))?;
        Ok(Self { file, unsynced: 0, syncing: None, temporary, path: path.to_path_buf(), finished: false })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let failed = |e| Error::io(&format!("write {} to", size::words(bytes.len() as u64)), &self.path, &e);
        Passing(&mut self.file, &self.path).write_all(bytes).map_err(failed)?;
        self.unsynced += bytes.len();
        if self.unsynced >= SYNC_EVERY && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.synced()?;
            self.unsynced = 0;
            let file = self.file.try_clone().map_err(|e| Error::io("sync", &self.path, &e))?;
            self.syncing = Some(thread::spawn(move || file.sync_data()));
        }
        Ok(())
    }

    /// Waits for what the disk was asked to take. Its faults have to be looked at here: it reports each just once.
    fn synced(&mut self) -> Result<()> {
        let Some(syncing) = self.syncing.take() else { return Ok(()) };
        let synced = syncing.join().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")));
        synced.map_err(|e| Error::io("sync", &self.path, &e))
    }

    /// Puts the file on the disk under its name.
    pub fn finish(mut self) -> Result<()> {
        self.synced()?;
        let synced = pass(&self.path, 0).and_then(|_| self.file.sync_all());
        synced.map_err(|e| Error::io("sync", &self.path, &e))?;
        let renamed = pass(&self.path, 0).and_then(|_| match fs::rename(&self.temporary, &self.path) {
            // A server may have renamed it at a first request whose answer got lost.
            Err(e) if e.kind() == io::ErrorKind::NotFound && lies_at(&self.file, &self.path) => Ok(()),
            renamed => renamed,
        });
        renamed.map_err(|e| Error::io("rename to", &self.path, &e))?;
        self.finished = true;
        sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody reads an unfinished file, so one that cannot be removed does no harm. A full disk still removes files.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Whether a path leads to the file that is open.
pub fn lies_at(file: &File, path: &Path) -> bool {
    let place = |found: &fs::Metadata| (found.dev(), found.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(own), Ok(found)) if place(&own) == place(&found))
}

/// A file and its path, for writes that may do just a part.
struct Passing<'a>(&'a mut File, &'a Path);

impl Write for Passing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = pass(self.1, bytes.len())?;
        self.0.write(&bytes[..most])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes a whole file at once.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.write(bytes)?;
    file.finish()
}

/// Writes a small file that nobody relies on: whole or absent at every instant, but not synced, as it is soon replaced.
///
/// # Errors
/// When the disk refuses; there is nothing to be done about that.
pub fn note(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = unfinished(path);
    let written = File::create_new(&temporary).and_then(|mut file| file.write_all(bytes));
    let noted = written.and_then(|()| fs::rename(&temporary, path));
    if noted.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    noted
}

/// Makes sure that a small file which never changes is there, whole. Several processes may do so at once: all of them
/// write the same bytes to the same places. A file that holds something else is left as it is.
pub fn ensure(path: &Path, bytes: &[u8]) -> Result<()> {
    let found = match pass(path, 0).and_then(|_| fs::read(path)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found.map_err(|e| Error::io("read", path, &e))?,
    };
    if found.len() >= bytes.len() || !bytes.starts_with(&found) {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(NO_LINK);
    let open = pass(path, 0).and_then(|_| options.open(path));
    let write = |mut file: File| Passing(&mut file, path).write_all(bytes);
    open.and_then(write).map_err(|e| Error::io("write", path, &e))
}

/// Makes renames in a folder durable.
fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let synced = pass(folder, 0).and_then(|_| File::open(folder)?.sync_all());
    synced.map_err(|e| Error::io("sync", folder, &e))
}

/// Creates a folder and those above it, each of them durably: what is put into the last must not get lost with the
/// first.
pub fn create_folder(path: &Path) -> Result<()> {
    let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.is_dir();
    let missing: Vec<&Path> = path.ancestors().take_while(missing).collect();
    missing.into_iter().rev().try_for_each(|folder| {
        match pass(folder, 0).and_then(|_| fs::create_dir(folder)) {
            // Another process may have come first.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create folder", folder, &io::ErrorKind::NotADirectory.into()));
            }
            made => made.map_err(|e| Error::io("create folder", folder, &e))?,
        }
        folder.parent().map_or(Ok(()), sync_folder)
    })
}

/// The text of a file, or nothing where there is no such file.
pub fn read_text(path: &Path) -> Result<Option<String>> {
    match pass(path, 0).and_then(|_| fs::read_to_string(path)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, &e)),
    }
}

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    pass(path, 0).and_then(|_| fs::read(path)).map_err(|e| Error::io("read", path, &e))
}

/// Files that may be kept open at once for reading, all arrays and archives together.
static SLOTS: OnceLock<AtomicUsize> = OnceLock::new();
/// Files that the rest of the program needs: streams, locks, what is being written, what threads read for a moment.
const OTHER_FILES: u64 = 64;
/// More are of no use.
const MOST_SLOTS: u64 = 4096;

/// The right to keep a file open; dropped, another may have it.
pub struct OpenSlot(());

impl Drop for OpenSlot {
    fn drop(&mut self) {
        slots().fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks for the right to keep a file open; there is none where the process could then open no others.
pub fn open_slot() -> Option<OpenSlot> {
    let take = |free: usize| free.checked_sub(1);
    slots().fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok().then_some(OpenSlot(()))
}

/// What is left of the budget. The limit of the process is raised as far as it may be when it is first asked for.
fn slots() -> &'static AtomicUsize {
    SLOTS.get_or_init(|| {
        let found = getrlimit(Resource::Nofile);
        let wanted = found.maximum.unwrap_or(u64::MAX).min(MOST_SLOTS + OTHER_FILES);
        let mut limit = found.current.unwrap_or(wanted);
        if limit < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..found }).is_ok() {
            limit = wanted;
        }
        // Of a small limit a quarter.
        AtomicUsize::new(limit.saturating_sub(OTHER_FILES).max(limit / 4).min(MOST_SLOTS) as usize)
    })
}

/// Removes a file or a folder with all it holds; nothing happens where there is none. Links are not followed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = pass(path, 0).and_then(|_| match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    });
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Fault, with_fault};

    #[test]
    fn an_abandoned_file_leaves_the_old_one_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write(&path, b"old").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_constant_file_is_completed_and_another_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tag");
        for (found, expected) in
            [("", "constant"), ("const", "constant"), ("other", "other"), ("constants", "constants")]
        {
            fs::write(&path, found).unwrap();
            ensure(&path, b"constant").unwrap();
            assert_eq!(read_text(&path).unwrap().unwrap(), expected);
        }
        fs::remove_file(&path).unwrap();
        ensure(&path, b"constant").unwrap();
        assert_eq!(read(&path).unwrap(), b"constant");
    }

    #[test]
    fn every_folder_of_a_chain_is_made_durable() {
        let folder = tempfile::tempdir().unwrap();
        let chain = folder.path().join("a/b/c");
        let made = || with_fault(folder.path(), Fault::Broken, usize::MAX, || create_folder(&chain));
        let (result, operations) = made();
        assert!(result.is_ok() && chain.is_dir());
        assert_eq!(operations, 6, "three are made, and the three above them synced");
        assert_eq!(made().1, 0);
        fs::write(folder.path().join("file"), "").unwrap();
        let error = create_folder(&folder.path().join("file/a")).unwrap_err();
        assert!(error.hint_text().unwrap().contains("a file lies where a folder should be"), "{error:?}");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("thesis");
        fs::write(&outside, "years of work").unwrap();
        let link = |name: &str| std::os::unix::fs::symlink(&outside, folder.path().join(name)).unwrap();
        link("weights");
        write(&folder.path().join("weights"), b"new").unwrap();
        link(crate::lock::LOCK);
        assert!(crate::lock::Lock::take(folder.path()).is_err());
        assert_eq!(read(&outside).unwrap(), b"years of work");
        assert_eq!(read(&folder.path().join("weights")).unwrap(), b"new");
    }

    #[test]
    fn removing_a_link_leaves_what_it_points_to() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        fs::create_dir(&kept).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        remove(&link).unwrap();
        assert!(kept.exists() && !link.exists());
    }
}
