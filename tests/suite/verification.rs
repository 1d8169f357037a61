//! `greedy verify` finds what is missing, damaged or foreign, and makes it again with the bytes that it had.

use crate::space::{Run, Space};
use greedy::lock::Lock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

/// Three shards of training samples a stage.
const SHARDS: &str = "run small.toml --set data.train_images=1000 --set training.epochs=1 --set features.dtype=f16";

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The flaws that `verify` finds, by path from the cache.
fn flaws(run: &Run) -> BTreeMap<String, String> {
    let json = run.json();
    let stages = json["stages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let of_stage = |stage: &Value| {
        let folder = Path::new(stage["folder"].as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_string();
        let findings = stage["findings"].as_array().unwrap().clone();
        findings.into_iter().map(move |one| (format!("{folder}/{}", text(&one["file"])), text(&one["flaw"])))
    };
    stages.flat_map(of_stage).collect()
}

fn times(space: &Space, paths: &[PathBuf]) -> Vec<SystemTime> {
    paths.iter().map(|path| fs::metadata(space.path("cache").join(path)).unwrap().modified().unwrap()).collect()
}

#[test]
fn what_is_broken_is_listed_and_only_that_is_made_again() {
    let space = Space::new();
    space.run(SHARDS).ok();
    let before = space.files("cache");
    let whole = space.run("verify cache").ok();
    assert!(whole.stdout.contains("cache/stage2  finished"), "{}", whole.stdout);

    let damaged = [
        "stage0/train/features/c/0/1/0/0/0",
        "stage0/val/labels/c/0",
        "stage1/train/features/c/0/0/0/0/0",
        "stage1/train/features/c/0/2/0/0/0",
        "stage1/val/logits/c/0/0",
        "stage1/zarr.json",
        "stage2/train/features/zarr.json",
        "stage2/val/features/c/0/0/0/0/0",
    ];
    let missing = ["stage0/val/features/c/0/0/0/0/0", "stage1/train/labels/zarr.json", "stage2/val/zarr.json"];
    damaged.iter().for_each(|name| flip(&space.path("cache").join(name)));
    missing.iter().for_each(|name| fs::remove_file(space.path("cache").join(name)).unwrap());
    space.write("cache/stage1/train/features/c/0/0/0/0/0.unfinished", "half");
    let checkpoint = "stage2/checkpoint/epoch-000001-step-00000000.safetensors";
    space.write(&format!("cache/{checkpoint}"), "old");

    let expected: BTreeMap<String, String> = damaged
        .iter()
        .map(|name| (*name, "damaged"))
        .chain(missing.iter().map(|name| (*name, "missing")))
        .chain([("stage1/train/features/c/0/0/0/0/0.unfinished", "leftover")])
        .chain([(checkpoint, "leftover")])
        .map(|(name, flaw)| (name.to_string(), flaw.to_string()))
        .collect();
    let found = space.run("verify cache --json");
    assert_eq!(flaws(&found), expected);
    found.fails(1, &["11 files are missing, damaged or foreign", "hint: `greedy verify cache --repair`"]);

    let broken = space.files("cache");
    let dry = space.run("verify cache --repair --dry-run");
    assert!(dry.stdout.contains("stage1/zarr.json: damaged: its hash is not the recorded one; would be made again"));
    assert_eq!(space.files("cache"), broken);

    let good: Vec<PathBuf> = before.iter().filter(|file| broken.contains(file)).map(|(path, _)| path.clone()).collect();
    assert!(good.len() > 20);
    let untouched = times(&space, &good);
    let repair = space.run("verify cache --repair").ok();
    assert!(!repair.stderr.contains("  train:"), "{}", repair.stderr);
    assert_eq!(times(&space, &good), untouched);
    assert_eq!(
        space.files("cache"),
        before.into_iter().filter(|(path, _)| !path.starts_with("stage2/checkpoint")).collect::<Vec<_>>()
    );
    assert!(flaws(&space.run("verify cache --json").ok()).is_empty());
    assert!(space.run(SHARDS).ok().stderr.contains("nothing to be done"));
}

#[test]
fn foreign_files_are_listed_and_left() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    space.write("cache/stage1/checkpoint/thesis.tex", "mine");
    space.write("cache/stage1/notes.txt", "mine");
    space.write("cache/stage1/train/features/c/thesis.unfinished", "mine");
    space.write("cache/stage2/train/features/c/0/7/0/0/0", "no shard of this array");
    let found = space.run("verify cache --json");
    assert_eq!(
        flaws(&found).into_iter().map(|(name, flaw)| format!("{name} {flaw}")).collect::<Vec<_>>(),
        [
            "stage1/checkpoint/thesis.tex foreign",
            "stage1/notes.txt foreign",
            "stage1/train/features/c/thesis.unfinished foreign",
            "stage2/train/features/c/0/7/0/0/0 foreign",
        ]
    );
    let all = space.files("cache");
    space.run("verify cache --repair").fails(1, &["4 files"]);
    space.run("clean photos.toml --yes").ok();
    // Neither is it removed to make way for what is made anew.
    for change in ["training.epochs=2", "features.dtype=\"f32\""] {
        space
            .run(&format!("run photos.toml --set {change}"))
            .fails(1, &["`checkpoint/thesis.tex`", "nothing was removed"]);
    }
    assert_eq!(space.files("cache"), all);
}

