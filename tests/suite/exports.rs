//! `greedy export`: one file of the whole network, under torchvision's names where it is one of torchvision's.

use crate::space::Space;
use candle_core::{Device, Tensor, safetensors};
use std::collections::{BTreeMap, HashMap};
use std::fs;

/// Two epochs of a narrow VGG-11 on a few built-in pictures.
const VGG: &str = r#"
[data]
source = "builtin"
train_images = 64
val_images = 16
[network]
architecture = "vgg11_bn"
width = 2
hidden = 8
pooled = 2
[auxiliary]
k = 1
[training]
epochs = 1
batch = 16
learning_rate = 0.01
[features]
shard_mib = 1
"#;

fn tensors(space: &Space, name: &str) -> BTreeMap<String, Vec<f32>> {
    let all: HashMap<String, Tensor> = safetensors::load(space.path(name), &Device::Cpu).unwrap();
    all.into_iter().map(|(name, value)| (name, value.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

#[test]
fn a_whole_vgg_is_written_under_the_names_of_torchvision() {
    let space = Space::new();
    space.write("vgg.toml", VGG);
    space.run("run vgg.toml").ok();
    let said = space.run("export cache/stage8 --to vgg.safetensors").ok().stdout;
    assert!(said.contains("8 blocks and a classifier, under the names of torchvision's vgg11_bn"), "{said}");
    let all = tensors(&space, "vgg.safetensors");
    // Eight convolutions with bias, eight batch norms with running statistics, three linear layers.
    assert_eq!(all.len(), 8 * 2 + 8 * 4 + 3 * 2);
    let own = |file: &str| tensors(&space, file);
    assert_eq!(all["features.0.weight"], own("cache/stage1/block.safetensors")["conv.weight"]);
    assert_eq!(all["features.26.running_var"], own("cache/stage8/block.safetensors")["bn.running_var"]);
    assert_eq!(all["classifier.6.bias"], own("cache/stage8/auxiliary.safetensors")["linear3.bias"]);
    let bytes = fs::read(space.path("vgg.safetensors")).unwrap();
    assert!(bytes[8..].starts_with(br#"{"__metadata__":{"format":"pt"},"#));

    // Never over a file that is there, unless that is asked for; then with the same bytes.
    space.run("export cache/stage8 --to vgg.safetensors").fails(2, &["is there already", "--force"]);
    space.run("export cache/stage8 --to vgg.safetensors --force").ok();
    assert!(fs::read(space.path("vgg.safetensors")).unwrap() == bytes);

    // Up to a stage before the last it is not that network: its classifier is one that only trains the block.
    let said = space.run("export cache/stage2 --to part.safetensors").ok().stdout;
    assert!(said.contains("2 blocks and a classifier, under greedy's names"), "{said}");
    let part = tensors(&space, "part.safetensors");
    assert_eq!(part["block2.bn.weight"], all["features.5.weight"]);
    assert_eq!(part["auxiliary.linear.bias"], own("cache/stage2/auxiliary.safetensors")["linear.bias"]);
}

#[test]
fn a_network_trained_as_a_whole_is_written_from_any_of_its_folders() {
    let space = Space::new();
    space.write("vgg.toml", VGG.replace("vgg11_bn", "vgg11"));
    space.run("run vgg.toml --set training.method=end_to_end").ok();
    let said = space.run("export cache/network --to whole.safetensors").ok().stdout;
    assert!(said.contains("22 tensors, 8 blocks and a classifier, under the names of torchvision's vgg11"), "{said}");
    space.run("export cache/stage8 --to last.safetensors").ok();
    let read = |name: &str| fs::read(space.path(name)).unwrap();
    assert!(read("whole.safetensors") == read("last.safetensors"));
    let said = space.run("export cache/stage3 --to third.safetensors").ok().stdout;
    assert!(said.contains("6 tensors, 3 blocks without a classifier, under greedy's names"), "{said}");
}

#[test]
fn what_holds_no_weights_is_refused_and_nothing_is_written() {
    let space = Space::new();
    space.run("run small.toml").ok();
    space.run("export cache/stage0 --to a.safetensors").fails(2, &["decoded images, no weights", "cache/stage3"]);
    space.run("export cache --to a.safetensors").fails(1, &["is no folder of a stage"]);
    let would = space.run("export cache/stage2 --to a.safetensors --dry-run").ok().stdout;
    assert!(would.starts_with("would write a.safetensors"), "{would}");
    let path = space.path("cache/stage1/block.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    space.run("export cache/stage2 --to a.safetensors").fails(1, &["stage1/block.safetensors` is damaged"]);
    assert!(!space.path("a.safetensors").exists());
}
