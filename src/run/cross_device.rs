//! A stage that was made where numbers round otherwise and then loses a file: what is made again never lies beside what
//! is left of the old.

use super::record::Record;
use super::{Project, open_pipeline, resolve};
use crate::progress::Silent;
use candle_core::Device;
use std::fs;
use std::path::{Path, PathBuf};

const PIPELINE: &str = r#"
[data]
source = "builtin"
train_images = 40
val_images = 10
[network]
blocks = 1
width = 16
[auxiliary]
width = 4
[training]
epochs = 1
batch = 8
[features]
dtype = "f16"
shard_mib = 1
"#;

fn run(folder: &Path, cache: &str, overrides: &[&str]) -> PathBuf {
    fs::write(folder.join("p.toml"), PIPELINE).unwrap();
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let settings = open_pipeline(&folder.join("p.toml"), &overrides).unwrap();
    let cache = folder.join(cache);
    let mut project = Project::open(resolve(settings, &cache), &cache, false);
    let all = project.find(&[]).unwrap();
    project.update(&all, &Device::Cpu, &Silent, |_, _| {}, |_, _| Ok(())).unwrap();
    cache.join("stage1")
}

/// Runs a pipeline, and has a stage of other bits that says it was made of the same; takes a file of it away and runs
/// again. All has to come out as in an undisturbed run.
fn loses(file: &str) {
    let folder = tempfile::tempdir().unwrap();
    let here = run(folder.path(), "here", &[]);
    let there = run(folder.path(), "there", &["training.learning_rate=0.2"]);
    let expected = Record::read(&here).unwrap().unwrap();
    let other = Record::read(&there).unwrap().unwrap();
    assert!(expected.weights != other.weights && expected.output != other.output);
    assert!(other.arrays["train/features"].shards.len() > 1);
    let Record { key, manifest, settings, .. } = expected.clone();
    Record { key, manifest, settings, ..other }.write(&there).unwrap();
    fs::remove_file(there.join(file)).unwrap();
    if file.contains("/features/") {
        // The other device is known by its features here: the weights are those of this one.
        let mut record = Record::read(&there).unwrap().unwrap();
        for name in ["block.safetensors", "auxiliary.safetensors"] {
            fs::copy(here.join(name), there.join(name)).unwrap();
        }
        record.weights = expected.weights.clone();
        record.write(&there).unwrap();
    }
    run(folder.path(), "there", &[]);
    let found = Record::read(&there).unwrap().unwrap();
    assert_eq!((&found.weights, &found.arrays, &found.output), (&expected.weights, &expected.arrays, &expected.output));
    for key in ["0", "1"].map(|at| format!("train/features/c/0/{at}/0/0/0")) {
        assert!(fs::read(there.join(&key)).unwrap() == fs::read(here.join(&key)).unwrap(), "{key}");
    }
}

#[test]
fn other_weights_in_the_place_of_lost_ones_take_their_features_along() {
    loses("block.safetensors");
}

#[test]
fn shards_of_two_devices_never_lie_side_by_side() {
    loses("train/features/c/0/1/0/0/0");
}
