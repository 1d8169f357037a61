//! Data sets of numbered files in which classes are numbers: their splits, missing parts, and the names of classes.

use super::classes;
use crate::error::{Error, Result};
use crate::text::{shown, shown_name};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Classes at most.
const MOST_CLASSES: i64 = 1 << 20;

/// A label, where a number can be one.
pub(super) fn label(number: i64) -> Option<u32> {
    (0..MOST_CLASSES).contains(&number).then_some(number as u32)
}

/// The names of classes in a file, one a line, or their numbers from the first where there is no such file.
///
/// # Errors
/// When it names another number of classes.
pub(super) fn names(path: &Path, classes: usize, first: usize) -> Result<Vec<String>> {
    let Some(text) = crate::disk::read_text(path)? else {
        return Ok((first..first + classes).map(|label| label.to_string()).collect());
    };
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect();
    if names.len() != classes {
        let (path, found) = (shown(path), names.len());
        return Err(Error::failed(format!("`{path}` names {found} classes instead of {classes}")));
    }
    Ok(names)
}

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

/// Sorts files into splits by the words in their names; of a folder those with an extension, in it or in the folders of
/// its splits. `test` serves where there is nothing else to validate with.
///
/// # Errors
/// When there are no files of one of the splits.
pub(super) fn splits(place: &Path, extension: &str, files: Option<Vec<PathBuf>>) -> Result<Shards> {
    let files = match files {
        Some(files) => files,
        None => files_in(place, extension)?,
    };
    let mut by_split: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
    for path in files {
        let split = split_of(&path, place);
        by_split.entry(split.unwrap_or_default()).or_default().push(path);
    }
    let mut take = |split: &str| by_split.remove(split).unwrap_or_default();
    let (train, val, test, others) = (take("train"), take("val"), take("test"), take(""));
    let val = if val.is_empty() { test } else { val };
    for (name, files) in [("train", &train), ("val` or `validation", &val)] {
        if files.is_empty() {
            let other = others.first().map_or_else(String::new, |path| format!(" (`{}` says neither)", shown(path)));
            let error =
                Error::failed(format!("`{}`: no .{extension} file has `{name}` in its name{other}", shown(place)));
            let example = if extension == "tar" { "imagenet1k-train-0000" } else { "train-00000-of-00294" };
            return Err(error.hint(format!(
                "names tell the split, as in `{example}.{extension}`; a pattern may be `…-{{train,validation}}-*.{extension}`"
            )));
        }
    }
    Ok(Shards { train, val })
}

fn files_in(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let within = |folder: &Path| {
        let entries = fs::read_dir(folder).map_err(|e| Error::io("read folder", folder, &e))?;
        Ok::<_, Error>(entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>())
    };
    let is_one = |path: &PathBuf| {
        let hidden = path.file_name().is_some_and(super::census::is_hidden);
        !hidden && path.extension().is_some_and(|end| end == extension) && path.is_file()
    };
    for path in within(folder)? {
        if is_one(&path) {
            all.push(path);
        } else if path.file_name().is_some_and(|name| word(&shown_name(name)).is_some() || name == "data")
            && path.is_dir()
        {
            all.extend(within(&path)?.into_iter().filter(is_one));
        }
    }
    all.sort();
    Ok(all)
}

/// The split that a file belongs to, by its name or that of its folder.
fn split_of(path: &Path, place: &Path) -> Option<&'static str> {
    let own = path.file_name().map(shown_name).unwrap_or_default();
    let above = path.parent().filter(|above| *above != place).and_then(Path::file_name).map(shown_name);
    word(&own).or_else(|| word(&above?))
}

fn word(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let mut words = name.split(|letter: char| !letter.is_alphabetic());
    words.find_map(|word| match word {
        "train" | "training" => Some("train"),
        "val" | "valid" | "validation" => Some("val"),
        "test" => Some("test"),
        _ => None,
    })
}