#[test]
fn weights_and_records_are_beyond_repair_and_cost_no_other_file() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    let before = space.files("cache");
    flip(&space.path("cache/stage1/block.safetensors"));
    flip(&space.path("cache/stage1/train/features/c/0/0/0/0/0"));
    flip(&space.path("cache/stage1/val/labels/c/0"));
    flip(&space.path("cache/stage2/val/features/c/0/0/0/0/0"));
    let repair = space.run("verify cache --repair --json");
    let left: Vec<String> = flaws(&space.run("verify cache --json")).into_keys().collect();
    assert_eq!(left, ["stage1/block.safetensors", "stage1/train/features/c/0/0/0/0/0"]);
    repair.fails(1, &["2 files"]);
    let text = space.run("verify cache/stage1 --repair").stdout;
    assert!(
        text.contains("weights come from training alone") && text.contains("hint: remove `cache/stage1/block"),
        "{text}"
    );
    // Its way out leads to the same bytes.
    fs::remove_file(space.path("cache/stage1/block.safetensors")).unwrap();
    space.run("run photos.toml").ok();
    let results = |files: Vec<(PathBuf, Vec<u8>)>| files.into_iter().filter(|(path, _)| !path.ends_with("record.json"));
    assert!(results(space.files("cache")).eq(results(before)));

    // One of the two files of a record is made again from the other.
    let before = space.files("cache");
    fs::write(space.path("cache/stage1/record.json"), [0xff]).unwrap();
    fs::remove_file(space.path("cache/stage0/record.json")).unwrap();
    assert_eq!(space.states("photos.toml"), ["current"; 3]);
    flip(&space.path("cache/stage2/spare/record.json"));
    flip(&space.path("cache/stage1/val/labels/c/0"));
    space.run("verify cache").fails(1, &["4 files"]);
    space.run("verify cache --repair").ok();
    assert_eq!(space.files("cache"), before);

    fs::write(space.path("cache/stage1/record.json"), "{}").unwrap();
    fs::write(space.path("cache/stage1/spare/record.json"), "{}").unwrap();
    fs::remove_file(space.path("cache/stage2/record.json")).unwrap();
    fs::remove_dir_all(space.path("cache/stage2/spare")).unwrap();
    let found = space.run("verify cache --json");
    let expected = [("stage1/record.json", "damaged"), ("stage2/record.json", "missing")];
    assert!(flaws(&found).iter().map(|(name, flaw)| (name.as_str(), flaw.as_str())).eq(expected));
    space.run("verify cache --repair").fails(1, &["2 files"]);
}

#[test]
fn the_list_of_bad_images_is_made_again_and_moved_images_are_found() {
    let space = Space::with_photos();
    space.write("photos/train/a/0.png", "no image");
    let run = "run photos.toml --set data.on_bad_image=skip";
    space.run(run).ok();
    let (before, of_train) = (space.files("cache/stage0"), space.files("cache/stage0/train"));
    let break_all = || {
        fs::remove_file(space.path("cache/stage0/train/features/c/0/0/0/0/0")).unwrap();
        flip(&space.path("cache/stage0/train/labels/c/0"));
    };
    break_all();
    flip(&space.path("cache/stage0/train/skipped.json"));
    space.run("verify cache --repair").ok();
    assert_eq!(space.files("cache/stage0"), before);
    // `run` makes good what is lost as well, without mixing up the images.
    break_all();
    fs::remove_file(space.path("cache/stage0/train/skipped.json")).unwrap();
    assert_eq!(space.run(&format!("{run} --json")).ok().json()["done"], serde_json::json!(["stage0"]));
    assert!(
        space
            .files("cache/stage0")
            .into_iter()
            .filter(|file| !file.0.ends_with("record.json"))
            .eq(before.iter().filter(|file| !file.0.ends_with("record.json")).cloned())
    );
    break_all();
    fs::rename(space.path("photos"), space.path("moved")).unwrap();
    space.run("verify cache --repair").fails(1, &["2 files"]);
    // Wherever the images are by now, the bad ones are the same.
    fs::remove_file(space.path("cache/stage0/train/skipped.json")).unwrap();
    space.run(&format!("{run} --set data.path=moved")).ok();
    assert_eq!(space.files("cache/stage0/train"), of_train);
    break_all();
    space.run("verify cache --repair --set data.path=moved").ok();
}

