//! What is said about every image file, and what must never be: as a user meets it.

use crate::space::{Run, Space};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A gray picture of its own shade.
fn picture(shade: u8) -> Vec<u8> {
    [&b"P5 8 8 255\n"[..], &[shade; 64]].concat()
}

const PIPELINE: &str = "[data]\nsource = \"folder\"\npath = \"photos\"\nsize = 8\n[network]\nblocks = 1\nwidth = 4\n\
                        [auxiliary]\nwidth = 4\n[training]\nepochs = 1\nbatch = 4\n";

/// Two classes of four training and two validation images.
fn photos() -> Space {
    let space = Space::new();
    space.write("photos.toml", PIPELINE);
    for (split, count) in [("train", 4), ("val", 2)] {
        for class in ["cat", "dog"] {
            (0..count).for_each(|at| space.write(&format!("photos/{split}/{class}/{at}.pgm"), picture(20 * at)));
        }
    }
    space
}

#[test]
fn one_line_says_how_many_files_were_found_taken_and_passed_over() {
    let space = photos();
    for (path, _) in
        [("train/cat/a.avif", ()), ("train/cat/.hidden", ()), ("train/Thumbs.db", ()), ("val/heron/1.heic", ())]
    {
        space.write(&format!("photos/{path}"), "x");
    }
    let run = space.run("run photos.toml --json").ok();
    assert!(run.stderr.contains("16 files found, 12 images taken, passed over: 1 .avif"), "{}", run.stderr);
    assert!(run.stderr.contains("1 folder holds no image and is no class: `heron`"), "{}", run.stderr);
    let data = &run.json()["images"]["data"];
    assert_eq!((&data["files"], &data["images"]), (&16.into(), &12.into()));
    assert_eq!(data["passed_over"]["system litter"]["example"], "train/Thumbs.db");
    let again = space.run("status photos.toml --json").ok().json();
    assert_eq!(again["stages"][0]["record"]["data"], *data);
}

#[test]
fn all_bad_images_of_both_splits_are_listed_before_the_run_fails() {
    let space = photos();
    for path in ["train/cat/1.pgm", "train/dog/3.pgm", "val/dog/0.pgm"] {
        space.write(&format!("photos/{path}"), "P5 8 8 255\ncut");
    }
    let run = space.run("run photos.toml");
    for path in ["3 images are bad", "train/cat/1.pgm", "train/dog/3.pgm", "val/dog/0.pgm", "on_bad_image"] {
        assert!(run.stderr.contains(path), "{path}: {}", run.stderr);
    }
    run.fails(1, &["hint:"]);
    let skipped = space.run("run photos.toml --set data.on_bad_image=skip --json").ok().json();
    assert_eq!(skipped["images"]["skipped"].as_array().unwrap().len(), 3);
}

#[test]
fn a_class_that_loses_all_its_images_is_named() {
    let space = photos();
    (0..4).for_each(|at| space.write(&format!("photos/train/cat/{at}.pgm"), "no image"));
    let run = space.run("run photos.toml --set data.on_bad_image=skip").ok();
    assert!(
        run.stderr.contains("1 of 2 classes (`cat`) have no image among the 4 good train images"),
        "{}",
        run.stderr
    );
    let space = photos();
    let run = space.run("run photos.toml --set data.val_images=1").ok();
    assert!(run.stderr.contains("have no image among the 1 val images chosen"), "{}", run.stderr);
}

#[test]
fn a_single_class_is_refused_with_the_layout_that_is_expected() {
    let space = Space::new();
    space.write("photos.toml", PIPELINE);
    for (split, class) in [("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")] {
        space.write(&format!("photos/{split}/images/{class}/1.pgm"), picture(9));
    }
    space.run("run photos.toml").fails(1, &["of one class, `images`", "`images` is one folder too many", "hint:"]);
}

