//! The layout `{train,val|valid|validation|test}/<class>/…` that folders and archives share: from paths to classes and splits.

use super::census::{Census, Why};
use crate::error::{Error, Result};
use crate::text::{counted, shown, shown_name};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use unicode_normalization::UnicodeNormalization;

pub(super) const TRAIN: &str = "train";
/// The names of the validation split; the first one with images counts.
pub(super) const VAL: [&str; 4] = ["val", "valid", "validation", "test"];
/// Classes that are named in a note at most.
const NAMED: usize = 5;

/// An image file and where it lies.
#[derive(Clone, Serialize, Deserialize)]
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
    pub census: Census,
}

/// What lies in a folder or an archive; paths count from its root.
pub(super) struct Inside<P> {
    pub images: Vec<(PathBuf, P)>,
    /// Files that are no images.
    pub others: Vec<(PathBuf, Why)>,
    /// Folders, among them those without files.
    pub folders: Vec<PathBuf>,
}

/// Sorts the images of `source` into splits and classes.
///
/// The splits may lie in one folder above: `cifar10/train/cat/1.jpg`. Of several images with the same path the last
/// one counts, as when an archive is unpacked.
///
/// # Errors
/// When a split is missing, or a class has no images in one of them.
pub(super) fn arrange<P>(source: &Path, inside: Inside<P>) -> Result<Listing<P>> {
    let Inside { images, others, folders } = inside;
    let paths = || images.iter().map(|(path, _)| path.as_path());
    let depth = depth_of_splits(source, paths())?;
    let has = |name: &str| paths().any(|path| split_and_class(path, depth).is_some_and(|(split, _)| split == name));
    if !has(TRAIN) {
        return Err(misplaced(source, "no images in `train/<class>/`", &others, &folders));
    }
    let Some(val) = VAL.into_iter().find(|name| has(name)) else {
        let fault = "no images in `val/<class>/` (or `valid`, `validation`, `test`)";
        return Err(match others.is_empty() {
            true => Error::failed(format!("`{}`: {fault}, only in `train/<class>/`", shown(source)))
                .hint("move some images of each class, such as every tenth, to `val/<class>/`"),
            false => misplaced(source, fault, &others, &folders),
        });
    };
    let mut census = Census::default();
    let (mut of_train, mut of_val) = (Vec::new(), Vec::new());
    for (path, place) in images {
        match split_and_class(&path, depth) {
            Some((split, class)) if split == TRAIN || split == val => {
                let class = class.to_os_string();
                let path = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
                if split == TRAIN { &mut of_train } else { &mut of_val }.push((class, path, place));
            }
            None if split_of(&path, depth).is_some_and(|split| split == TRAIN || split == val) => {
                census.pass(&path, &Why::NoClass);
            }
            _ => {}
        }
    }
    let others: Vec<(PathBuf, Why)> = others
        .into_iter()
        .filter(|(path, _)| split_of(path, depth).is_some_and(|split| split == TRAIN || split == val))
        .collect();
    others.iter().for_each(|(path, why)| census.pass(path, why));
    let empty = Empty { depth, val, others: &others, folders: &folders };
    list(source, (of_train, of_val), &empty, census)
}

/// Gives classified images their labels: the classes must be the same in both splits.
///
/// # Errors
/// When a class has no images in one of them.
pub(super) fn list<P>(
    source: &Path,
    (of_train, of_val): (Vec<Classified<P>>, Vec<Classified<P>>),
    empty: &Empty<'_>,
    mut census: Census,
) -> Result<Listing<P>> {
    let classes = common_classes(source, (&of_train, &of_val), empty)?;
    if let Some(note) = empty.note(&classes) {
        census.note(note);
    }
    if let Some(note) = mixed_below(&of_train, empty.depth) {
        census.note(note);
    }
    let train = labelled(of_train, &classes, &mut census);
    let val = labelled(of_val, &classes, &mut census);
    census.images = (train.len() + val.len()) as u64;
    census.files += census.images;
    Ok(Listing { classes: classes.into_iter().map(|class| class.shown).collect(), train, val, census })
}

