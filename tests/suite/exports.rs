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

/// A Python with PyTorch in it, where there is one: `GREEDY_PYTHON`, or the one on the path.
fn pytorch() -> Option<String> {
    let python = std::env::var("GREEDY_PYTHON").unwrap_or_else(|_| "python3".into());
    let imports = "import safetensors, torch, torchvision, zarr";
    let found = std::process::Command::new(&python).args(["-c", imports]).output();
    let there = found.is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("left out: `{python}` has no torch, torchvision, safetensors and zarr");
    }
    there.then_some(python)
}

#[test]
fn a_network_of_ones_own_describes_itself_and_the_module_of_the_docs_loads_it() {
    let space = Space::new();
    space.run("run small.toml --set features.dtype=f32").ok();
    space.run("export cache/stage2 --to net.safetensors").ok();
    let bytes = fs::read(space.path("net.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(length % 8, 0);
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    assert_eq!(header["__metadata__"]["format"], "pt");
    let network: serde_json::Value = serde_json::from_str(header["__metadata__"]["network"].as_str().unwrap()).unwrap();
    let first = &network["modules"]["block1"];
    assert_eq!(first[0], serde_json::json!(["0", "PixelUnshuffle", [2]]));
    assert_eq!(first[1], serde_json::json!(["conv", "Conv2d", [12, 6, 3, 1, 1, 1, 1, false]]));
    assert_eq!(network["input"], serde_json::json!([3, 32, 32]));
    // The note leaves the tensors as they are.
    let all = tensors(&space, "net.safetensors");
    assert_eq!(all["block1.conv.weight"], tensors(&space, "cache/stage1/block.safetensors")["conv.weight"]);
    space.run("export cache/stage2 --to again.safetensors").ok();
    assert!(fs::read(space.path("again.safetensors")).unwrap() == bytes);

    let Some(python) = pytorch() else { return };
    let script = format!("{}/tests/interop/check_torchvision.py", env!("CARGO_MANIFEST_DIR"));
    space.write("evaluated.json", space.run("evaluate cache/stage2 --json").ok().stdout);
    let check = std::process::Command::new(python)
        .arg(script)
        .args(["module", "cache/stage2", "net.safetensors", "--evaluated", "evaluated.json"])
        .current_dir(space.path(""))
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
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

/// The bytes of the files that a command wrote below a folder, twice.
fn twice(space: &Space, command: &str) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    for folder in ["once", "again"] {
        space.run(&command.replace("OUT", folder)).ok();
    }
    assert!(space.files("once") == space.files("again"), "{command}");
    space.files("once")
}

#[test]
fn a_run_writes_the_same_events_as_an_export_of_its_stages_afterwards() {
    let space = Space::new();
    space.run("run small.toml --events while").ok();
    let files = twice(&space, "export cache --format tensorboard --to OUT");
    assert!(files == space.files("while"));
    let names: Vec<String> = files.iter().map(|(path, _)| path.display().to_string()).collect();
    let name = |stage: usize| format!("small/stage{stage}/events.out.tfevents.0000000000.greedy");
    assert_eq!(names, [name(1), name(2)]);
    let holds = |at: usize, text: &str| files[at].1.windows(text.len()).any(|part| part == text.as_bytes());
    for tag in ["loss/train", "accuracy/validation", "by_stage/ensemble_accuracy", "weights/block.conv.weight", "IHDR"]
    {
        assert!(holds(0, tag) && holds(1, tag), "{tag}");
    }
    // A run with nothing to do writes them too, and one stage alone gives its own.
    space.run("run small.toml --events later").ok();
    assert!(files == space.files("later"));
    space.run("export cache/stage2 --format tensorboard --to single").ok();
    assert_eq!(space.files("single"), [files[1].clone()]);
    space.run("export small.toml --format tensorboard --to x").fails(2, &["is a file, not a folder of stages"]);
    space
        .run("export . --format tensorboard --to x")
        .fails(1, &["neither a trained stage nor a cache", "in `./cache`"]);
    space.run("export cache/stage0 --format tensorboard --to x").fails(1, &["neither a trained stage nor a cache"]);
}

#[test]
fn a_projection_has_a_line_for_each_sample_and_a_thumbnail_where_there_are_images() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let files = twice(&space, "export cache/stage2 --format projector --to OUT --samples 40");
    let text = |name: &str| fs::read_to_string(space.path(&format!("once/{name}"))).unwrap();
    assert_eq!(files.len(), 4);
    let (tensors, metadata) = (text("tensors.tsv"), text("metadata.tsv"));
    // 100 samples, at most 40: every third.
    assert_eq!((tensors.lines().count(), metadata.lines().count()), (34, 35));
    assert!(tensors.lines().all(|line| line.split('\t').filter(|value| value.parse::<f32>().is_ok()).count() == 6));
    assert!(metadata.starts_with("class\tlabel\tname\tsample\n") && metadata.trim_end().ends_with("\t99"));
    let sprite = image::open(space.path("once/sprite.png")).unwrap();
    assert_eq!((sprite.width(), sprite.height()), (6 * 32, 6 * 32));
    assert!(text("projector_config.pbtxt").contains("single_image_dim: 32"));
    space
        .run("export cache/stage2 --format projector --to once")
        .fails(2, &["tensors.tsv` is there already", "--force"]);
    space.run("export cache/stage2 --format projector --to once --force").ok();
    assert_eq!(text("tensors.tsv").lines().count(), 100);
    space.run("export cache/stage2 --format onnx --to x --samples 3").fails(2, &["--format projector"]);
    fs::remove_dir_all(space.path("cache/stage0")).unwrap();
    let said = space.run("export cache/stage2 --format projector --to bare").ok().stdout;
    assert!(said.contains("without thumbnails") && !space.path("bare/sprite.png").exists(), "{said}");
}

#[test]
fn a_network_becomes_the_same_onnx_model_each_time() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let said = space.run("export cache/stage2 --format onnx --to a.onnx").ok().stdout;
    assert!(said.contains("2 blocks and a classifier for inputs of 3 x 32 x 32, (pixel / 255 - [0.5"), "{said}");
    space.run("export cache/stage2 --format onnx --to b.onnx").ok();
    let model = fs::read(space.path("a.onnx")).unwrap();
    assert!(model == fs::read(space.path("b.onnx")).unwrap());
    let holds = |text: &str| model.windows(text.len()).any(|part| part == text.as_bytes());
    for text in ["block1.conv.weight", "auxiliary.linear.bias", "BatchNormalization", "logits", "classes"] {
        assert!(holds(text), "{text}");
    }
    space.run("export cache/stage2 --format onnx --to a.onnx").fails(2, &["is there already"]);
    space.run("export cache/stage0 --format onnx --to c.onnx").fails(2, &["no weights"]);
    let would = space.run("export cache/stage1 --format onnx --to c.onnx --dry-run").ok().stdout;
    assert!(would.starts_with("would write c.onnx: 1 block") && !space.path("c.onnx").exists(), "{would}");
}