#[test]
fn other_images_than_those_it_was_made_of_repair_nothing() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    let image = fs::read(format!("{}/tests/fixtures/images/rgba.png", env!("CARGO_MANIFEST_DIR"))).unwrap();
    space.write("photos/train/a/1.png", image);
    flip(&space.path("cache/stage0/train/features/c/0/0/0/0/0"));
    let damaged = space.files("cache");
    let repair = space.run("verify cache --repair");
    assert!(repair.stdout.contains("it came out with other bytes than the recorded ones"), "{}", repair.stdout);
    repair.fails(1, &["1 file is missing"]);
    assert_eq!(space.files("cache"), damaged);
}

#[test]
fn what_is_beyond_repair_stops_nothing_else() {
    let space = Space::new();
    space.run(SHARDS).ok();
    let before = space.files("cache");
    let shards = [0, 1, 2].map(|at| space.path(&format!("cache/stage1/train/features/c/0/{at}/0/0/0")));
    shards.iter().for_each(|shard| flip(shard));
    // A folder in its place cannot be replaced by a file.
    fs::remove_file(&shards[0]).unwrap();
    fs::create_dir(&shards[0]).unwrap();
    let repair = space.run("verify cache --repair");
    assert_eq!(repair.stdout.matches("made again").count(), 3, "{}", repair.stdout);
    repair.fails(1, &["1 file is missing"]);
    fs::remove_dir(&shards[0]).unwrap();
    space.run("verify cache --repair").ok();
    assert_eq!(space.files("cache"), before);
}

#[test]
fn a_run_waits_for_readers_and_no_verdict_is_given_on_what_is_written() {
    let space = Space::with_photos();
    space.run("run photos.toml --set network.blocks=1").ok();
    let stage = space.path("cache/stage1");
    let writes = Lock::take(&stage).unwrap();
    space.run("verify cache/stage1").fails(1, &["nothing was verified", "hint:"]);
    drop(writes);
    let reads = Lock::share(&stage).unwrap();
    let run = space.command("run photos.toml --set training.epochs=2").stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    drop(reads);
    let run = Run::of(run.wait_with_output().unwrap()).ok();
    assert_eq!(run.stderr.matches("which reads it: waiting").count(), 1, "{}", run.stderr);
}

#[test]
fn a_record_that_names_files_elsewhere_is_refused() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    let text = fs::read_to_string(space.path("cache/stage1/record.json")).unwrap();
    for name in ["../stage2/block.safetensors", "/etc/passwd"] {
        // Version 1 has no seal.
        let unsealed = text.lines().filter(|line| !line.starts_with("  \"blake3\"")).collect::<Vec<_>>().join("\n");
        let hostile =
            unsealed.replace("\"format\": 2", "\"format\": 1").replace("\"block.safetensors\"", &format!("\"{name}\""));
        space.write("cache/stage1/record.json", &hostile);
        space.write("cache/stage1/spare/record.json", &hostile);
        space.run("inspect cache/stage1").fails(1, &[&format!("`{name}` is no file of a stage"), "hint:"]);
    }
}

#[test]
fn a_stage_that_is_being_written_is_left_out_and_not_disturbed() {
    let space = Space::new();
    let command = "run small.toml --set training.epochs=500";
    let mut child = space.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !space.path("cache/stage1/checkpoint").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let found = space.run("verify cache");
    let looked = [space.run("status small.toml"), space.run("inspect cache/stage0")];
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        found.stdout.contains("in use by process") && found.stdout.contains("stage0  finished"),
        "{}",
        found.stdout
    );
    found.ok();
    looked.into_iter().for_each(|run| drop(run.ok()));
    let found = space.run("verify cache").ok().stdout;
    assert!(found.contains("cache/stage1  under way"), "{found}");
}
