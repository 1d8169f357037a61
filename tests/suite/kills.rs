//! Runs of a whole pipeline are killed at random instants and started again, until the bytes of an undisturbed run
//! are there.
//!
//! `GREEDY_KILLS=200 cargo test --release kills -- --nocapture` is the longer form; `GREEDY_SEED=…` draws the same
//! targets again.

use crate::space::Space;
use greedy::random::{Purpose, Stream};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Two shards of images (some of them bad), two trained stages of several shards, checkpoints every few steps.
pub const PIPELINE: &str = r#"
name = "killed"
[data]
source = "folder"
path = "images"
size = 64
on_bad_image = "skip"
[augmentation]
crop = "resized"
size = 32
flip = true
[network]
blocks = 2
width = 8
space_to_depth = [2]
[auxiliary]
k = 2
width = 8
[training]
epochs = 3
batch = 16
decay_every = 2
checkpoint_minutes = 0.00005
[features]
shard_mib = 1
"#;

pub fn write_images(space: &Space) {
    let mut rng = Stream::new(Purpose::Picture, 1, (0, 0));
    for (split, count) in [("train", 130), ("val", 40)] {
        for number in 0..count {
            let bad = number % 17 == 3;
            let width = 64 + number % 3 * 15;
            let mut image = format!("P6 {width} 64 255\n").into_bytes();
            image.extend((0..if bad { 99 } else { 3 * 64 * width }).map(|_| rng.bits() as u8));
            space.write(&format!("images/{split}/{}/{number:03}.ppm", ["a", "b", "c"][number % 3]), image);
        }
    }
}

/// When a run is killed.
#[derive(Debug)]
enum Moment {
    /// So long after it was started.
    After(Duration),
    /// So long after a file of this name, or its unfinished form, has appeared.
    Upon(PathBuf, Duration),
    /// While a checkpoint is written in this folder.
    Saving(PathBuf),
}

impl Moment {
    /// Some are spread over the time that a whole run takes, some over the files that it writes: many of its phases
    /// are short.
    fn draw(rng: &mut Stream, whole: Duration, missing: &[PathBuf]) -> Self {
        let file = missing.get(rng.below(missing.len() as u64) as usize);
        match (rng.below(8), file) {
            (0, _) => Self::Saving(format!("stage{}/checkpoint", 1 + rng.below(2)).into()),
            (1..4, Some(file)) => Self::Upon(file.clone(), Duration::from_micros(rng.below(2) * rng.below(1500))),
            _ => Self::After(whole.mul_f64(rng.unit())),
        }
    }

