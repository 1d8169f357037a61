//! A small run on a disk that fails at every n-th operation: a clear error, never a panic or a wrong result, and the
//! run that follows ends with the bytes of an undisturbed one.
//!
//! `GREEDY_FAULTS=all cargo test --release faulty` lets every operation fail in every way.

use super::{Project, Record, open_pipeline, resolve};
use crate::error::Result;
use crate::faults::{Fault, with_fault};
use crate::progress::Silent;
use candle_core::Device;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Images of which one is bad, two trained stages with two shards of features, a checkpoint after each step.
const PIPELINE: &str = r#"
[data]
source = "folder"
path = "IMAGES"
size = 32
on_bad_image = "skip"
[network]
blocks = 2
width = 16
[auxiliary]
width = 4
[training]
epochs = 2
batch = 8
decay_every = 1
checkpoint_minutes = 0
[features]
dtype = "f32"
shard_mib = 1
"#;

struct Experiment {
    folder: tempfile::TempDir,
    expected: Vec<(PathBuf, Vec<u8>)>,
}

impl Experiment {
    fn new() -> Self {
        // No power is cut here: a disk in memory will do, where there is one.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for (split, count) in [("train", 20), ("val", 6)] {
            for number in 0..count {
                let path = folder.path().join(format!("images/{split}/{}/{number:02}.pgm", number % 2));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let pixels = (0..if number == 5 { 9 } else { 32 * 32 }).map(|at| (at * (number + 3) / 7) as u8);
                fs::write(&path, b"P5 32 32 255\n".iter().copied().chain(pixels).collect::<Vec<u8>>()).unwrap();
            }
        }
        let images = folder.path().join("images").display().to_string();
        fs::write(folder.path().join("p.toml"), PIPELINE.replace("IMAGES", &images)).unwrap();
        let mut experiment = Self { folder, expected: Vec::new() };
        experiment.run().unwrap();
        experiment.expected = experiment.results();
        experiment
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn run(&self) -> Result<()> {
        let settings = open_pipeline(&self.folder.path().join("p.toml"), &[])?;
        let mut project = Project::open(resolve(settings, &self.cache()), &self.cache(), false);
        let all = project.find(&[])?;
        project.update(&all, &Device::Cpu, &Silent, |_, _| {}, |_, _| Ok(())).map(|_| ())
    }

    /// All files, with records that say nothing of time.
    fn results(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        collect(&self.cache(), &mut all);
        all.sort();
        for (path, bytes) in all.iter_mut().filter(|(path, _)| path.ends_with("record.json")) {
            let mut record = Record::read(path.parent().unwrap()).unwrap().unwrap();
            record.seconds.clear();
            let history = record.figures.iter_mut().flat_map(|figures| &mut figures.history);
            history.for_each(|epoch| epoch.seconds = 0.0);
            *bytes = serde_json::to_vec(&record).unwrap();
        }
        all
    }

    /// Runs into one fault and then on without; says how many operations there were.
    fn survives(&self, fault: Fault, at: usize) -> usize {
        let when = format!("{fault:?} at operation {at}");
        fs::remove_dir_all(self.cache()).unwrap();
        let run = || catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|_| panic!("a panic, {when}"));
        let (result, operations) = with_fault(&self.cache(), fault, at, run);
        match result {
            Ok(()) => self.compare(&when),
            Err(error) => {
                assert!(fault != Fault::Short, "{when}: {error}");
                assert!(error.to_string().contains(&self.cache().display().to_string()), "{when}: {error}");
                self.run().unwrap_or_else(|error| panic!("{when}, then: {error}"));
                self.compare(&when);
            }
        }
        operations
    }

    fn compare(&self, when: &str) {
        let found = self.results();
        let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&self.expected), "{when}");
        let same = found.iter().zip(&self.expected);
        same.for_each(|(found, expected)| assert!(found == expected, "{} differs, {when}", found.0.display()));
    }
}

fn collect(folder: &Path, all: &mut Vec<(PathBuf, Vec<u8>)>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, all);
        } else if path.file_name().unwrap() != ".lock" {
            all.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
}

#[test]
fn every_fault_is_survived_and_leaves_no_trace() {
    let experiment = Experiment::new();
    let operations = experiment.survives(Fault::Short, usize::MAX);
    assert!(operations > 300, "{operations}");

    let step = if std::env::var("GREEDY_FAULTS").is_ok_and(|form| form == "all") { 1 } else { 23 };
    for fault in [Fault::Full, Fault::Broken, Fault::Short] {
        for at in (1..=operations).step_by(step) {
            experiment.survives(fault, at);
        }
    }
}
