//! `greedy import`: networks of other programs as stages, beside PyTorch, and back from `greedy export`.

use crate::operations::{assert_close, fixture};
use crate::space::Space;
use candle_core::{DType, Device, Tensor, safetensors};
use greedy::features::{Split, read_logits};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;

/// A narrow VGG-11 on a few built-in pictures.
const VGG: &str = r#"
name = "vgg"
[data]
source = "builtin"
train_images = 64
val_images = 24
[augmentation]
flip = true
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
refresh = 0.0
shard_mib = 1
"#;

/// With a network that was trained end to end and exported as `net.safetensors`.
fn exported() -> Space {
    let space = Space::new();
    space.write("vgg.toml", VGG);
    space.run("run vgg.toml --cache trained --set training.method=end_to_end").ok();
    space.run("export trained/network --to net.safetensors").ok();
    space
}

fn done(run: &Value) -> Vec<&str> {
    run["done"].as_array().unwrap().iter().map(|node| node.as_str().unwrap()).collect()
}

#[test]
fn what_was_exported_comes_back_with_the_same_bytes() {
    let space = exported();
    let run = space.run("import net.safetensors --pipeline vgg.toml --to cache --json").ok().json();
    let depths: Vec<String> = (1..=8).map(|stage| format!("stage{stage}")).collect();
    let expected: Vec<&str> = ["stage0", "network"].into_iter().chain(depths.iter().map(String::as_str)).collect();
    assert_eq!(done(&run), expected);
    assert_eq!(run["network"]["kind"], "imported");
    let same = |name: &str| {
        assert!(
            fs::read(space.path("cache").join(name)).unwrap() == fs::read(space.path("trained").join(name)).unwrap(),
            "{name}"
        );
    };
    same("network/network.safetensors");
    for name in ["stage3/block.safetensors", "stage3/train/features/c/0/0/0/0/0", "stage8/auxiliary.safetensors"] {
        same(name);
    }
    for name in ["network/val/logits/c/0/0", "network/val/labels/c/0", "stage8/val/logits/c/0/0"] {
        same(name);
    }
    let trained = space.run("evaluate trained/stage8 --json").ok().json();
    assert_eq!(space.run("evaluate cache/stage8 --json").ok().json()["stages"], trained["stages"]);
    assert_eq!(run["network"]["accuracy"], trained["stages"][0]["accuracy"]);
    let image = format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"));
    let predict = |from: &str| space.run(&format!("predict {image} --from {from}/stage8")).ok().stdout;
    assert_eq!(predict("cache"), predict("trained"));
    // And out again, from either folder of it.
    for from in ["network", "stage8"] {
        space.run(&format!("export cache/{from} --to again.safetensors --force")).ok();
        assert!(fs::read(space.path("again.safetensors")).unwrap() == fs::read(space.path("net.safetensors")).unwrap());
    }
    space.run("verify cache").ok();
    space.run("report cache --to report.html").ok();
    space.run("plan cache/pipeline.toml --profile cpu2").ok();
    let status = space.run("status cache/pipeline.toml").ok().stdout;
    assert!(status.contains("network  current"), "{status}");
}

