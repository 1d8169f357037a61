//! Whole training steps of a stage agree with PyTorch: gradients, two steps of the optimiser, evaluation.

use crate::operations::{assert_close, fixture};
use candle_core::{DType, Device, Tensor, Var};
use greedy::network::{Network, Noise};
use greedy::ops::{Descent, cross_entropy, descend, to_nchw, to_nhwc};
use greedy::pipeline::Recipe;
use greedy::random::{Purpose, Stream};
use greedy::training::{Sgd, step};
use std::collections::HashMap;

/// A stage of SimCNN on 8 x 8 pixels: 2x2 space-to-depth, then 8 channels; a classifier of 10 channels.
pub fn pipeline(k: usize, batch_norm: bool) -> Recipe {
    let text = format!(
        "[data]\nsource = \"builtin\"\nsize = 8\n[network]\nblocks = 1\nwidth = 8\nspace_to_depth = [1]\nbatch_norm = {batch_norm}\n\
         [auxiliary]\nk = {k}\nwidth = 10\nbatch_norm = {batch_norm}\n"
    );
    Recipe::parse("test", "test", &text, &[]).unwrap()
}

pub fn under(all: &HashMap<String, Tensor>, prefix: &str) -> HashMap<String, Tensor> {
    all.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()))).collect()
}

fn check(k: usize, batch_norm: bool) {
    let all = fixture(&format!("step_k{k}_{}", if batch_norm { "bn" } else { "plain" }));
    let mut rng = Stream::new(Purpose::Weights, 0, (1, 0));
    let pipeline = pipeline(k, batch_norm);
    let network = Network::of_stage(&pipeline.stages[0], 5, (pipeline.init, &mut rng, &Device::Cpu)).unwrap();
    let features = check_steps(&network, &all["x"], &all, 0.1);
    assert_close(&to_nchw(&features).unwrap(), &all["eval.features"], 2e-5, "features");
}

/// Two steps with a learning rate from the weights of a fixture, and evaluation behind them; `x` is \[sample, channel, y, x\].
/// Gives the features of the last block.
pub fn check_steps(network: &Network, x: &Tensor, all: &HashMap<String, Tensor>, rate: f64) -> Tensor {
    let variables = network.variables();
    let before = under(all, "before.");
    variables.set(&before, "fixture").unwrap();
    assert_eq!(before.len(), variables.iter().count(), "a variable has no counterpart");

    let sgd = Sgd::new(&variables, 0.9, 5e-4).unwrap();
    let x = to_nhwc(x).unwrap();
    let labels = all["labels"].to_dtype(DType::U32).unwrap();
    let samples: Vec<u32> = (0..labels.elem_count() as u32).collect();
    let noise = Noise::new(0, (1, 0), &samples);
    let (logits, pass) = network.train(&x, &noise).unwrap();
    let loss = cross_entropy(&logits, &labels).unwrap();
    assert_close(&logits, &all["logits"], 1e-5, "logits");
    assert_close(&loss.mean.reshape(1).unwrap(), &all["loss"], 1e-5, "loss");
    let gradients = network.gradients(pass, &loss.gradient).unwrap();
    for (name, variable) in variables.parameters() {
        assert_close(gradients.get(variable).unwrap(), &all[&format!("grad.{name}")], 1e-5, name);
    }
    sgd.step(&gradients, rate).unwrap();
    step(network, &sgd, (&x, &labels, &noise), rate).unwrap();
    for (name, variable) in variables.iter() {
        assert_close(variable, &all[&format!("after.{name}")], 2e-5, name);
    }
    let features = network.blocks.iter().fold(x, |x, block| block.frozen().unwrap().forward(&x).unwrap());
    let logits = network.head.frozen().unwrap().logits(&features).unwrap();
    assert_close(&logits, &all["eval.logits"], 5e-5, "logits after");
    features
}

#[test]
fn a_step_with_k_1_agrees_with_pytorch() {
    check(1, true);
    check(1, false);
}

#[test]
fn a_step_with_k_2_agrees_with_pytorch() {
    check(2, true);
    check(2, false);
}

#[test]
fn a_step_with_k_3_agrees_with_pytorch() {
    check(3, true);
    check(3, false);
}

#[test]
fn the_optimiser_agrees_with_pytorch_step_by_step() {
    let all = fixture("sgd");
    let weight = Var::from_tensor(&all["parameter.0"]).unwrap();
    let velocity = Var::from_tensor(&weight.zeros_like().unwrap()).unwrap();
    let settings = Descent { rate: 0.1, momentum: 0.9, weight_decay: 5e-4 };
    for step in 1..=4 {
        descend(&[(&weight, &velocity, &all[&format!("gradient.{step}")])], settings).unwrap();
        assert_close(&weight, &all[&format!("parameter.{step}")], 1e-6, "weight");
        assert_close(&velocity, &all[&format!("momentum.{step}")], 1e-6, "velocity");
    }
}