    /// Waits for it, and says whether it came before the end of the run.
    fn wait(&self, cache: &Path, child: &mut Child) -> bool {
        let started = Instant::now();
        let come = || match self {
            Self::After(time) => started.elapsed() >= *time,
            Self::Upon(file, _) => cache.join(file).exists() || is_being_written(&cache.join(file)),
            Self::Saving(folder) => {
                let entries = std::fs::read_dir(cache.join(folder)).into_iter().flatten().flatten();
                entries.into_iter().any(|entry| entry.path().extension().is_some_and(|e| e == "unfinished"))
            }
        };
        while !come() {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        if let Self::Upon(_, delay) = self {
            std::thread::sleep(*delay);
        }
        child.try_wait().unwrap().is_none()
    }
}

/// Whether a file is there under the name that it has until it is whole.
fn is_being_written(file: &Path) -> bool {
    let begins = format!("{}.", file.file_name().unwrap().display());
    let entries = std::fs::read_dir(file.parent().unwrap()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.into_iter().any(|name| name.starts_with(&begins) && name.ends_with(".unfinished"))
}

/// What a killed run was at, as far as its files tell.
fn phase(files: &[(PathBuf, Vec<u8>)]) -> String {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    if let Some((path, _)) = files.iter().find(|(path, _)| path.extension().is_some_and(|e| e == "unfinished")) {
        let path = text(path);
        let kinds =
            [("checkpoint/", "checkpoint"), ("/c/", "shard"), ("safetensors", "file of weights"), ("record", "record")];
        let kind = kinds.iter().find(|(part, _)| path.contains(part)).map_or("small file", |(_, kind)| kind);
        return format!("writing a {kind}");
    }
    let Some((path, record)) = files.iter().rfind(|(path, _)| is_record(path)) else {
        return "before the first record".into();
    };
    let stage = text(path.parent().unwrap());
    let record: serde_json::Value = serde_json::from_slice(record).unwrap();
    let newest = files.iter().rfind(|(path, _)| path.starts_with(format!("{stage}/checkpoint")));
    match (record["state"].as_str().unwrap(), newest) {
        ("begun", _) if stage == "stage0" => "stage 0, between two files".into(),
        ("begun", _)
            if files.iter().any(|(path, _)| path.starts_with(&stage) && path.ends_with("block.safetensors")) =>
        {
            "between weights and record".into()
        }
        ("begun", None) => "training, before the first checkpoint".into(),
        ("begun", Some((path, _))) if text(path).contains("step-00000000") => "training, after an epoch".into(),
        ("begun", _) => "training, within an epoch".into(),
        ("trained", _) => "between two shards, or shards and record".into(),
        _ => "between two stages".into(),
    }
}

/// Whether a file is the record of a stage, not its copy.
fn is_record(path: &Path) -> bool {
    path.ends_with("record.json") && !path.ends_with("spare/record.json")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn runs_killed_at_random_instants_end_with_the_same_bytes() {
    kill(20, "");
}

#[test]
fn runs_on_whole_images_killed_at_random_instants_end_with_the_same_bytes() {
    kill(6, " --set data.keep=whole");
}

#[test]
fn runs_in_16_bits_killed_at_random_instants_end_with_the_same_bytes() {
    kill(6, " --set training.precision=bf16");
}

/// Kills runs with some settings so often, or as often as the variable says.
fn kill(kills: u64, settings: &str) {
    let kills = number("GREEDY_KILLS").unwrap_or(kills);
    let seed = number("GREEDY_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("GREEDY_SEED={seed}");
    let mut rng = Stream::new(Purpose::Order, seed, (0, 0));
    let space = Space::new();
    write_images(&space);
    space.write("killed.toml", PIPELINE);
    let started = Instant::now();
    space.run(&format!("run killed.toml --cache whole{settings}")).ok();
    let whole = started.elapsed();
    let expected = space.results("whole");
    let cache = space.path("cut");
    let (mut killed, mut finished, mut phases) = (0, 0, BTreeMap::<String, usize>::new());
    loop {
        let missing: Vec<PathBuf> =
            expected.iter().map(|(path, _)| path.clone()).filter(|path| !cache.join(path).exists()).collect();
        let moment = Moment::draw(&mut rng, whole, &missing);
        let mut child = space.command(&format!("run killed.toml --cache cut{settings}"));
        let said = space.path("said.txt");
        let mut child = child.stdout(Stdio::null()).stderr(std::fs::File::create(&said).unwrap()).spawn().unwrap();
        if killed < kills && moment.wait(&cache, &mut child) {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            let files = if cache.exists() { space.files("cut") } else { Vec::new() };
            *phases.entry(phase(&files)).or_default() += 1;
            space.run(&format!("status killed.toml --cache cut{settings}")).ok();
            continue;
        }
        let done = child.wait().unwrap().success();
        assert!(done, "a run that went on failed; seed {seed}: {}", std::fs::read_to_string(&said).unwrap());
        space.same_results("cut", &expected, &format!("after {killed} kills, seed {seed}"));
        finished += 1;
        std::fs::remove_dir_all(&cache).unwrap();
        if killed == kills {
            break;
        }
    }
    println!("{killed} kills, {finished} whole runs after them, seed {seed}");
    phases.iter().for_each(|(phase, count)| println!("{count:5}  {phase}"));
    if kills >= 200 {
        for phase in ["writing a shard", "writing a checkpoint", "within an epoch", "stage 0"] {
            assert!(phases.keys().any(|found| found.contains(phase)), "no kill came while {phase}; seed {seed}");
        }
    }
}
