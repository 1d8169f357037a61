//! Decoupled greedy learning through the whole program: all stages trained at once, with and without batches that wait.

use crate::interruption::{kill_after_three_epochs, stopped};
use crate::space::{Run, SMALL, Space};
use greedy::pipeline::{Graph, Recipe};
use serde_json::{Value, json};
use std::fs;

const DECOUPLED: &str = "small.toml --set training.method=decoupled";

fn accuracies(run: &Value) -> Vec<f64> {
    run["stages"].as_array().unwrap().iter().filter_map(|stage| stage["accuracy"].as_f64()).collect()
}

fn losses(stage: &Value) -> Vec<f64> {
    stage["history"].as_array().unwrap().iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect()
}

#[test]
fn all_stages_are_trained_at_once_and_are_stages_like_any_others() {
    let space = Space::new();
    space.write("small.toml", SMALL.to_string() + "[ensemble]\n[[probes]]\nkind = \"linear\"\nstages = [2]\n");
    let run = space.run(&format!("run {DECOUPLED} --json --events events")).ok().json();
    assert_eq!(run["done"], json!(["stage0", "network", "stage1", "stage2", "ensemble", "stage2-linear"]));
    assert_eq!(run["network"]["kind"], "decoupled");
    // Each stage has its classifier, its history and its logits; the network counts as its last.
    let stages = run["stages"].as_array().unwrap();
    assert_eq!((stages.len(), accuracies(&run).len()), (2, 2), "{run}");
    for stage in stages {
        let losses = losses(stage);
        assert!(losses.len() == 3 && losses[2] < losses[0], "{run}");
    }
    assert_ne!(losses(&stages[0]), losses(&stages[1]));
    assert_eq!(losses(&run["network"]), losses(&stages[1]));
    // Features are rounded where they are stored, and a sample of a hundred may fall on the other side.
    let [own, whole] = [&stages[1], &run["network"]].map(|node| node["accuracy"].as_f64().unwrap());
    assert!((own - whole).abs() < 2.1, "{own} {whole}");
    assert_eq!(run["network"]["auxiliary_parameters"].as_u64().unwrap(), {
        stages.iter().map(|stage| stage["auxiliary_parameters"].as_u64().unwrap()).sum::<u64>()
    });
    assert_eq!(space.states(DECOUPLED), ["current"; 6]);
    space.run("verify cache").ok();
    let evaluated = space.run("evaluate cache/stage2 --json").ok().json();
    for (at, stage) in stages.iter().enumerate() {
        let found = evaluated["stages"][at]["accuracy"].as_f64().unwrap();
        assert!((found - stage["accuracy"].as_f64().unwrap()).abs() < 2.1, "{evaluated} {run}");
    }
    space.run("inspect cache/stage1").ok();
    space.run("inspect cache/network").ok();
    space.run("export cache/stage2 --to two.safetensors").ok();
    space.run("report small.toml --set training.method=decoupled --to report.html").ok();
    assert!(space.path("events/small/stage1").is_dir() && space.path("events/small/network").is_dir());
    space.run("stage 2 --from cache/stage1").fails(2, &["trained as a whole", "--to DIR"]);
    space.run("stage 2 --from cache/stage1 --to cache/own").ok();
}

#[test]
fn a_setting_of_training_touches_the_network_and_one_of_storage_what_is_stored() {
    let space = Space::new();
    space.run(&format!("run {DECOUPLED}")).ok();
    let weights = fs::read(space.path("cache/network/network.safetensors")).unwrap();
    let replayed = format!("{DECOUPLED} --set training.replay=2");
    assert_eq!(space.states(&replayed), ["current", "stale", "waiting", "waiting"]);
    let why = space.run(&format!("status {replayed}")).ok().stdout;
    assert!(why.contains("network: training.replay: new, 2"), "{why}");
    assert_eq!(space.states(&format!("{DECOUPLED} --set stage.1.auxiliary.width=4"))[1], "stale");
    let stored = format!("{DECOUPLED} --set features.dtype=f32");
    assert_eq!(space.states(&stored), ["current", "current", "re-extract", "waiting"]);
    assert_eq!(space.run(&format!("run {stored} --json")).ok().json()["done"], json!(["stage1", "stage2"]));
    assert!(fs::read(space.path("cache/network/network.safetensors")).unwrap() == weights);
    let method = space.run("status small.toml --set training.method=end_to_end").ok().stdout;
    assert!(method.contains("network: training.method: decoupled -> end_to_end"), "{method}");

    let decoupled = |more: &str| SMALL.replace("[training]", &format!("[training]\nmethod = \"decoupled\"\n{more}"));
    let keys = ["", "replay = 0\n", "replay = 3\n"].map(|more| {
        Graph::of(&Recipe::parse("p", "p", &decoupled(more), &[]).unwrap(), "files").nodes()[1].manifest.key()
    });
    assert!(keys[0] == keys[1] && keys[1] != keys[2]);
}

#[test]
fn runs_that_were_killed_end_with_the_same_bytes() {
    for replay in [0, 3] {
        let space = Space::new();
        // Checkpoints within epochs have the batches that wait in them.
        let more = "--set training.epochs=40 --set training.checkpoint_minutes=0.00005 --set network.blocks=3";
        let run = format!("run {DECOUPLED} {more} --set training.replay={replay}");
        space.run(&format!("{run} --cache whole")).ok();
        for _ in 0..2 {
            kill_after_three_epochs(&space, &format!("{run} --cache cut"), "cut/network/checkpoint");
        }
        let again = space.run(&format!("{run} --cache cut")).ok();
        assert!(again.stderr.contains("network: goes on after epoch"), "{}", again.stderr);
        space.same_results("cut", &space.results("whole"), &format!("with {replay} batches that wait"));
    }
}

