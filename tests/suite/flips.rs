//! Every byte of a small stage's files is flipped in turn: reading reports it, or gives what it gave before and
//! `greedy verify` tells.
//!
//! `GREEDY_FLIPS=all cargo test --release flip -- --nocapture` flips every bit instead of one in each byte.

use crate::space::Space;
use candle_core::{Device, Tensor};
use greedy::error::Result;
use greedy::features::{Reader, Split, read_labels, read_logits};
use greedy::progress::Silent;
use greedy::run::{Finding, Flaw, StageFolder, TrainedNetwork, verify};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const TINY: &str = r#"
name = "tiny"
[data]
source = "builtin"
size = 4
train_images = 12
val_images = 6
[network]
blocks = 1
width = 2
[auxiliary]
k = 2
width = 2
[training]
epochs = 1
batch = 6
"#;

/// All values of a stage's arrays, and what its network makes of an image.
fn everything(stage: &Path) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut sample = Vec::new();
    for split in Split::BOTH {
        let reader = Reader::open(&split.array(stage, "features"))?;
        for at in 0..reader.layout().samples {
            reader.read(0, at, &mut sample)?;
            all.extend_from_slice(&sample);
        }
        read_labels(stage, split)?.iter().for_each(|label| all.extend(label.to_le_bytes()));
    }
    read_logits(stage, Split::Val)?.0.iter().for_each(|logit| all.extend(logit.to_le_bytes()));
    let network = TrainedNetwork::open(&StageFolder::new(stage), &Device::Cpu)?;
    let image = (0..48).map(|value| value as f32 / 20.0 - 1.0).collect();
    let logits = network.logits(Tensor::from_vec(image, (1, 4, 4, 3), &Device::Cpu)?)?;
    logits.iter().flatten().for_each(|logit| all.extend(logit.to_le_bytes()));
    Ok(all)
}

/// Files below a stage's folder.
fn files(stage: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut folders = vec![stage.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.file_name().unwrap().to_str().unwrap() {
                _ if path.is_dir() => folders.push(path),
                ".lock" => {}
                _ => all.push(path),
            }
        }
    }
    all
}

#[test]
fn no_flipped_byte_gives_other_values() {
    let every_bit = std::env::var("GREEDY_FLIPS").is_ok_and(|form| form == "all");
    for settings in ["", "--set features.dtype=f16"] {
        flip_all(settings, every_bit);
    }
}

fn flip_all(settings: &str, every_bit: bool) {
    let space = Space::new();
    space.write("tiny.toml", TINY);
    space.run(&format!("run tiny.toml {settings}")).ok();
    let stage = space.path("cache/stage1");
    let expected = everything(&stage).unwrap();
    let (mut by_reading, mut by_sums) = (0, BTreeMap::<String, usize>::new());
    let files = files(&stage);
    assert_eq!(files.len(), 17, "{files:?}");
    for path in files {
        let name = path.strip_prefix(&stage).unwrap().display().to_string();
        let whole = std::fs::read(&path).unwrap();
        let mut changed = whole.clone();
        for bit in (0..whole.len() * 8).filter(|bit| every_bit || bit % 8 == bit / 8 % 8) {
            changed[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &changed).unwrap();
            match everything(&stage) {
                Err(error) => {
                    assert!(error.to_string().contains('`'), "{name}, bit {bit}: `{error}` names no file");
                    by_reading += 1;
                }
                Ok(found) => {
                    assert!(found == expected, "{name}, bit {bit}: other values are read");
                    let found = verify(&[StageFolder::new(&stage)], &Silent).unwrap();
                    let noticed = |finding: &Finding| finding.name.ends_with(&name) && finding.flaw == Flaw::Damaged;
                    assert!(found[0].findings.iter().any(noticed), "{name}, bit {bit}");
                    *by_sums.entry(name.clone()).or_default() += 1;
                }
            }
            changed[bit / 8] = whole[bit / 8];
        }
        std::fs::write(&path, &whole).unwrap();
    }
    println!("{by_reading} flips reported by reading; by their sums alone: {by_sums:?}");
    // What other programs read, and notes of the library that wrote it: no value of ours depends on it. Zstandard looks at
    // neither a bit that is kept for later, nor what pads its bit streams.
    let padded = |name: &String| settings.is_empty() && name.contains("/features/c/");
    let harmless = |name: &String| name.ends_with("zarr.json") || name.ends_with("record.json") || padded(name);
    assert!(by_sums.keys().all(harmless), "{by_sums:?}");
}
