//! What the files of a source look like from outside, so that a change of the data is noticed without reading them.

use super::folder::{self, Outside, Survey};
use super::memory::Memory;
use super::{builtin, cifar, idx, imagenet, parquet, stl10, webdataset};
use crate::error::{Error, Result};
use crate::pipeline::{NAMES_AND_TIMES, Source};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What was seen of a source.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    /// How many files it has, their bytes, and a hash of their names, sizes and times of change.
    pub text: String,
    /// What may be remembered of it.
    pub memory: Option<Memory>,
}

/// Looks at all files of a source. Names count from the source's folder: moving it changes nothing. No file is opened.
///
/// # Errors
/// When the files are missing or cannot be looked at.
pub fn look(source: &Source) -> Result<Fingerprint> {
    let mut files = match source {
        Source::Builtin => return Ok(Fingerprint { text: builtin::VERSION.into(), memory: None }),
        Source::Folder(path) => return look_at_folder(path, folder::survey),
        Source::Imagenet(path) => return look_at_folder(path, imagenet::survey),
        Source::Tar(path) => look_at(vec![path.clone()])?,
        Source::Cifar10(path) => look_at(cifar::files(path, &cifar::CIFAR10)?)?,
        Source::Cifar100(path) => look_at(cifar::files(path, &cifar::CIFAR100)?)?,
        Source::Stl10(path) => look_at(stl10::files(path)?)?,
        Source::Idx(path) => look_at(idx::files(path)?)?,
        Source::WebDataset(place) => look_at(webdataset::shards(place)?.all())?,
        Source::Parquet(place) => look_at(parquet::files(place)?.all())?,
    };
    Ok(Fingerprint { text: summary(&mut files), memory: None })
}

fn look_at_folder(root: &Path, survey: fn(&Path) -> Result<Survey>) -> Result<Fingerprint> {
    let began = SystemTime::now();
    let mut survey = survey(root)?;
    let fingerprint = summary(&mut survey.images);
    Ok(Fingerprint { memory: Memory::of(root, &survey, &fingerprint, began), text: fingerprint })
}

/// The names of files without their folders, and what the system knows of them.
fn look_at(paths: Vec<PathBuf>) -> Result<Vec<(PathBuf, Outside)>> {
    let look = |path: PathBuf| {
        let found = fs::metadata(&path).map_err(|e| Error::io("read", &path, &e))?;
        Ok((path.file_name().unwrap_or_default().into(), Outside::of(&found, false)))
    };
    paths.into_iter().map(look).collect()
}

fn summary(files: &mut [(PathBuf, Outside)]) -> String {
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut hasher = blake3::Hasher::new();
    for (name, found) in files.iter() {
        hasher.update(name.as_os_str().as_encoded_bytes());
        // A zero ends the name: no name holds one.
        hasher.update(&[0]);
        hasher.update(&found.bytes.to_le_bytes());
        hasher.update(&found.modified.to_le_bytes());
    }
    let bytes: u64 = files.iter().map(|(_, found)| found.bytes).sum();
    let hash = hasher.finalize().to_hex();
    format!("{} files, {bytes} bytes{NAMES_AND_TIMES}{}", files.len(), &hash[..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::path::Path;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    fn write(path: &Path, bytes: &[u8], time: SystemTime) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn names_sizes_and_times_count_but_not_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let print = |folder: &str| look(&Source::Folder(root.path().join(folder))).unwrap().text;
        for folder in ["a", "b", "c", "d", "e"] {
            write(&root.path().join(folder).join("train/cat/1.jpg"), b"cat", time);
        }
        write(&root.path().join("b/notes.txt"), b"no image", time);
        write(&root.path().join("c/train/cat/1.jpg"), b"lion", time);
        write(&root.path().join("d/train/cat/1.jpg"), b"cat", time + Duration::from_nanos(1_000_000));
        fs::rename(root.path().join("e/train/cat/1.jpg"), root.path().join("e/train/cat/2.jpg")).unwrap();
        assert!(print("a").starts_with("1 files, 3 bytes, names and times "));
        assert_eq!(print("a"), print("b"));
        for other in ["c", "d", "e"] {
            assert_ne!(print("a"), print(other), "{other}");
        }
    }
}
