//! Networks other than SimCNN, through the whole program: a user's own table, VGG-11 and AlexNet, layerwise and end to end.

use crate::space::Space;
use serde_json::Value;
use std::fs;

/// A network of three blocks that are listed layer by layer, on a few built-in pictures.
const CUSTOM: &str = r#"
name = "custom"
[data]
source = "builtin"
train_images = 300
val_images = 100
[augmentation]
crop = "padded"
padding = 2
[network]
architecture = "custom"
blocks = [
    [{ conv = 8, kernel = 5, stride = 2 }, "batch_norm", "relu"],
    [{ max_pool = 3, stride = 2, padding = 1 }, { conv = 12 }, "batch_norm", "relu"],
    ["space_to_depth", { conv = 16, kernel = 1 }, "relu", { dropout = 0.1 }],
]
head = [{ avg_pool = 2 }, "flatten", { linear = 24 }, "relu", { linear = "classes" }]
[auxiliary]
width = 8
[training]
epochs = 3
batch = 32
learning_rate = 0.02
[features]
shard_mib = 1
"#;

fn custom() -> Space {
    let space = Space::new();
    space.write("custom.toml", CUSTOM);
    space
}

fn states(space: &Space, arguments: &str) -> Vec<String> {
    space.states(arguments)
}

/// Whether the loss of the last epoch is below that of the first.
fn learns(stage: &Value) -> bool {
    let history = stage["history"].as_array().unwrap();
    let loss = |epoch: &Value| epoch["loss"].as_f64().unwrap();
    loss(history.last().unwrap()) < loss(&history[0])
}

fn accuracies(run: &Value) -> Vec<f64> {
    run["stages"].as_array().unwrap().iter().filter_map(|stage| stage["accuracy"].as_f64()).collect()
}

#[test]
fn a_table_of_layers_trains_and_needs_no_further_code() {
    let space = custom();
    let run = space.run("run custom.toml --json").ok().json();
    assert_eq!(run["done"], serde_json::json!(["stage0", "stage1", "stage2", "stage3"]));
    let shapes: Vec<&Value> = run["stages"].as_array().unwrap().iter().map(|stage| &stage["shape"]).collect();
    assert_eq!(shapes[0], &serde_json::json!([1, 300, 8, 16, 16]));
    assert_eq!(shapes[1], &serde_json::json!([1, 300, 12, 8, 8]));
    assert_eq!(shapes[2], &serde_json::json!([1, 300, 16, 4, 4]));
    assert!(run["stages"].as_array().unwrap().iter().all(learns), "{run}");
    assert_eq!(states(&space, "custom.toml"), ["current"; 4]);
    space.run("verify cache").ok();
    let inspect = space.run("inspect cache/stage2").ok().stdout;
    assert!(
        inspect.contains("max pool 3x3 stride 2 padding 1 > conv 12, 3x3 padding 1 > batch norm > ReLU"),
        "{inspect}"
    );
    let plan = space.run("plan custom.toml --profile cpu2").ok().stdout;
    assert!(plan.contains("12 x 8 x 8"), "{plan}");
    space.run("evaluate cache").ok();
    space.run("stage 3 --from cache/stage2 --to cache/again").ok();
    for name in ["block.safetensors", "auxiliary.safetensors"] {
        let read = |stage: &str| fs::read(space.path(&format!("cache/{stage}/{name}"))).unwrap();
        assert!(read("stage3") == read("again"), "{name}");
    }
    // A layer of the second block changes it and what comes after, and says so by the key that a user knows.
    let why = space.run("status custom.toml --set training.epochs=3").ok().stdout;
    assert!(!why.contains("stale"), "{why}");
    space.write("custom.toml", CUSTOM.replace("{ conv = 12 }", "{ conv = 14 }"));
    assert_eq!(states(&space, "custom.toml"), ["current", "current", "stale", "stale"]);
    let why = space.run("status custom.toml").ok().stdout;
    assert!(why.contains("stage 2: network.blocks: "), "{why}");
}

