//! The lock of a folder: one writer or any number of readers, held by the operating system, where the disk has locks.

use crate::disk::{NO_LINK, create_folder, lies_at};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::temporary::{host, is_alive};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// The name of the file that a folder is locked by. It stays; the lock itself is the operating system's.
pub const LOCK: &str = ".lock";

/// How often a folder may be removed by another process while it is being locked.
const ATTEMPTS: usize = 16;

/// How long a writer waits before it looks again whether the readers have gone.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps others out of a folder until it is dropped or its process ends, however that ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a folder for writing; the folder is created where it is missing.
    ///
    /// # Errors
    /// When another process writes or reads there; the message gives its id.
    pub fn take(folder: &Path) -> Result<Self> {
        Self::attempt(folder)?.map_err(|held| held.error)
    }

    /// The same, but where others only read it waits for them, and says so once.
    ///
    /// # Errors
    /// When another process writes there, or the user interrupts.
    pub fn take_after_readers(folder: &Path, progress: &dyn Progress) -> Result<Self> {
        let mut told = false;
        loop {
            match Self::attempt(folder)? {
                Err(held) if held.is_read => {
                    if !std::mem::replace(&mut told, true) {
                        progress.say(&format!("{}: waiting", held.error));
                    }
                    progress.check()?;
                    std::thread::sleep(PAUSE);
                }
                attempt => return attempt.map_err(|held| held.error),
            }
        }
    }

    fn attempt(folder: &Path) -> Result<std::result::Result<Self, Held>> {
        let path = folder.join(LOCK);
        for _ in 0..ATTEMPTS {
            create_folder(folder)?;
            // The file is emptied below: what a link leads to is another's.
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).custom_flags(NO_LINK);
            let mut file = match options.open(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                open => open.map_err(|e| Error::io("open", &path, &e))?,
            };
            if let Some(held) = acquired(file.try_lock(), folder, &file)? {
                return Ok(Err(held));
            }
            // The lock of a file that was removed meanwhile, with its folder, would keep nobody out.
            if lies_at(&file, &path) {
                note_holder(&mut file).map_err(|e| Error::io("write", &path, &e))?;
                return Ok(Ok(Self { _file: file }));
            }
        }
        Err(Error::failed(format!("cannot lock `{}`: another process removes it again and again", folder.display())))
    }

    /// Keeps writers out as [`share`](Self::share) does, but waits for one that is at work, and says so once.
    ///
    /// # Errors
    /// When the user interrupts, or the lock cannot be had for another reason.
    pub fn share_after_writer(folder: &Path, progress: &dyn Progress) -> Result<Option<Self>> {
        let mut told = false;
        loop {
            let Ok(file) = File::open(folder.join(LOCK)) else { return Ok(None) };
            match acquired(file.try_lock_shared(), folder, &file)? {
                None => return Ok(Some(Self { _file: file })),
                Some(held) => {
                    if !std::mem::replace(&mut told, true) {
                        progress.say(&format!("{}: waiting", held.error));
                    }
                    progress.check()?;
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Keeps writers out of a folder that is being read. Where nobody has ever locked it, as on a disk that cannot be
    /// written, there is nothing to keep out.
    ///
    /// # Errors
    /// When another process writes there.
    pub fn share(folder: &Path) -> Result<Option<Self>> {
        let Ok(file) = File::open(folder.join(LOCK)) else { return Ok(None) };
        match acquired(file.try_lock_shared(), folder, &file)? {
            Some(held) => Err(held.error),
            None => Ok(Some(Self { _file: file })),
        }
    }
}

/// Others hold the lock.
struct Held {
    /// Who.
    error: Error,
    /// Whether they only read.
    is_read: bool,
}

/// What came of an attempt: who holds the lock, where others do.
fn acquired(attempt: std::result::Result<(), TryLockError>, folder: &Path, file: &File) -> Result<Option<Held>> {
    match attempt {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(held(folder, file))),
        Err(TryLockError::Error(e)) if is_without_locks(&e) => Ok(None),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", folder, &e)),
    }
}

/// Whether a disk has no locks, as some of the network: nobody is kept out there, and nothing rests on that.
fn is_without_locks(fault: &std::io::Error) -> bool {
    [libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOLCK].map(Some).contains(&fault.raw_os_error())
}

/// Leaves the id of this process and the name of its machine in the file, for systems that do not tell who holds a lock:
/// they know of no other machine's.
fn note_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{} {}", std::process::id(), host()).as_bytes())
}

fn held(folder: &Path, file: &File) -> Held {
    // Where a lock for reading can be had, nobody writes.
    let is_read = file.try_lock_shared().is_ok();
    let mut holders = holders(file).unwrap_or_default();
    let mut on = String::new();
    if let (true, false, Some(noted)) = (holders.is_empty(), is_read, noted_holder(file)) {
        if !noted.is_here() {
            on = format!(" on host {}", noted.host);
        }
        holders.push(noted.process);
    }
    let by = match &holders[..] {
        [] => "another process".to_string(),
        [one] => format!("process {one}{on}"),
        several => format!("processes {}", several.join(", ")),
    };
    let reads = if is_read { ", which reads it" } else { "" };
    let error = Error::failed(format!("`{}` is in use by {by}{reads}", folder.display()))
        .hint("wait for it to end, or give this run a folder of its own with `--cache DIR`");
    Held { error, is_read }
}

/// The process of this machine that writes to a folder, if one does. Only looked at: the lock is not touched, nor anybody
/// made to wait.
pub fn writer(folder: &Path) -> Option<u32> {
    let file = File::open(folder.join(LOCK)).ok()?;
    let noted = noted_holder(&file).filter(Noted::is_here).map(|noted| noted.process);
    let found = match listed(&file) {
        Some(listed) => listed
            .into_iter()
            .find(|one| one.writes && (one.is_on_device || Some(&one.process) == noted.as_ref()))
            .map(|one| one.process),
        None => noted.filter(|process| process.parse().is_ok_and(is_alive)),
    };
    found?.parse().ok()
}

/// The processes that the system lists as holders of the lock of a file, but for this one.
fn holders(file: &File) -> Option<Vec<String>> {
    let own = std::process::id().to_string();
    let others = listed(file)?.into_iter().filter(|one| one.is_on_device && one.process != own);
    Some(others.map(|one| one.process).collect())
}

/// A lock as the system lists it.
struct Listed {
    process: String,
    writes: bool,
    /// Whether the device is the file's too: some file systems tell files and locks of two devices.
    is_on_device: bool,
}

/// The locks of files of a file's number; nothing where the system has no list.
fn listed(file: &File) -> Option<Vec<Listed>> {
    let found = file.metadata().ok()?;
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let device = format!("{major:02x}:{minor:02x}");
    let number = found.ino().to_string();
    let list = std::fs::read_to_string("/proc/locks").ok()?;
    // As in `7: FLOCK  ADVISORY  WRITE 4711 fe:00:1835034 0 EOF`; processes that wait have an arrow after the number.
    let holder = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, access, process, file, ..] => {
            let (on, inode) = file.rsplit_once(':')?;
            (inode == number).then(|| Listed {
                process: process.to_string(),
                writes: access == "WRITE",
                is_on_device: on == device,
            })
        }
        _ => None,
    };
    Some(list.lines().filter_map(holder).collect())
}

