//! What makes a stage stale and what does not, and what `status` says about it.

use crate::space::{Run, Space};
use serde_json::json;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

fn set_time(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn names_sizes_and_times_of_the_images_count_and_nothing_else_about_them() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    let image = space.path("photos/train/a/1.png");
    let (bytes, time) = (fs::read(&image).unwrap(), fs::metadata(&image).unwrap().modified().unwrap());
    let (current, stale) = (["current"; 3], ["stale", "waiting", "waiting"]);
    assert_eq!(space.states("photos.toml"), current);

    set_time(&image, time + Duration::from_millis(20));
    assert_eq!(space.states("photos.toml"), stale);
    let why = space.run("status photos.toml").ok().stdout;
    assert!(why.contains("images: data.files: 6 files") && why.contains("other names or times"), "{why}");
    set_time(&image, time);
    assert_eq!(space.states("photos.toml"), current);

    fs::write(&image, [&bytes[..], b"more"].concat()).unwrap();
    set_time(&image, time);
    assert_eq!(space.states("photos.toml"), stale);
    let why = space.run("status photos.toml").ok().stdout;
    assert!(why.contains("images: data.files: 6 files") && why.contains("->"), "{why}");
    fs::write(&image, &bytes).unwrap();
    set_time(&image, time);
    assert_eq!(space.states("photos.toml"), current);

    fs::rename(&image, space.path("photos/train/a/7.png")).unwrap();
    assert_eq!(space.states("photos.toml"), stale);
    fs::rename(space.path("photos/train/a/7.png"), &image).unwrap();

    space.write("photos/train/a/notes.txt", "these are no images");
    space.write("photos/.hidden/8.png", &bytes);
    assert_eq!(space.states("photos.toml"), current);
    fs::rename(space.path("photos"), space.path("moved")).unwrap();
    assert_eq!(space.states("photos.toml --set data.path=moved"), current);
}

#[test]
fn files_of_any_time_are_taken_as_they_are() {
    // A clock may be wrong, now or when the files were written.
    let space = Space::with_photos();
    let image = space.path("photos/val/a/5.png");
    let hour = Duration::from_secs(3600);
    for time in [SystemTime::now() + 24 * 365 * 10 * hour, SystemTime::UNIX_EPOCH - hour] {
        set_time(&image, time);
        space.run("run photos.toml").ok();
        assert_eq!(space.states("photos.toml"), ["current"; 3]);
    }
    set_time(&image, SystemTime::UNIX_EPOCH - 2 * hour);
    assert_eq!(space.states("photos.toml"), ["stale", "waiting", "waiting"]);
}

#[test]
fn a_large_folder_is_remembered_and_can_be_looked_at_again() {
    let space = Space::with_photos();
    let image = space.path("photos/val/a/5.png");
    let odd = space.path("photos/train/a/00001.png");
    fs::copy(&image, &odd).unwrap();
    (2..2200)
        .chain([0])
        .for_each(|at| fs::hard_link(&image, space.path(&format!("photos/train/a/{at:05}.png"))).unwrap());
    // Times of folders are trusted once they are two seconds old.
    std::thread::sleep(Duration::from_millis(2050));
    let few = "photos.toml --set data.train_images=4 --set data.val_images=2";
    space.run(&format!("run {few}")).ok();
    assert!(space.path("cache/images.seen").exists());
    // One file of many (the first of them is looked at each time), rewritten in place, is what the times of folders do not tell.
    fs::write(&odd, "no image any more").unwrap();
    assert_eq!(space.states(few), ["current"; 3]);
    assert_eq!(space.states(&format!("{few} --look-again")), ["stale", "waiting", "waiting"]);
    // A new file they do tell.
    fs::hard_link(&image, space.path("photos/train/b/7.png")).unwrap();
    assert_eq!(space.states(few), ["stale", "waiting", "waiting"]);
    // Whatever else makes the images stale, they are looked at in full before they are decoded.
    fs::remove_file(space.path("photos/train/b/7.png")).unwrap();
    let why = space.run(&format!("status {few} --set data.size=9")).ok().stdout;
    assert!(why.contains("images: data.files:") && why.contains("images: data.size: 8 -> 9"), "{why}");
}

