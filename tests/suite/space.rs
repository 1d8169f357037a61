//! A temporary folder with the program and a small pipeline in it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A pipeline that takes a second or two: built-in pictures, two stages.
pub const SMALL: &str = r#"
name = "small"
[data]
source = "builtin"
train_images = 300
val_images = 100
[augmentation]
crop = "padded"
padding = 2
flip = true
[network]
blocks = 2
width = 6
space_to_depth = [1]
[auxiliary]
k = 2
width = 8
[training]
epochs = 3
batch = 32
decay_every = 2
[features]
shard_mib = 1
"#;

/// A folder of one test's own.
pub struct Space {
    folder: TempDir,
}

impl Space {
    /// With `SMALL` in `small.toml`.
    pub fn new() -> Self {
        let space = Self { folder: tempfile::tempdir().unwrap() };
        space.write("small.toml", SMALL);
        space
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The program with arguments, in this folder.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_greedy"));
        command.args(arguments.split_whitespace()).args(["--threads", "2"]).current_dir(self.folder.path());
        command
    }

    /// Runs the program.
    pub fn run(&self, arguments: &str) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }

    /// A folder of six images in two classes, `photos`, and a pipeline of two stages for it, `photos.toml`.
    pub fn with_photos() -> Self {
        let space = Self::new();
        let image = std::fs::read(format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for place in ["train/a/1.png", "train/a/2.png", "train/b/3.png", "train/b/4.png", "val/a/5.png", "val/b/6.png"]
        {
            space.write(&format!("photos/{place}"), &image);
        }
        let text = "[data]\nsource = \"folder\"\npath = \"photos\"\nsize = 8\n[network]\nblocks = 2\nwidth = 4\n\
                    [auxiliary]\nwidth = 4\n[training]\nepochs = 1\nbatch = 2\n";
        space.write("photos.toml", text);
        space
    }

    /// The states of all stages of a pipeline, as `status` says them.
    #[track_caller]
    pub fn states(&self, arguments: &str) -> Vec<String> {
        let status = self.run(&format!("status {arguments} --json")).ok().json();
        let stages = status["stages"].as_array().unwrap().iter();
        stages.map(|stage| stage["state"].as_str().unwrap().to_string()).collect()
    }

    /// Every file below a folder, with its bytes, but for locks and the receipts of workers.
    pub fn files(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        collect(&self.path(name), &self.path(name), &mut all);
        all.sort();
        all
    }

    /// The same, with records that say nothing of time and have no seal.
    pub fn results(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let timeless = |(path, bytes): (PathBuf, Vec<u8>)| {
            if !path.ends_with("record.json") {
                return (path, bytes);
            }
            let mut record: Value = serde_json::from_slice(&bytes).unwrap();
            forget_times(&mut record);
            record.as_object_mut().unwrap().remove("blake3");
            (path, record.to_string().into_bytes())
        };
        self.files(name).into_iter().map(timeless).collect()
    }

    /// Fails unless a folder holds just these results.
    #[track_caller]
    pub fn same_results(&self, name: &str, expected: &[(PathBuf, Vec<u8>)], when: &str) {
        let found = self.results(name);
        let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(expected), "{when}");
        for ((path, found), (_, expected)) in found.iter().zip(expected) {
            assert!(found == expected, "{} differs, {when}", path.display());
        }
    }
}

/// Removes what a record says of time, at any depth.
fn forget_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("seconds");
            fields.values_mut().for_each(forget_times);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}

fn collect(root: &Path, folder: &Path, all: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != "parts" {
                collect(root, &path, all);
            }
        } else if path.file_name().unwrap() != ".lock" {
            all.push((path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap()));
        }
    }
}

/// What a run of the program came to.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails unless the program succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless the program failed with this code and said all of this.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Fails unless the program failed, whoever is to blame, and said all of this.
    #[track_caller]
    pub fn fails_with(self, words: &[&str]) -> Self {
        let code = self.code;
        assert!(code == 1 || code == 2, "{code}: {}\n{}", self.stdout, self.stderr);
        self.fails(code, words)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {}", self.stdout))
    }
}
