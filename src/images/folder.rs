//! A folder of images `{train,val|test}/<class>/…`.

use super::file::OpenFile;
use super::layout::{self, ImageFile};
use super::{Content, Found, Store};
use crate::error::{Error, Result};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders below one another that are looked into; deeper ones are taken for a mistake.
const DEEPEST: usize = 16;

/// Finds the images of a folder.
pub(super) fn open(root: &Path) -> Result<Found> {
    let images = survey(root)?.images.into_iter().map(|(path, _)| (path, ())).collect();
    let listing = layout::arrange(root, images)?;
    let store = |images| Box::new(Folder { root: root.to_path_buf(), images });
    Ok(Found { classes: listing.classes, train: store(listing.train), val: store(listing.val) })
}

/// What a folder holds at any depth, in no particular order. Paths count from it.
#[derive(Default)]
pub(super) struct Survey {
    /// All image files.
    pub images: Vec<(PathBuf, Outside)>,
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

/// Looks at everything below a folder.
///
/// # Errors
/// When the folder cannot be read, or folders contain themselves by links.
pub(super) fn survey(root: &Path) -> Result<Survey> {
    if root.is_file() {
        return Err(Error::failed(format!("`{}` is a file, not a folder of images", root.display()))
            .hint("an archive is read with `source = \"tar\"`"));
    }
    let mut all = Survey::default();
    walk(root, root, &mut Vec::new(), &mut all)?;
    Ok(all)
}

/// Collects what lies below `folder`, which lies in `root`; `above` are the real paths of the folders between.
fn walk(root: &Path, folder: &Path, above: &mut Vec<PathBuf>, all: &mut Survey) -> Result<()> {
    let failed = |error| Error::io("read folder", folder, &error);
    let real = fs::canonicalize(folder).map_err(failed)?;
    if above.contains(&real) || above.len() == DEEPEST {
        let fault = if above.len() == DEEPEST { "lies too deep" } else { "is a link to a folder that it lies in" };
        return Err(Error::failed(format!("`{}` {fault}", folder.display())));
    }
    above.push(real);
    let from_root = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_path_buf();
    all.folders.push((from_root(folder), fs::metadata(folder).map_err(failed)?));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let below = from_root(&path);
        let is_image = layout::is_image(&below);
        let is_link = entry.file_type().map_err(failed)?.is_symlink();
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            // A link that leads nowhere is a bad image, which only some pipelines leave out.
            Err(error) if is_image => fs::symlink_metadata(&path).map_err(|_| Error::io("read", &path, &error))?,
            Err(_) => continue,
        };
        if found.is_dir() && !path.file_name().is_some_and(layout::is_hidden) {
            walk(root, &path, above, all)?;
        } else if (found.is_file() || found.is_symlink()) && is_image {
            all.images.push((below, Outside::of(&found, is_link)));
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
        self.path(index).display().to_string()
    }

    fn place(&self, index: usize) -> String {
        self.images[index].path.display().to_string()
    }

    fn read(&self, index: usize, most: u64) -> Result<Content> {
        let file = OpenFile::open(&self.path(index))?;
        file.read(0..file.len(), most).map(Content::File)
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
        assert!(found.train.read(0, 3).err().unwrap().to_string().contains("too large"));
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
        assert!(found.train.read(1, 100).err().unwrap().to_string().contains("2.jpg"));
    }

    #[test]
    fn an_archive_in_place_of_a_folder_gets_a_hint() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), "images.tar");
        let error = open(&root.path().join("images.tar")).err().unwrap();
        assert!(error.way_out().unwrap().contains("source = \"tar\""));
        let error = open(&root.path().join("missing")).err().unwrap().to_string();
        assert!(error.contains("missing`: no such file"), "{error}");
    }
}