/// The fixture's pictures as photographs, its weights as torchvision names them, and the command that imports them.
fn of_pytorch(name: &str, architecture: &str, settings: &str) -> (Space, String, HashMap<String, Tensor>) {
    let all = fixture(name);
    let space = Space::new();
    let (count, channels, height, width) = all["pixels"].dims4().unwrap();
    assert_eq!(channels, 3);
    let pixels = all["pixels"].permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
    for class in 0..5 {
        // There are fewer pictures than classes: the first is there twice.
        let at = (class % count) * channels * height * width;
        let picture = pixels[at..at + channels * height * width].to_vec();
        let picture = image::RgbImage::from_raw(width as u32, height as u32, picture).unwrap();
        for split in ["train", "val"] {
            let folder = space.path(&format!("photos/{split}/class{class}"));
            fs::create_dir_all(&folder).unwrap();
            picture.save(folder.join("1.png")).unwrap();
        }
    }
    let mut weights: HashMap<String, Tensor> = all
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("after.")?.to_string(), value.clone())))
        .collect();
    // What PyTorch keeps as well.
    let norms: Vec<String> =
        weights.keys().filter_map(|name| name.strip_suffix("running_mean").map(String::from)).collect();
    for norm in norms {
        weights.insert(format!("{norm}num_batches_tracked"), Tensor::new(2i64, &Device::Cpu).unwrap());
    }
    safetensors::save(&weights, space.path("torch.safetensors")).unwrap();
    // Normalised to pixels / 64 - 2.
    let (mean, std) = (128.0 / 255.0, 64.0 / 255.0);
    let command = format!(
        "import torch.safetensors --architecture {architecture} --images photos --set data.size={height} \
         --set augmentation.size={height} --set network.dropout=0 --set data.mean=[{mean},{mean},{mean}] \
         --set data.std=[{std},{std},{std}] {settings}"
    );
    (space, command, all)
}

#[test]
fn networks_of_torchvision_have_the_logits_that_pytorch_gives_them() {
    let cases = [
        ("vgg11", "vgg11", "--set network.width=1 --set network.hidden=12 --set network.pooled=2"),
        ("vgg11_bn", "vgg11_bn", "--set network.width=1 --set network.hidden=12 --set network.pooled=2"),
        ("alexnet", "alexnet", "--set network.width=2 --set network.hidden=16 --set network.pooled=2"),
    ];
    for (name, architecture, settings) in cases {
        let (space, command, all) = of_pytorch(name, architecture, settings);
        space.run(&format!("{command} --to cache/net")).ok();
        let (logits, classes) = read_logits(&space.path("cache/net/network"), Split::Val).unwrap();
        assert_eq!(classes, 5, "{name}");
        let found = Tensor::from_vec(logits, (5, 5), &Device::Cpu).unwrap();
        let expected = &all["eval.logits"];
        let count = expected.dim(0).unwrap();
        assert_close(&found.narrow(0, 0, count).unwrap(), expected, 1e-4, name);
        // The depths are the same network: through all of them come the same classes.
        let evaluated = space.run("evaluate cache/net --json").ok().json();
        let network = space.run("inspect cache/net/network --json").ok().json();
        assert!(!network.is_null() && evaluated["stages"].as_array().unwrap().len() == 1, "{evaluated}");
    }
}

#[test]
fn the_names_of_timm_are_known_too() {
    let settings = "--set network.width=1 --set network.hidden=12 --set network.pooled=2";
    let (space, command, _) = of_pytorch("vgg11_bn", "vgg11_bn", settings);
    space.run(&format!("{command} --to cache")).ok();
    let mut weights = safetensors::load(space.path("torch.safetensors"), &Device::Cpu).unwrap();
    let layers = [("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2"), ("classifier.6", "head.fc")];
    for (theirs, timm) in layers {
        for kind in ["weight", "bias"] {
            let tensor = weights.remove(&format!("{theirs}.{kind}")).unwrap();
            let tensor = match (timm, kind) {
                ("pre_logits.fc1", "weight") => tensor.reshape((12, 8, 2, 2)).unwrap(),
                ("pre_logits.fc2", "weight") => tensor.reshape((12, 12, 1, 1)).unwrap(),
                _ => tensor,
            };
            weights.insert(format!("{timm}.{kind}"), tensor);
        }
    }
    safetensors::save(&weights, space.path("torch.safetensors")).unwrap();
    space.run(&format!("{command} --to timm")).ok();
    let read = |cache: &str| fs::read(space.path(cache).join("network/network.safetensors")).unwrap();
    assert!(read("cache") == read("timm"));
}

