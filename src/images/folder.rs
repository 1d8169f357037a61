//! A folder of images `{train,val|valid|validation|test}/<class>/…`.

use super::census::{Why, is_hidden, is_litter, why_not};
use super::file::OpenFile;
use super::layout::{self, ImageFile, Inside, TRAIN, VAL};
use super::{Content, Fault, Found, Store};
use crate::error::{Error, Result};
use crate::text::shown;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders below one another that are looked into; deeper ones are taken for a mistake.
const DEEPEST: usize = 16;

/// Finds the images of a folder.
pub(super) fn open(root: &Path) -> Result<Found> {
    let Survey { images, others, folders } = survey(root)?;
    let images = images.into_iter().map(|(path, _)| (path, ())).collect();
    let folders = folders.into_iter().map(|(path, _)| path).collect();
    let listing = layout::arrange(root, Inside { images, others, folders })?;
    let store = |images| Box::new(Folder { root: root.to_path_buf(), images });
    Ok(Found::new(listing.classes, store(listing.train), store(listing.val), listing.census))
}

/// What the splits of a folder hold at any depth, in no particular order. Paths count from it.
#[derive(Default)]
pub(super) struct Survey {
    /// All image files.
    pub images: Vec<(PathBuf, Outside)>,
    /// All other files, and what was not looked into.
    pub others: Vec<(PathBuf, Why)>,
    /// All folders that were looked into, as they were before.
    pub folders: Vec<(PathBuf, Metadata)>,
}

/// What a file looks like from outside.
#[derive(Clone, Copy)]
pub(super) struct Outside {
    pub bytes: u64,
    /// Nanoseconds since 1970 of the last change of its contents; a wrong clock may have dated it before.
    pub modified: i128,
    /// Whether the file is reached by a link.
    pub is_link: bool,
}

impl Outside {
    pub fn of(found: &Metadata, is_link: bool) -> Self {
        let modified = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        Self { bytes: found.len(), modified, is_link }
    }
}

/// Looks at the splits of a folder, or of the folders in it where it has none. What lies beside them is nobody's
/// business: it may be unreadable, endless or a link to itself.
///
/// # Errors
/// When the folder cannot be read, or folders contain themselves by links.
pub(super) fn survey(root: &Path) -> Result<Survey> {
    if root.is_file() {
        return Err(Error::failed(format!("`{}` is a file, not a folder of images", shown(root)))
            .hint("an archive is read with `source = \"tar\"`"));
    }
    let mut all = Survey::default();
    let failed = |error| Error::io("read folder", root, &error);
    all.folders.push((PathBuf::new(), fs::metadata(root).map_err(failed)?));
    if survey_splits(root, Path::new(""), &mut all)? {
        return Ok(all);
    }
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let (below, path) = (Path::new(&name), root.join(&name));
        if is_hidden(&name) || is_litter(&name) || !path.is_dir() {
            continue;
        }
        // As far as it can be read at all.
        let found = fs::metadata(&path).ok();
        let seen = (all.images.len(), all.others.len());
        survey_splits(root, below, &mut all)?;
        if seen != (all.images.len(), all.others.len()) || splits().any(|split| path.join(split).is_dir()) {
            all.folders.extend(found.map(|found| (below.to_path_buf(), found)));
        }
    }
    Ok(all)
}

/// Names of folders that make the one above them a data set.
fn splits() -> impl Iterator<Item = &'static str> {
    std::iter::once(TRAIN).chain(VAL)
}

/// Looks at the splits in one folder: of those for validation only at the first that has images. Says whether there are
/// any.
fn survey_splits(root: &Path, below: &Path, all: &mut Survey) -> Result<bool> {
    let real = |folder: &Path| fs::canonicalize(folder).map_err(|e| Error::io("read folder", folder, &e));
    let mut above = vec![real(root)?];
    if !below.as_os_str().is_empty() {
        above.push(real(&root.join(below))?);
    }
    let mut found = false;
    let mut has_val = false;
    for split in splits() {
        let path = root.join(below).join(split);
        if !path.is_dir() || (split != TRAIN && has_val) {
            continue;
        }
        found = true;
        let before = all.images.len();
        walk(root, &path, &mut above.clone(), all)?;
        has_val |= split != TRAIN && all.images.len() > before;
    }
    Ok(found)
}

/// Collects what lies below `folder`, which lies in `root`; `above` are the real paths of the folders between.
pub(super) fn walk(root: &Path, folder: &Path, above: &mut Vec<PathBuf>, all: &mut Survey) -> Result<()> {
    let failed = |error| Error::io("read folder", folder, &error);
    let real = fs::canonicalize(folder).map_err(failed)?;
    if above.contains(&real) || above.len() == DEEPEST {
        let fault = if above.len() == DEEPEST { "lies too deep" } else { "is a link to a folder that it lies in" };
        return Err(Error::failed(format!("`{}` {fault}", shown(folder))));
    }
    above.push(real);
    let from_root = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_path_buf();
    all.folders.push((from_root(folder), fs::metadata(folder).map_err(failed)?));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let below = from_root(&path);
        let why = why_not(&below);
        let is_link = entry.file_type().map_err(failed)?.is_symlink();
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            // A link that leads nowhere is a bad image, which only some pipelines leave out.
            Err(error) if why.is_none() => fs::symlink_metadata(&path).map_err(|_| Error::io("read", &path, &error))?,
            Err(_) => {
                all.others.push((below, Why::Link));
                continue;
            }
        };
        let is_own = matches!(why, Some(Why::Hidden | Why::Litter));
        match why {
            _ if found.is_dir() && !is_own => walk(root, &path, above, all)?,
            None if found.is_file() || found.is_symlink() => all.images.push((below, Outside::of(&found, is_link))),
            None => all.others.push((below, Why::Special)),
            Some(why) => all.others.push((below, why)),
        }
    }
    above.pop();
    Ok(())
}

