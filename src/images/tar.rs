//! A tar archive of images `{train,val|test}/<class>/…`, indexed once and read in place.

use super::file::OpenFile;
use super::layout::{self, ImageFile};
use super::{Content, Found, Store};
use crate::error::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BLOCK: u64 = 512;

/// Finds the images of an archive.
pub(super) fn open(path: &Path) -> Result<Found> {
    let file = OpenFile::open(path)?;
    refuse_compressed(&file)?;
    let listing = layout::arrange(path, index(&file)?)?;
    let file = Arc::new(file);
    let store = |images| Box::new(Archive { file: Arc::clone(&file), images });
    Ok(Found { classes: listing.classes, train: store(listing.train), val: store(listing.val) })
}

/// How compressed files begin, and what opens them.
const COMPRESSED: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "unzstd"),
    (b"\xfd7zXZ", "unxz"),
    (b"BZh", "bunzip2"),
    (b"PK\x03\x04", "unzip"),
];

fn refuse_compressed(file: &OpenFile) -> Result<()> {
    let start = file.read(0..file.len().min(8), 8)?;
    match COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        None => Ok(()),
        Some((_, tool)) => Err(Error::failed(format!("`{}` is compressed", file.path().display()))
            .hint(format!("images are read from any place of the archive, so decompress it first with `{tool}`"))),
    }
}

/// The paths of all images, and where their bytes lie. Links, sparse files and the like are passed over.
fn index(file: &OpenFile) -> Result<Vec<(PathBuf, Range<u64>)>> {
    let damaged =
        |error: std::io::Error| Error::failed(format!("`{}` is no whole tar: {error}", file.path().display()));
    let mut images = Vec::new();
    let mut end = 0;
    for entry in tar::Archive::new(file.stream()).entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let bytes = entry.raw_file_position()..entry.raw_file_position().saturating_add(entry.size());
        end = bytes.end.next_multiple_of(BLOCK);
        if bytes.end > file.len() {
            return Err(cut_off(file, &format!("in `{}`", path.display())));
        }
        if entry.header().entry_type().is_file() && layout::is_image(&path) {
            images.push((path, bytes));
        }
    }
    // Without the block of zeros that ends an archive, nobody knows how many images are missing.
    if end.saturating_add(BLOCK) > file.len() {
        return Err(cut_off(file, "before its end mark"));
    }
    Ok(images)
}

fn cut_off(file: &OpenFile, place: &str) -> Error {
    Error::failed(format!("`{}` is cut off {place}, at byte {}", file.path().display(), file.len()))
        .hint("copy or download it again")
}

struct Archive {
    file: Arc<OpenFile>,
    images: Vec<ImageFile<Range<u64>>>,
}

impl Store for Archive {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.images[index].label
    }

    fn name(&self, index: usize) -> String {
        format!("{}: {}", self.file.path().display(), self.images[index].path.display())
    }

    fn place(&self, index: usize) -> String {
        self.images[index].path.display().to_string()
    }

    fn read(&self, index: usize, most: u64) -> Result<Content> {
        self.file.read(self.images[index].place.clone(), most).map(Content::File)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// An archive with a long name, a link and two classes in two splits.
    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("./train/cat/{}.jpg", "x".repeat(150));
        for path in [long.as_str(), "train/dog/1.jpg", "test/cat/1.jpg", "test/dog/1.jpg", "notes.txt"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(path.len() as u64);
            builder.append_data(&mut header, path, path.as_bytes()).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "train/dog/2.jpg", "/etc/passwd").unwrap();
        builder.into_inner().unwrap()
    }

    fn opened(bytes: &[u8]) -> Result<Found> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        open(file.path())
    }

    #[test]
    fn images_are_read_from_their_places() {
        let found = opened(&archive()).unwrap();
        assert_eq!(found.classes, ["cat", "dog"]);
        assert_eq!((found.train.len(), found.val.len()), (2, 2));
        let Content::File(bytes) = found.val.read(1, 100).unwrap() else { panic!("files are not decoded here") };
        assert_eq!(bytes, b"test/dog/1.jpg");
        assert!(found.train.name(0).contains(": train/cat/xxx") || found.train.name(0).contains(": ./train/cat/xxx"));
    }

    #[test]
    fn an_archive_cut_off_anywhere_is_an_error() {
        let bytes = archive();
        let whole = bytes.len() - 1024;
        for length in (0..=whole).step_by(256) {
            assert!(opened(&bytes[..length]).is_err(), "cut to {length} of {whole}");
        }
    }

    #[test]
    fn damage_in_a_header_is_an_error() {
        let mut bytes = archive();
        bytes[3000..3400].fill(7);
        let error = opened(&bytes).err().unwrap().to_string();
        assert!(error.contains("is no whole tar"), "{error}");
    }

    #[test]
    fn an_entry_larger_than_the_archive_is_an_error() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_path("train/cat/1.jpg").unwrap();
        header.set_size(1 << 60);
        header.set_cksum();
        builder.append(&header, std::io::empty()).unwrap();
        let error = opened(&builder.into_inner().unwrap()).err().unwrap().to_string();
        assert!(error.contains("is cut off in `train/cat/1.jpg`"), "{error}");
    }

    #[test]
    fn a_compressed_archive_is_refused_with_the_tool_that_opens_it() {
        let error = opened(b"\x1f\x8b\x08\x00 and more").err().unwrap();
        assert!(error.to_string().contains("is compressed") && error.way_out().unwrap().contains("gunzip"));
    }
}
