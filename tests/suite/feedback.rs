//! Feedback alignment and direct feedback alignment: beside PyTorch, and through the whole program.

use crate::interruption::kill_after_three_epochs;
use crate::operations::fixture;
use crate::space::Space;
use crate::training_step::{check_steps, under};
use candle_core::Device;
use greedy::network::Network;
use greedy::pipeline::{Graph, Layers, Recipe};
use greedy::random::{Purpose, Stream};
use serde_json::json;

const SIMCNN: &str = "blocks = 2\nwidth = 4\nspace_to_depth = [1, 2]\n[auxiliary]\nwidth = 6\n";
const CUSTOM: &str = "architecture = \"custom\"\n\
                      blocks = [[{ conv = 4 }, \"relu\", { max_pool = 2 }], [{ conv = 5 }, \"relu\"]]\n\
                      head = [{ avg_pool = 2 }, \"flatten\", { linear = 7 }, \"relu\", { linear = \"classes\" }]\n";

fn recipe(network: &str, feedback: &str) -> Recipe {
    let text = format!(
        "[data]\nsource = \"builtin\"\nsize = 8\n[network]\n{network}[training]\nmethod = \"end_to_end\"\nfeedback = \"{feedback}\"\n"
    );
    Recipe::parse("test", "test", &text, &[]).unwrap()
}

/// Two steps from the weights, and by the fixed weights, of a fixture.
fn check(name: &str, network: &str, feedback: &str) {
    const CLASSES: usize = 5;
    let (all, recipe) = (fixture(&format!("feedback_{feedback}_{name}")), recipe(network, feedback));
    let blocks: Vec<&Layers> = recipe.stages.iter().map(|stage| &stage.block).collect();
    let head = recipe.stages.last().unwrap().head.as_ref().unwrap();
    let mut rng = Stream::new(Purpose::Weights, 0, (0, 0));
    let network = Network::new(&blocks, head, CLASSES, (recipe.init, &mut rng, &Device::Cpu)).unwrap();
    let mut rng = Stream::new(Purpose::Feedback, 0, (0, 0));
    let network = network.with_feedback(recipe.feedback, CLASSES, (recipe.init, &mut rng, &Device::Cpu)).unwrap();
    let fixed = under(&all, "feedback.");
    assert_eq!(network.feedback().iter().count(), fixed.len(), "fixed weights without a counterpart");
    network.feedback().set(&fixed, "fixture").unwrap();
    check_steps(&network, &all["x"], &all, 0.02);
}

#[test]
fn a_step_by_feedback_alignment_agrees_with_pytorch() {
    check("simcnn", SIMCNN, "aligned");
    check("custom", CUSTOM, "aligned");
}

#[test]
fn a_step_by_direct_feedback_alignment_agrees_with_pytorch() {
    check("simcnn", SIMCNN, "direct");
    check("custom", CUSTOM, "direct");
}

#[test]
fn fixed_weights_are_those_of_the_seed_and_not_those_that_learn() {
    let recipe = recipe(SIMCNN, "aligned");
    let blocks: Vec<&Layers> = recipe.stages.iter().map(|stage| &stage.block).collect();
    let head = recipe.stages.last().unwrap().head.as_ref().unwrap();
    let fixed = |seed: u64| {
        let mut rng = Stream::new(Purpose::Weights, seed, (0, 0));
        let network = Network::new(&blocks, head, 5, (recipe.init, &mut rng, &Device::Cpu)).unwrap();
        let mut rng = Stream::new(Purpose::Feedback, seed, (0, 0));
        let network = network.with_feedback(recipe.feedback, 5, (recipe.init, &mut rng, &Device::Cpu)).unwrap();
        let values = |(_, tensor): (String, candle_core::Tensor)| tensor.flatten_all().unwrap().to_vec1::<f32>();
        let all = |of: greedy::network::Variables| of.tensors().into_iter().map(values).collect::<Result<Vec<_>, _>>();
        (all(network.feedback()).unwrap(), all(network.variables()).unwrap())
    };
    let (first, again, other) = (fixed(1), fixed(1), fixed(2));
    assert_eq!(first, again);
    assert!(first.0.iter().zip(&other.0).all(|(own, other)| own != other));
    assert!(first.0.iter().all(|own| !first.1.contains(own)));
}