fn misplaced(source: &Path, fault: &str, others: &[(PathBuf, Why)], folders: &[PathBuf]) -> Error {
    let is_split = |name: &OsStr| name == TRAIN || VAL.iter().any(|val| name == *val);
    let deeper = folders.iter().find(|path| path.components().count() > 2 && path.file_name().is_some_and(is_split));
    let layout = "the layout expected is `train/<class>/<image>` and `val/<class>/<image>` (or `valid/…`, `validation/…`, `test/…`), with images named \
         *.jpg, *.png, *.bmp, *.gif, *.tif, *.webp or *.ppm";
    let hint = match (deeper, source.file_name().is_some_and(is_split)) {
        (Some(path), _) => {
            let parent = shown(&source.join(path.parent().unwrap_or(path)));
            format!("there are such folders in `{parent}`: name that one; {layout}")
        }
        (None, true) => format!("it looks like the folder of one split: name the folder above it; {layout}"),
        (None, false) => layout.into(),
    };
    let passed = match others.first() {
        Some((path, _)) => {
            format!(" ({} files were found that are no images, such as `{}`)", others.len(), shown(path))
        }
        None => String::new(),
    };
    Error::failed(format!("`{}`: {fault}{passed}", shown(source))).hint(hint)
}

/// The names that a path consists of; nothing where it leads out of its folder.
fn names(path: &Path) -> Option<Vec<&OsStr>> {
    let mut names = Vec::with_capacity(4);
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(names)
}

/// The split that something lies in, given the depth of splits.
fn split_of(path: &Path, depth: usize) -> Option<&'static str> {
    let split = *names(path)?.get(depth)?;
    [TRAIN].into_iter().chain(VAL).find(|name| split == *name)
}

/// The split, which stands at `depth`, and the class of an image; nothing where there is no such split.
fn split_and_class(path: &Path, depth: usize) -> Option<(&'static str, &OsStr)> {
    match names(path)?.get(depth..)? {
        [split, class, _, ..] => {
            let split = [TRAIN].into_iter().chain(VAL).find(|name| split == name)?;
            Some((split, class))
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
            let (first, second) = (shown_name(first), shown_name(second));
            Err(misplaced(source, &format!("both `{first}` and `{second}` hold a data set"), &[], &[]))
        }
        _ => Ok(1),
    }
}

/// An image with the name of its class's folder, its path and its place.
pub(super) type Classified<P> = (OsString, PathBuf, P);

/// A class and the names of its folders, which may be the composed and the decomposed form of one name.
struct Class {
    shown: String,
    folders: Vec<OsString>,
}

/// The classes, sorted, which must be the same in both splits.
fn common_classes<P>(
    source: &Path,
    (of_train, of_val): (&[Classified<P>], &[Classified<P>]),
    empty: &Empty<'_>,
) -> Result<Vec<Class>> {
    let folders = |images: &[Classified<P>]| images.iter().map(|(class, ..)| class.clone()).collect::<BTreeSet<_>>();
    let (in_train, in_val) = (folders(of_train), folders(of_val));
    let (train_forms, val_forms) = (forms(source, TRAIN, &in_train)?, forms(source, empty.val, &in_val)?);
    let odd = |mine: &BTreeMap<Vec<u8>, OsString>, other: &BTreeMap<Vec<u8>, OsString>| -> Vec<OsString> {
        mine.iter().filter(|(form, _)| !other.contains_key(*form)).map(|(_, name)| name.clone()).collect()
    };
    let sides = [(odd(&train_forms, &val_forms), TRAIN, empty.val), (odd(&val_forms, &train_forms), empty.val, TRAIN)];
    let faults: Vec<String> = sides
        .iter()
        .filter(|(classes, ..)| !classes.is_empty())
        .map(|(classes, with, without)| {
            let said = |class: &OsString| format!("`{}`{}", shown_name(class), empty.why(without, class));
            let named = listed(classes, said);
            let (word, has) = if classes.len() == 1 { ("class", "has") } else { ("classes", "have") };
            format!("{word} {named} {has} images in `{with}`, but none in `{without}`")
        })
        .collect();
    if !faults.is_empty() {
        return Err(Error::failed(format!("`{}`: {}", shown(source), faults.join("; "))));
    }
    let mut classes: Vec<Class> = Vec::with_capacity(in_train.len());
    for class in &in_train {
        let mut folders = vec![class.clone()];
        folders.extend(val_forms.get(&form(class)).filter(|name| *name != class).cloned());
        let name = shown_name(class);
        if name.contains('\\') && classes.iter().any(|other| other.shown == name) {
            let fault = format!("`{}`: two classes would both be called `{name}`", shown(source));
            return Err(Error::failed(fault).hint("rename one of the folders"));
        }
        classes.push(Class { shown: name, folders });
    }
    Ok(classes)
}

