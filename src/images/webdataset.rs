//! WebDataset: tars of samples, each some files with one key: `KEY.jpg`, and `KEY.cls` or `KEY.json` with the label.

use super::census::{Census, Why, why_not};
use super::file::{OpenFile, Shelf};
use super::layout::ImageFile;
use super::members::{Kind, Member, Place, members};
use super::numbered::{self, Numbered};
use super::placed::{Placed, Where};
use super::tar::refuse_compressed;
use super::{Found, pattern};
use crate::error::{Error, Result};
use crate::text::shown;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a file with a label at most.
const MOST_LABEL: u64 = 1 << 20;

/// The archives of each split.
pub(super) struct Shards {
    pub train: Vec<PathBuf>,
    pub val: Vec<PathBuf>,
}

impl Shards {
    /// All of them.
    pub fn all(self) -> Vec<PathBuf> {
        self.train.into_iter().chain(self.val).collect()
    }
}

/// Finds the archives of a folder, or those that a pattern stands for.
///
/// # Errors
/// When there are none of one of the splits.
pub(super) fn shards(place: &Path) -> Result<Shards> {
    numbered::splits(place, "tar", if place.is_dir() { None } else { Some(pattern::files(place)?) })
}

/// Finds the images of the archives.
pub(super) fn open(place: &Path) -> Result<Found> {
    let shards = shards(place)?;
    let mut census = Census::default();
    for (name, archives) in [("training", &shards.train), ("validation", &shards.val)] {
        if let Some(note) = numbered::gap(archives) {
            census.note(format!("of the {name} archives {note}"));
        }
    }
    let folder = if place.is_dir() { place } else { place.parent().unwrap_or(Path::new("")) };
    let read = |archives: Vec<PathBuf>, census: &mut Census| {
        let count = archives.len();
        let shelf = Arc::new(Shelf::new(archives)?);
        let mut samples = Vec::new();
        for number in 0..count {
            let below = shelf.path(number).strip_prefix(folder).unwrap_or(shelf.path(number));
            shelf.with(number, |file| samples_of(file, (number, below), (&mut samples, census)))?;
        }
        Ok::<_, Error>((shelf, samples))
    };
    let (train_shelf, train) = read(shards.train, &mut census)?;
    let (val_shelf, val) = read(shards.val, &mut census)?;
    census.images = (train.len() + val.len()) as u64;
    census.files += census.images;
    let labels = |samples: &[ImageFile<Where>]| samples.iter().map(|sample| sample.label).collect::<Vec<_>>();
    let Numbered { classes, words, note } = Numbered::of((&labels(&train), &labels(&val)), names(folder))?;
    census.note(note);
    let store = |shelf, images| Box::new(Placed { root: folder.to_path_buf(), shelf, images });
    let found = Found::new(classes, store(train_shelf, train), store(val_shelf, val), census);
    Ok(Found { words, ..found })
}

/// The names of the classes, one a line, where such a file lies beside the archives.
fn names(folder: &Path) -> Option<Vec<String>> {
    let paths = ["classnames.txt", "classes.txt", "class_names.txt"].map(|name| folder.join(name));
    let path = paths.into_iter().find(|path| fs::metadata(path).is_ok_and(|found| found.len() <= MOST_LABEL))?;
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().map(|line| crate::text::printable(line.trim(), &[])).filter(|line| !line.is_empty()).collect())
}

/// A sample that is being put together.
#[derive(Default)]
struct Sample {
    image: Option<(PathBuf, Place)>,
    class: Option<Range<u64>>,
    json: Option<Range<u64>>,
}

/// Finds the samples of an archive: members of one key that lie side by side.
fn samples_of(
    file: &OpenFile,
    archive: (usize, &Path),
    (samples, census): (&mut Vec<ImageFile<Where>>, &mut Census),
) -> Result<()> {
    refuse_compressed(file)?;
    let (mut key, mut sample) = (Vec::new(), Sample::default());
    for Member { path, kind } in members(file, 0..file.len())?.all {
        let place = match kind {
            Kind::File(place) => place,
            Kind::Folder => continue,
            Kind::HardLink(_) | Kind::SymbolicLink(_) => {
                census.pass(&archive.1.join(&path), &Why::Link);
                continue;
            }
            Kind::Other => {
                census.pass(&archive.1.join(&path), &Why::Special);
                continue;
            }
        };
        let bytes = path.as_os_str().as_encoded_bytes();
        let name = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        // The key ends at the first dot of the name.
        let dot = bytes[name..].iter().position(|&byte| byte == b'.').map_or(bytes.len(), |dot| name + dot);
        if bytes[..dot] != key[..] {
            std::mem::take(&mut sample).finish(file, archive, (samples, census))?;
            key = bytes[..dot].to_vec();
        }
        match bytes.get(dot + 1..).unwrap_or_default() {
            b"cls" | b"cls.txt" | b"label" => sample.class = Some(place.bytes),
            b"json" => sample.json = Some(place.bytes),
            _ => match why_not(&path) {
                None if sample.image.is_none() => sample.image = Some((path, place)),
                None => census.pass(&archive.1.join(&path), &Why::Replaced),
                Some(why) => census.pass(&archive.1.join(&path), &why),
            },
        }
    }
    sample.finish(file, archive, (samples, census))
}

impl Sample {
    fn finish(
        self,
        file: &OpenFile,
        (number, below): (usize, &Path),
        (samples, census): (&mut Vec<ImageFile<Where>>, &mut Census),
    ) -> Result<()> {
        let Some((path, place)) = self.image else {
            if self.class.is_some() || self.json.is_some() {
                census.pass(below, &Why::Extension("cls or .json without an image".into()));
            }
            return Ok(());
        };
        let read = |range: Range<u64>| match range.end - range.start > MOST_LABEL {
            true => Ok(Vec::new()),
            false => file.read(range),
        };
        let label = match (self.class, self.json) {
            (Some(range), _) => std::str::from_utf8(&read(range)?).ok().and_then(|text| text.trim().parse().ok()),
            (None, Some(range)) => {
                let json: Option<serde_json::Value> = serde_json::from_slice(&read(range)?).ok();
                json.and_then(|json| json.get("label")?.as_i64())
            }
            (None, None) => None,
        };
        let path = below.join(path);
        let label = label.and_then(|label: i64| numbered::label(label)).ok_or_else(|| {
            Error::failed(format!("`{}`: nothing tells its label", shown(&path)))
                .hint("a number from 0 is expected in a `.cls` of the same key, or as `label` in its `.json`")
        })?;
        samples.push(ImageFile { path, label, place: Where::Member(number, place) });
        Ok(())
    }
}