#[test]
fn names_that_are_no_text_or_steer_a_terminal_are_shown_with_escapes() {
    let space = photos();
    let odd = |folder: &str, name: &[u8]| space.path(folder).join(OsStr::from_bytes(name));
    for split in ["train", "val"] {
        fs::create_dir_all(odd(&format!("photos/{split}"), b"caf\xe9")).unwrap();
        fs::write(odd(&format!("photos/{split}"), b"caf\xe9").join("\x1b[2Jx.pgm"), picture(3)).unwrap();
    }
    let bad: PathBuf = odd("photos/train", b"caf\xe9").join(OsStr::from_bytes(b"\x1b]0;b\xffd\x07.pgm"));
    fs::write(&bad, "bad").unwrap();
    let cache: OsString = OsStr::from_bytes(b"c\xe4che").into();
    let run = |command: &str| Run::of(space.command(command).arg("--cache").arg(&cache).output().unwrap());
    let done = run("run photos.toml --json --set data.on_bad_image=skip").ok();
    assert!(!done.stderr.contains('\x1b') && done.stderr.contains(r"\x1b]0;b\xffd\x07.pgm"), "{}", done.stderr);
    assert_eq!(done.json()["cache"], r"c\xe4che");
    let classes = run("status photos.toml --json --set data.on_bad_image=skip").ok().json();
    assert_eq!(classes["stages"][1]["state"], "current");
    let record = fs::read_to_string(space.path("").join(&cache).join("stage0/record.json")).unwrap();
    assert!(record.contains(r#""caf\\xe9""#), "{record}");
    let mut command = space.command("predict --json");
    command.arg("--from").arg(PathBuf::from(&cache).join("stage1")).arg(&bad);
    let found = Run::of(command.output().unwrap());
    assert!(found.json()["images"][0]["image"].as_str().unwrap().ends_with(r"\x1b]0;b\xffd\x07.pgm"));
    found.fails(1, &[]);
}

#[test]
fn a_home_is_expanded_and_a_variable_refused() {
    let space = photos();
    let at_home = |arguments: &str| Run::of(space.command(arguments).env("HOME", space.path("")).output().unwrap());
    at_home("run photos.toml --set data.path=~/photos --set cache=~/kept").ok();
    assert!(space.path("kept/stage0").is_dir() && !space.path("~").exists());
    at_home("run photos.toml --set data.path=$HOME/photos").fails(2, &["variables are not expanded", "hint:"]);
    at_home("run photos.toml --set cache=~somebody/x").fails(2, &["~somebody"]);
}

#[test]
fn settings_as_people_type_them_are_answered_with_what_would_be_right() {
    let space = photos();
    for (setting, words) in [
        ("augmentation.flip=True", ["\"True\"", "write `flip = true`"]),
        ("training.learning_rate=.1", ["\".1\"", "write `learning_rate = 0.1`"]),
        ("training.learning_rate=nan", ["a number between 1e-9 and 1000.0, not NaN", ""]),
        ("training.epochs=5.0", ["not 5.0", "write `epochs = 5`"]),
        ("name=5", ["a text, not 5", "write `name = \"5\"`"]),
        ("data.mean=[0.5]", ["needs 3 values", ""]),
        ("augmentation.scale=[0.5]", ["only with `crop = \"resized\"`", ""]),
    ] {
        space.run(&format!("run photos.toml --dry-run --set {setting}")).fails(2, &words);
    }
    space.write("typed.toml", format!("{PIPELINE}learning_rate = .1\n"));
    space.run("run typed.toml --dry-run").fails(2, &["write `learning_rate = 0.1`"]);
    space.write("typed.toml", format!("{PIPELINE}[augmentation]\nflip = True\n"));
    space.run("run typed.toml --dry-run").fails(2, &["write `flip = true`"]);
    space.write("typed.toml", b"\xff\xfe[\0d\0");
    space.run("run typed.toml --dry-run").fails(2, &["`typed.toml` is UTF-16", "hint:"]);
}

#[test]
fn what_file_managers_leave_in_a_cache_hinders_nothing() {
    let space = photos();
    space.run("run photos.toml").ok();
    for path in [".DS_Store", "stage0/.DS_Store", "stage1/._record.json", "stage1/train/.nfs0001", "stage1/@eaDir/x"] {
        space.write(&format!("cache/{path}"), "x");
    }
    space.run("verify cache").ok();
    space.run("run photos.toml --set training.epochs=2").ok();
    assert_eq!(space.states("photos.toml --set training.epochs=2"), ["current", "current"]);
    space.run("clean photos.toml --yes").ok();
}

#[test]
fn huge_and_endless_files_given_to_predict_are_refused_at_once() {
    let space = photos();
    space.run("run photos.toml").ok();
    fs::File::create(space.path("huge.jpg")).unwrap().set_len(1 << 40).unwrap();
    space
        .run("predict --from cache/stage1 huge.jpg /dev/zero .")
        .fails(1, &["huge.jpg", "too large", "/dev/zero", "not an image file"]);
}
