//! Labels of validation images that lie all in one folder: the files that tell them, and what guards against wrong ones.

use super::classes::{self, is_wnid};
use super::file::OpenFile;
use crate::error::{Error, Result};
use crate::text::{printable, shown};
use flate2::read::MultiGzDecoder;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a file of labels at most.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes of the devkit, unpacked, at most.
const MOST_DEVKIT: u64 = 1 << 30;
/// The first validation image of ILSVRC 2012, and its class.
const ANCHOR: (&str, &str) = ("ILSVRC2012_val_00000001", "n01751748");
const GROUND_TRUTH: &str = "ILSVRC2012_validation_ground_truth.txt";
/// The devkit as it is downloaded.
const DEVKIT: &str = "ILSVRC2012_devkit_t12.tar.gz";
const NUMBERED: &str = "ILSVRC2012_val_";

/// How a file tells labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Tiny-ImageNet's: name, wnid and a box, with tabs between.
    Annotations,
    /// Kaggle's: `name,wnid x y x y`.
    Kaggle,
    /// A number of the devkit for each image in the order of names.
    GroundTruth,
    /// The same inside the devkit's archive.
    Devkit,
    /// `name index`, with indices into the sorted classes.
    Indices,
    /// A wnid for each image in the order of names.
    Wnids,
}

/// Where labels come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A file, from the root of the data.
    File(PathBuf, FormOf),
    /// The end of each name, such as `_n01751748.JPEG`.
    Names,
}

/// The form of a file, which only this module knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FormOf(Form);

/// Labels of images.
pub(super) struct Labels {
    /// What they come from, for people.
    pub origin: String,
    by_name: HashMap<String, Label>,
    by_order: Vec<Label>,
}

#[derive(Clone)]
struct Label {
    class: String,
    line: usize,
}

/// The folders, from the root, that files of labels may lie in: beside the images, and above.
fn folders(images: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for above in images.ancestors() {
        for below in ["", "ILSVRC2012_devkit_t12/data", "devkit/data", "data"] {
            all.push(above.join(below));
        }
    }
    all
}

/// Finds what tells the labels of the images in a folder (or of an archive there), in a fixed order of trust.
pub(super) fn find(root: &Path, images: &Path) -> Option<Origin> {
    let folders = folders(images);
    let first = |names: &[&str]| {
        let paths = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
        paths.into_iter().find(|path| root.join(path).is_file())
    };
    let file = |path: Option<PathBuf>, form| path.map(|path| Origin::File(path, FormOf(form)));
    file(first(&["val_annotations.txt"]), Form::Annotations)
        .or_else(|| file(first(&["LOC_val_solution.csv"]), Form::Kaggle))
        .or_else(|| file(first(&[GROUND_TRUTH]), Form::GroundTruth))
        .or_else(|| file(first(&[DEVKIT]), Form::Devkit))
        .or_else(|| file(first(&["val.txt"]), Form::Indices))
        .or_else(|| file(wnid_list(root, &folders), Form::Wnids))
}

/// A text file whose name speaks of labels, and whose first line is a wnid alone.
fn wnid_list(root: &Path, folders: &[PathBuf]) -> Option<PathBuf> {
    for folder in folders {
        let mut names: Vec<_> =
            std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        names.sort();
        for name in names {
            let text = name.to_string_lossy().to_lowercase();
            let path = folder.join(&name);
            if text.ends_with(".txt")
                && (text.contains("label") || text.starts_with("val"))
                && begins_with_wnid(&root.join(&path))
            {
                return Some(path);
            }
        }
    }
    None
}

fn begins_with_wnid(path: &Path) -> bool {
    let mut start = [0; 64];
    let read = OpenFile::open(path).ok().and_then(|file| file.stream().read(&mut start).ok());
    let Some(count) = read else { return false };
    let line = start[..count].split(|&byte| byte == b'\n').next().unwrap_or_default();
    std::str::from_utf8(line).is_ok_and(|line| is_wnid(line.trim()))
}

impl Labels {
    /// Reads what tells labels; `classes` are those of the training images.
    ///
    /// # Errors
    /// When a line cannot be read, the first image of all has another class than it must have, or classes have unequal
    /// numbers of images. The error names file and line.
    pub fn read(root: &Path, origin: &Origin, train: &BTreeSet<String>) -> Result<Self> {
        let Origin::File(below, FormOf(form)) = origin else {
            return Ok(Self {
                origin: "the ends of their names".into(),
                by_name: HashMap::new(),
                by_order: Vec::new(),
            });
        };
        let path = root.join(below);
        let text = if *form == Form::Devkit { ground_truth(&path)? } else { read_text(&path)? };
        let mut labels = Self { origin: format!("`{}`", shown(below)), by_name: HashMap::new(), by_order: Vec::new() };
        let lines = Lines { path: &path, form: *form, train };
        lines.read(&text, &mut labels)?;
        lines.check_anchor(&labels)?;
        lines.check_counts(&labels)?;
        Ok(labels)
    }

