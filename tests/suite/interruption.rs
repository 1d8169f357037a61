//! A run that was stopped goes on, and ends with the bytes of one that was not.

use crate::space::{Run, Space};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a run and kills it once a checkpoint of the third epoch or a later one is there.
pub fn kill_after_three_epochs(space: &Space, command: &str, checkpoints: &str) {
    let mut child = space.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let third = std::ffi::OsStr::new("epoch-000003");
    let reached = || {
        let entries = std::fs::read_dir(space.path(checkpoints)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).any(|name| name.as_os_str() >= third)
    };
    while !reached() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the third epoch was seen");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_missing_shard_alone_is_written_again() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let before = space.results("cache");
    std::fs::remove_file(space.path("cache/stage1/train/features/c/0/0/0/0/0")).unwrap();
    let again = space.run("run small.toml").ok();
    assert!(again.stderr.contains("stage 1 (partial: 1 of 2 shards)"), "{}", again.stderr);
    assert!(!again.stderr.contains("epoch"), "the block was trained again:\n{}", again.stderr);
    space.same_results("cache", &before, "made whole again");
}

#[test]
fn lost_weights_are_learned_and_lost_small_files_written_again() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let before = space.results("cache");
    let small = ["stage0/train/labels/c/0", "stage0/zarr.json", "stage1/val/logits/c/0/0", "stage2/val/zarr.json"];
    for lost in small {
        std::fs::remove_file(space.path("cache").join(lost)).unwrap();
    }
    let again = space.run("run small.toml").ok();
    assert!(!again.stderr.contains("epoch"), "a block was trained again:\n{}", again.stderr);
    space.same_results("cache", &before, "made whole again");
    std::fs::remove_file(space.path("cache/stage1/block.safetensors")).unwrap();
    let again = space.run("run small.toml").ok();
    assert!(again.stderr.contains("stage 1 (partial: weights are missing or cut off)"), "{}", again.stderr);
    assert!(!again.stderr.contains("stage 2"), "the same bytes came out, yet:\n{}", again.stderr);
    space.same_results("cache", &before, "made whole again");
}

#[test]
fn changed_weights_are_never_used() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let weights = space.path("cache/stage1/block.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let mut changed = whole.clone();
    let last = changed.len() - 2;
    changed[last] ^= 1;
    std::fs::write(&weights, &changed).unwrap();
    space.run("evaluate cache").fails(1, &["block.safetensors", "its hash is not the recorded one", "hint:"]);
    std::fs::remove_file(space.path("cache/stage1/train/features/c/0/0/0/0/0")).unwrap();
    space.run("run small.toml").fails(1, &["block.safetensors", "hint:"]);
    std::fs::write(&weights, &whole[..50]).unwrap();
    let again = space.run("run small.toml").ok();
    assert!(again.stderr.contains("weights are missing or cut off"), "{}", again.stderr);
    assert_eq!(std::fs::read(&weights).unwrap(), whole);
}

#[test]
fn two_runs_at_once_never_fail_for_another_reason_than_each_other() {
    for _ in 0..5 {
        let space = Space::new();
        let start = || space.command("run small.toml").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        for child in [start(), start()] {
            let run = Run::of(child.wait_with_output().unwrap());
            assert!(run.code == 0 || run.stderr.contains("is in use by"), "{}", run.stderr);
        }
        space.run("run small.toml").ok();
    }
}

#[test]
fn a_storage_setting_leaves_training_that_was_begun_as_it_is() {
    let space = Space::new();
    let settings = "--set training.epochs=40 --set network.blocks=1";
    kill_after_three_epochs(&space, &format!("run small.toml {settings}"), "cache/stage1/checkpoint");
    let run = space.run(&format!("run small.toml {settings} --set features.dtype=f32")).ok();
    assert!(run.stderr.contains("goes on after epoch"), "{}", run.stderr);
}

#[test]
fn training_goes_on_from_the_older_checkpoint_where_the_newer_is_damaged() {
    let space = Space::new();
    let settings = "--set training.epochs=40 --set network.blocks=1";
    space.run(&format!("run small.toml --cache whole {settings}")).ok();
    kill_after_three_epochs(&space, &format!("run small.toml --cache cut {settings}"), "cut/stage1/checkpoint");
    let checkpoints = std::fs::read_dir(space.path("cut/stage1/checkpoint")).unwrap();
    let mut paths: Vec<PathBuf> = checkpoints.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let newest = paths.iter().rfind(|path| path.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let mut bytes = std::fs::read(newest).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 0x40;
    std::fs::write(newest, bytes).unwrap();
    let run = space.run(&format!("run small.toml --cache cut {settings}")).ok();
    assert!(run.stderr.contains("goes on after epoch"), "{}", run.stderr);
    space.same_results("cut", &space.results("whole"), "after a kill");
}

/// Starts a run, sends a signal once a path is there, and gives what the run came to; it has to end in good time.
pub fn stopped(space: &Space, command: &str, signal: &str, once: &str) -> Run {
    let child = space.command(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let patience = Instant::now();
    while !space.path(once).exists() {
        assert!(patience.elapsed() < Duration::from_secs(60), "`{once}` never came");
        std::thread::sleep(Duration::from_millis(2));
    }
    let second = space.run(command);
    second.fails(1, &["is in use by process", &child.id().to_string(), "hint:"]);
    let sent = Instant::now();
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let run = Run::of(child.wait_with_output().unwrap());
    assert!(sent.elapsed() < Duration::from_secs(2), "it took {:?} to end", sent.elapsed());
    run.fails(130, &["the same command goes on", command])
}

#[test]
fn a_run_that_is_stopped_says_how_to_go_on_whatever_it_does() {
    let slow_images = "run small.toml --set data.size=512 --set data.train_images=2000";
    stopped(&Space::new(), slow_images, "-INT", "cache/stage0/train/features/c");
    let training = "run small.toml --set training.epochs=200";
    stopped(&Space::new(), training, "-TERM", "cache/stage1/checkpoint");
    let extraction = "run small.toml --set data.train_images=3000 --set stage.1.training.epochs=1 \
                      --set stage.2.training.epochs=1000 --set network.width=64";
    stopped(&Space::new(), extraction, "-INT", "cache/stage1/train/features/c");
}

#[test]
fn training_that_is_stopped_goes_on_at_the_same_step() {
    // The next checkpoint is minutes away: only the stop itself writes one.
    let space = Space::new();
    let long = "run small.toml --set data.train_images=10000 --set training.batch=2 --set network.blocks=1";
    let mut child = space.command(long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let seen = |space: &Space| {
        let text = std::fs::read(space.path("cache/stage1/progress.json")).ok()?;
        serde_json::from_slice::<serde_json::Value>(&text).ok()?["done"].as_u64()
    };
    while seen(&space).unwrap_or(0) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(Run::of(child.wait_with_output().unwrap()).code, 130);
    let checkpoints = std::fs::read_dir(space.path("cache/stage1/checkpoint")).unwrap();
    let names: Vec<String> = checkpoints.map(|entry| entry.unwrap().file_name().display().to_string()).collect();
    assert!(
        names.iter().any(|name| name.starts_with("epoch-000000-step-") && !name.contains("-00000000")),
        "{names:?}"
    );
}

#[test]
fn what_does_not_stop_by_itself_is_ended() {
    // One batch takes longer than anybody waits for.
    let space = Space::new();
    let heavy = "run small.toml --set network.width=512 --set auxiliary.width=512 --set training.batch=300";
    stopped(&space, heavy, "-TERM", "cache/stage1/record.json");
}
