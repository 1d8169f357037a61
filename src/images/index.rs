//! What was found in large archives, kept beside the stages, so that they are gone through once and not at every start.
//!
//! It counts as long as the names, sizes and times of the archives are what they were.

use super::census::Census;
use super::file::Shelf;
use super::layout::ImageFile;
use super::placed::{Placed, Where};
use super::{Found, look};
use crate::disk::NewFile;
use crate::error::{Error, Result};
use crate::pipeline::Source;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the file.
pub const INDEX: &str = "images.index";
/// So few images are found anew each time.
const FEW: usize = 2000;
/// To be changed whenever something else is found in the same archives.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", 1");

/// What is kept.
#[derive(Deserialize)]
struct Kept {
    version: String,
    /// Where the data set lies, and what its files looked like.
    place: PathBuf,
    fingerprint: String,
    classes: Vec<String>,
    words: Option<Vec<String>>,
    census: Census,
    splits: [Split; 2],
}

/// The images of a split and the archives that they lie in.
#[derive(Deserialize)]
struct Split {
    root: PathBuf,
    archives: Vec<PathBuf>,
    images: Vec<ImageFile<Where>>,
}

/// The same as it is written: a million images are not copied for that.
#[derive(Serialize)]
struct Writing<'a> {
    version: &'a str,
    place: &'a Path,
    fingerprint: &'a str,
    classes: &'a [String],
    words: &'a Option<Vec<String>>,
    census: &'a Census,
    splits: [WritingSplit<'a>; 2],
}

#[derive(Serialize)]
struct WritingSplit<'a> {
    root: &'a Path,
    archives: Vec<&'a Path>,
    images: &'a [ImageFile<Where>],
}

/// The place of a source whose images may lie in archives.
fn place(source: &Source) -> Option<&Path> {
    match source {
        Source::Imagenet(place) | Source::WebDataset(place) => Some(place),
        _ => None,
    }
}

/// Finds the images of a source, as `find` does, or as they are kept in a folder.
///
/// # Errors
/// Those of `find`. What cannot be kept is found again: that is no fault.
pub(super) fn through(folder: &Path, source: &Source, find: impl FnOnce() -> Result<Found>) -> Result<Found> {
    let Some(place) = place(source).and_then(|place| std::fs::canonicalize(place).ok()) else { return find() };
    let fingerprint = look(source)?.text;
    let file = folder.join(INDEX);
    if let Some(found) = read(&file).filter(|kept| kept.is_of(&place, &fingerprint)).and_then(Kept::found) {
        return Ok(found);
    }
    let found = find()?;
    if let Some(kept) = Writing::of(&found, &place, &fingerprint) {
        let _ = write(&kept, &file);
    }
    Ok(found)
}

impl<'a> Writing<'a> {
    /// What is worth to be kept: images of which all lie in archives.
    fn of(found: &'a Found, place: &'a Path, fingerprint: &'a str) -> Option<Self> {
        let split = |placed: &'a Placed| WritingSplit {
            root: &placed.root,
            archives: placed.shelf.paths().collect(),
            images: &placed.images,
        };
        let (train, val) = (found.train.placed()?, found.val.placed()?);
        let in_archives = |placed: &Placed| placed.images.iter().all(|image| matches!(image.place, Where::Member(..)));
        let worth = train.images.len() + val.images.len() > FEW && in_archives(train) && in_archives(val);
        worth.then(|| Self {
            version: VERSION,
            place,
            fingerprint,
            classes: &found.classes,
            words: &found.words,
            census: &found.census,
            splits: [split(train), split(val)],
        })
    }
}

impl Kept {
    fn is_of(&self, place: &Path, fingerprint: &str) -> bool {
        self.version == VERSION && self.place == place && self.fingerprint == fingerprint
    }

    /// The images, where all that is kept fits together and the archives can be opened.
    fn found(self) -> Option<Found> {
        let Self { classes, words, census, splits: [train, val], .. } = self;
        let open = |split: Split| {
            let Split { root, archives, images } = split;
            let count = archives.len();
            let fits = |image: &ImageFile<Where>| {
                let known = matches!(&image.place, Where::Member(number, place) if *number < count && place.is_sound());
                known && (image.label as usize) < classes.len()
            };
            if images.is_empty() || !images.iter().all(fits) {
                return None;
            }
            Some(Box::new(Placed { root, shelf: Arc::new(Shelf::new(archives).ok()?), images }))
        };
        let (train, val) = (open(train)?, open(val)?);
        Some(Found { words, ..Found::new(classes, train, val, census) })
    }
}

fn read(path: &Path) -> Option<Kept> {
    let stream = zstd::stream::read::Decoder::new(File::open(path).ok()?).ok()?;
    serde_json::from_reader(BufReader::with_capacity(1 << 20, stream)).ok()
}

fn write(kept: &Writing<'_>, path: &Path) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(e.to_string());
    let file = NewFile::create(path)?;
    let mut stream = zstd::stream::write::Encoder::new(Appended(file), 1).map_err(|e| failed(&e))?;
    stream.include_checksum(true).map_err(|e| failed(&e))?;
    let mut buffered = BufWriter::with_capacity(1 << 20, stream);
    serde_json::to_writer(&mut buffered, kept).map_err(|e| failed(&e))?;
    let stream = buffered.into_inner().map_err(|e| failed(&e))?;
    stream.finish().map_err(|e| failed(&e))?.0.finish()
}

/// A new file that others write to.
struct Appended(NewFile);

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).map(|()| bytes.len()).map_err(std::io::Error::other)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::webdataset;
    use super::*;
    use std::fs;

    fn shard(path: &Path, samples: usize) {
        let mut builder = tar::Builder::new(Vec::new());
        for at in 0..samples {
            for (name, bytes) in [
                (format!("{at:05}.pgm"), b"P5 1 1 255\nx".to_vec()),
                (format!("{at:05}.cls"), vec![b'0' + (at % 2) as u8]),
            ] {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, &bytes[..]).unwrap();
            }
        }
        fs::write(path, builder.into_inner().unwrap()).unwrap();
    }

    #[test]
    fn archives_are_gone_through_once_and_again_when_they_have_changed() {
        let space = tempfile::tempdir().unwrap();
        let folder = space.path().join("data");
        fs::create_dir_all(&folder).unwrap();
        shard(&folder.join("a-train-0.tar"), 2100);
        shard(&folder.join("a-val-0.tar"), 10);
        let source = Source::WebDataset(folder.clone());
        let mut searches = 0;
        let mut open = || {
            through(space.path(), &source, || {
                searches += 1;
                webdataset::open(&folder)
            })
            .unwrap()
        };
        let (first, again) = (open(), open());
        assert_eq!(
            (first.train.len(), first.val.len(), &first.classes),
            (again.train.len(), again.val.len(), &again.classes)
        );
        assert_eq!((first.census, first.train.place(2000)), (again.census, again.train.place(2000)));
        assert!(again.train.read(2000, 100).is_ok());
        shard(&folder.join("a-train-0.tar"), 2200);
        assert_eq!(open().train.len(), 2200);
        fs::write(space.path().join(INDEX), "damaged").unwrap();
        assert_eq!(open().train.len(), 2200);
        assert_eq!(searches, 3);
    }
}
