//! Whole training steps of VGG-11, layer by layer and end to end, and of AlexNet agree with PyTorch, whose weights are those
//! of torchvision's networks.

use crate::operations::fixture;
use crate::training_step::check_steps;
use candle_core::{DType, Device, Tensor};
use greedy::network::Network;
use greedy::pipeline::{Layers, Recipe};
use greedy::random::{Purpose, Stream};
use std::collections::HashMap;

const CLASSES: usize = 5;

fn recipe(size: usize, network: &str, more: &str) -> Recipe {
    let text = format!(
        "[data]\nsource = \"builtin\"\nsize = {size}\n[network]\n{network}\ndropout = 0.0\n[auxiliary]\nk = 1\n{more}"
    );
    Recipe::parse("test", "test", &text, &[]).unwrap()
}

/// The network's input: a fixture's pixels, or features that were rounded to them.
fn input(all: &HashMap<String, Tensor>, least: f64) -> Tensor {
    all["pixels"].to_dtype(DType::F32).unwrap().affine(1.0 / 64.0, least).unwrap()
}

fn check_stage(size: usize, network: &str, number: usize) {
    let network = format!("architecture = \"vgg11_bn\"\nwidth = 2\n{network}");
    let recipe = recipe(size, &network, &format!("[stage.{number}.auxiliary]\nk = 3\n"));
    let all = fixture(&format!("vgg11_stage{number}"));
    let mut draw = Stream::new(Purpose::Weights, 0, (1, 0));
    let network =
        Network::of_stage(&recipe.stages[number - 1], CLASSES, (recipe.init, &mut draw, &Device::Cpu)).unwrap();
    let x = input(&all, if number == 1 { -2.0 } else { 0.0 });
    check_steps(&network, &x, &all, 0.02);
}

/// A network as a whole, from weights under torchvision's names.
fn check_whole(size: usize, network: &str, name: &str) {
    let recipe = recipe(size, &format!("{network}\npooled = 2"), "[training]\nmethod = \"end_to_end\"\n");
    let theirs = fixture(name);
    let names = recipe.torchvision_names().unwrap();
    let ours = |key: &str| -> Option<String> {
        let (moment, tensor) = key.split_once('.')?;
        let (layer, value) = tensor.rsplit_once('.')?;
        let (own, _) = names.iter().find(|(_, name)| name == layer)?;
        Some(format!("{moment}.{own}.{value}"))
    };
    let all: HashMap<String, Tensor> =
        theirs.iter().map(|(key, tensor)| (ours(key).unwrap_or_else(|| key.clone()), tensor.clone())).collect();
    let blocks: Vec<&Layers> = recipe.stages.iter().map(|stage| &stage.block).collect();
    let head = recipe.stages.last().unwrap().head.as_ref().unwrap();
    let mut draw = Stream::new(Purpose::Weights, 0, (1, 0));
    let network = Network::new(&blocks, head, CLASSES, (recipe.init, &mut draw, &Device::Cpu)).unwrap();
    check_steps(&network, &input(&all, -2.0), &all, 0.02);
}

#[test]
fn the_first_stage_of_vgg_agrees_with_pytorch() {
    check_stage(32, "", 1);
}

#[test]
fn a_stage_of_vgg_that_begins_with_a_pooling_agrees_with_pytorch() {
    check_stage(32, "", 2);
}

#[test]
fn the_last_stage_of_vgg_with_its_own_classifier_agrees_with_pytorch() {
    check_stage(64, "hidden = 12\npooled = 2", 8);
}

#[test]
fn vgg_as_a_whole_agrees_with_pytorch() {
    check_whole(32, "architecture = \"vgg11\"\nwidth = 1\nhidden = 12", "vgg11");
}

#[test]
fn vgg_with_batch_norm_as_a_whole_agrees_with_pytorch() {
    check_whole(32, "architecture = \"vgg11_bn\"\nwidth = 1\nhidden = 12", "vgg11_bn");
}

#[test]
fn alexnet_as_a_whole_agrees_with_pytorch() {
    check_whole(63, "architecture = \"alexnet\"\nwidth = 2\nhidden = 16", "alexnet");
}