/// The composed form of a name; a name that is no text is its own.
fn form(name: &OsStr) -> Vec<u8> {
    match name.to_str() {
        Some(text) if !text.is_ascii() => text.nfc().collect::<String>().into_bytes(),
        _ => name.as_encoded_bytes().to_vec(),
    }
}

/// The folders of a split by their composed forms, which must be distinct.
fn forms(source: &Path, split: &str, folders: &BTreeSet<OsString>) -> Result<BTreeMap<Vec<u8>, OsString>> {
    let mut all = BTreeMap::new();
    for name in folders {
        if let Some(other) = all.insert(form(name), name.clone()) {
            let (first, second) = (spelled(&other), spelled(name));
            return Err(Error::failed(format!(
                "`{}`: the folders `{first}` and `{second}` of `{split}` are one name in its composed and decomposed form",
                shown(source)
            ))
            .hint("put their images into one of them, or rename one"));
        }
    }
    Ok(all)
}

/// A name with an escape for each letter that has more than one form.
fn spelled(name: &OsStr) -> String {
    let letters = name.to_string_lossy();
    letters.chars().map(|c| if c.is_ascii() { c.to_string() } else { c.escape_unicode().to_string() }).collect()
}

/// What there is of classes that have no images.
pub(super) struct Empty<'a> {
    /// Folders above the splits.
    pub depth: usize,
    /// The name of the validation split.
    pub val: &'static str,
    /// Files that are no images.
    pub others: &'a [(PathBuf, Why)],
    /// All folders.
    pub folders: &'a [PathBuf],
}

impl Empty<'_> {
    /// What lies in a class's folder instead of images, in parentheses.
    fn why(&self, split: &str, class: &OsStr) -> String {
        let within =
            |path: &Path| split_and_class(path, self.depth).is_some_and(|(s, c)| s == split && form(c) == form(class));
        let mut files = self.others.iter().filter(|(path, _)| within(path)).map(|(path, _)| path);
        match (files.next(), files.count()) {
            (None, _) => String::new(),
            (Some(first), 0) => format!(" (1 file that is no image, `{}`)", shown(first)),
            (Some(first), more) => format!(" ({} files that are no images, such as `{}`)", more + 1, shown(first)),
        }
    }

    /// Names the folders of classes that hold no image in any split.
    fn note(&self, classes: &[Class]) -> Option<String> {
        let known: BTreeSet<&OsString> = classes.iter().flat_map(|class| &class.folders).collect();
        let class_of = |path: &Path| match names(path)?.get(self.depth..)? {
            [split, class, ..] if *split == TRAIN || *split == self.val => Some(class.to_os_string()),
            _ => None,
        };
        let of_files = self
            .others
            .iter()
            .filter_map(|(path, _)| split_and_class(path, self.depth).map(|(_, class)| class.to_os_string()));
        let folders = self.folders.iter().filter_map(|path| class_of(path));
        let visible = |name: &OsString| !super::census::is_hidden(name) && !super::census::is_litter(name);
        let empty: BTreeSet<OsString> =
            folders.chain(of_files).filter(|class| !known.contains(class) && visible(class)).collect();
        if empty.is_empty() {
            return None;
        }
        let said = |class: &OsString| {
            let why = match self.why(TRAIN, class) {
                none if none.is_empty() => self.why(self.val, class),
                why => why,
            };
            format!("`{}`{why}", shown_name(class))
        };
        let folders = counted(empty.len() as u64, "folder");
        let (hold, are) = if empty.len() == 1 { ("holds", "is no class") } else { ("hold", "are no classes") };
        Some(format!("{folders} {hold} no image and {are}: {}", listed(&empty, said)))
    }
}

