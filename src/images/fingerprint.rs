//! What the files of a source look like from outside, so that a change of the data is noticed without reading them.

use super::{builtin, cifar, folder, idx};
use crate::error::{Error, Result};
use crate::pipeline::Source;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Says how many files a source has, their bytes, and a hash of their names, sizes and times of change.
///
/// Names count from the source's folder: moving it changes nothing. No file is opened.
///
/// # Errors
/// When the files are missing or cannot be looked at.
pub fn fingerprint(source: &Source) -> Result<String> {
    let files = match source {
        Source::Builtin => return Ok(builtin::VERSION.into()),
        Source::Folder(path) => folder::images(path)?,
        Source::Tar(path) => look_at(vec![path.clone()])?,
        Source::Cifar10(path) => look_at(cifar::files(path, &cifar::CIFAR10)?)?,
        Source::Cifar100(path) => look_at(cifar::files(path, &cifar::CIFAR100)?)?,
        Source::Idx(path) => look_at(idx::files(path)?)?,
    };
    Ok(summary(files))
}

/// The names of files without their folders, and what the system knows of them.
fn look_at(paths: Vec<PathBuf>) -> Result<Vec<(PathBuf, Metadata)>> {
    let look = |path: PathBuf| {
        let found = fs::metadata(&path).map_err(|e| Error::io("read", &path, &e))?;
        Ok((path.file_name().unwrap_or_default().into(), found))
    };
    paths.into_iter().map(look).collect()
}

fn summary(mut files: Vec<(PathBuf, Metadata)>) -> String {
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut hasher = blake3::Hasher::new();
    for (name, found) in &files {
        // Counted in both directions: a wrong clock may have dated a file before 1970.
        let changed = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        hasher.update(name.as_os_str().as_encoded_bytes());
        // A zero ends the name: no name holds one.
        hasher.update(&[0]);
        hasher.update(&found.len().to_le_bytes());
        hasher.update(&changed.to_le_bytes());
    }
    let bytes: u64 = files.iter().map(|(_, found)| found.len()).sum();
    let hash = hasher.finalize().to_hex();
    format!("{} files, {bytes} bytes, names and times {}", files.len(), &hash[..32])
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
        let print = |folder: &str| fingerprint(&Source::Folder(root.path().join(folder))).unwrap();
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
