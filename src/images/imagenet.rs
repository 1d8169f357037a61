//! ImageNet as it lies on people's disks: class folders, Kaggle's tree, the official archives, Tiny-ImageNet, old names.
//!
//! Training and validation images are looked for each on its own, in the folder that is named and in those that the
//! known archives unpack to, and may come in different forms.

use super::Found;
use super::census::{Census, Why, is_hidden, is_litter, why_not};
use super::classes::{self, is_wnid};
use super::file::Shelf;
use super::folder::{Outside, Survey, walk};
use super::labels::{self, Labels, Origin, wnid_in};
use super::layout::{self, Classified, Empty};
use super::members::{Kind, members};
use super::placed::{Placed, Where};
use super::tar::refuse_compressed;
use crate::error::{Error, Result};
use crate::text::{printable, shown, shown_name};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders below the one that is named in which a data set may lie.
const BASES: [&str; 5] = ["", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "data"];
const TRAIN_TAR: &str = "ILSVRC2012_img_train.tar";
const VAL_TAR: &str = "ILSVRC2012_img_val.tar";
/// Images of ILSVRC 2012.
const COUNTS: (usize, usize) = (1_281_167, 50_000);

/// How the images of a split lie; paths count from the root.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// A folder of class folders.
    Classes(PathBuf),
    /// A folder that holds them all.
    Flat(PathBuf),
    /// Archives of one class each, named after it.
    ClassTars(Vec<PathBuf>),
    /// An archive of such archives.
    Nested(PathBuf),
    /// Archives that hold them all.
    FlatTars(Vec<PathBuf>),
}

/// What makes a data set.
struct Parts {
    train: Part,
    val: Part,
    /// What tells the labels of validation images that lie in no class folders.
    labels: Option<Origin>,
}

/// Finds the images of a folder.
pub(super) fn open(root: &Path) -> Result<Found> {
    let parts = Parts::find(root)?;
    let mut reader =
        Reader { root, archives: Vec::new(), census: Census::default(), others: Vec::new(), folders: Vec::new() };
    let train = reader.train(&parts.train)?;
    let names: BTreeSet<String> = train.iter().map(|(class, ..)| shown_name(class)).collect();
    let val = reader.val(&parts, &names)?;
    let Reader { archives, census, others, folders, .. } = reader;
    let depth = match &parts.train {
        Part::Classes(folder) => folder.components().count().saturating_sub(1),
        _ => 0,
    };
    let listing =
        layout::list(root, (train, val), &Empty { depth, val: "val", others: &others, folders: &folders }, census)?;
    let mut census = listing.census;
    if listing.classes.len() == classes::all().len() && (listing.train.len(), listing.val.len()) != COUNTS {
        let (train, val) = (listing.train.len(), listing.val.len());
        census.note(format!("ILSVRC 2012 has {} and {} images, here are {train} and {val}", COUNTS.0, COUNTS.1));
    }
    let shelf = Arc::new(Shelf::new(archives.iter().map(|path| root.join(path)).collect())?);
    let store = |images| Box::new(Placed { root: root.to_path_buf(), shelf: Arc::clone(&shelf), images });
    let words = words(root, &listing.classes);
    Ok(Found { words, ..Found::new(listing.classes, store(listing.train), store(listing.val), census) })
}

/// Files that name classes for people, each line with an id and words.
const WORDS: [&str; 3] = ["LOC_synset_mapping.txt", "words.txt", "synset_words.txt"];
/// Bytes of such a file at most.
const MOST_WORDS: u64 = 64 << 20;

/// Words for each class from the data set's own files, or from the program where they lack one.
fn words(root: &Path, of: &[String]) -> Option<Vec<String>> {
    let mut paths = WORDS.iter().flat_map(|name| BASES.iter().map(move |base| root.join(base).join(name)));
    let path = paths.find(|path| fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= MOST_WORDS))?;
    let text = fs::read_to_string(path).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once([' ', '\t']));
    let known: HashMap<&str, &str> = lines.map(|(wnid, words)| (wnid, words.trim())).collect();
    let word = |class: &String| match known.get(class.as_str()) {
        Some(words) => printable(words, &[]),
        None => classes::words(class).unwrap_or_default().to_string(),
    };
    Some(of.iter().map(word).collect())
}

