//! `[compression]`: blocks that are pruned and fine-tuned before the next one reads them, through the whole program.

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