#[test]
fn the_kind_of_feedback_touches_the_network_and_is_said_by_its_key() {
    let graph = |feedback: &str| Graph::of(&recipe(SIMCNN, feedback), "files");
    let manifests = |graph: &Graph| graph.nodes().iter().map(|node| node.manifest.clone()).collect::<Vec<_>>();
    let written = manifests(&graph("exact"));
    let text = recipe(SIMCNN, "exact").text.replace("feedback = \"exact\"\n", "");
    let left_out = Graph::of(&Recipe::parse("test", "test", &text, &[]).unwrap(), "files");
    assert_eq!(written, manifests(&left_out), "what was made before there was such a key stays current");
    let aligned = manifests(&graph("aligned"));
    let changed: Vec<usize> = (0..written.len()).filter(|&at| written[at] != aligned[at]).collect();
    assert_eq!(changed, [1]);
    let change = [("training.feedback".to_string(), None, Some("aligned".to_string()))];
    assert_eq!(written[1].changes(&aligned[1]), change);
}

#[test]
fn feedback_needs_a_network_that_is_trained_end_to_end() {
    let space = Space::new();
    let words = ["`training.feedback` is \"direct\"", "`training.method` is \"layerwise\"", "end_to_end", "hint:"];
    space.run("status small.toml --set training.feedback=direct").fails(2, &words);
    space.run("status small.toml --set training.feedback=exact").ok();
    let stage = "status small.toml --set training.method=end_to_end --set stage.2.training.feedback=direct";
    space.run(stage).fails(2, &["`stage.2.training.feedback`", "no meaning"]);
    space.run("status small.toml --set training.feedback=alinged").fails(2, &["did you mean `aligned`"]);
}

#[test]
fn networks_learn_by_fixed_feedback_and_go_on_after_a_kill() {
    for feedback in ["aligned", "direct"] {
        let space = Space::new();
        let whole = format!("small.toml --set training.method=end_to_end --set training.feedback={feedback}");
        let run = space.run(&format!("run {whole} --cache whole --set training.epochs=40 --json")).ok().json();
        assert_eq!(run["done"], json!(["stage0", "network", "stage1", "stage2"]));
        let history = run["network"]["history"].as_array().unwrap();
        let loss = |epoch: usize| history[epoch]["loss"].as_f64().unwrap();
        assert!(loss(39) < loss(0), "{run}");
        let cut = format!("run {whole} --cache cut --set training.epochs=40");
        kill_after_three_epochs(&space, &cut, "cut/network/checkpoint");
        let again = space.run(&cut).ok();
        assert!(again.stderr.contains("goes on after epoch"), "{}", again.stderr);
        space.same_results("cut", &space.results("whole"), feedback);
        space.run("verify cut").ok();
        let why =
            space.run(&format!("status {whole} --cache cut --set training.epochs=40 --set training.feedback=exact"));
        let why = why.ok().stdout;
        assert!(why.contains(&format!("network: training.feedback: gone, was {feedback}")), "{why}");
        // Memory for the fixed weights is planned.
        let plan = |more: &str| {
            let plan = space.run(&format!("plan {whole} {more} --profile cpu2 --json --images 300")).ok().json();
            (plan["network"]["feedback_values"].as_u64().unwrap(), plan["network"]["host_bytes"].as_f64().unwrap())
        };
        let [(none, exact), (values, fixed)] = ["--set training.feedback=exact", ""].map(plan);
        assert!(none == 0 && values > 0 && fixed == exact + 4.0 * values as f64, "{exact} {fixed} {values}");
        // A stage by itself is trained by itself.
        space.run("stage 2 --from cut/stage1 --to cut/own").ok();
    }
}
