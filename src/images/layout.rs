//! The layout `{train,val|test}/<class>/…` that folders and archives share: from paths to classes and splits.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp", "ppm", "pgm"];
const TRAIN: &str = "train";
/// The names of the validation split; the first one found counts.
const VAL: [&str; 2] = ["val", "test"];

/// An image file and where it lies.
pub(super) struct ImageFile<P> {
    /// Its path from the folder or the root of the archive.
    pub path: PathBuf,
    /// Its class.
    pub label: u32,
    /// What its source needs to find it.
    pub place: P,
}

/// Images in order of class and path.
pub(super) struct Listing<P> {
    pub classes: Vec<String>,
    pub train: Vec<ImageFile<P>>,
    pub val: Vec<ImageFile<P>>,
}

/// Whether a path is that of an image: by its extension, and not hidden. Other files are nobody's business.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let hidden = path.components().any(|part| matches!(part, Component::Normal(name) if is_hidden(name)));
    !hidden && EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Whether a file or folder is hidden by its name.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Sorts the images of `source` into splits and classes.
///
/// The splits may lie in one folder above: `cifar10/train/cat/1.jpg`. Of several images with the same path the last
/// one counts, as when an archive is unpacked.
///
/// # Errors
/// When a split is missing, or a class has no images in one of them.
pub(super) fn arrange<P>(source: &Path, images: Vec<(PathBuf, P)>) -> Result<Listing<P>> {
    let depth = depth_of_splits(source, images.iter().map(|(path, _)| path.as_path()))?;
    let has = |name: &str| images.iter().any(|(path, _)| split_and_class(path, depth).is_some_and(|(s, _)| s == name));
    if !has(TRAIN) {
        return Err(misplaced(source, "no images in `train/<class>/`"));
    }
    let Some(val) = VAL.into_iter().find(|name| has(name)) else {
        return Err(misplaced(source, "no images in `val/<class>/` or `test/<class>/`"));
    };
    let (mut of_train, mut of_val) = (Vec::new(), Vec::new());
    for (path, place) in images {
        let Some((split, class)) = split_and_class(&path, depth) else { continue };
        let class = class.into_owned();
        let path = path.components().filter(|part| *part != Component::CurDir).collect();
        if split == TRAIN {
            of_train.push((class, path, place));
        } else if split == val {
            of_val.push((class, path, place));
        }
    }
    let classes = common_classes(source, val, &of_train, &of_val)?;
    Ok(Listing { train: labelled(of_train, &classes), val: labelled(of_val, &classes), classes })
}

fn misplaced(source: &Path, fault: &str) -> Error {
    Error::failed(format!("`{}`: {fault}", source.display())).hint(
        "the layout expected is `train/<class>/<image>` and `val/<class>/<image>` (or `test/…`), with images named \
         *.jpg, *.png, *.bmp, *.gif, *.tif, *.webp or *.ppm",
    )
}

/// The names that a path consists of; nothing where it leads out of its folder.
fn names(path: &Path) -> Option<Vec<&OsStr>> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let name = |part| if let Component::Normal(name) = part { Some(name) } else { None };
    parts.map(name).collect()
}

/// The split, which stands at `depth`, and the class of an image; nothing where there is no such split.
fn split_and_class(path: &Path, depth: usize) -> Option<(&'static str, Cow<'_, str>)> {
    match names(path)?.get(depth..)? {
        [split, class, _, ..] => {
            let split = [TRAIN].into_iter().chain(VAL).find(|name| split == name)?;
            Some((split, class.to_string_lossy()))
        }
        _ => None,
    }
}

/// 0 where the splits lie at the top, 1 where they lie in the one folder there that has any.
fn depth_of_splits<'a>(source: &Path, paths: impl Iterator<Item = &'a Path> + Clone) -> Result<usize> {
    if paths.clone().any(|path| split_and_class(path, 0).is_some()) {
        return Ok(0);
    }
    let below = paths.filter(|path| split_and_class(path, 1).is_some());
    let tops: BTreeSet<&OsStr> = below.filter_map(|path| names(path)?.first().copied()).collect();
    match tops.into_iter().collect::<Vec<_>>()[..] {
        [first, second, ..] => {
            let (first, second) = (first.to_string_lossy(), second.to_string_lossy());
            Err(misplaced(source, &format!("both `{first}` and `{second}` hold a data set")))
        }
        _ => Ok(1),
    }
}