#[test]
fn the_file_makes_its_network_stale_when_its_bytes_change_and_then_only() {
    let space = exported();
    let run = "run vgg.toml --set network.weights=net.safetensors --json";
    space.run(run).ok();
    let states = || space.states("vgg.toml --set network.weights=net.safetensors");
    assert_eq!(states(), ["current"; 10]);
    // The same bytes at another time or place change nothing, nor does a file that has gone: there is a copy.
    let bytes = fs::read(space.path("net.safetensors")).unwrap();
    fs::remove_file(space.path("net.safetensors")).unwrap();
    assert_eq!(states(), ["current"; 10]);
    space.write("net.safetensors", &bytes);
    assert_eq!(states(), ["current"; 10]);
    // A bias of the last layer has other values.
    let mut weights = safetensors::load(space.path("net.safetensors"), &Device::Cpu).unwrap();
    let bias = weights["classifier.6.bias"].affine(1.0, 0.5).unwrap();
    weights.insert("classifier.6.bias".into(), bias);
    safetensors::save(&weights, space.path("net.safetensors")).unwrap();
    let status = space.run("status vgg.toml --set network.weights=net.safetensors").ok().stdout;
    assert!(
        status.contains("network: network.weights: ") && status.contains("stage 3: network comes first"),
        "{status}"
    );
    let redone = space.run(run).ok().json();
    assert_eq!(done(&redone).len(), 9, "{redone}");
    // What part of it is taken is a setting like any other.
    let part = "--set network.weights=net.safetensors --set network.imported=8";
    let status = space.run(&format!("status vgg.toml {part}")).ok().stdout;
    assert!(status.contains("network.imported: all -> 8"), "{status}");
    // Other normalisation gives other logits, and the same weights.
    let states = space.states("vgg.toml --set network.weights=net.safetensors --set data.mean=[0.4,0.4,0.4]");
    assert_eq!(states[..3], ["current", "stale", "stale"]);
}