#[test]
fn a_wrong_layer_is_placed_and_the_right_word_suggested() {
    let space = custom();
    for (from, to, words) in [
        (
            "\"batch_norm\", \"relu\"]",
            "\"batch_norn\", \"relu\"]",
            vec!["wrong.toml:13:", "\"batch_norn\" is no layer", "did you mean `batch_norm`"],
        ),
        ("conv = 12", "konv = 12", vec!["wrong.toml:14:", "`konv`", "did you mean `conv`"]),
        ("kernel = 5", "kernal = 5", vec!["wrong.toml:13:", "`network.blocks[1].kernal`", "did you mean"]),
        ("{ max_pool = 3, stride = 2, padding = 1 }", "\"max_pool\"", vec!["wrong.toml:14:", "needs a value"]),
        (
            "{ conv = 16, kernel = 1 }",
            "{ conv = 16, kernel = 9, padding = 0 }",
            vec!["wrong.toml:15:", "does not fit into 4 pixels"],
        ),
        ("\"flatten\", ", "", vec!["wrong.toml:17:", "put \"flatten\" before it"]),
        ("{ linear = \"classes\" }", "{ linear = 10 }", vec!["`network.head`", "must end with"]),
        ("\"relu\", { dropout = 0.1 }", "{ linear = \"classes\" }", vec!["wrong.toml:15:", "only heads do"]),
        ("\"space_to_depth\"", "7", vec!["wrong.toml:15:", "a layer is a word or a table"]),
    ] {
        space.write("wrong.toml", CUSTOM.replacen(from, to, 1));
        space.run("status wrong.toml").fails(2, &words);
    }
}

/// The states, folders and files of a network that is trained as a whole.
#[test]
fn a_network_trained_as_a_whole_leaves_stages_behind() {
    let space = custom();
    let whole = "custom.toml --set training.method=end_to_end";
    let run = space.run(&format!("run {whole} --json")).ok().json();
    assert_eq!(run["done"], serde_json::json!(["stage0", "network", "stage1", "stage2", "stage3"]));
    let trained = run["network"]["accuracy"].as_f64().unwrap();
    assert!(learns(&run["network"]), "{run}");
    assert_eq!(accuracies(&run), [trained], "the last depth alone has the classifier");
    assert_eq!(states(&space, whole), ["current"; 5]);
    space.run("verify cache").ok();
    let evaluated = space.run("evaluate cache/stage3 --json").ok().json();
    assert_eq!(evaluated["stages"][0]["stage"], 3);
    assert!((evaluated["stages"][0]["accuracy"].as_f64().unwrap() - trained).abs() < 1.5, "{evaluated} {trained}");
    space.run("inspect cache/stage2").ok();
    // A stage is trained on the features of a depth as on those of any stage, but never in the place of one.
    space.run("stage 3 --from cache/stage2").fails(2, &["trained as a whole", "--to DIR"]);
    space.run("stage 3 --from cache/stage2 --to cache/own").ok();
    // Another form of features keeps what was learned, of the network as of its depths.
    let weights = fs::read(space.path("cache/network/network.safetensors")).unwrap();
    let other = format!("{whole} --set features.dtype=f32");
    assert_eq!(states(&space, &other), ["current", "current", "re-extract", "waiting", "waiting"]);
    assert_eq!(
        space.run(&format!("run {other} --json")).ok().json()["done"],
        serde_json::json!(["stage1", "stage2", "stage3"])
    );
    assert!(fs::read(space.path("cache/network/network.safetensors")).unwrap() == weights);
    // The whole again with other settings: its depths follow.
    let longer = format!("{other} --set training.epochs=4");
    assert_eq!(states(&space, &longer), ["current", "stale", "waiting", "waiting", "waiting"]);
}

#[test]
fn broken_files_of_a_depth_are_made_again_from_the_network() {
    let space = custom();
    space.run("run custom.toml --set training.method=end_to_end").ok();
    let before = space.files("cache");
    for name in [
        "stage1/block.safetensors",
        "stage3/auxiliary.safetensors",
        "stage3/val/logits/c/0/0",
        "stage2/train/features/c/0/0/0/0/0",
        "network/val/logits/c/0/0",
    ] {
        let path = space.path("cache").join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 4;
        fs::write(&path, bytes).unwrap();
        space.run("verify cache").fails(1, &[]);
        space.run("verify cache --repair").ok();
        assert!(space.files("cache") == before, "{name}");
    }
    // The weights of the network itself come from training alone.
    let path = space.path("cache/network/network.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 1);
    fs::write(&path, bytes).unwrap();
    space.run("verify cache --repair").fails(1, &[]);
    assert_eq!(states(&space, "custom.toml --set training.method=end_to_end")[..2], ["current", "partial"]);
}

#[test]
fn some_nodes_are_brought_up_to_date_with_what_they_need() {
    let space = Space::new();
    let done = |arguments: &str| space.run(&format!("run small.toml {arguments} --json")).ok().json()["done"].clone();
    assert_eq!(done("images"), serde_json::json!(["stage0"]));
    assert_eq!(done("stage1"), serde_json::json!(["stage1"]));
    assert_eq!(done("1"), serde_json::json!([]));
    assert_eq!(done(""), serde_json::json!(["stage2"]));
    space.run("run small.toml stage7").fails(2, &["no node `stage7`", "stage0, stage1, stage2"]);
    let would = space.run("run small.toml stage1 --set training.epochs=1 --dry-run").ok().stdout;
    assert!(would.contains("would make stage 1") && !would.contains("stage 2"), "{would}");
}
