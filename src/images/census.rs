//! What was found where images were looked for, what was taken of it, and what was passed over and why.

use crate::text::shown;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Component, Path};

/// Extensions of files that are taken for images; what they really are is told by their content.
const EXTENSIONS: [&str; 16] = [
    "jpg", "jpeg", "jpe", "jfif", "jfi", "jif", "pjpeg", "pjp", "png", "bmp", "gif", "tif", "tiff", "webp", "ppm",
    "pgm",
];

/// Names of what systems, file managers and network disks leave in folders of others.
const LITTER: [&str; 22] = [
    "@eadir",
    "#recycle",
    "@recycle",
    "#snapshot",
    "@tmp",
    "__macosx",
    "lost+found",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    ".ds_store",
    ".appledouble",
    ".spotlight-v100",
    ".trashes",
    ".fseventsd",
    ".temporaryitems",
    ".documentrevisions-v100",
    ".directory",
];
/// How other such names begin.
const LITTER_BEGINS: [&str; 4] = ["._", ".nfs", ".fuse_hidden", ".trash"];

/// Why a file is none of the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its extension, or that of what it belongs to, is not one of an image.
    Extension(String),
    /// Its name or that of a folder above begins with a dot.
    Hidden,
    /// A system has put it there.
    Litter,
    /// A link whose target is not there, or lies out of the archive.
    Link,
    /// No regular file.
    Special,
    /// It lies in a split, but in none of its classes.
    NoClass,
    /// Another entry of the same path came after it.
    Replaced,
}

impl Why {
    /// In words, for a list of kinds with their numbers.
    fn words(&self) -> String {
        match self {
            Self::Extension(extension) if extension.is_empty() => "without extension".into(),
            Self::Extension(extension) => format!(".{extension}"),
            Self::Hidden => "hidden".into(),
            Self::Litter => "system litter".into(),
            Self::Link => "links that lead nowhere".into(),
            Self::Special => "no regular files".into(),
            Self::NoClass => "not in the folder of a class".into(),
            Self::Replaced => "replaced by a later entry of the same path".into(),
        }
    }
}

/// Why a path is not that of an image; nothing where it is.
pub(super) fn why_not(path: &Path) -> Option<Why> {
    let names =
        || path.components().filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None });
    if names().any(is_litter) {
        return Some(Why::Litter);
    }
    if names().any(is_hidden) {
        return Some(Why::Hidden);
    }
    let extension = path.extension().map(|extension| shown(Path::new(extension))).unwrap_or_default();
    let extension = extension.to_lowercase();
    (!EXTENSIONS.contains(&extension.as_str())).then_some(Why::Extension(extension))
}

/// Whether a file or folder is hidden by its name.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Whether a file or folder is one that systems leave behind.
pub fn is_litter(name: &OsStr) -> bool {
    // Most names of a large set are short and plain: nothing is allocated for them.
    let first = name.as_encoded_bytes().first().copied().unwrap_or_default();
    if !first.is_ascii_punctuation() && !b"TtEeDdIiLlRrSs".contains(&first) {
        return false;
    }
    let name = name.to_string_lossy().to_lowercase();
    LITTER.contains(&name.as_str()) || LITTER_BEGINS.iter().any(|start| name.starts_with(start))
}

/// What was found and what of it was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Files (or entries of archives and tables) that were found in the splits.
    pub files: u64,
    /// Images that were taken of them.
    pub images: u64,
    /// What was passed over, by the reason.
    pub passed_over: BTreeMap<String, Passed>,
    /// What else a person should know: where labels come from, classes without images, counts that are unusual.
    pub notes: Vec<String>,
}

/// Files that were passed over for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// How many.
    pub files: u64,
    /// One of them.
    pub example: String,
}

impl Census {
    /// Of images alone, as they lie in binary files.
    pub(super) fn of(images: usize) -> Self {
        Self { files: images as u64, images: images as u64, ..Self::default() }
    }

    pub(super) fn pass(&mut self, path: &Path, why: &Why) {
        self.files += 1;
        let passed = self.passed_over.entry(why.words()).or_default();
        passed.files += 1;
        if passed.files == 1 {
            passed.example = shown(path);
        }
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// All in one line, and a line for each note.
    pub fn lines(&self) -> Vec<String> {
        let mut line = format!("{} files found, {} images taken", self.files, self.images);
        let mut separator = ", passed over: ";
        for (reason, Passed { files, example }) in &self.passed_over {
            // A string takes whatever is written to it.
            let _ = write!(line, "{separator}{files} {reason} (such as `{example}`)");
            separator = ", ";
        }
        std::iter::once(line).chain(self.notes.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_extensions_and_litter_by_its_names() {
        for image in
            ["train/cat/1.JPEG", "train/cat/1.jfif", "train/cat/1.jpe", "./val/cat/x.tar.png", "train/trash/1.gif"]
        {
            assert_eq!(why_not(Path::new(image)), None, "{image}");
        }
        for litter in [
            "train/cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
            "__MACOSX/train/cat/._1.jpg",
            "train/cat/._1.jpg",
            "train/Thumbs.db",
            "train/cat/.nfs0000012.jpg",
            "train/lost+found/1.jpg",
        ] {
            assert_eq!(why_not(Path::new(litter)), Some(Why::Litter), "{litter}");
        }
        assert_eq!(why_not(Path::new(".git/1.jpg")), Some(Why::Hidden));
        assert_eq!(why_not(Path::new("train/cat/1.AVIF")), Some(Why::Extension("avif".into())));
        assert_eq!(why_not(Path::new("train/cat/1")), Some(Why::Extension(String::new())));
    }

    #[test]
    fn what_was_passed_over_stands_in_one_line_with_its_numbers() {
        let mut census = Census::of(5);
        for path in ["train/a/1.heic", "train/a/2.heic", "train/a/.x"] {
            census.pass(Path::new(path), &why_not(Path::new(path)).unwrap());
        }
        let lines = census.lines();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("8 files found, 5 images taken, passed over: 2 .heic (such as `train/a/1.heic`)"));
        assert!(lines[0].contains("1 hidden (such as `train/a/.x`)"), "{}", lines[0]);
    }
}