    /// The class of an image: `name` is its file's name, `place` its number in the order of names among `count`.
    ///
    /// # Errors
    /// When nothing tells it.
    pub fn class(&self, name: &str, (place, count): (usize, usize)) -> Result<String> {
        let stem = name.split('.').next().unwrap_or(name);
        if self.by_name.is_empty() && self.by_order.is_empty() {
            return wnid_in(stem).map(str::to_string).ok_or_else(|| {
                Error::failed(format!("nothing tells the class of `{}`: its name has no wnid", printable(name, &[])))
            });
        }
        if let Some(label) = self.by_name.get(stem) {
            return Ok(label.class.clone());
        }
        let number = stem.strip_prefix(NUMBERED).and_then(|digits| digits.parse::<usize>().ok());
        if !self.by_order.is_empty() && number.is_none() && count != self.by_order.len() {
            let lines = self.by_order.len();
            return Err(Error::failed(format!("{} has {lines} labels for {count} images", self.origin))
                .hint("line i belongs to the image whose name is the i-th"));
        }
        let place = number.map_or(Some(place), |number| number.checked_sub(1));
        let label = place.and_then(|place| self.by_order.get(place));
        let label = label
            .ok_or_else(|| Error::failed(format!("{} has no label of `{}`", self.origin, printable(name, &[]))))?;
        if stem == ANCHOR.0 && label.class != ANCHOR.1 {
            return Err(wrong_order(&format!("{}:{}", self.origin, label.line), &label.class));
        }
        Ok(label.class.clone())
    }

    fn all(&self) -> impl Iterator<Item = &Label> {
        self.by_name.values().chain(&self.by_order)
    }
}

/// The wnid that a name ends with, or begins with.
pub(super) fn wnid_in(stem: &str) -> Option<&str> {
    let mut parts = stem.split('_');
    let last = stem.rsplit('_').next().filter(|part| is_wnid(part));
    last.or_else(|| parts.next().filter(|part| is_wnid(part)))
}

/// The lines of one file.
struct Lines<'a> {
    path: &'a Path,
    form: Form,
    train: &'a BTreeSet<String>,
}

