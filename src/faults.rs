//! For tests: a disk that fails at the n-th thing that is done to a folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How the disk fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// It is full from then on; a write that meets its end still does a part.
    Full,
    /// It fails once.
    Broken,
    /// It writes less than it was asked to, once, and says so.
    Short,
}

struct Disk {
    folder: PathBuf,
    fault: Fault,
    at: usize,
    operations: usize,
}

static DISK: Mutex<Option<Disk>> = Mutex::new(None);
/// One test at a time has such a disk.
static TURN: Mutex<()> = Mutex::new(());

/// Decides on something that is to be done to a file: how many of the bytes to write are written.
pub(crate) fn pass(path: &Path, bytes: usize) -> io::Result<usize> {
    let mut disk = DISK.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(disk) = disk.as_mut().filter(|disk| path.starts_with(&disk.folder)) else { return Ok(bytes) };
    disk.operations += 1;
    let (now, after) = (disk.operations == disk.at, disk.operations > disk.at);
    match disk.fault {
        Fault::Short if now => Ok(bytes.div_ceil(2)),
        Fault::Full if now && bytes > 1 => Ok(bytes / 2),
        Fault::Full if now || after => Err(io::ErrorKind::StorageFull.into()),
        // EIO has no kind of its own.
        Fault::Broken if now => Err(io::Error::from_raw_os_error(5)),
        _ => Ok(bytes),
    }
}

/// Lets the `at`-th operation on files below a folder meet a fault while `f` runs; gives what came of it, and how many
/// operations there were.
pub(crate) fn with_fault<T>(folder: &Path, fault: Fault, at: usize, f: impl FnOnce() -> T) -> (T, usize) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = || DISK.lock().unwrap_or_else(PoisonError::into_inner);
    *slot() = Some(Disk { folder: folder.into(), fault, at, operations: 0 });
    let result = f();
    let operations = slot().take().map_or(0, |disk| disk.operations);
    (result, operations)
}