#[test]
fn blocks_without_the_classifier_are_trained_on_from_any_depth() {
    let space = exported();
    space.write("probed.toml", VGG.to_string() + "[[probes]]\nkind = \"linear\"\nstages = [2, 3]\n");
    let run = space.run("import net.safetensors --pipeline probed.toml --to cache --blocks 3 --json").ok();
    assert!(run.stderr.contains("36 tensors of the file are no part of it and passed over"), "{}", run.stderr);
    let run = run.json();
    let kinds: Vec<&str> =
        run["stages"].as_array().unwrap().iter().map(|stage| stage["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["depth", "depth", "depth", "block", "block", "block", "block", "block"]);
    let titles: Vec<&Value> = run["probes"].as_array().unwrap().iter().map(|probe| &probe["title"]).collect();
    assert_eq!(titles, ["linear of stage 2", "linear of stage 3"]);
    assert_eq!((&run["network"]["accuracy"], &run["stages"][2]["accuracy"]), (&Value::Null, &Value::Null));
    assert_eq!(run["stages"][3]["ensemble_accuracy"], run["stages"][3]["accuracy"]);
    // Stage 2 by itself, on the first block of the file.
    let stage = space.run("stage 2 --from cache/stage1 --to own --json").ok().json();
    assert_eq!(stage["stages"][0]["kind"], "block");
    assert_eq!(space.run("stage 2 --from cache/stage1 --to own --json").ok().json()["done"], json!([]));
    // The whole network is a mixture: torchvision's names still fit.
    let said = space.run("export cache/stage8 --to mixed.safetensors").ok().stdout;
    assert!(said.contains("under the names of torchvision's vgg11_bn"), "{said}");
    space.run("evaluate cache/stage8 --json").ok();
    let image = format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"));
    space.run(&format!("predict {image} --from cache/stage5")).ok();
    space.run(&format!("predict {image} --from cache/stage2")).fails(2, &["has no classifier"]);
    space.run("export cache/network --to blocks.safetensors").ok();
    space.run("verify cache").ok();
    let states = space.states("cache/pipeline.toml --set stage.5.training.epochs=2");
    let expected = ["current", "current", "current", "current", "current", "current", "stale"];
    assert_eq!(states[..7], expected);
}

#[test]
fn a_copy_that_is_damaged_or_cut_off_is_made_whole_again() {
    let space = exported();
    space.run("import net.safetensors --pipeline vgg.toml --to cache").ok();
    let before = space.results("cache");
    for name in ["network/network.safetensors", "network/val/logits/c/0/0", "stage3/block.safetensors"] {
        fs::remove_file(space.path("cache").join(name)).unwrap();
        space.run("verify cache --repair").ok();
        space.same_results("cache", &before, name);
        let mut bytes = fs::read(space.path("cache").join(name)).unwrap();
        bytes.pop();
        fs::write(space.path("cache").join(name), bytes).unwrap();
        let states = space.states("cache/pipeline.toml");
        assert_eq!(states.iter().filter(|state| *state == "partial").count(), 1, "{name}: {states:?}");
        space.run("run cache/pipeline.toml").ok();
        space.same_results("cache", &before, name);
    }
    // Without the file the copy cannot be made again, and that is said.
    fs::remove_file(space.path("net.safetensors")).unwrap();
    fs::remove_file(space.path("cache/network/network.safetensors")).unwrap();
    space.run("verify cache --repair").fails(1, &["1 file"]);
    space.run("run cache/pipeline.toml").fails(1, &["cannot read `net.safetensors`"]);
}

#[test]
fn a_file_that_does_not_fit_is_refused_before_any_image_is_decoded() {
    let space = exported();
    let refused = |arguments: &str, words: &[&str]| {
        space.run(&format!("import {arguments} --to cache")).fails_with(words);
        assert!(!space.path("cache").exists(), "{arguments}");
    };
    let with = "net.safetensors --pipeline vgg.toml";
    refused(
        &format!("{with} --architecture vgg11"),
        &["lacks", "features.3.weight", "vgg11_bn: `network.architecture = \"vgg11_bn\"`"],
    );
    refused(&format!("{with} --architecture vgg13_bn"), &["lacks", "features.3.weight", "names are those"]);
    refused(
        &format!("{with} --set network.width=3"),
        &["is [2, 3, 3, 3], but the network has [3, 3, 3, 3]", "network.width"],
    );
    refused(&format!("{with} --set network.hidden=9"), &["network.hidden"]);
    refused("missing.safetensors --pipeline vgg.toml", &["cannot read `missing.safetensors`"]);
    refused("net.safetensors --architecture vgg11_bn", &["of which images", "--images FOLDER"]);
    refused(&format!("{with} --blocks 9"), &["must lie between 0 and 8"]);
    space.write("net.pth", [&b"PK\x03\x04"[..], &[0; 64]].concat());
    refused("net.pth --pipeline vgg.toml", &["pickled file of PyTorch", "save_file"]);
    let bytes = fs::read(space.path("net.safetensors")).unwrap();
    space.write("cut.safetensors", &bytes[..bytes.len() / 2]);
    refused("cut.safetensors --pipeline vgg.toml", &["no whole safetensors file"]);
    space.write("huge.safetensors", [&u64::MAX.to_le_bytes()[..], &bytes].concat());
    refused("huge.safetensors --pipeline vgg.toml", &["no whole safetensors file"]);
    let weights = HashMap::from([(
        "features.0.weight".to_string(),
        Tensor::zeros((2, 3, 3, 3), DType::I64, &Device::Cpu).unwrap(),
    )]);
    safetensors::save(&weights, space.path("whole.safetensors")).unwrap();
    refused("whole.safetensors --pipeline vgg.toml", &["is I64, no type of weights"]);
    // As many classes as the images have are known when these are there.
    fs::create_dir_all(space.path("photos")).unwrap();
    let photos = Space::with_photos();
    fs::copy(space.path("net.safetensors"), photos.path("net.safetensors")).unwrap();
    let settings = "--set data.size=32 --set augmentation.size=32 --set network.width=2 --set network.hidden=8 --set network.pooled=2";
    let import = format!("import net.safetensors --architecture vgg11_bn --images photos --to cache {settings}");
    photos.run(&import).fails(2, &["is [10, 8], but the network has [2, 8]", "the images are of 2 classes"]);
    photos.run(&format!("{import} --blocks 8 --dry-run")).ok();
    photos.run(&format!("{import} --blocks 8")).ok();
}
