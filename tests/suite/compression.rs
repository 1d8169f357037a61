//! `[compression]`: blocks that are pruned and fine-tuned before the next one reads them, through the whole program.

use crate::interruption::kill_after_three_epochs;
use crate::space::{SMALL, Space};
use candle_core::{Device, Tensor, safetensors};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

fn compressed(more: &str) -> Space {
    let space = Space::new();
    space.write("pruned.toml", format!("{SMALL}[compression]\n{more}"));
    space
}

fn weights(space: &Space, file: &str) -> HashMap<String, Vec<f32>> {
    let all: HashMap<String, Tensor> = safetensors::load(space.path(file), &Device::Cpu).unwrap();
    all.into_iter().map(|(name, value)| (name, value.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

#[test]
fn the_channels_that_are_read_with_the_largest_weights_stay() {
    // So slow that the weights stay as they are.
    let space = compressed("epochs = 1\nlearning_rate = 1e-9\nweight_decay = 0.0\n");
    let run = space.run("run pruned.toml --json").ok().json();
    assert_eq!(run["done"], json!(["stage0", "stage1.wide", "stage1", "stage2.wide", "stage2"]));
    assert_eq!(run["stages"][0]["shape"], json!([1, 300, 3, 16, 16]));
    let (wide, narrow) =
        (weights(&space, "cache/stage1.wide/block.safetensors"), weights(&space, "cache/stage1/block.safetensors"));
    let (wide_head, narrow_head) = (
        weights(&space, "cache/stage1.wide/auxiliary.safetensors"),
        weights(&space, "cache/stage1/auxiliary.safetensors"),
    );
    // [8 outputs, 6 channels, 3, 3]
    let size = |channel: usize| -> f64 {
        let weights = &wide_head["conv1.weight"];
        (0..8)
            .flat_map(|output| (0..9).map(move |at| (output * 6 + channel) * 9 + at))
            .map(|at| f64::from(weights[at].abs()))
            .sum()
    };
    let mut order: Vec<usize> = (0..6).collect();
    order.sort_by(|&a, &b| size(b).total_cmp(&size(a)));
    let mut kept = order[..3].to_vec();
    kept.sort_unstable();
    let close = |found: &[f32], expected: &[f32], name: &str| {
        assert_eq!(found.len(), expected.len(), "{name}");
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{name}");
    };
    let rows = |values: &[f32], length: usize| -> Vec<f32> {
        kept.iter().flat_map(|&channel| values[channel * length..(channel + 1) * length].to_vec()).collect()
    };
    close(&narrow["conv.weight"], &rows(&wide["conv.weight"], 12 * 9), "conv.weight");
    close(&narrow["bn.weight"], &rows(&wide["bn.weight"], 1), "bn.weight");
    let read: Vec<f32> = (0..8)
        .flat_map(|output| kept.iter().map(move |&channel| (output * 6 + channel) * 9))
        .flat_map(|at| wide_head["conv1.weight"][at..at + 9].to_vec())
        .collect();
    close(&narrow_head["conv1.weight"], &read, "conv1.weight");
    close(&narrow_head["linear.weight"], &wide_head["linear.weight"], "linear.weight");
    // The next block reads what is left.
    assert_eq!(weights(&space, "cache/stage2.wide/block.safetensors")["conv.weight"].len(), 6 * 3 * 9);
    let said = space.run("run pruned.toml --cache again").ok().stderr;
    assert!(said.contains("stage 1: 3 of 6 channels stay"), "{said}");
}

#[test]
fn what_is_pruned_is_a_stage_like_any_other() {
    let space = compressed("epochs = 2\nlearning_rate = 0.02\n");
    let run = space.run("run pruned.toml --json").ok().json();
    let history = |node: &Value| node["history"].as_array().unwrap().len();
    assert_eq!((history(&run["not_pruned"][0]), history(&run["stages"][0])), (3, 2));
    space.run("verify cache").ok();
    let before = space.results("cache");
    for name in ["stage1/train/features/c/0/0/0/0/0", "stage1.wide/val/logits/c/0/0", "stage2/zarr.json"] {
        fs::remove_file(space.path("cache").join(name)).unwrap();
        space.run("verify cache --repair").ok();
        space.same_results("cache", &before, name);
    }
    // Weights that got lost are trained again, and come out the same.
    for name in ["stage1/block.safetensors", "stage2.wide/auxiliary.safetensors"] {
        fs::remove_file(space.path("cache").join(name)).unwrap();
        space.run("run pruned.toml").ok();
        space.same_results("cache", &before, name);
    }
    let evaluated = space.run("evaluate cache/stage2 --json").ok().json();
    assert!(
        (evaluated["stages"][1]["accuracy"].as_f64().unwrap() - run["stages"][1]["accuracy"].as_f64().unwrap()).abs()
            < 1.01
    );
    let image = format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"));
    space.run(&format!("predict {image}")).ok();
    space.run("export cache/stage2 --to net.safetensors").ok();
    assert_eq!(weights(&space, "net.safetensors")["block2.conv.weight"].len(), 3 * 3 * 9);
    space.run("export cache --format tensorboard --to events").ok();
    space.run("report cache --to report.html").ok();
    space.run("inspect cache/stage1").ok();
    space.run("evaluate cache/stage1.wide").fails(2, &["a block before it was pruned"]);
    let plan = space.run("plan pruned.toml --json").ok().json();
    assert_eq!(plan["stages"][0]["shape"], json!([3, 16, 16]));
    space.run("stage 2 --from cache/stage1 --to own").fails(2, &["a single stage is not pruned"]);

    let done = |options: &str| space.run(&format!("run pruned.toml --json {options}")).ok().json()["done"].clone();
    let status = space.run("status pruned.toml --set compression.epochs=1").ok().stdout;
    assert!(status.contains("stage 1: compression.epochs: 2 -> 1"), "{status}");
    assert_eq!(done("--set compression.epochs=1"), json!(["stage1", "stage2.wide", "stage2"]));
    assert_eq!(done("--set compression.epochs=1 --set features.dtype=f32"), json!(["stage1", "stage2.wide", "stage2"]));
    // Without the section the stages are those of the paper's other networks again.
    assert_eq!(space.states("small.toml"), ["current", "stale", "stale"]);
    let clean = space.run("clean small.toml --yes --json").ok().json();
    assert!(!space.path("cache/stage1.wide").exists(), "{clean}");
}

const CLASSIFIER: &str = "[compression.classifier]\nwidth = 4\nepochs = 2\nlearning_rate = 0.05\n";

#[test]
fn a_narrower_classifier_takes_the_place_of_the_last_and_nothing_else_changes() {
    let space = compressed(&format!("epochs = 1\nlearning_rate = 0.02\n{CLASSIFIER}"));
    space.write("plain.toml", format!("{SMALL}[compression]\nepochs = 1\nlearning_rate = 0.02\n"));
    space.run("run plain.toml").ok();
    let stages = ["stage0", "stage1.wide", "stage1", "stage2.wide", "stage2"];
    let before = stages.map(|stage| space.files(&format!("cache/{stage}")));
    let run = space.run("run pruned.toml --json --events events").ok().json();
    assert_eq!(run["done"], json!(["classifier"]));
    for (stage, before) in stages.iter().zip(before) {
        assert!(space.files(&format!("cache/{stage}")) == before, "{stage} was changed");
    }
    // 4 channels at 8 x 8, read by a convolution of 4 instead of 8.
    let own = weights(&space, "cache/classifier/auxiliary.safetensors");
    assert_eq!(own["conv1.weight"].len(), 4 * 3 * 9);
    let found = &run["classifier"];
    assert_eq!((found["block_parameters"].as_u64(), found["history"].as_array().unwrap().len()), (Some(0), 2));
    assert!(found["auxiliary_parameters"].as_u64() < run["stages"][1]["auxiliary_parameters"].as_u64());
    assert!(space.path("events/small/classifier").is_dir());

    // Whatever takes the network takes the last block with this classifier.
    let evaluated = space.run("evaluate cache/classifier --json").ok().json();
    let close = |evaluated: &Value, own: &Value, name: &str| {
        let (evaluated, own) = (evaluated[name].as_f64().unwrap(), own[name].as_f64().unwrap());
        assert!((evaluated - own).abs() < 2.01, "{name}: {evaluated} {own}");
    };
    close(&evaluated["stages"][1], found, "accuracy");
    close(&evaluated["stages"][1], found, "ensemble_accuracy");
    close(&evaluated["stages"][0], &run["stages"][0], "accuracy");
    let image = format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"));
    let predicted = |from: &str| space.run(&format!("predict --from cache/{from} {image}")).ok().stdout;
    assert_ne!(predicted("classifier"), predicted("stage2"));
    space.run("export cache/classifier --to net.safetensors").ok();
    let exported = weights(&space, "net.safetensors");
    assert_eq!(exported["auxiliary.conv1.weight"], own["conv1.weight"]);
    assert_eq!(exported["block2.conv.weight"], weights(&space, "cache/stage2/block.safetensors")["conv.weight"]);
    space.run("export cache/classifier --format onnx --to net.onnx").ok();
    space.run("report cache --to report.html").ok();
    space.run("inspect cache/classifier").ok();
    let plan = space.run("plan pruned.toml --profile cpu2 --json").ok().json();
    let row = &plan["measured"][0];
    assert_eq!((row["node"].as_str(), row["fed_by"].as_str()), (Some("classifier"), Some("2")));
    assert!(
        row["seconds"].as_f64() > Some(0.0)
            && row["host_bytes"].as_f64() > Some(0.0)
            && row["bytes"].as_u64() > Some(0)
    );
    space.run("stage 3 --from cache/classifier").fails(2, &["holds classifier, no features"]);

    // Its own settings change it alone.
    let changed = "pruned.toml --set compression.classifier.epochs=1";
    assert_eq!(space.states(changed), ["current", "current", "current", "current", "current", "stale"]);
    let why = space.run(&format!("status {changed}")).ok().stdout;
    assert!(why.contains("classifier: compression.classifier.epochs: 2 -> 1"), "{why}");
    assert_eq!(space.run(&format!("run {changed} --json")).ok().json()["done"], json!(["classifier"]));
    assert_eq!(space.states("pruned.toml --set compression.epochs=2")[5], "waiting");
    let unneeded = space.run("clean plain.toml --yes --json").ok().json();
    assert!(!space.path("cache/classifier").exists() && space.path("cache/stage2").exists(), "{unneeded}");
}

#[test]
fn a_classifier_is_trained_as_a_plain_network_is_on_the_same_features() {
    // A probe of the same layers, seed and recipe, of which nothing is kept.
    let space = Space::new();
    let training = "epochs = 3\nbatch = 25\nlearning_rate = 0.05\n";
    space.write(
        "both.toml",
        format!(
            "{SMALL}refresh = 0.0\n[compression]\nwidth = 1.0\n[compression.classifier]\n{training}\
             layers = [{{ conv = 5 }}, \"batch_norm\", \"relu\", {{ avg_pool = 2 }}, \"flatten\", {{ linear = \"classes\" }}]\n\
             [[probes]]\nkind = \"cnn\"\ndepth = 1\nwidth = 5\nstages = [2]\n{training}"
        ),
    );
    let run = space.run("run both.toml --json").ok().json();
    assert_eq!(run["done"], json!(["stage0", "stage1", "stage2", "stage2-cnn", "classifier"]));
    let (probe, own) = (&run["probes"][0]["measures"], &run["classifier"]);
    let last = &own["history"][2];
    let pairs = [("accuracy", &own["accuracy"]), ("top5", &own["top5"]), ("loss", &own["loss"])];
    for (name, own) in
        pairs.into_iter().chain([("train_accuracy", &last["train_accuracy"]), ("train_loss", &last["loss"])])
    {
        assert_eq!(&probe[name], own, "{name}");
    }
}

#[test]
fn a_classifier_whose_training_was_cut_off_goes_on_and_what_breaks_is_made_again() {
    let space = compressed(&format!("epochs = 1\n{}", CLASSIFIER.replace("epochs = 2", "epochs = 40")));
    space.run("run pruned.toml --cache whole").ok();
    let whole = space.results("whole");
    // The stages are there: the classifier alone is cut off.
    space.run("run pruned.toml --cache cut stage2").ok();
    for _ in 0..2 {
        kill_after_three_epochs(&space, "run pruned.toml --cache cut", "cut/classifier/checkpoint");
        let status = space.run("status pruned.toml --cache cut").ok().stdout;
        assert!(status.contains("classifier: trained for") && status.contains("of 40 epochs"), "{status}");
    }
    let again = space.run("run pruned.toml --cache cut").ok();
    assert!(again.stderr.contains("classifier: goes on after epoch"), "{}", again.stderr);
    space.same_results("cut", &whole, "killed");
    for name in ["val/logits/c/0/0", "val/labels/c/0", "zarr.json"] {
        let path = space.path("cut/classifier").join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        fs::write(&path, bytes).unwrap();
        space.run("verify cut").fails(1, &[]);
        space.run("verify cut --repair").ok();
        space.same_results("cut", &whole, name);
        fs::remove_file(&path).unwrap();
        space.run("run pruned.toml --cache cut").ok();
        space.same_results("cut", &whole, name);
    }
    let lost = space.path("cut/classifier/auxiliary.safetensors");
    fs::remove_file(&lost).unwrap();
    space.run("verify cut --repair").fails(1, &["auxiliary.safetensors"]);
    space.run("run pruned.toml --cache cut").ok();
    space.same_results("cut", &whole, "weights that got lost");
    let mut bytes = fs::read(&lost).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&lost, bytes).unwrap();
    space.run("evaluate cut/classifier").fails(1, &["auxiliary.safetensors", "its hash is not the recorded one"]);
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_bytes() {
    let space = compressed("epochs = 2\nlearning_rate = 0.02\n");
    space.run("run pruned.toml --cache whole").ok();
    let mut killed = 0;
    for round in 0.. {
        let mut child =
            space.command("run pruned.toml --quiet").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(120 + 90 * round));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    assert!(killed > 0);
    space.run("run pruned.toml").ok();
    space.same_results("cache", &space.results("whole"), "killed");
}
