//! A tar archive of images `{train,val|valid|validation|test}/<class>/…`, indexed once and read in place.

use super::census::{Why, why_not};
use super::file::{OpenFile, Shelf};
use super::layout::{self, ImageFile, Inside};
use super::members::{Kind, Member, Place, members};
use super::{Content, Fault, Found, Store};
use crate::error::{Error, Result};
use crate::text::shown;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Links that lead from one to the next at most.
const MOST_LINKS: usize = 8;

/// Finds the images of an archive.
pub(super) fn open(path: &Path) -> Result<Found> {
    let shelf = Arc::new(Shelf::new(vec![path.to_path_buf()])?);
    let found = shelf.with(0, |file| {
        refuse_compressed(file)?;
        members(file, 0..file.len())
    })?;
    let (inside, linked_folders) = resolve(found.all);
    let mut listing = layout::arrange(path, inside)?;
    if found.behind > 0 {
        listing.census.note(format!("`{}`: the last {} bytes are no part of the archive", shown(path), found.behind));
    }
    if linked_folders > 0 {
        listing.census.note(format!("`{}`: {linked_folders} links to folders were not followed", shown(path)));
    }
    let store = |images| Box::new(Archive { shelf: Arc::clone(&shelf), images });
    Ok(Found::new(listing.classes, store(listing.train), store(listing.val), listing.census))
}

/// How compressed files begin, and what opens them.
const COMPRESSED: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "unzstd"),
    (b"\xfd7zXZ", "unxz"),
    (b"BZh", "bunzip2"),
    (b"PK\x03\x04", "unzip"),
];

pub(super) fn refuse_compressed(file: &OpenFile) -> Result<()> {
    let start = file.read(0..file.len().min(8))?;
    match COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        None => Ok(()),
        Some((_, tool)) => Err(Error::failed(format!("`{}` is compressed", shown(file.path())))
            .hint(format!("images are read from any place of the archive, so decompress it first with `{tool}`"))),
    }
}

/// The images and what else there is. Links to files are taken for what they lead to; those to folders are counted.
fn resolve(members: Vec<Member>) -> (Inside<Place>, usize) {
    let mut inside = Inside { images: Vec::new(), others: Vec::new(), folders: Vec::new() };
    let mut files: HashMap<PathBuf, Place> = HashMap::new();
    let mut links = Vec::new();
    let has_links = members.iter().any(|member| matches!(member.kind, Kind::HardLink(_) | Kind::SymbolicLink(_)));
    for Member { path, kind } in members {
        match kind {
            Kind::File(place) => {
                // Only links need to find files by their names.
                if has_links {
                    files.insert(plain(&path), place.clone());
                }
                match why_not(&path) {
                    None => inside.images.push((path, place)),
                    Some(why) => inside.others.push((path, why)),
                }
            }
            Kind::HardLink(target) => links.push((path, plain(&target))),
            Kind::SymbolicLink(target) => {
                let target = plain(&path.parent().unwrap_or(Path::new("")).join(target));
                links.push((path, target));
            }
            Kind::Folder => inside.folders.push(path),
            Kind::Other => inside.others.push((path, Why::Special)),
        }
    }
    let by_name: HashMap<PathBuf, &PathBuf> = links.iter().map(|(path, target)| (plain(path), target)).collect();
    let mut folders = 0;
    for (path, target) in &links {
        let mut target = target;
        for _ in 0..MOST_LINKS {
            target = by_name.get(target).copied().unwrap_or(target);
        }
        match (files.get(target), why_not(path)) {
            (Some(place), None) => inside.images.push((path.clone(), place.clone())),
            (Some(_), Some(why)) => inside.others.push((path.clone(), why)),
            (None, _) if files.keys().any(|file| file.starts_with(target)) => folders += 1,
            (None, _) => inside.others.push((path.clone(), Why::Link)),
        }
    }
    (inside, folders)
}

/// A path without `.` and `..`, from the root of the archive.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            _ => {}
        }
    }
    plain
}

struct Archive {
    shelf: Arc<Shelf>,
    images: Vec<ImageFile<Place>>,
}

impl Store for Archive {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.images[index].label
    }

    fn name(&self, index: usize) -> String {
        format!("{}: {}", shown(self.shelf.path(0)), shown(&self.images[index].path))
    }

    fn place(&self, index: usize) -> String {
        shown(&self.images[index].path)
    }

    fn read(&self, index: usize, most: u64) -> Result<Content, Fault> {
        self.shelf.with(0, |file| self.images[index].place.read_image(file, most)).map(Content::File)
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
        assert!(error.to_string().contains("is compressed") && error.hint_text().unwrap().contains("gunzip"));
    }
}
