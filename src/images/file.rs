//! A file that several threads read at places of their own.

use super::Fault;
use super::decode::{is_known, no_image};
use crate::disk::{self, OpenSlot};
use crate::error::{Error, Result};
use crate::text::{shown, shown_name};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

/// Of an image file that is larger, the beginning is looked at before all of it is read.
const LARGE: u64 = 8 << 20;
/// Bytes that tell the format of an image.
const BEGINNING: u64 = 512;

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
            return Err(Error::failed(format!("`{}` is not a file", shown(path))));
        }
        let file = File::open(path).map_err(failed)?;
        Ok(Self { file, path: path.to_path_buf(), len: found.len() })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name in its folder.
    pub fn name(&self) -> String {
        shown_name(self.path.file_name().unwrap_or_default())
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
    /// When the range does not lie in the file, or cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let count = range.end.saturating_sub(range.start);
        if range.end > self.len || count > isize::MAX as u64 {
            return Err(Error::failed(format!("`{}` ends before byte {}", shown(&self.path), range.end)));
        }
        let mut bytes = vec![0; count as usize];
        self.file.read_exact_at(&mut bytes, range.start).map_err(|e| Error::io("read", &self.path, &e))?;
        Ok(bytes)
    }

    /// Reads an image file that lies in a range of bytes.
    ///
    /// # Errors
    /// It is bad when there are more than `most` bytes or they begin as no image does, which is found before much is
    /// read; what cannot be read is another matter.
    pub fn read_image(&self, range: Range<u64>, most: u64) -> Result<Vec<u8>, Fault> {
        let count = range.end.saturating_sub(range.start);
        check_length(count, most)?;
        if count > LARGE {
            check_beginning(&self.read(range.start..range.start + BEGINNING)?)?;
        }
        Ok(self.read(range)?)
    }
}

fn check_length(count: u64, most: u64) -> Result<(), Fault> {
    if count <= most {
        return Ok(());
    }
    let fault = Error::failed(format!("an image of {count} bytes is too large"));
    Err(Fault::Bad(fault.hint("raise `data.max_pixels` if it is one")))
}

fn check_beginning(start: &[u8]) -> Result<(), Fault> {
    if is_known(start) { Ok(()) } else { Err(Fault::Bad(Error::failed(no_image(start)))) }
}

/// Reads an image file that a user names, which may be a pipe, in bounded memory and time.
///
/// # Errors
/// When it is neither a file nor a pipe, too large, or begins as no image does.
pub fn read_image(path: &Path, most: u64) -> Result<Vec<u8>> {
    let found = fs::metadata(path).map_err(|e| Error::io("read", path, &e))?;
    let named = |fault: Fault| Error::from(fault).context(format_args!("`{}`", shown(path)));
    if found.is_file() {
        let file = OpenFile::open(path)?;
        return file.read_image(0..file.len(), most).map_err(named);
    }
    if !is_stream(&found) {
        return Err(Error::failed(format!("`{}` is not an image file", shown(path))));
    }
    let mut stream = File::open(path).map_err(|e| Error::io("open", path, &e))?;
    let mut bytes = Vec::new();
    let mut read = |count: u64, bytes: &mut Vec<u8>| {
        let read = stream.by_ref().take(count).read_to_end(bytes);
        read.map_err(|e| Error::io("read", path, &e))
    };
    read(BEGINNING, &mut bytes)?;
    check_beginning(&bytes).map_err(named)?;
    read(most.saturating_add(1), &mut bytes)?;
    check_length(bytes.len() as u64, most).map_err(named)?;
    Ok(bytes)
}

fn is_stream(found: &Metadata) -> bool {
    let kind = found.file_type();
    kind.is_fifo() || kind.is_socket()
}

/// Files of which as many are kept open as the process may; the others are opened for each read.
pub(super) struct Shelf {
    files: Vec<Shelved>,
}

struct Shelved {
    path: PathBuf,
    len: u64,
    open: Option<(OpenFile, OpenSlot)>,
}

impl Shelf {
    /// Puts files on the shelf in their order.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn new(paths: Vec<PathBuf>) -> Result<Self> {
        let shelved = |path: PathBuf| {
            let file = OpenFile::open(&path)?;
            let len = file.len();
            Ok(Shelved { path, len, open: disk::open_slot().map(|slot| (file, slot)) })
        };
        Ok(Self { files: paths.into_iter().map(shelved).collect::<Result<_>>()? })
    }

    /// All their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The path of one.
    pub fn path(&self, number: usize) -> &Path {
        &self.files[number].path
    }

    /// Does something with a file, opened if need be.
    ///
    /// # Errors
    /// When it cannot be opened, has changed its length, or what is done fails.
    pub fn with<T, E: From<Error>>(&self, number: usize, act: impl FnOnce(&OpenFile) -> Result<T, E>) -> Result<T, E> {
        let Shelved { path, len, open } = &self.files[number];
        if let Some((file, _)) = open {
            return act(file);
        }
        let file = OpenFile::open(path)?;
        if file.len() != *len {
            return Err(Error::failed(format!("`{}` has changed while it was read", shown(path))).into());
        }
        act(&file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most() -> u64 {
        1 << 20
    }

    #[test]
    fn endless_and_huge_files_are_refused_before_they_are_read() {
        assert!(read_image(Path::new("/dev/zero"), most()).unwrap_err().to_string().contains("not an image file"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.jpg");
        // A terabyte that takes no room.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read_image(&path, most()).unwrap_err().to_string().contains("too large"));
        let error = read_image(&path, 1 << 41).unwrap_err().to_string();
        assert!(error.contains("huge.jpg`: the content is zeros"), "{error}");
    }

    #[test]
    fn files_beyond_the_budget_are_opened_for_each_read() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..20).map(|number| folder.path().join(number.to_string())).collect();
        paths.iter().for_each(|path| fs::write(path, path.to_str().unwrap()).unwrap());
        let shelf = Shelf::new(paths.clone()).unwrap();
        for (number, path) in paths.iter().enumerate() {
            let bytes = shelf.with(number, |file| file.read(0..file.len())).unwrap();
            assert_eq!(bytes, path.to_str().unwrap().as_bytes());
        }
    }
}