struct Folder {
    root: PathBuf,
    images: Vec<ImageFile<()>>,
}

impl Folder {
    fn path(&self, index: usize) -> PathBuf {
        self.root.join(&self.images[index].path)
    }
}

impl Store for Folder {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.images[index].label
    }

    fn name(&self, index: usize) -> String {
        shown(&self.path(index))
    }

    fn place(&self, index: usize) -> String {
        shown(&self.images[index].path)
    }

    fn read(&self, index: usize, most: u64) -> Result<Content, Fault> {
        read_file(&self.path(index), most)
    }
}

/// Reads an image file of a folder: a link that leads nowhere is a bad image, any other trouble none of the image's.
pub(super) fn read_file(path: &Path, most: u64) -> Result<Content, Fault> {
    match OpenFile::open(path) {
        Ok(file) => file.read_image(0..file.len(), most).map(Content::File),
        Err(fault) => {
            let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
            let leads_nowhere = fs::metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound);
            match is_link && leads_nowhere {
                true => Err(Fault::Bad(Error::failed("it is a link that leads nowhere"))),
                false => Err(fault.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn touch(root: &Path, path: &str) {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), path).unwrap();
    }

    #[test]
    fn finds_images_below_linked_folders() {
        let root = tempfile::tempdir().unwrap();
        for path in ["real/cat/1.jpg", "data/val/cat/2.jpg", "data/train.txt"] {
            touch(root.path(), path);
        }
        symlink(root.path().join("real"), root.path().join("data/train")).unwrap();
        let found = open(&root.path().join("data")).unwrap();
        assert_eq!((found.classes, found.train.len(), found.val.len()), (vec!["cat".to_string()], 1, 1));
        let Content::File(bytes) = found.train.read(0, 100).unwrap() else { panic!("files are not decoded here") };
        assert_eq!(bytes, b"real/cat/1.jpg");
        assert!(matches!(found.train.read(0, 3), Err(Fault::Bad(fault)) if fault.to_string().contains("too large")));
    }

    #[test]
    fn a_folder_that_contains_itself_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), "train/cat/1.jpg");
        symlink(root.path(), root.path().join("train/cat/again")).unwrap();
        let error = open(root.path()).err().unwrap().to_string();
        assert!(error.contains("again` is a link to a folder that it lies in"), "{error}");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_a_bad_image() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), "train/cat/1.jpg");
        touch(root.path(), "val/cat/1.jpg");
        symlink("nowhere", root.path().join("train/cat/2.jpg")).unwrap();
        let found = open(root.path()).unwrap();
        assert_eq!(found.train.len(), 2);
        assert!(
            matches!(found.train.read(1, 100), Err(Fault::Bad(fault)) if fault.to_string().contains("leads nowhere"))
        );
    }

    #[test]
    fn an_archive_in_place_of_a_folder_gets_a_hint() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), "images.tar");
        let error = open(&root.path().join("images.tar")).err().unwrap();
        assert!(error.hint_text().unwrap().contains("source = \"tar\""));
        let error = open(&root.path().join("missing")).err().unwrap().to_string();
        assert!(error.contains("missing`: no such file"), "{error}");
    }

    #[test]
    fn what_lies_beside_the_splits_hinders_nothing() {
        let root = tempfile::tempdir().unwrap();
        for path in ["train/cat/1.jpg", "val/cat/1.jpg", "test/1.jpg", "notes/a.jpg"] {
            touch(root.path(), path);
        }
        symlink(root.path(), root.path().join("again")).unwrap();
        let deep = (0..DEEPEST + 4).fold(root.path().join("beside"), |path, _| path.join("deep"));
        fs::create_dir_all(deep).unwrap();
        let survey = survey(root.path()).unwrap();
        assert_eq!((survey.images.len(), survey.others.len()), (2, 0));
    }

    #[test]
    fn what_systems_leave_in_classes_is_passed_over_and_counted() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "train/cat/1.jpg",
            "train/cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
            "train/@eaDir/cat.jpg",
            "train/cat/Thumbs.db",
            "train/cat/.nfs0001.jpg",
            "val/cat/1.jfif",
        ] {
            touch(root.path(), path);
        }
        let found = open(root.path()).unwrap();
        assert_eq!((found.train.len(), found.val.len()), (1, 1));
        assert_eq!(found.census.passed_over["system litter"].files, 4);
        assert_eq!(found.census.notes, Vec::<String>::new());
    }
}