/// Looks at all files that make the data set, from outside.
pub(super) fn survey(root: &Path) -> Result<Survey> {
    let parts = Parts::find(root)?;
    let mut all = Survey::default();
    all.folders.push((PathBuf::new(), fs::metadata(root).map_err(|e| Error::io("read folder", root, &e))?));
    for part in [&parts.train, &parts.val] {
        match part {
            Part::Classes(folder) | Part::Flat(folder) => walk(root, &root.join(folder), &mut Vec::new(), &mut all)?,
            Part::Nested(archive) => all.images.push(outside(root, archive)?),
            Part::ClassTars(archives) | Part::FlatTars(archives) => {
                all.images.extend(archives.iter().map(|archive| outside(root, archive)).collect::<Result<Vec<_>>>()?);
            }
        }
    }
    if let Some(Origin::File(path, _)) = &parts.labels {
        all.images.push(outside(root, path)?);
    }
    Ok(all)
}

fn outside(root: &Path, below: &Path) -> Result<(PathBuf, Outside)> {
    let path = root.join(below);
    let found = fs::metadata(&path).map_err(|e| Error::io("read", &path, &e))?;
    Ok((below.to_path_buf(), Outside::of(&found, path.is_symlink())))
}

impl Parts {
    fn find(root: &Path) -> Result<Self> {
        fs::read_dir(root).map_err(|e| Error::io("read folder", root, &e))?;
        let search = |find: fn(&Path, &Path) -> Option<Part>| BASES.iter().find_map(|base| find(root, Path::new(base)));
        let Some(train) = search(train_in) else { return Err(missing(root, "training")) };
        let Some(val) = search(val_in) else { return Err(missing(root, "validation")) };
        let labels = match &val {
            Part::Classes(_) | Part::ClassTars(_) | Part::Nested(_) => None,
            Part::Flat(folder) => Some(folder.clone()),
            Part::FlatTars(archives) => archives.first().and_then(|archive| archive.parent()).map(Path::to_path_buf),
        };
        let labels = labels.map(|images| labels::find(root, &images).unwrap_or(Origin::Names));
        Ok(Self { train, val, labels })
    }
}

fn missing(root: &Path, split: &str) -> Error {
    let packed = BASES.iter().flat_map(|base| entries(&root.join(base))).map(|(name, _)| name);
    let packed = packed.map(|name| name.to_string_lossy().into_owned());
    let packed: Vec<String> = packed
        .filter(|name| name.ends_with("images.tar.gz") || name.starts_with("train_images_") && name.ends_with(".gz"))
        .collect();
    let error = Error::failed(format!("`{}`: no {split} images of ImageNet were found in it", shown(root)));
    error.hint(match packed.first() {
        Some(name) => format!("`{name}` and the like are compressed: `gunzip` them, then they are read in place"),
        None => format!(
            "looked for: `train/<class>/` and `val/`, the same in `ILSVRC/Data/CLS-LOC`, `{TRAIN_TAR}` and `{VAL_TAR}`, \
             `train_images_0.tar` and `val_images.tar`"
        ),
    })
}

/// Names in a folder and whether they are folders; without what systems leave there.
fn entries(folder: &Path) -> Vec<(OsString, bool)> {
    let visible = fs::read_dir(folder).into_iter().flatten().flatten();
    let visible = visible.map(|entry| (entry.file_name(), entry.path().is_dir()));
    let mut all: Vec<_> = visible.filter(|(name, _)| !is_hidden(name) && !is_litter(name)).collect();
    all.sort();
    all
}

fn train_in(root: &Path, base: &Path) -> Option<Part> {
    let folder = base.join("train");
    let inside = entries(&root.join(&folder));
    if inside.iter().any(|(_, is_folder)| *is_folder) {
        return Some(Part::Classes(folder));
    }
    let tars: Vec<PathBuf> =
        inside.iter().map(|(name, _)| folder.join(name)).filter(|path| class_of_tar(path).is_some()).collect();
    if !tars.is_empty() {
        return Some(Part::ClassTars(tars));
    }
    if inside.iter().any(|(name, _)| why_not(Path::new(name)).is_none()) {
        return Some(Part::Flat(folder));
    }
    let nested = base.join(TRAIN_TAR);
    if root.join(&nested).is_file() {
        return Some(Part::Nested(nested));
    }
    flat_tars(root, base, "train_images")
}

