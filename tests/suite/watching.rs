//! `greedy status --watch`: a run seen from elsewhere, without disturbing it.

use crate::space::{Run, Space};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: &str = "run small.toml --set training.epochs=100000";

/// Starts a run that does not end by itself, and waits until its training has been noted.
fn start(space: &Space) -> Child {
    let mut child = space.command(LONG).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let note = space.path("cache/stage1/progress.json");
    let started = Instant::now();
    let says = || std::fs::read_to_string(&note).is_ok_and(|text| text.contains("\"epoch\""));
    while !says() {
        assert!(
            child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(60),
            "nothing was noted"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn stop(child: &mut Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap();
}

#[test]
fn a_run_is_shown_until_it_ends_and_leaves_nothing_behind() {
    let space = Space::new();
    let mut run = start(&space);
    let watch =
        |arguments: &str| space.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut json, lines) = (watch("status small.toml --watch --json"), watch("status cache --watch"));
    let mut changes = BufReader::new(json.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&changes.next().unwrap().unwrap()).unwrap();
    let (first, second) = (next(), next());
    for seen in [&first, &second] {
        assert_eq!((&seen[0]["node"], &seen[0]["state"]), (&"stage1".into(), &"running".into()), "{seen}");
        assert_eq!(seen[0]["process"], run.id());
        assert_eq!(
            (&seen[0]["now"]["task"], &seen[0]["now"]["standing"]["epochs"]),
            (&"train".into(), &100_000.into())
        );
        assert!(seen[0]["now"]["standing"]["loss"].is_number() && seen[0]["now"]["rate"].is_number());
    }
    assert!(second[0]["now"]["done"].as_u64() > first[0]["now"]["done"].as_u64(), "{first}\n{second}");
    stop(&mut run, "-INT");
    assert!(!space.path("cache/stage1/progress.json").exists());
    let last = std::iter::from_fn(|| changes.next()).last().unwrap().unwrap();
    assert_eq!(last, "[]");
    assert!(json.wait().unwrap().success());
    let lines = Run::of(lines.wait_with_output().unwrap()).ok();
    assert!(lines.stdout.contains("stage1: train ") && lines.stdout.contains("epoch "), "{}", lines.stdout);
    assert!(lines.stdout.ends_with("nothing runs in `cache`\n"), "{}", lines.stdout);
}

#[test]
fn a_killed_run_is_not_taken_for_a_running_one() {
    let space = Space::new();
    let mut run = start(&space);
    stop(&mut run, "-KILL");
    let seen = space.run("status small.toml --watch").ok().stdout;
    let killed = format!("stage1: not running: process {} ended in the midst of train ", run.id());
    assert!(seen.contains(&killed) && seen.contains("nothing runs in `cache`"), "{seen}");
    let json = space.run("status cache --watch --json").ok().json();
    assert_eq!((&json[0]["state"], json[0]["process"].as_u64()), (&"killed".into(), Some(run.id().into())));
    let found = space.run("verify cache --json").json().to_string();
    assert!(found.contains("progress.json") && found.contains("leftover"), "{found}");
    space.run("run small.toml").ok();
    assert!(!space.path("cache/stage1/progress.json").exists());
    assert_eq!(space.run("status cache --watch").ok().stdout, "nothing runs in `cache`\n");
}

#[test]
fn watching_ends_with_the_code_of_an_interruption() {
    let space = Space::new();
    let mut run = start(&space);
    let mut watch = space.command("status cache --watch").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(Command::new("kill").args(["-INT", &watch.id().to_string()]).status().unwrap().success());
    assert_eq!(watch.wait().unwrap().code(), Some(130));
    assert!(run.try_wait().unwrap().is_none(), "the run goes on");
    stop(&mut run, "-KILL");
}