/// Says which numbers are missing in names that differ by one number only.
pub(super) fn gap(files: &[PathBuf]) -> Option<String> {
    let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let mut total = None;
    for path in files {
        let name = path.file_name().map(shown_name)?;
        let digits: Vec<&str> =
            name.split(|letter: char| !letter.is_ascii_digit()).filter(|part| part.len() > 1).collect();
        // Such as `train-00003-of-00294.parquet`.
        if let ([.., number, all], true) = (&digits[..], name.contains("-of-")) {
            total = all.parse::<u64>().ok().filter(|&all| all <= 1 << 20);
            found.entry(String::new()).or_default().insert(number.parse().ok()?);
        } else {
            let number = digits.last()?;
            found.entry(name.replacen(number, "#", 1)).or_default().insert(number.parse().ok()?);
        }
    }
    let (_, numbers) = found.iter().next().filter(|_| found.len() == 1)?;
    let (first, last) = (*numbers.first()?, *numbers.last()?);
    let all = match total {
        Some(total) => 0..total,
        None if last - first < 1 << 20 => first..last + 1,
        None => return None,
    };
    let missing: Vec<String> =
        all.filter(|number| !numbers.contains(number)).map(|number| number.to_string()).collect();
    let more = if missing.len() > 5 { ", …" } else { "" };
    (!missing.is_empty()).then(|| {
        format!(
            "{} are missing: {}{more}",
            missing.len(),
            missing.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        )
    })
}

/// The names of classes that are numbers.
pub(super) struct Numbered {
    pub classes: Vec<String>,
    pub words: Option<Vec<String>>,
    /// Where the names come from.
    pub note: String,
}

impl Numbered {
    /// Names the classes of these labels of both splits: as the data set does, or as ILSVRC 2012 does where there are as
    /// many, or by their numbers.
    ///
    /// # Errors
    /// When a label has no name, or is in one split only.
    pub fn of((train, val): (&[u32], &[u32]), names: Option<Vec<String>>) -> Result<Self> {
        let (in_train, in_val): (BTreeSet<u32>, BTreeSet<u32>) =
            (train.iter().copied().collect(), val.iter().copied().collect());
        if let Some(odd) = in_val.difference(&in_train).next() {
            return Err(Error::failed(format!(
                "label {odd} has images in the validation split, but none for training"
            )));
        }
        let count = in_train.last().map_or(0, |last| *last as usize + 1);
        if let Some(names) = names {
            if names.len() < count {
                let fault = format!("label {} has no name: the data set names {} classes", count - 1, names.len());
                return Err(Error::failed(fault));
            }
            return Ok(Self { classes: names, words: None, note: "names of the classes: from the data set".into() });
        }
        if count == classes::all().len() {
            return Ok(Self {
                classes: classes::all().iter().map(|class| class.wnid.to_string()).collect(),
                words: None,
                note: "names of the classes: those of ILSVRC 2012, as there are 1000".into(),
            });
        }
        let classes = (0..count).map(|number| number.to_string()).collect();
        Ok(Self { classes, words: None, note: "names of the classes: their numbers".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_split() {
        let place = Path::new("data");
        for (name, split) in [
            ("data/imagenet1k-train-0000.tar", Some("train")),
            ("data/imagenet1k-validation-00.tar", Some("val")),
            ("data/val/000.tar", Some("val")),
            ("data/test-00000-of-00028.parquet", Some("test")),
            ("data/constrained-1.tar", None),
        ] {
            assert_eq!(split_of(Path::new(name), place), split, "{name}");
        }
    }

    #[test]
    fn missing_numbers_are_said() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(gap(&files(&["a-train-0000.tar", "a-train-0001.tar"])), None);
        assert_eq!(gap(&files(&["a-0000.tar", "a-0002.tar"])).unwrap(), "1 are missing: 1");
        assert_eq!(gap(&files(&["train-00000-of-00003.parquet"])).unwrap(), "2 are missing: 1, 2");
        assert_eq!(gap(&files(&["one.tar"])), None);
    }

    #[test]
    fn labels_are_named_by_the_data_set_or_by_imagenet() {
        let all: Vec<u32> = (0..1000).collect();
        assert_eq!(Numbered::of((&all, &[65]), None).unwrap().classes[65], "n01751748");
        assert_eq!(Numbered::of((&[0, 1], &[1]), None).unwrap().classes, ["0", "1"]);
        let names = Some(vec!["cat".to_string(), "dog".into()]);
        assert_eq!(Numbered::of((&[0, 1], &[1]), names.clone()).unwrap().classes, ["cat", "dog"]);
        assert!(Numbered::of((&[0, 2], &[0]), names).is_err());
        assert!(Numbered::of((&[0], &[1]), None).is_err());
        assert_eq!((label(-1), label(7)), (None, Some(7)));
    }
}