fn val_in(root: &Path, base: &Path) -> Option<Part> {
    let folder = base.join("val");
    let inside = entries(&root.join(&folder));
    let folders: Vec<&OsString> = inside.iter().filter(|(_, is_folder)| *is_folder).map(|(name, _)| name).collect();
    if let [only] = folders[..] {
        // Tiny-ImageNet's validation images lie in one folder more.
        if *only == "images" {
            return Some(Part::Flat(folder.join("images")));
        }
    }
    if !folders.is_empty() {
        return Some(Part::Classes(folder));
    }
    if inside.iter().any(|(name, _)| why_not(Path::new(name)).is_none()) {
        return Some(Part::Flat(folder));
    }
    let archive = base.join(VAL_TAR);
    if root.join(&archive).is_file() {
        return Some(Part::FlatTars(vec![archive]));
    }
    flat_tars(root, base, "val_images")
}

/// Archives whose names begin so, such as `train_images_0.tar`.
fn flat_tars(root: &Path, base: &Path, start: &str) -> Option<Part> {
    let is_one = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(start) && name.ends_with(".tar"));
    let all = entries(&root.join(base)).into_iter().filter(|(name, is_folder)| !is_folder && is_one(name));
    let all: Vec<PathBuf> = all.map(|(name, _)| base.join(name)).collect();
    (!all.is_empty()).then_some(Part::FlatTars(all))
}

/// The class that an archive is named after.
fn class_of_tar(path: &Path) -> Option<&str> {
    let class = path.file_name()?.to_str()?.strip_suffix(".tar")?;
    is_wnid(class).then_some(class)
}

/// Collects what lies in the parts.
struct Reader<'a> {
    root: &'a Path,
    /// The archives that images lie in, by their numbers.
    archives: Vec<PathBuf>,
    census: Census,
    others: Vec<(PathBuf, Why)>,
    folders: Vec<PathBuf>,
}

/// Images with their classes.
type Sorted = Vec<Classified<Where>>;

