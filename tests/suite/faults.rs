//! Disks that are full, cannot be written or hold something else: clear errors, and nothing is damaged.

use crate::space::{Run, Space};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

/// The user `nobody`, who owns nothing.
const NOBODY: u32 = 65_534;

/// Runs a copy of the program that has no right to write to the space, also where the tests run as root.
fn run_without_rights(space: &Space, arguments: &str) -> Run {
    let program = space.path("greedy");
    if !program.exists() {
        let built = env!("CARGO_BIN_EXE_greedy");
        std::fs::hard_link(built, &program).or_else(|_| std::fs::copy(built, &program).map(drop)).unwrap();
    }
    let root = std::fs::metadata(space.path(".")).unwrap().uid() == 0;
    let mut command = std::process::Command::new(&program);
    command.args(arguments.split_whitespace()).current_dir(space.path("."));
    if root {
        command.uid(NOBODY);
    }
    Run::of(command.output().unwrap())
}

/// Sets the rights of everything below a path: folders and programs to 0o555, files to 0o444, or back.
fn set_writable(path: &Path, writable: bool) {
    let mode = |folder: bool| if folder { 0o555 } else { 0o444 } | if writable { 0o200 } else { 0 };
    let set = || std::fs::set_permissions(path, PermissionsExt::from_mode(mode(path.is_dir()))).unwrap();
    set();
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| set_writable(&entry.unwrap().path(), writable));
    }
}

#[test]
fn a_stage_that_does_not_fit_on_the_disk_is_refused_before_it_begins() {
    let space = Space::new();
    let large = "run small.toml --set data.train_images=150 --set data.val_images=50 --set data.size=512 \
                 --set network.width=8192 --set features.dtype=f32 --set network.space_to_depth=[]";
    space.run(large).fails(1, &["stage 1: not enough room for `cache/stage1`", "are needed", "are free", "hint:"]);
    assert!(!space.path("cache/stage1/record.json").exists());
}

#[test]
fn without_the_right_to_write_nothing_is_done_and_all_can_be_read() {
    let space = Space::new();
    space.run("run small.toml --set network.blocks=1").ok();
    let before = space.files("cache");
    std::fs::set_permissions(space.path("."), PermissionsExt::from_mode(0o755)).unwrap();
    set_writable(&space.path("cache"), false);
    run_without_rights(&space, "run small.toml").fails(1, &["cache/stage2`: permission denied", "hint:"]);
    run_without_rights(&space, "run small.toml --set network.blocks=1").ok();
    run_without_rights(&space, "status small.toml").ok();
    run_without_rights(&space, "inspect cache/stage1").ok();
    run_without_rights(&space, "evaluate cache/stage1").ok();
    run_without_rights(&space, "run small.toml --set seed=7").fails(1, &["permission denied", "hint:"]);
    set_writable(&space.path("cache"), true);
    assert_eq!(space.files("cache"), before);
}

#[test]
fn a_file_in_place_of_a_folder_is_named() {
    let space = Space::new();
    space.write("cache/stage1", "notes");
    space.run("run small.toml").fails(1, &["`cache/stage1", "a file lies where a folder should be"]);
    space.write("other", "notes");
    space.run("run small.toml --cache other").fails(1, &["`other", "a file lies where a folder should be"]);
    assert_eq!(std::fs::read(space.path("cache/stage1")).unwrap(), b"notes");
}