#[test]
fn a_run_that_is_interrupted_goes_on_at_the_same_step() {
    for replay in [0, 2] {
        let space = Space::new();
        let more = format!("--set training.epochs=30 --set network.blocks=3 --set training.replay={replay}");
        space.run(&format!("run {DECOUPLED} {more} --cache whole")).ok();
        let run = format!("run {DECOUPLED} {more} --cache cut");
        let words = stopped(&space, &run, "-INT", "cut/network/checkpoint").stderr;
        assert!(!words.contains("could not be trained further"), "{words}");
        let status = space.run(&format!("status {DECOUPLED} {more} --cache cut")).ok().stdout;
        assert!(status.contains("network: trained for ") && status.contains(" of 30 epochs"), "{status}");
        let inspected = space.run("inspect cut/network").fails(1, &["network is not finished", "hint:"]);
        assert!(inspected.stdout.is_empty());
        space.run(&run).ok();
        space.same_results("cut", &space.results("whole"), &format!("with {replay} batches that wait"));
    }
}

#[test]
fn threads_of_stages_and_one_thread_for_all_learn_the_same_but_for_rounding() {
    let space = Space::new();
    let run = |threads: usize| {
        let cache = format!("threads{threads}");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_greedy"));
        let arguments = format!("run {DECOUPLED} --json --cache {cache} --threads {threads}");
        command.args(arguments.split_whitespace()).current_dir(space.path("."));
        Run::of(command.output().unwrap()).ok().json()
    };
    let [one, two] = [1, 2].map(run);
    for (one, two) in one["stages"].as_array().unwrap().iter().zip(two["stages"].as_array().unwrap()) {
        let (one, two) = (losses(one), losses(two));
        assert!(one.iter().zip(&two).all(|(a, b)| (a - b).abs() < 2e-2 * a), "{one:?} {two:?}");
    }
}

#[test]
fn a_stage_whose_loss_is_no_number_ends_the_run_and_is_named() {
    let space = Space::new();
    let run = format!("run {DECOUPLED} --set training.learning_rate=1000 --set training.epochs=20");
    space.run(&run).fails(1, &["network: the loss of stage ", "no longer finite in epoch", "training.learning_rate"]);
}

#[test]
fn broken_files_of_its_stages_are_made_again_from_the_network() {
    let space = Space::new();
    space.run(&format!("run {DECOUPLED}")).ok();
    let before = space.results("cache");
    for name in [
        "stage1/block.safetensors",
        "stage1/auxiliary.safetensors",
        "stage2/val/logits/c/0/0",
        "stage2/train/features/c/0/0/0/0/0",
        "network/val/logits/c/0/0",
        "network/val/labels/c/0",
    ] {
        let path = space.path("cache").join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        fs::write(&path, bytes).unwrap();
        space.run("verify cache").fails(1, &[]);
        space.run("verify cache --repair").ok();
        space.same_results("cache", &before, name);
        fs::remove_file(&path).unwrap();
        space.run(&format!("run {DECOUPLED}")).ok();
        assert_eq!(space.states(DECOUPLED), ["current"; 4], "{name}");
    }
}

#[test]
fn what_has_no_meaning_is_refused_and_memory_is_planned() {
    let space = Space::new();
    let refused = ["`training.replay` is 4", "`training.method` is \"layerwise\"", "hint:", "decoupled"];
    space.run("status small.toml --set training.replay=4").fails(2, &refused);
    space.run("status small.toml --set training.replay=0").ok();
    space.run(&format!("status {DECOUPLED} --set stage.1.training.epochs=2")).fails(2, &["no meaning"]);
    space.run(&format!("status {DECOUPLED} --set training.feedback=direct")).fails(2, &["is \"decoupled\""]);
    space.run("status small.toml --set training.method=decopled").fails(2, &["did you mean `decoupled`"]);
    let plan =
        |more: &str| space.run(&format!("plan {DECOUPLED} {more} --profile cpu2 --json --images 300")).ok().json();
    let (plain, waiting) = (plan(""), plan("--set training.replay=5"));
    let memory = |plan: &Value| plan["network"]["host_bytes"].as_f64().unwrap();
    // Five batches of 32 samples of 6 x 16 x 16 values.
    assert_eq!(memory(&waiting) - memory(&plain), f64::from(5 * 32 * 6 * 256 * 4));
    let steps: f64 =
        plain["stages"].as_array().unwrap().iter().map(|stage| stage["step_flops"].as_f64().unwrap()).sum();
    assert_eq!(plain["network"]["step_flops"].as_f64().unwrap(), steps);
    assert!(plain["network"]["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_transform_without_a_classifier_is_trained_with_the_block_behind_it() {
    let space = Space::new();
    let text = "[data]\nsource = \"builtin\"\ntrain_images = 100\nval_images = 40\n[network]\narchitecture = \"scattering\"\n\
                angles = 4\norder = 1\nblocks = 2\nwidth = 8\n[auxiliary]\nwidth = 8\n\
                [training]\nmethod = \"decoupled\"\nepochs = 2\nbatch = 20\nlearning_rate = 0.05\n";
    space.write("scattering.toml", text);
    let run = space.run("run scattering.toml --json").ok().json();
    assert_eq!(run["done"], json!(["stage0", "network", "stage1", "stage2", "stage3"]));
    assert_eq!(accuracies(&run).len(), 2, "{run}");
    space.run("verify cache").ok();
}
