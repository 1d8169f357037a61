//! Workers on a disk of the network, as an unlucky machine sees it: it has no locks, and names are seen late.

use crate::kills::{PIPELINE, write_images};
use crate::shards::check;
use crate::space::{Run, Space};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

/// Seconds until a machine sees what another has put in place.
const LATE: u64 = 2;

/// A space whose folder `cut` lies on such a disk.
struct NetworkDisk {
    space: Space,
    expected: Vec<(PathBuf, Vec<u8>)>,
    library: PathBuf,
}

impl NetworkDisk {
    fn new() -> Self {
        let space = Space::new();
        write_images(&space);
        space.write("killed.toml", PIPELINE);
        space.run("run killed.toml --cache whole").ok();
        let expected = space.results("whole");
        let library = space.path("network_disk.so");
        let source = format!("{}/tests/fixtures/network_disk.c", env!("CARGO_MANIFEST_DIR"));
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status().unwrap();
        assert!(built.success(), "`cc` cannot build the disk");
        Self { space, expected, library }
    }

    /// The program on a machine that sees what others do so many seconds late.
    fn command(&self, arguments: &str, late: u64) -> Command {
        let mut command = self.space.command(arguments);
        command.env("LD_PRELOAD", &self.library).env("NETWORK_DISK_FOLDER", "cut/");
        command.env("NETWORK_DISK_SECONDS", late.to_string());
        command
    }

    fn run(&self, arguments: &str, late: u64) -> Run {
        Run::of(self.command(arguments, late).output().unwrap())
    }

    /// Starts all of them at once, and waits for them.
    fn at_once(&self, all: &[String], late: u64) -> Vec<Run> {
        let start = |arguments: &String| {
            self.command(arguments, late).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = all.iter().map(start).collect();
        children.into_iter().map(|child| Run::of(child.wait_with_output().unwrap())).collect()
    }
}

#[test]
fn what_is_seen_late_is_waited_for_and_what_is_not_seen_made_again_with_the_same_bytes() {
    let disk = NetworkDisk::new();
    // It is seen late indeed, and not waited for where that is not asked for.
    disk.run("run killed.toml images --cache cut --until begun", 0).ok();
    disk.run("shards 0 --to cut/stage0 --check --part 1/2", LATE).fails(1, &["it was not begun"]);
    for node in ["images", "stage1", "stage2"] {
        disk.run(&format!("run killed.toml {node} --cache cut --until trained"), 0).ok();
        let parts = |what: &str| -> Vec<String> {
            let of = |part| format!("shards {node} killed.toml --cache cut --wait 30 {what} --part {part}/2");
            [1, 2, 1, 2].map(of).into()
        };
        if node == "images" {
            disk.at_once(&parts("--check"), LATE).into_iter().for_each(|run| drop(run.ok()));
        }
        disk.at_once(&parts(""), LATE).into_iter().for_each(|run| drop(run.ok()));
        disk.run(&format!("run killed.toml {node} --cache cut"), LATE).ok();
    }
    disk.space.same_results("cut", &disk.expected, "on a disk whose names are seen late");
    disk.space.run("verify cut").ok();
}

#[test]
fn where_locks_keep_nobody_out_nothing_breaks() {
    let disk = NetworkDisk::new();
    disk.run("run killed.toml images --cache cut", 0).ok();
    for stage in 1..=2 {
        disk.run(&format!("run killed.toml stage{stage} --cache cut --until trained"), 0).ok();
        let work = |part| format!("shards {stage} --from cut/stage{} --part {part}/2", stage - 1);
        let finish = || format!("run killed.toml stage{stage} --cache cut");
        let runs = disk.at_once(&[work(1), work(2), finish(), work(1), finish(), work(2)], 0);
        for run in runs {
            assert!(run.code == 0 || run.code == 1 && !run.stderr.contains("panicked"), "{}", run.stderr);
        }
        disk.run(&finish(), 0).ok();
    }
    disk.space.same_results("cut", &disk.expected, "without locks");
    assert!(disk.space.states("killed.toml --cache cut").iter().all(|state| state == "current"));
    disk.space.run("verify cut").ok();
}

#[test]
fn a_sweep_goes_on_where_there_are_no_locks() {
    let disk = NetworkDisk::new();
    disk.run("run killed.toml stage1 --cache cut", 0).ok();
    thread::sleep(Duration::from_secs(LATE));
    let job = |rate| format!("stage 2 --from cut/stage1 --to sweep/{rate} --set training.learning_rate={rate}");
    disk.at_once(&["0.05", "0.1"].map(job), LATE).into_iter().for_each(|run| drop(run.ok()));
    disk.space.run("verify cut").ok();
}

#[test]
fn receipts_of_the_check_that_are_gone_are_missed_before_any_image_moves_up() {
    let disk = NetworkDisk::new();
    let space = &disk.space;
    space.run("run killed.toml images --cache cut --until begun").ok();
    check(space, 2);
    space.run("shards images killed.toml --cache cut --part 1/2").ok();
    let receipt = space.path("cut/stage0/parts/check-1-of-2.json");
    std::fs::remove_file(&receipt).unwrap();
    let finish = "run killed.toml images --cache cut";
    space.run(finish).fails(1, &["the receipts of which are bad are gone", "hint: let workers check all parts"]);
    // Where all receipts are gone, the list beside the shards says which images are not in them.
    std::fs::remove_dir_all(space.path("cut/stage0/parts")).unwrap();
    space.run(finish).ok();
    let of_images = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<(PathBuf, Vec<u8>)> {
        files.into_iter().filter(|(path, _)| path.starts_with("stage0")).collect()
    };
    assert!(of_images(space.results("cut")) == of_images(disk.expected.clone()));
}

#[test]
fn whether_another_machines_file_is_left_over_is_told_by_the_clock_of_the_disk() {
    let disk = NetworkDisk::new();
    let days = Duration::from_secs(2 * 24 * 3600);
    let (name, path) = ("zarr.json.elsewhere-7-012345670.unfinished", disk.space.path("whole/stage1/train"));
    std::fs::write(path.join(name), "half").unwrap();
    let says = |ahead: i64| {
        let mut command = disk.command("verify whole/stage1", 0);
        let run = Run::of(command.env("NETWORK_DISK_AHEAD", ahead.to_string()).output().unwrap());
        run.stdout.contains(name)
    };
    let ahead = days.as_secs() as i64;
    assert!(!says(ahead), "a machine whose clock is ahead takes what is written now for left over");
    let file = std::fs::File::options().write(true).open(path.join(name)).unwrap();
    file.set_modified(SystemTime::now() - days).unwrap();
    assert!(says(0) && says(-ahead), "a machine whose clock is behind does not see what is left over");
}