/// Who last wrote his name into the file.
struct Noted {
    process: String,
    /// The machine; empty where an earlier version wrote it.
    host: String,
}

impl Noted {
    fn is_here(&self) -> bool {
        self.host.is_empty() || self.host == host()
    }
}

fn noted_holder(mut file: &File) -> Option<Noted> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.take(80).read_to_string(&mut text)).ok()?;
    let (process, host) = text.split_once(' ').unwrap_or((&text, ""));
    process.parse::<u32>().ok().map(|id| Noted { process: id.to_string(), host: host.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn writers_keep_all_others_out_and_readers_only_writers() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        assert!(Lock::take(folder.path()).is_err());
        assert!(Lock::share(folder.path()).is_err());
        drop(first);
        let readers = (Lock::share(folder.path()).unwrap(), Lock::share(folder.path()).unwrap());
        let error = Lock::take(folder.path()).err().unwrap().to_string();
        assert!(error.contains("which reads it"), "{error}");
        drop(readers);
        assert!(Lock::take(folder.path()).is_ok());
    }

    #[test]
    fn the_process_that_holds_it_is_named_not_the_last_that_wrote() {
        let folder = tempfile::tempdir().unwrap();
        drop(Lock::take(folder.path()).unwrap());
        for how in ["--exclusive", "--shared"] {
            let mut holder = Command::new("flock")
                .args([how, "--no-fork", folder.path().join(LOCK).to_str().unwrap(), "sleep", "60"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let error = loop {
                if let Err(error) = Lock::take(folder.path()) {
                    break error.to_string();
                }
                assert!(holder.try_wait().unwrap().is_none(), "`flock` has ended");
            };
            // One that only reads is no writer, and one that writes is seen without its lock being touched.
            let writes = (how == "--exclusive").then_some(holder.id());
            assert!(!Path::new("/proc/locks").exists() || writer(folder.path()) == writes, "{how}");
            holder.kill().unwrap();
            holder.wait().unwrap();
            let known = error.contains(&format!("process {}", holder.id()));
            assert!(known || !Path::new("/proc/locks").exists(), "{error}");
            // Killed, it holds nothing any more.
            assert_eq!(writer(folder.path()), None);
            assert!(Lock::take(folder.path()).is_ok());
        }
    }

    #[test]
    fn a_holder_on_another_machine_is_named_with_it_and_is_no_writer_here() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        let path = folder.path().join(LOCK);
        let noted = std::fs::read_to_string(&path).unwrap();
        assert_eq!(noted, format!("{} {}", std::process::id(), host()));
        drop(lock);
        std::fs::write(&path, "1 elsewhere").unwrap();
        assert_eq!(writer(folder.path()), None);
        let noted = noted_holder(&File::open(&path).unwrap()).unwrap();
        assert!(!noted.is_here() && noted.host == "elsewhere" && noted.process == "1");
    }

    #[test]
    fn a_lock_that_went_with_its_folder_is_taken_anew() {
        let folder = tempfile::tempdir().unwrap();
        let stage = folder.path().join("stage");
        let old = Lock::take(&stage).unwrap();
        std::fs::remove_dir_all(&stage).unwrap();
        let new = Lock::take(&stage).unwrap();
        assert!(lies_at(&new._file, &stage.join(LOCK)) && !lies_at(&old._file, &stage.join(LOCK)));
    }
}
