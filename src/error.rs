//! The one error type of the program: what failed, and the way out where there is one.

use crate::size;
use crate::text::shown;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

/// `Result` with the program's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; the command line turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line or the pipeline file is wrong.
    Usage,
    /// Something failed while the work was done.
    Failed,
    /// The user stopped it.
    Interrupted,
}

/// An error that names the thing and the fault, in lower case, and may carry a hint.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// The work failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, message: message.into(), hint: None }
    }

    /// The request itself is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, ..Self::failed(message) }
    }

    /// The user stopped the work.
    pub fn interrupted() -> Self {
        Self { kind: Kind::Interrupted, ..Self::failed("interrupted") }
    }

    /// An operation on a file failed: `cannot read `path`: no such file or directory`. Where the disk is at fault
    /// there is a hint.
    pub fn io(verb: &str, path: &Path, error: &std::io::Error) -> Self {
        let failed = Self::failed(format!("cannot {verb} `{}`: {}", shown(path), reason(error)));
        match hint_text(path, error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }

    /// Adds the way out.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a way out where there is none yet.
    pub fn or_hint(self, hint: impl Into<String>) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }

    /// Puts what was being done in front of the message.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// The system's words for an error, in lower case and without the number.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// What a user can do about a fault of the disk.
fn hint_text(path: &Path, error: &std::io::Error) -> Option<String> {
    Some(match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            let free = size::free(path).map_or_else(String::new, |free| format!(" ({} are free)", size::words(free)));
            format!("make room on that disk{free}; the same command then goes on where it stopped")
        }
        ErrorKind::ReadOnlyFilesystem => "that disk cannot be written; name a folder on another one".into(),
        ErrorKind::PermissionDenied => "this user may not do that; see the owner and the mode of that place".into(),
        ErrorKind::NotADirectory => "a file lies where a folder should be; move it away or name another place".into(),
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            "a link lies where a file of greedy's own should be; remove it".into()
        }
        _ if [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
            .map(|e| Some(e.raw_os_error()))
            .contains(&error.raw_os_error()) =>
        {
            "allow the process more open files: `ulimit -n 4096`".into()
        }
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string();
        let failed = Self::failed(format!("tensor operation failed: {}", text.lines().next().unwrap_or_default()));
        match text.contains("CUDA_ERROR_OUT_OF_MEMORY") {
            true => Self::failed("the GPU is out of memory")
                .hint("a smaller `training.batch` takes less; other programs may have the rest"),
            false => failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_full_disk_is_named_with_what_is_free() {
        let full = Path::new("/dev/full");
        let mut file = std::fs::File::options().write(true).open(full).unwrap();
        let error = Error::io("write", full, &file.write_all(b"x").unwrap_err());
        assert_eq!(error.to_string(), "cannot write `/dev/full`: no space left on device");
        assert!(error.hint_text().unwrap().contains("are free"), "{error:?}");
    }

    #[test]
    fn a_file_in_place_of_a_folder_gets_a_hint() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let below = file.path().join("stage1");
        let error = Error::io("read", &below, &std::fs::read(&below).unwrap_err());
        assert!(error.hint_text().unwrap().contains("a file lies where a folder should be"), "{error:?}");
    }
}