impl Lines<'_> {
    fn fault(&self, line: usize, fault: &str) -> Error {
        Error::failed(format!("`{}`:{line}: {fault}", shown(self.path)))
    }

    fn read(&self, text: &str, labels: &mut Labels) -> Result<()> {
        let lines = (1..).zip(text.trim_start_matches('\u{feff}').lines()).filter(|(_, line)| !line.trim().is_empty());
        let lines: Vec<(usize, &str)> = lines.collect();
        if lines.is_empty() {
            return Err(self.fault(1, "there are no labels in it"));
        }
        let order = if self.form == Form::Indices { Some(self.order(&lines)?) } else { None };
        for &(number, line) in &lines {
            let line = line.trim_end_matches(['\r', ' ']);
            let wrong = |wanted: &str| {
                self.fault(
                    number,
                    &format!("`{}` is not {wanted}", printable(&line.chars().take(60).collect::<String>(), &[])),
                )
            };
            let (name, class) = match self.form {
                Form::Kaggle if number == 1 && line.starts_with("ImageId") => continue,
                Form::Kaggle => {
                    let (name, rest) = line.split_once(',').ok_or_else(|| wrong("`name,wnid …`"))?;
                    (Some(name), rest.split(' ').next().unwrap_or_default().to_string())
                }
                Form::Annotations => {
                    let (name, rest) = line.split_once('\t').ok_or_else(|| wrong("`name<tab>wnid<tab>…`"))?;
                    (Some(name), rest.split('\t').next().unwrap_or_default().to_string())
                }
                Form::GroundTruth | Form::Devkit => {
                    let class = line.trim().parse().ok().and_then(classes::by_devkit);
                    (None, class.ok_or_else(|| wrong("a number from 1 to 1000"))?.wnid.to_string())
                }
                Form::Indices => {
                    let (name, index) = line.rsplit_once([' ', '\t']).ok_or_else(|| wrong("`name index`"))?;
                    let order = order.as_deref().unwrap_or_default();
                    let class = index.parse::<usize>().ok().and_then(|index| order.get(index));
                    let wanted = format!("`name index` with an index from 0 to {}", order.len().saturating_sub(1));
                    (Some(name.trim()), class.ok_or_else(|| wrong(&wanted))?.clone())
                }
                Form::Wnids => (None, line.trim().to_string()),
            };
            if !is_wnid(&class) && !self.train.contains(&class) {
                return Err(wrong("a line with the class of an image"));
            }
            let label = Label { class, line: number };
            match name {
                None => labels.by_order.push(label),
                Some(name) => {
                    let stem = name.rsplit('/').next().unwrap_or(name).split('.').next().unwrap_or(name);
                    if labels.by_name.insert(stem.to_string(), label).is_some() {
                        return Err(self.fault(number, &format!("`{}` has a label already", printable(stem, &[]))));
                    }
                }
            }
        }
        Ok(())
    }

    /// The classes that indices count in; numbers that only count the lines are none.
    fn order(&self, lines: &[(usize, &str)]) -> Result<Vec<String>> {
        let index =
            |line: &str| line.trim_end().rsplit([' ', '\t']).next().and_then(|index| index.parse::<usize>().ok());
        let counts_lines = (1..).zip(lines).all(|(running, (_, line))| index(line) == Some(running));
        if counts_lines && lines.len() > 1 {
            return Err(self
                .fault(1, "the numbers in it count the images; they are no labels")
                .hint("the labels are in `LOC_val_solution.csv` or in the devkit; put one of them beside the images"));
        }
        let most = lines.iter().filter_map(|(_, line)| index(line)).max().unwrap_or(0);
        let known = self.train.iter().all(|class| classes::by_wnid(class).is_some());
        match known && most >= self.train.len() {
            true => Ok(classes::all().iter().map(|class| class.wnid.to_string()).collect()),
            false => Ok(self.train.iter().cloned().collect()),
        }
    }

    fn check_anchor(&self, labels: &Labels) -> Result<()> {
        let (name, class) = ANCHOR;
        let is_of_imagenet = matches!(self.form, Form::GroundTruth | Form::Devkit);
        let found = labels.by_name.get(name).or(labels.by_order.first().filter(|_| is_of_imagenet));
        match found {
            Some(label) if label.class != class => {
                Err(wrong_order(&format!("`{}`:{}", shown(self.path), label.line), &label.class))
            }
            _ => Ok(()),
        }
    }

    fn check_counts(&self, labels: &Labels) -> Result<()> {
        let mut lines: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        labels.all().for_each(|label| lines.entry(&label.class).or_default().push(label.line));
        let mut usual: BTreeMap<usize, usize> = BTreeMap::new();
        lines.values().for_each(|lines| *usual.entry(lines.len()).or_default() += 1);
        let usual = usual.into_iter().max_by_key(|&(_, classes)| classes).map_or(0, |(count, _)| count);
        let Some((class, lines)) = lines.iter_mut().find(|(_, lines)| lines.len() != usual) else { return Ok(()) };
        lines.sort_unstable();
        let line = lines.get(usual).or(lines.last()).copied().unwrap_or(1);
        let count = lines.len();
        Err(self
            .fault(line, &format!("class {class} has {count} images, where others have {usual}"))
            .hint("the validation set has as many images of each class; is the file cut off, or of another set?"))
    }
}

/// The error about labels that are not those of ILSVRC 2012, found by the class of its first validation image.
fn wrong_order(place: &str, class: &str) -> Error {
    let (name, right) = ANCHOR;
    Error::failed(format!("{place}: it gives `{name}` the class {class}, but that image is a {right}"))
        .hint("the labels are in another order than that of ILSVRC 2012; with them all would be learned wrong")
}

fn read_text(path: &Path) -> Result<String> {
    let file = OpenFile::open(path)?;
    let too_long = || Error::failed(format!("`{}` has {} bytes, too many for labels", shown(path), file.len()));
    if file.len() > MOST_BYTES {
        return Err(too_long());
    }
    let bytes = file.read(0..file.len())?;
    String::from_utf8(bytes).map_err(|_| Error::failed(format!("`{}` is no text", shown(path))))
}

/// The ground truth within the devkit's archive.
fn ground_truth(path: &Path) -> Result<String> {
    let failed = |error| Error::io("read", path, &error);
    let file = OpenFile::open(path)?;
    let stream = MultiGzDecoder::new(std::io::BufReader::new(file.stream())).take(MOST_DEVKIT);
    for entry in tar::Archive::new(stream).entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path_bytes().ends_with(GROUND_TRUTH.as_bytes()) {
            let mut text = String::new();
            entry.take(MOST_BYTES).read_to_string(&mut text).map_err(failed)?;
            return Ok(text);
        }
    }
    Err(Error::failed(format!("`{}` holds no `{GROUND_TRUTH}`", shown(path))))
}
