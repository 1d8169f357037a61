//! Whole images as stage 0: `data.keep = "whole"`.

use crate::space::Space;
use greedy::features::{Reader, Split};
use std::path::Path;
use std::sync::Arc;
use zarrs::array::Array;
use zarrs::filesystem::FilesystemStore;

const PIPELINE: &str = r#"
name = "whole"
[data]
source = "folder"
path = "images"
size = 16
keep = "whole"
on_bad_image = "skip"
[augmentation]
crop = "resized"
size = 12
flip = true
[network]
blocks = 2
width = 4
[auxiliary]
width = 4
[training]
epochs = 2
batch = 8
[features]
views = 2
shard_mib = 1
"#;

/// Images of several shapes, one of them cut off, and the pipeline.
fn space(sizes: &[(usize, usize)]) -> Space {
    let space = Space::new();
    space.write("whole.toml", PIPELINE);
    for (split, count) in [("train", 24), ("val", 9)] {
        for number in 0..count {
            let (width, height) = sizes[number % sizes.len()];
            let mut image = format!("P6 {width} {height} 255\n").into_bytes();
            image.extend((0..3 * width * height).map(|at| (at * (number + 3) % 251) as u8));
            image.truncate(if number == 4 { 99 } else { image.len() });
            space.write(&format!("images/{split}/{}/{number:02}.ppm", ["a", "b"][number % 2]), image);
        }
    }
    space
}

const SHAPES: [(usize, usize); 5] = [(20, 16), (16, 31), (40, 30), (17, 17), (900, 9)];

fn stage0(cache: &Path) -> std::path::PathBuf {
    ["stage0", "images"].map(|name| cache.join(name)).into_iter().find(|path| path.exists()).unwrap()
}

#[test]
fn each_image_is_kept_with_its_own_long_side() {
    let space = space(&SHAPES);
    space.run("run whole.toml").ok();
    let stage = stage0(&space.path("cache"));
    let reader = Reader::open(&Split::Train.array(&stage, "features")).unwrap();
    let array = Array::open(Arc::new(FilesystemStore::new(&stage).unwrap()), "/train/features").unwrap();
    let theirs: Vec<Vec<u8>> = array.retrieve_array_subset(&array.subset_all()).unwrap();
    let mut found = std::collections::BTreeMap::<String, usize>::new();
    assert_eq!(theirs.len(), reader.layout().samples);
    for (at, theirs) in theirs.iter().enumerate() {
        let mut bytes = Vec::new();
        reader.read(0, at, &mut bytes).unwrap();
        assert!(bytes == *theirs, "sample {at}");
        let header = String::from_utf8_lossy(&bytes[..bytes.len().min(12)]).split('\n').nth(1).unwrap().to_string();
        *found.entry(header).or_default() += 1;
    }
    // The one of nine hundred by nine pixels is kept up to sixteen squares of its centre.
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["16 16", "16 31", "20 16", "21 16", "256 16"], "{found:?}");
    assert_eq!(found.values().sum::<usize>(), 23);
    let inspected = space.run(&format!("inspect {}", stage.display())).ok().stdout;
    assert!(
        inspected.contains("variable_length_bytes, sample 23") && inspected.contains("vlen-bytes + crc32c"),
        "{inspected}"
    );
    for node in ["stage1", "stage2"] {
        space.run(&format!("evaluate cache/{node}")).ok();
        space.run(&format!("predict --from cache/{node} images/train/a/08.ppm")).ok();
    }
}

#[test]
fn of_square_images_whole_ones_teach_the_same() {
    let space = space(&[(16, 16), (40, 40)]);
    for extra in ["", " --set features.mode=recompute", " --set features.refresh=0 --set data.color=gray"] {
        for keep in ["whole", "square"] {
            space.run(&format!("run whole.toml --cache {keep} --set data.keep={keep}{extra}")).ok();
        }
        for node in ["stage1", "stage2"] {
            for name in ["block.safetensors", "auxiliary.safetensors", "val/logits/c/0/0"] {
                let [whole, square] = ["whole", "square"]
                    .map(|keep| std::fs::read(space.path(&format!("{keep}/{node}/{name}"))).unwrap());
                assert!(whole == square, "{node}/{name} with{extra}");
            }
        }
        ["whole", "square"].iter().for_each(|keep| std::fs::remove_dir_all(space.path(keep)).unwrap());
    }
}

