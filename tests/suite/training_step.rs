//! Whole training steps of a stage agree with PyTorch: gradients, two steps of the optimiser, evaluation.

use crate::operations::{assert_close, fixture};
use candle_core::{DType, Device, Tensor, Var};
use greedy::network::StageNetwork;
use greedy::ops::{Descent, cross_entropy, descend, to_nchw, to_nhwc};
use greedy::pipeline::{self, Shape, Training};
use greedy::random::{Purpose, Stream};
use greedy::training::{Sgd, step};
use std::collections::HashMap;

fn stage(k: usize, batch_norm: bool) -> pipeline::Stage {
    let output = Shape { channels: 8, size: 4 };
    let input = Shape { channels: 3, size: 8 };
    let text = "[data]\nsource = \"builtin\"\n";
    let training: Training = pipeline::Pipeline::parse("test", "test", text, &[]).unwrap().stages[0].training;
    pipeline::Stage {
        number: 1,
        block: pipeline::Block { input, output, space_to_depth: true, batch_norm },
        auxiliary: pipeline::Auxiliary { input: output, convolutions: k - 1, width: 10, batch_norm },
        training,
    }
}

fn under(all: &HashMap<String, Tensor>, prefix: &str) -> HashMap<String, Tensor> {
    all.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()))).collect()
}

fn check(k: usize, batch_norm: bool) {
    let all = fixture(&format!("step_k{k}_{}", if batch_norm { "bn" } else { "plain" }));
    let mut draw = Stream::new(Purpose::Weights, 0, (1, 0));
    let network = StageNetwork::new(&stage(k, batch_norm), 5, &mut draw, &Device::Cpu).unwrap();
    let variables = network.variables();
    variables.set(&under(&all, "before."), "fixture").unwrap();
    let before = under(&all, "before.");
    assert_eq!(before.len(), variables.iter().count(), "a variable has no counterpart");

    let mut sgd = Sgd::new(&variables, 0.9, 5e-4).unwrap();
    let x = to_nhwc(&all["x"]).unwrap();
    let labels = all["labels"].to_dtype(DType::U32).unwrap();
    let (logits, pass) = network.train(&x).unwrap();
    let loss = cross_entropy(&logits, &labels).unwrap();
    assert_close(&logits, &all["logits"], 1e-5, "logits");
    assert_close(&loss.mean.reshape(1).unwrap(), &all["loss"], 1e-5, "loss");
    let gradients = network.gradients(&pass, &loss.gradient).unwrap();
    for (name, variable) in variables.parameters() {
        assert_close(gradients.get(variable).unwrap(), &all[&format!("grad.{name}")], 1e-5, name);
    }
    sgd.step(&gradients, 0.1).unwrap();
    step(&network, &mut sgd, (&x, &labels), 0.1).unwrap();
    for (name, variable) in variables.iter() {
        assert_close(variable, &all[&format!("after.{name}")], 2e-5, name);
    }
    let features = network.block.frozen().unwrap().forward(&x).unwrap();
    assert_close(&to_nchw(&features).unwrap(), &all["eval.features"], 2e-5, "features");
    let logits = network.auxiliary.frozen().unwrap().forward(&features).unwrap();
    assert_close(&logits, &all["eval.logits"], 5e-5, "logits after");
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
        descend(&weight, &velocity, &all[&format!("gradient.{step}")], settings).unwrap();
        assert_close(&weight, &all[&format!("parameter.{step}")], 1e-6, "weight");
        assert_close(&velocity, &all[&format!("momentum.{step}")], 1e-6, "velocity");
    }
}
