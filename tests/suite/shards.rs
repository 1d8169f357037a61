//! Workers that make parts of nodes end with the bytes of one run, whatever happens to them.

use crate::kills::{PIPELINE, write_images};
use crate::space::{Run, Space};
use greedy::random::{Purpose, Stream};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The pipeline that is killed elsewhere, some of whose images are bad, and what one run makes of it.
pub fn space() -> (Space, Vec<(PathBuf, Vec<u8>)>) {
    let space = Space::new();
    write_images(&space);
    space.write("killed.toml", PIPELINE);
    space.run("run killed.toml --cache whole").ok();
    let expected = space.results("whole");
    (space, expected)
}

fn start(space: &Space, arguments: &str) -> Child {
    space.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Checks all images in parts.
pub fn check(space: &Space, parts: usize) {
    for part in 1..=parts {
        space.run(&format!("shards images killed.toml --cache cut --check --part {part}/{parts}")).ok();
    }
}

#[test]
fn workers_that_are_killed_and_there_twice_end_with_the_bytes_of_one_run() {
    let (space, expected) = space();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut rng = Stream::new(Purpose::Order, seed, (0, 0));
    for node in ["images", "stage1", "stage2"] {
        space.run(&format!("run killed.toml {node} --cache cut --until trained")).ok();
        if node == "images" {
            check(&space, 3);
        }
        for part in [2, 3, 1] {
            let work = format!("shards {node} killed.toml --cache cut --part {part}/3");
            for _ in 0..3 {
                let mut child = start(&space, &work);
                std::thread::sleep(Duration::from_millis(rng.below(150)));
                let _ = child.kill();
                child.wait().unwrap();
            }
            let twice = [start(&space, &work), start(&space, &work)];
            for mut child in twice {
                assert!(child.wait().unwrap().success(), "{work}, seed {seed}");
            }
        }
        let said = space.run(&format!("run killed.toml {node} --cache cut")).ok().stderr;
        assert!(said.contains("3 receipts of workers") && !said.contains("written here"), "{said}");
    }
    space.same_results("cut", &expected, &format!("seed {seed}"));
    assert!(space.states("killed.toml --cache cut").iter().all(|state| state == "current"));
    space.run("verify cut").ok();
    // A part that comes late finds its work done by others.
    let late = space.run("shards 2 --from cut/stage1 --part 5/7 --json").ok();
    assert!(late.stderr.contains("stage 2 is finished"), "{}", late.stderr);
    assert_eq!(late.json()["parts"], 7);
    space.same_results("cut", &expected, "after a late part");
}

#[test]
fn what_workers_have_not_made_is_made_by_the_run_that_finishes() {
    let (space, expected) = space();
    space.run("run killed.toml images --cache cut --until begun").ok();
    check(&space, 2);
    space.run("shards images killed.toml --cache cut --part 2/2").ok();
    space.run("run killed.toml stage1 --cache cut --until trained").ok();
    space.run("shards stage1 killed.toml --cache cut --part 1/2").ok();
    // A shard that got lost again, and one that was cut off: the length tells.
    let shard = |at| space.path(&format!("cut/stage1/train/features/c/0/{at}/0/0/0"));
    if shard(0).exists() {
        let bytes = std::fs::read(shard(0)).unwrap();
        std::fs::write(shard(0), &bytes[..bytes.len() / 2]).unwrap();
    }
    let said = space.run("run killed.toml --cache cut").ok().stderr;
    assert!(said.contains("written here: of 2 parts 2"), "{said}");
    space.same_results("cut", &expected, "made by both");
}

#[test]
fn a_single_stage_is_scattered_and_gathered_from_the_folder_before_it_alone() {
    let space = Space::new();
    space.run("run small.toml stage1").ok();
    space.run("stage 2 --from cache/stage1 --to one").ok();
    let expected = space.results("one");
    space.run("stage 2 --from cache/stage1 --to two --until trained").ok();
    assert!(!space.path("two/train/features/c").exists());
    for part in 1..=2 {
        space.run(&format!("shards 2 --to two --part {part}/2")).ok();
    }
    space.run("stage 2 --from cache/stage1 --to two").ok();
    space.same_results("two", &expected, "in two parts");
}

#[test]
fn a_worker_refuses_what_is_not_its_own_to_make() {
    let space = Space::new();
    let none = ["no shards can be made", "it was not begun", "hint: `greedy stage N"];
    space.run("shards images small.toml --part 1/2").fails(1, &none);
    space.run("run small.toml images").ok();
    space.run("run small.toml stage1 --until trained").ok();
    let changed = "shards stage1 small.toml --part 1/2 --set training.epochs=4";
    space.run(changed).fails(1, &["training.epochs: 3 -> 4", "hint: `greedy run PIPELINE stage1 --until trained`"]);
    space.run("shards stage1 small.toml --part 3/2").fails(2, &["there is no part 3 of 2"]);
    space.run("shards stage1 small.toml --part 3").fails(2, &["`3` is no part"]);
    space.run("shards stage1 small.toml --parts 2").fails(2, &["which part this is"]);
    space.run("shards stage1 --part 1/2").fails(2, &["whose shards these are"]);
    space.run("shards stage1 small.toml --part 1/2 --check").fails(2, &["holds no images"]);
    space.run("run small.toml --until trained").fails(2, &["`--until` goes with one node"]);
    let of = |variable: &str, value: &str| {
        let mut command = space.command("shards stage1 small.toml --parts 2 --json");
        Run::of(command.env(variable, value).output().unwrap())
    };
    assert_eq!(of("SLURM_ARRAY_TASK_ID", "2").ok().json()["part"], 2);
    assert_eq!(of("JOB_COMPLETION_INDEX", "0").ok().json()["part"], 1);
    of("SLURM_ARRAY_TASK_ID", "0").fails(2, &["there is no part 0 of 2", "sbatch --array=1-2"]);
}

#[test]
fn verifying_in_parts_finds_what_verifying_the_whole_does() {
    let (space, _) = space();
    let verify = |part: usize| space.run(&format!("shards 1 --from whole/stage0 --verify --part {part}/3"));
    (1..=3).for_each(|part| drop(verify(part).ok()));
    let path = space.path("whole/stage1/train/features/c/0/0/0/0/0");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let runs: Vec<Run> = (1..=3).map(verify).collect();
    assert_eq!(runs.iter().filter(|run| run.code == 1).count(), 1);
    let said: String = runs.iter().map(|run| run.stdout.as_str()).collect();
    assert!(said.contains("c/0/0/0/0/0: damaged: its hash is not the recorded one"), "{said}");
}

#[test]
fn many_jobs_train_on_one_stage_at_once_and_are_compared() {
    let space = Space::new();
    space.run("run small.toml stage1").ok();
    let rates = ["0.05", "0.1", "0.2"];
    let job = |rate: &&str| {
        start(&space, &format!("stage 2 --from cache/stage1 --to sweep/{rate} --set training.learning_rate={rate}"))
    };
    for mut child in rates.iter().map(job).collect::<Vec<_>>() {
        assert!(child.wait().unwrap().success());
    }
    space.run("report sweep --to sweep.html").ok();
    let page = std::fs::read_to_string(space.path("sweep.html")).unwrap();
    let missing: Vec<_> = rates.iter().filter(|rate| !page.contains(&format!("small ({rate})"))).collect();
    assert!(missing.is_empty(), "{missing:?} are not in the report");
}

#[test]
fn a_receipt_has_key_length_and_hash_of_each_shard_of_its_part_as_the_record_will() {
    let space = Space::new();
    space.run("run small.toml stage1 --until trained").ok();
    let parts = [1, 2].map(|part| space.run(&format!("shards 1 --to cache/stage1 --part {part}/2 --json")).ok().json());
    space.run("run small.toml stage1").ok();
    let record: Value =
        serde_json::from_slice(&std::fs::read(space.path("cache/stage1/record.json")).unwrap()).unwrap();
    let mut count = 0;
    for array in ["train/features", "val/features"] {
        let of = |from: &Value| from.as_array().unwrap().clone();
        let mut all: Vec<Value> = parts.iter().flat_map(|receipt| of(&receipt["arrays"][array])).collect();
        all.sort_by_key(|shard| shard[0].as_str().unwrap().to_string());
        let mut expected = of(&record["arrays"][array]["shards"]);
        expected.sort_by_key(|shard| shard[0].as_str().unwrap().to_string());
        assert_eq!(all, expected);
        count += all.len();
    }
    assert!(count > 1, "there is nothing to divide");
    for receipt in &parts {
        let made_on = json!({ "version": env!("CARGO_PKG_VERSION"), "device": "cpu", "threads": 2 });
        assert_eq!((&receipt["made_on"], &receipt["node"]), (&made_on, &json!("stage 1")));
        assert_eq!(receipt["host"], greedy::temporary::host());
    }
}

#[test]
fn a_shard_that_is_there_is_left_to_its_readers_and_one_that_is_damaged_is_made_again() {
    let space = Space::new();
    space.run("run small.toml stage1 --until trained").ok();
    let work = "shards 1 --to cache/stage1 --part 1/1";
    let again = || {
        // Nothing is known of an attempt that was killed before its receipt.
        std::fs::remove_dir_all(space.path("cache/stage1/parts")).unwrap();
        space.run(work).ok();
    };
    space.run(work).ok();
    let shard = space.path("cache/stage1/train/features/c/0/0/0/0/0");
    let look = || (std::fs::metadata(&shard).unwrap().ino(), std::fs::read(&shard).unwrap());
    let first = look();
    again();
    assert!(look() == first);
    let mut damaged = first.1.clone();
    damaged[40] ^= 1;
    std::fs::write(&shard, damaged).unwrap();
    again();
    assert!(look().1 == first.1);
}

#[test]
fn a_check_leaves_no_image_out_where_bad_ones_are_to_fail() {
    let space = Space::new();
    write_images(&space);
    space.write("killed.toml", PIPELINE.replace("on_bad_image = \"skip\"", ""));
    space.run("run killed.toml images --cache cut --until begun").ok();
    check(&space, 1);
    space.run("run killed.toml images --cache cut").fails(1, &["11 images are bad"]);
    space.run("shards images killed.toml --cache cut --part 1/1").fails(1, &["bad"]);
}