#[test]
fn every_flipped_byte_of_whole_images_is_found_and_repaired() {
    let space = space(&SHAPES);
    space.run("run whole.toml").ok();
    let whole = space.results("cache");
    let stage = stage0(&space.path("cache"));
    let array = Split::Val.array(&stage, "features");
    let shard = array.join("c/0");
    let bytes = std::fs::read(&shard).unwrap();
    let read_all = || -> greedy::error::Result<Vec<Vec<u8>>> {
        let reader = Reader::open(&array)?;
        let read = |at| {
            let mut bytes = Vec::new();
            reader.read(0, at, &mut bytes).map(|()| bytes)
        };
        (0..reader.layout().samples).map(read).collect()
    };
    assert_eq!(read_all().unwrap().len(), 8);
    let mut changed = bytes.clone();
    for at in 0..bytes.len() {
        changed[at] ^= 1 << (at % 8);
        std::fs::write(&shard, &changed).unwrap();
        assert!(read_all().is_err(), "byte {at} of {}", bytes.len());
        changed[at] = bytes[at];
    }
    let stage = stage.strip_prefix(space.path("")).unwrap().display().to_string();
    for (name, at) in [("val/features/c/0", 700), ("val/features/zarr.json", 40), ("train/features/c/0", 9)] {
        let path = space.path(&format!("{stage}/{name}"));
        let mut changed = std::fs::read(&path).unwrap();
        changed[at] ^= 4;
        std::fs::write(&path, &changed).unwrap();
    }
    let found = space.run("verify cache");
    assert_eq!(found.code, 1);
    for name in ["val/features/c/0", "val/features/zarr.json", "train/features/c/0"] {
        assert!(found.stdout.contains(name), "{name}: {}", found.stdout);
    }
    space.run(&format!("verify {stage} --repair")).ok();
    space.same_results("cache", &whole, "repaired");
    std::fs::remove_file(space.path(&format!("{stage}/train/features/c/0"))).unwrap();
    space.run("run whole.toml").ok();
    space.same_results("cache", &whole, "gone on with");
}

#[test]
fn what_is_kept_of_the_images_is_a_reason_to_decode_them_again() {
    let space = Space::with_photos();
    let one = "photos.toml --set augmentation.crop=resized";
    space.run(&format!("run {one}")).ok();
    assert_eq!(space.states(one), ["current"; 3]);
    let whole = format!("{one} --set data.keep=whole");
    assert_eq!(space.states(&whole), ["stale", "waiting", "waiting"]);
    let why = space.run(&format!("status {whole}")).ok().stdout;
    assert!(why.contains("images: data.keep:") && why.contains("whole"), "{why}");
    space.run(&format!("run {whole}")).ok();
    assert_eq!(space.states(&whole), ["current"; 3]);
    // A stage that is made of these images alone needs the same setting.
    let other = space.run("stage 1 --from cache/stage0 --to cache/other --set data.keep=square");
    assert!(other.code != 0 && other.stderr.contains("data.keep"), "{}", other.stderr);
}

#[test]
fn what_needs_squares_is_refused() {
    let space = space(&SHAPES);
    for (settings, words) in [
        ("--set augmentation.crop=padded", "`data.keep = \"whole\"` keeps images of any shape"),
        ("--set augmentation.crop=centre --set features.crop=late", "canvases are square"),
        ("--set data.keep=all", "one of \"square\", \"whole\""),
    ] {
        let refused = space.run(&format!("run whole.toml {settings}"));
        assert!(refused.code == 2 && refused.stderr.contains(words), "{settings}: {}", refused.stderr);
    }
    space.run("run whole.toml --set augmentation.crop=centre --set features.views=1").ok();
}