impl Reader<'_> {
    fn train(&mut self, part: &Part) -> Result<Sorted> {
        match part {
            Part::Classes(folder) => self.class_folders(folder),
            Part::ClassTars(archives) => {
                let mut all = Vec::new();
                for archive in archives {
                    let class = class_of_tar(archive).unwrap_or_default();
                    for (path, place) in self.archive(archive)? {
                        all.push((class.into(), path, place));
                    }
                }
                Ok(all)
            }
            Part::Nested(archive) => self.nested(archive),
            Part::Flat(_) | Part::FlatTars(_) => {
                let images = self.flat(part)?;
                self.census.note("labels of the training images: from their names");
                let classified = |(path, place): (PathBuf, Where)| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let class = wnid_in(name.split('.').next().unwrap_or_default()).map(OsString::from);
                    let class = class.ok_or_else(|| {
                        Error::failed(format!("nothing tells the class of `{}`: its name has no wnid", shown(&path)))
                    })?;
                    Ok((class, path, place))
                };
                images.into_iter().map(classified).collect()
            }
        }
    }

    fn val(&mut self, parts: &Parts, classes: &BTreeSet<String>) -> Result<Sorted> {
        let Some(origin) = &parts.labels else {
            self.census.note("labels of the validation images: from their folders");
            return self.train(&parts.val);
        };
        let labels = Labels::read(self.root, origin, classes)?;
        let mut images = self.flat(&parts.val)?;
        images.sort_by(|(a, _), (b, _)| a.cmp(b));
        let count = images.len();
        let mut all = Vec::with_capacity(count);
        let mut others = 0;
        for (at, (path, place)) in images.into_iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let class = labels.class(&name, (at, count)).map_err(|e| match origin {
                Origin::Names => e.hint(
                    "put `LOC_val_solution.csv`, the devkit or a `val.txt` of names and indices beside the images",
                ),
                Origin::File(..) => e,
            })?;
            if classes.contains(&class) {
                all.push((class.into(), path, place));
            } else {
                others += 1;
                self.census.files += 1;
            }
        }
        self.census.note(format!("labels of the validation images: from {}", labels.origin));
        if others > 0 {
            self.census.note(format!("{others} validation images are of classes without training images"));
        }
        Ok(all)
    }

    /// Images below a folder whose own folders are the classes.
    fn class_folders(&mut self, folder: &Path) -> Result<Sorted> {
        let depth = folder.components().count();
        let mut all = Vec::new();
        for path in self.folder(folder)? {
            match path.components().nth(depth) {
                Some(class) if path.components().count() > depth + 1 => {
                    all.push((class.as_os_str().to_os_string(), path, Where::File));
                }
                _ => self.census.pass(&path, &Why::NoClass),
            }
        }
        Ok(all)
    }

    /// The images of a folder at any depth.
    fn folder(&mut self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut survey = Survey::default();
        walk(self.root, &self.root.join(folder), &mut Vec::new(), &mut survey)?;
        survey.others.iter().for_each(|(path, why)| self.census.pass(path, why));
        self.others.extend(survey.others);
        self.folders.extend(survey.folders.into_iter().map(|(path, _)| path));
        Ok(survey.images.into_iter().map(|(path, _)| path).collect())
    }

    fn flat(&mut self, part: &Part) -> Result<Vec<(PathBuf, Where)>> {
        match part {
            Part::FlatTars(archives) => {
                let mut all = Vec::new();
                for archive in archives {
                    all.extend(self.archive(archive)?);
                }
                Ok(all)
            }
            Part::Flat(folder) | Part::Classes(folder) => {
                Ok(self.folder(folder)?.into_iter().map(|path| (path, Where::File)).collect())
            }
            Part::ClassTars(_) | Part::Nested(_) => Ok(Vec::new()),
        }
    }

    /// The images of an archive, whose paths begin with its name.
    fn archive(&mut self, archive: &Path) -> Result<Vec<(PathBuf, Where)>> {
        let shelf = Shelf::new(vec![self.root.join(archive)])?;
        let found = shelf.with(0, |file| {
            refuse_compressed(file)?;
            members(file, 0..file.len())
        })?;
        let number = self.archives.len();
        self.archives.push(archive.to_path_buf());
        let mut all = Vec::new();
        for member in found.all {
            let path = archive.join(member.path.strip_prefix("/").unwrap_or(&member.path));
            match (member.kind, why_not(&member.path)) {
                (Kind::File(place), None) => all.push((path, Where::Member(number, place))),
                (Kind::Folder, _) => {}
                (Kind::File(_), Some(why)) => self.census.pass(&path, &why),
                (Kind::HardLink(_) | Kind::SymbolicLink(_), _) => self.census.pass(&path, &Why::Link),
                (Kind::Other, _) => self.census.pass(&path, &Why::Special),
            }
        }
        Ok(all)
    }

    /// The images of an archive of archives.
    fn nested(&mut self, archive: &Path) -> Result<Sorted> {
        let shelf = Shelf::new(vec![self.root.join(archive)])?;
        let number = self.archives.len();
        self.archives.push(archive.to_path_buf());
        let mut all = Vec::new();
        shelf.with(0, |file| {
            refuse_compressed(file)?;
            for outer in members(file, 0..file.len())?.all {
                let path = archive.join(&outer.path);
                let (Kind::File(place), Some(class)) = (&outer.kind, class_of_tar(&outer.path)) else {
                    if !matches!(outer.kind, Kind::Folder) {
                        let why = if matches!(outer.kind, Kind::File(_)) {
                            why_not(&outer.path).unwrap_or(Why::NoClass)
                        } else {
                            Why::Special
                        };
                        self.census.pass(&path, &why);
                    }
                    continue;
                };
                let inner = members(file, place.bytes.clone())
                    .map_err(|e| e.context(format_args!("`{}`", shown(&outer.path))))?;
                for member in inner.all {
                    let path = path.join(&member.path);
                    match (member.kind, why_not(&member.path)) {
                        (Kind::File(place), None) => all.push((class.into(), path, Where::Member(number, place))),
                        (Kind::Folder, _) => {}
                        (Kind::File(_), Some(why)) => self.census.pass(&path, &why),
                        (_, _) => self.census.pass(&path, &Why::Special),
                    }
                }
            }
            Ok::<_, Error>(())
        })?;
        Ok(all)
    }
}