/// The first of some classes, and how many more there are.
fn listed<'a>(
    classes: impl IntoIterator<Item = &'a OsString, IntoIter: ExactSizeIterator>,
    said: impl Fn(&OsString) -> String,
) -> String {
    let classes = classes.into_iter();
    let count = classes.len();
    let named: Vec<String> = classes.take(NAMED).map(said).collect();
    let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
    format!("{}{more}", named.join(", "))
}

/// A note where the same folders lie in several classes and hold all their images: they may be the classes themselves.
fn mixed_below<P>(images: &[Classified<P>], depth: usize) -> Option<String> {
    let mut below: BTreeMap<&OsStr, BTreeSet<&OsStr>> = BTreeMap::new();
    for (class, path, _) in images {
        let names = names(path)?;
        match names.get(depth + 2..)? {
            [folder, _, ..] => below.entry(class).or_default().insert(folder),
            _ => return None,
        };
    }
    let first = below.values().next()?;
    let all_alike = below.len() > 1 && first.len() > 1 && below.values().all(|folders| folders == first);
    all_alike.then(|| {
        let (class, folders) = (below.keys().next().map(|name| shown_name(name)), first.len());
        let class = class.unwrap_or_default();
        format!("each of the {} classes holds the same {folders} folders: if these are the classes, `train/{class}` and the like are one folder too many", below.len())
    })
}

/// Gives the images their labels, sorts them, and keeps the last of those with the same path.
fn labelled<P>(images: Vec<Classified<P>>, classes: &[Class], census: &mut Census) -> Vec<ImageFile<P>> {
    let labels: BTreeMap<&OsStr, u32> = (0u32..)
        .zip(classes)
        .flat_map(|(label, class)| class.folders.iter().map(move |folder| (folder.as_os_str(), label)))
        .collect();
    let mut labelled: Vec<ImageFile<P>> = images
        .into_iter()
        .map(|(class, path, place)| ImageFile {
            path,
            // Every class of an image is among them.
            label: labels.get(class.as_os_str()).copied().unwrap_or_default(),
            place,
        })
        .collect();
    labelled.reverse();
    labelled.sort_by(|a, b| (a.label, &a.path).cmp(&(b.label, &b.path)));
    labelled.dedup_by(|later, first| {
        let again = later.path == first.path;
        if again {
            census.pass(&later.path, &Why::Replaced);
        }
        again
    });
    labelled
}
#[cfg(test)]
mod tests {
    use super::super::census::why_not;
    use super::*;

