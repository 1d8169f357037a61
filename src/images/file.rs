//! A file that several threads read at places of their own.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A regular file, open for reading.
pub(super) struct OpenFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl OpenFile {
    /// Opens a file; anything else of that name, such as a pipe that nobody writes to, is an error.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error| Error::io("open", path, &error);
        let found = fs::metadata(path).map_err(failed)?;
        if !found.is_file() {
            return Err(Error::failed(format!("`{}` is not a file", path.display())));
        }
        let file = File::open(path).map_err(failed)?;
        Ok(Self { file, path: path.to_path_buf(), len: found.len() })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name in its folder.
    pub fn name(&self) -> Cow<'_, str> {
        self.path.file_name().unwrap_or_default().to_string_lossy()
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The file itself, to be read from front to back.
    pub fn stream(&self) -> &File {
        &self.file
    }

    /// Reads a range of bytes.
    ///
    /// # Errors
    /// When there are more than `most`, before anything is allocated, or the file has become shorter.
    pub fn read(&self, range: Range<u64>, most: u64) -> Result<Vec<u8>> {
        let count = range.end.saturating_sub(range.start);
        if count > most.min(self.len) {
            let path = self.path.display();
            return Err(Error::failed(format!("`{path}`: an image of {count} bytes is too large"))
                .hint("raise `data.max_pixels` if it is one"));
        }
        let mut bytes = vec![0; count as usize];
        self.file.read_exact_at(&mut bytes, range.start).map_err(|e| Error::io("read", &self.path, &e))?;
        Ok(bytes)
    }
}