#[test]
fn device_threads_and_places_change_nothing_but_are_recorded() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    fs::rename(space.path("cache"), space.path("elsewhere")).unwrap();
    fs::create_dir(space.path("below")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_greedy"));
    command.args(["run", "../photos.toml", "--cache", "../elsewhere", "--device", "cpu", "--threads", "1", "--json"]);
    command.args(["--set", "data.path=../photos", "--set", "cache=nowhere"]).current_dir(space.path("below"));
    let run = Run::of(command.output().unwrap()).ok().json();
    assert_eq!(run["done"], json!([]));
    assert_eq!(run["stages"][0]["made_on"]["threads"], 2);
    assert_eq!(run["stages"][0]["made_on"]["device"], "cpu");
}

#[test]
fn what_comes_out_the_same_leaves_the_stages_after_it_current() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    set_time(&space.path("photos/train/a/1.png"), SystemTime::UNIX_EPOCH);
    assert_eq!(space.run("run photos.toml --json").ok().json()["done"], json!(["stage0"]));
    // The only epoch is over before the learning rate ever drops.
    let later = "photos.toml --set stage.1.training.decay_every=40";
    assert_eq!(space.states(later), ["current", "stale", "waiting"]);
    assert_eq!(space.run(&format!("run {later} --json")).ok().json()["done"], json!(["stage1"]));
    assert_eq!(space.states(later), ["current"; 3]);
}

#[test]
fn a_classifier_of_stage_3_is_no_business_of_stages_1_and_2() {
    let space = Space::with_photos();
    let blocks = "photos.toml --set network.blocks=3";
    space.run(&format!("run {blocks}")).ok();
    let before = [space.files("cache/stage1"), space.files("cache/stage2")];
    let wider = format!("{blocks} --set stage.3.auxiliary.width=6");
    assert_eq!(space.states(&wider), ["current", "current", "current", "stale"]);
    assert_eq!(space.run(&format!("run {wider} --json")).ok().json()["done"], json!(["stage3"]));
    assert_eq!([space.files("cache/stage1"), space.files("cache/stage2")], before);
}

#[test]
fn status_explains_every_stage() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    let why = space.run("status photos.toml --why --set stage.1.training.epochs=2 --set network.blocks=3").ok().stdout;
    for part in [
        "images: current\n  the 10 values it depends on are those it was made with (key ",
        "stage 1: stale\n  training.epochs: 1 -> 2\n",
        "stage 2: waiting\n  stage 1 comes first\n  whether it then is current depends on what comes out there\n",
        "made on cpu with 2 threads",
        "stage 3: waiting\n  stage 2 comes first\n  there is no `cache/stage3/record.json`\n",
    ] {
        assert!(why.contains(part), "`{part}` is not in:\n{why}");
    }
}

#[test]
fn a_stage_in_trouble_has_its_row_and_the_others_theirs() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    let record = space.path("cache/stage1/record.json");
    let spare = space.path("cache/stage1/spare/record.json");
    let whole = fs::read_to_string(&record).unwrap();
    for damaged in [
        "{",
        "",
        &whole.replacen("\"epoch\": 1", "\"epoch\": 3", 1),
        &whole.replacen("\"format\": 3", "\"format\": 2", 1),
    ] {
        assert_ne!(damaged, whole);
        fs::write(&record, damaged).unwrap();
        assert_eq!(space.states("photos.toml"), ["current"; 3], "its copy is whole");
        fs::write(&spare, damaged).unwrap();
        assert_eq!(space.states("photos.toml"), ["current", "trouble", "waiting"]);
        space.run("run photos.toml").fails(1, &["cache/stage1/record.json", "hint:"]);
        fs::write(&spare, &whole).unwrap();
    }
    fs::write(&record, &whole).unwrap();
    fs::write(&spare, &whole).unwrap();
    fs::remove_dir_all(space.path("photos")).unwrap();
    assert_eq!(space.states("photos.toml"), ["trouble", "current", "current"]);
    let status = space.run("status photos.toml").ok().stdout;
    assert!(status.contains("images: cannot read folder `photos`: no such file"), "{status}");
    assert_eq!(space.states("photos.toml --set training.epochs=3"), ["trouble", "stale", "stale"]);
}

#[test]
fn a_flipped_bit_in_metadata_is_noticed_and_made_good() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    let before = space.files("cache/stage1/train");
    for name in ["zarr.json", "train/zarr.json", "val/features/zarr.json", "val/logits/zarr.json"] {
        let path = space.path("cache/stage1").join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(space.states("photos.toml"), ["current", "partial", "waiting"], "{name}");
        assert_eq!(space.run("run photos.toml --json").ok().json()["done"], json!(["stage1"]), "{name}");
        assert_eq!(space.states("photos.toml"), ["current"; 3]);
    }
    assert_eq!(space.files("cache/stage1/train"), before);
}