    fn arranged(paths: &[&str]) -> Result<Listing<usize>> {
        let (mut images, mut others) = (Vec::new(), Vec::new());
        for (at, path) in paths.iter().map(PathBuf::from).enumerate() {
            match why_not(&path) {
                None => images.push((path, at)),
                Some(why) => others.push((path, why)),
            }
        }
        arrange(Path::new("pets"), Inside { images, others, folders: vec!["train/unicorn".into()] })
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
    fn val_is_preferred_to_test_and_may_have_longer_names() {
        for name in ["valid", "validation"] {
            let other = format!("{name}/cat/1.jpg");
            let listing = arranged(&["train/cat/1.jpg", "test/cat/1.jpg", &other]).unwrap();
            assert_eq!(listing.val[0].path, Path::new(&other));
        }
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
        let both = ["train/cat/1.jpg", "train/dog/1.jpg", "train/elk/1.jpg", "val/cat/1.jpg", "val/cow/1.jpg"];
        let odd = fault(&both);
        assert!(
            odd.contains("classes `dog`, `elk` have images in `train`, but none in `val`; class `cow` has"),
            "{odd}"
        );
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
        assert_eq!(why_not(Path::new("train/cat/1.JPEG")), None);
        for other in ["train/cat/labels.csv", "train/cat/._1.jpg", ".git/1.jpg", "train/cat/1"] {
            assert!(why_not(Path::new(other)).is_some(), "{other}");
        }
    }

    #[test]
    fn what_is_passed_over_is_counted_and_classes_without_images_are_named() {
        let listing = arranged(&[
            "train/cat/1.jpg",
            "train/cat/notes.txt",
            "train/dog/1.jpg",
            "train/heron/1.avif",
            "train/stray.jpg",
            "val/cat/1.jpg",
            "val/dog/1.jpg",
            "readme.md",
        ])
        .unwrap();
        let census = listing.census;
        assert_eq!((census.files, census.images), (7, 4));
        assert_eq!(census.passed_over[".avif"].example, "train/heron/1.avif");
        assert_eq!(census.passed_over["not in the folder of a class"].files, 1);
        assert!(
            census.notes[0].starts_with("2 folders hold no image and are no classes: `heron` (1 file that"),
            "{census:?}"
        );
        let odd = fault(&["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.heic"]);
        assert!(odd.contains("but none in `val`"), "{odd}");
    }

    #[test]
    fn two_forms_of_one_name_are_one_class_across_splits_and_an_error_within_one() {
        let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
        let image = |split: &str, class: &str| format!("{split}/{class}/1.jpg");
        let paths = [image("train", composed), image("val", decomposed), image("train", "dog"), image("val", "dog")];
        let listing = arranged(&paths.each_ref().map(String::as_str)).unwrap();
        assert_eq!((listing.classes, listing.val[0].label), (vec![composed.to_string(), "dog".into()], 0));
        let both = [image("train", composed), image("train", decomposed), image("val", composed)];
        let fault = fault(&both.each_ref().map(String::as_str));
        assert!(fault.contains(r"`cafe\u{301}` and `caf\u{e9}` of `train` are one name"), "{fault}");
    }

    #[test]
    fn names_that_are_no_text_are_classes_of_their_own() {
        use std::os::unix::ffi::OsStrExt;
        let image = |split: &str, class: &[u8]| Path::new(split).join(OsStr::from_bytes(class)).join("1.jpg");
        let classes: [&[u8]; 3] = [b"caf\xe9", b"caf\xe8", b"dog"];
        let images = ["train", "val"].iter().flat_map(|split| classes.map(|class| (image(split, class), ()))).collect();
        let listing = arrange(Path::new("pets"), Inside { images, others: Vec::new(), folders: Vec::new() }).unwrap();
        assert_eq!(listing.classes, [r"caf\xe8", r"caf\xe9", "dog"]);
        let labels: Vec<u32> = listing.val.iter().map(|image| image.label).collect();
        assert_eq!(labels, [0, 1, 2]);
    }

    #[test]
    fn a_data_set_that_lies_deeper_or_higher_gets_the_hint() {
        let deeper = Inside::<()> { images: Vec::new(), others: Vec::new(), folders: vec!["a/b/train".into()] };
        let error = arrange(Path::new("pets"), deeper).err().unwrap();
        assert!(error.hint_text().unwrap().contains("there are such folders in `pets/a/b`"), "{error:?}");
        let none = || Inside::<()> { images: Vec::new(), others: Vec::new(), folders: Vec::new() };
        let error = arrange(Path::new("pets/train"), none()).err().unwrap();
        assert!(error.hint_text().unwrap().contains("name the folder above"), "{error:?}");
    }
}