type Classified<P> = (String, PathBuf, P);

/// The classes, sorted, which must be the same in both splits.
fn common_classes<P>(
    source: &Path,
    val: &str,
    of_train: &[Classified<P>],
    of_val: &[Classified<P>],
) -> Result<Vec<String>> {
    let classes = |images: &[Classified<P>]| images.iter().map(|(class, ..)| class.clone()).collect::<BTreeSet<_>>();
    let (in_train, in_val) = (classes(of_train), classes(of_val));
    if let Some(odd) = in_train.symmetric_difference(&in_val).next() {
        let (with, without) = if in_train.contains(odd) { (TRAIN, val) } else { (val, TRAIN) };
        let path = source.display();
        return Err(Error::failed(format!("`{path}`: class `{odd}` has images in `{with}`, but none in `{without}`")));
    }
    Ok(in_train.into_iter().collect())
}

/// Gives the images their labels, sorts them, and keeps the last of those with the same path.
fn labelled<P>(images: Vec<Classified<P>>, classes: &[String]) -> Vec<ImageFile<P>> {
    let mut labelled: Vec<ImageFile<P>> = images
        .into_iter()
        .map(|(class, path, place)| ImageFile {
            path,
            label: classes.partition_point(|name| *name < class) as u32,
            place,
        })
        .collect();
    labelled.reverse();
    labelled.sort_by(|a, b| (a.label, &a.path).cmp(&(b.label, &b.path)));
    labelled.dedup_by(|later, first| later.path == first.path);
    labelled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(paths: &[&str]) -> Result<Listing<usize>> {
        arrange(Path::new("pets"), paths.iter().enumerate().map(|(at, path)| (path.into(), at)).collect())
    }

    fn fault(paths: &[&str]) -> String {
        arranged(paths).err().unwrap().to_string()
    }

    #[test]
    fn classes_and_images_are_sorted_by_name() {
        let listing =
            arranged(&["train/dog/2.jpg", "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/a/1.jpg"]);
        let listing = listing.unwrap();
        assert_eq!(listing.classes, ["cat", "dog"]);
        let train: Vec<_> = listing.train.iter().map(|image| (image.label, image.place)).collect();
        assert_eq!(train, [(0, 1), (1, 2), (1, 0)]);
        assert_eq!(listing.val.len(), 2);
    }

    #[test]
    fn one_folder_above_the_splits_and_a_leading_dot_are_accepted() {
        let listing = arranged(&["./pets/train/cat/1.jpg", "pets/test/cat/1.jpg", "other/readme.png"]).unwrap();
        assert_eq!((listing.train.len(), listing.val.len()), (1, 1));
        assert!(fault(&["a/train/cat/1.jpg", "b/val/cat/1.jpg"]).contains("both `a` and `b`"));
    }

    #[test]
    fn val_is_preferred_to_test() {
        let listing = arranged(&["train/cat/1.jpg", "test/cat/1.jpg", "val/cat/1.jpg"]).unwrap();
        assert_eq!(listing.val[0].path, Path::new("val/cat/1.jpg"));
    }

    #[test]
    fn a_missing_split_or_class_is_named() {
        assert!(fault(&["val/cat/1.jpg"]).contains("no images in `train/<class>/`"));
        assert!(fault(&["train/cat/1.jpg"]).contains("no images in `val/<class>/`"));
        assert!(fault(&["train/1.jpg"]).contains("no images"));
        let odd = fault(&["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"]);
        assert!(odd.contains("class `dog` has images in `train`, but none in `val`"), "{odd}");
    }

    #[test]
    fn of_two_images_with_the_same_path_the_last_counts() {
        let listing = arranged(&["train/cat/1.jpg", "val/cat/1.jpg", "./train/cat/1.jpg"]).unwrap();
        assert_eq!(listing.train.iter().map(|image| image.place).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn paths_that_lead_out_are_no_images() {
        assert!(fault(&["../train/cat/1.jpg", "train/../val/1.jpg"]).contains("no images"));
    }

    #[test]
    fn sidecar_and_hidden_files_are_no_images() {
        assert!(is_image(Path::new("train/cat/1.JPEG")));
        for other in ["train/cat/labels.csv", "train/cat/._1.jpg", ".git/1.jpg", "train/cat/1"] {
            assert!(!is_image(Path::new(other)), "{other}");
        }
    }
}
