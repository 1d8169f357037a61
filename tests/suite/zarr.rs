//! The arrays on the disk are Zarr v3: zarrs reads the values that we read, and damage is reported.

use crate::space::Space;
use greedy::features::{Reader, Split, decode_sample, hwc_to_chw};
use std::path::Path;
use std::sync::Arc;
use zarrs::array::Array;
use zarrs::filesystem::FilesystemStore;

fn reader(stage: &Path) -> Reader {
    Reader::open(&Split::Train.array(stage, "features")).unwrap()
}

#[test]
fn zarrs_reads_the_values_that_we_read() {
    let space = Space::new();
    for settings in ["", "--set features.dtype=f16"] {
        space.run(&format!("run small.toml --set network.blocks=1 {settings}")).ok();
        let stage = space.path("cache/stage1");
        let store = Arc::new(FilesystemStore::new(&stage).unwrap());
        let array = Array::open(store, "/train/features").unwrap();
        assert_eq!(array.shape(), [1, 300, 6, 16, 16]);
        let theirs: Vec<f32> = match array.attributes().get("scale_factor") {
            None => {
                let halves: Vec<half::f16> = array.retrieve_array_subset(&array.subset_all()).unwrap();
                halves.into_iter().map(half::f16::to_f32).collect()
            }
            Some(factor) => {
                assert_eq!(settings, "", "features behind a ReLU have 8 bits where nothing is said");
                let factor = factor.as_f64().unwrap() as f32;
                let bytes: Vec<u8> = array.retrieve_array_subset(&array.subset_all()).unwrap();
                bytes.into_iter().map(|byte| f32::from(byte) * factor).collect()
            }
        };
        let reader = reader(&stage);
        let mut bytes = Vec::new();
        let [mut pixels, mut ours] = [(); 2].map(|()| vec![0.0; 6 * 256]);
        for (sample, theirs) in theirs.chunks_exact(6 * 256).enumerate() {
            reader.read(0, sample, &mut bytes).unwrap();
            decode_sample(&bytes, reader.layout(), &mut pixels);
            hwc_to_chw(&pixels, 6, &mut ours);
            assert_eq!(ours, theirs, "sample {sample} {settings}");
        }
    }
}

#[test]
fn every_type_and_codec_goes_through_training_repair_and_resumption() {
    let space = Space::new();
    for dtype in ["u8", "f16", "bf16", "f32"] {
        for codec in ["lz4", "huffman", "zstd:1", "auto"] {
            let settings = format!("--set features.dtype={dtype} --set features.codec={codec} --set training.epochs=1");
            let run = format!("run small.toml --cache cache-{dtype} {settings}");
            space.run(&run).ok();
            let name = format!("cache-{dtype}/stage1");
            let whole = space.results(&name);
            let shard = space.path(&format!("{name}/val/features/c/0/0/0/0/0"));
            let mut damaged = std::fs::read(&shard).unwrap();
            damaged[1000] ^= 1;
            std::fs::write(&shard, &damaged).unwrap();
            // What tells scale and codec is lost as well, in one of the arrays.
            std::fs::remove_file(space.path(&format!("{name}/train/features/zarr.json"))).unwrap();
            space.run(&format!("verify {name} --repair")).ok();
            space.same_results(&name, &whole, &format!("{dtype}, {codec}, repaired"));
            std::fs::remove_file(&shard).unwrap();
            space.run(&run).ok();
            space.same_results(&name, &whole, &format!("{dtype}, {codec}, gone on with"));
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_that_names_shard_and_sample() {
    let space = Space::new();
    space.run("run small.toml --set network.blocks=1 --set features.dtype=f16").ok();
    let stage = space.path("cache/stage1");
    let shard = stage.join("train/features/c/0/0/0/0/0");
    let whole = std::fs::read(&shard).unwrap();
    let mut damaged = whole.clone();
    damaged[5000] ^= 1;
    std::fs::write(&shard, &damaged).unwrap();
    let mut out = Vec::new();
    let error = reader(&stage).read(0, 1, &mut out).unwrap_err().to_string();
    assert!(error.contains("c/0/0/0/0/0") && error.contains("sample 1"), "{error}");
    assert!(reader(&stage).read(0, 0, &mut out).is_ok());
    std::fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    assert!(reader(&stage).read(0, 0, &mut out).unwrap_err().to_string().contains("index"));
    std::fs::remove_file(&shard).unwrap();
    assert!(reader(&stage).read(0, 0, &mut out).is_err());
}

#[test]
fn metadata_that_is_not_ours_is_refused() {
    let space = Space::new();
    space.run("run small.toml --set network.blocks=1 --set features.dtype=f16").ok();
    let path = space.path("cache/stage1/train/features/zarr.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let bad = [
        ("\"crc32c\"", "\"gzip\""),
        ("\"little\"", "\"big\""),
        ("300", "4000000000000"),
        ("float16", "float64"),
        ("\"end\"", "\"start\""),
        ("{", "["),
    ];
    for (from, to) in bad {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        assert!(Reader::open(path.parent().unwrap()).is_err(), "{from} -> {to}");
    }
}
