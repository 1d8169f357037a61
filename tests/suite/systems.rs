//! Ensembles, probes and handcrafted features: beside scikit-learn and Kymatio, and through the whole program.

use crate::operations::{assert_close, cases, fixture};
use crate::space::Space;
use candle_core::{Device, Tensor};
use greedy::ops::{Scattering, to_nchw, to_nhwc};
use greedy::pipeline::scattered;
use greedy::probes::{Fit, Linear, Scaling, Table, contraction, neighbours};
use greedy::progress::Silent;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;

const PROBES: &str = r#"
[ensemble]
of = "softmax"
[[probes]]
kind = "linear"
stages = [0, 1, 2]
[[probes]]
kind = "neighbours"
name = "near"
k = 3
[[probes]]
kind = "contraction"
stages = [2]
[[probes]]
kind = "cnn"
width = 6
depth = 1
epochs = 2
stages = [1]
"#;

/// `SMALL` with the nodes above.
fn probed() -> Space {
    let space = Space::new();
    space.write("probed.toml", crate::space::SMALL.to_string() + PROBES);
    space
}

fn table(all: &HashMap<String, Tensor>, name: &str) -> Table {
    let labels: Vec<u32> = all[&format!("{name}_labels")].to_vec1().unwrap();
    let width = all[name].dim(1).unwrap();
    Table { width, values: all[name].flatten_all().unwrap().to_vec1().unwrap(), labels }
}

#[test]
fn probes_find_what_scikit_learn_finds() {
    let all = fixture("probes");
    let (mut train, mut val) = (table(&all, "train"), table(&all, "val"));
    let mut own = val.clone();
    own.standardise(&Scaling::of(&val));
    let scaling = Scaling::of(&train);
    train.standardise(&scaling);
    val.standardise(&scaling);

    let fit = Fit { penalty: 0.01, iterations: 1000, tolerance: 1e-6 };
    let (linear, iterations) = Linear::fit(&train, 4, fit, &Device::Cpu, &Silent).unwrap();
    assert!((5..200).contains(&iterations), "{iterations}");
    let logits = Tensor::from_vec(linear.logits(&val).unwrap(), (val.len(), 4), &Device::Cpu).unwrap();
    let logs = candle_nn::ops::log_softmax(&logits, 1).unwrap();
    assert_close(&logs, &all["linear"], 1e-4, "logistic regression");
    let weights = linear.weights().t().unwrap();
    let weights = weights.broadcast_sub(&weights.mean_keepdim(0).unwrap()).unwrap();
    assert_close(&weights, &all["weights"], 1e-4, "weights");

    for k in [1, 7] {
        let found = neighbours(&train, &val, (k, 4), &Device::Cpu, &Silent).unwrap();
        let expected: Vec<u32> = all[&format!("neighbours{k}")].to_vec1().unwrap();
        assert_eq!(found, expected, "{k} neighbours");
    }
    let found = contraction(&own, &Device::Cpu, &Silent).unwrap();
    let found = Tensor::new(&[found.within as f32, found.between as f32], &Device::Cpu).unwrap();
    assert_close(&found, &all["distances"], 1e-5, "distances");
}

#[test]
fn many_rows_are_compared_block_by_block() {
    // More than a block of either: each row's nearest is the one beside it, in the same place of the other table.
    let count = 5000;
    let row = |at: usize, shift: f32| [(at % 71) as f32 + shift, (at / 71) as f32];
    let of = |shift: f32| Table {
        width: 2,
        values: (0..count).flat_map(|at| row(at, shift)).collect(),
        labels: (0..count as u32).collect(),
    };
    let found = neighbours(&of(0.0), &of(0.25), (1, count), &Device::Cpu, &Silent).unwrap();
    assert_eq!(found, (0..count as u32).collect::<Vec<_>>());
    // Of rows on a line, two classes in turn: distances are known.
    let line = Table {
        width: 1,
        values: (0..2500).map(|at| at as f32).collect(),
        labels: (0..2500).map(|at| at % 2).collect(),
    };
    let mean = |parity: u32| {
        let distances = (1..2500u32).filter(|distance| distance % 2 == parity);
        let (sum, count) = distances.fold((0.0, 0.0), |(sum, count), distance| {
            let pairs = f64::from(2500 - distance);
            (sum + pairs * f64::from(distance), count + pairs)
        });
        sum / count
    };
    let found = contraction(&line, &Device::Cpu, &Silent).unwrap();
    assert!((found.within - mean(0)).abs() < 0.01 && (found.between - mean(1)).abs() < 0.01, "{found:?}");
}

#[test]
fn scattering_coefficients_are_those_of_kymatio() {
    let all = fixture("scattering");
    let names = cases(&all);
    assert_eq!(names.len(), 5);
    for case in names {
        let numbers: Vec<usize> = case.split('_').filter_map(|part| part.parse().ok()).collect();
        let [scales, angles, order, size] = numbers[..] else { panic!("{case}") };
        let [padded, side] = scattered(size, scales).unwrap();
        let transform = Scattering::new([size, padded], scales, angles, order).unwrap();
        let pixels = &all[&format!("{case}.pixels")];
        let found = to_nchw(&transform.forward(&to_nhwc(pixels).unwrap()).unwrap()).unwrap();
        assert_eq!(found.dims(), [2, 2 * transform.coefficients(), side, side], "{case}");
        assert_close(&found, &all[&format!("{case}.coefficients")], 1e-4, case);
    }
    assert!(Scattering::new([16, 20], 2, 8, 2).is_err() && Scattering::new([2, 8], 1, 8, 2).is_err());
}

#[test]
fn an_ensemble_says_what_its_stages_say_together() {
    let space = probed();
    let run = space.run("run probed.toml ensemble --json").ok().json();
    assert_eq!(run["done"], json!(["stage0", "stage1", "stage2", "ensemble"]));
    // The whole network is run again for this, and averages in another place of the program.
    for (of, node) in [("softmax", "cache/ensemble"), ("softmax", "cache --ensemble")] {
        let evaluated = space.run(&format!("evaluate {node} --json")).ok().json();
        assert_eq!(evaluated["ensemble_of"], of);
        let together = evaluated["stages"][1]["ensemble_accuracy"].as_f64().unwrap();
        assert!((together - run["ensemble"]["accuracy"].as_f64().unwrap()).abs() < 1.01, "{evaluated} {run}");
    }
    let logits = space.run("evaluate cache/stage2 --json --ensemble=logits").ok().json();
    assert_eq!(logits["ensemble_of"], "logits");

    let image = format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"));
    let predict = |options: &str| space.run(&format!("predict {image} --top 10 {options}")).ok().stdout;
    let by_node = predict("--from cache/ensemble");
    assert_eq!(predict("--ensemble"), by_node);
    assert_eq!(predict("--from cache/stage2 --ensemble=softmax"), by_node);
    assert_ne!(predict("--from cache/stage2"), by_node);

    // By hand: the probabilities of stage 2 weigh twice those of stage 1.
    let shares = |options: &str| -> HashMap<String, f64> {
        let found = space.run(&format!("predict {image} --top 10 --json {options}")).ok().json();
        let classes = found["images"][0]["classes"].as_array().unwrap().clone();
        let share = |class: &Value| class["probability"].as_f64().unwrap();
        classes.iter().map(|class| (class["class"].as_str().unwrap().to_string(), share(class))).collect()
    };
    let [first, second, together] = ["--from cache/stage1", "--from cache/stage2", "--ensemble"].map(shares);
    for (class, share) in &together {
        let expected = (first[class] + 2.0 * second[class]) / 3.0;
        assert!((share - expected).abs() < 1e-5, "{class}: {share}, not {expected}");
    }
    space.run("predict --from cache/stage0-linear x.png").fails_with(&["neither a stage"]);
    space.run("export cache/ensemble --to x.safetensors").fails(2, &["holds ensemble, no weights"]);
    space.run("stage 2 --from cache/ensemble").fails(2, &["no features to train a stage on"]);
}

#[test]
fn the_setting_of_an_ensemble_touches_it_alone() {
    let space = probed();
    space.run("run probed.toml ensemble").ok();
    let logits = "probed.toml ensemble --set ensemble.of=logits";
    let why = space.run(&format!("status {}", logits.replace(" ensemble ", " "))).ok().stdout;
    assert!(why.contains("ensemble: ensemble.of: softmax -> logits"), "{why}");
    assert_eq!(space.run(&format!("run {logits} --json")).ok().json()["done"], json!(["ensemble"]));
    let changed = "probed.toml ensemble --set ensemble.of=logits --set stage.2.training.epochs=2";
    assert_eq!(space.run(&format!("run {changed} --json")).ok().json()["done"], json!(["stage2", "ensemble"]));
    space.run("status probed.toml --set training.method=end_to_end").fails(2, &["`ensemble` has no meaning"]);
}

#[test]
fn probes_are_made_again_only_where_their_features_or_settings_change() {
    let space = probed();
    let text = fs::read_to_string(space.path("probed.toml")).unwrap();
    space.write("probed.toml", text.replace("[features]\n", "[features]\ndtype = \"f16\"\n"));
    let run = space.run("run probed.toml --json").ok().json();
    let probes: Vec<&str> =
        run["probes"].as_array().unwrap().iter().map(|probe| probe["title"].as_str().unwrap()).collect();
    let expected = [
        "linear of the images",
        "linear of stage 1",
        "linear of stage 2",
        "near of stage 1",
        "near of stage 2",
        "contraction of stage 2",
        "cnn of stage 1",
    ];
    assert_eq!(probes, expected);
    let measure = |at: usize, name: &str| run["probes"][at]["measures"][name].as_f64().unwrap();
    // A linear classifier of 24 values fits 300 samples far better than a guess of one of ten.
    assert!(measure(1, "train_accuracy") > 30.0 && measure(1, "train_loss") < 2.1, "{run}");
    assert!(measure(1, "train_accuracy") >= measure(1, "accuracy") && measure(6, "train_loss") < 2.6, "{run}");
    assert!(
        (measure(5, "ratio") - measure(5, "within") / measure(5, "between")).abs() < 1e-9 && measure(5, "ratio") < 1.0
    );
    let text = space.run("status probed.toml").ok().stdout;
    for part in ["linear, train", "contraction, ratio", "features of", "near of stage 1", "images"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    assert_eq!(space.run("run probed.toml --json").ok().json()["done"], json!([]));

    let done = |options: &str| space.run(&format!("run probed.toml --json {options}")).ok().json()["done"].clone();
    assert_eq!(
        done("--set stage.2.training.epochs=2"),
        json!(["stage2", "ensemble", "stage2-linear", "stage2-near", "stage2-contraction"])
    );
    space.write("fewer.toml", fs::read_to_string(space.path("probed.toml")).unwrap().replace("k = 3", "k = 5"));
    let fewer = "run fewer.toml --json --set stage.2.training.epochs=2";
    assert_eq!(space.run(fewer).ok().json()["done"], json!(["stage1-near", "stage2-near"]));
    let inspect = space.run("inspect cache/stage1-near").ok().stdout;
    assert!(inspect.contains("near of stage 1 of pipeline `small`") && inspect.contains("probes.k = 5"), "{inspect}");
}

#[test]
fn it_makes_no_difference_whether_the_features_of_a_probe_are_kept() {
    let space = probed();
    let measures = |cache: &str, options: &str| {
        let run = format!(
            "run probed.toml stage1-linear stage1-near --cache {cache} --json --set features.dtype=f32 {options}"
        );
        let run = space.run(&run).ok().json();
        run["probes"].as_array().unwrap().iter().map(|probe| probe["measures"].clone()).collect::<Vec<_>>()
    };
    let kept = measures("kept", "");
    let computed = measures("computed", "--set features.materialize=[2]");
    assert_eq!((kept.len(), &kept), (2, &computed));
}

#[test]
fn ensembles_and_probes_are_verified_repaired_and_cleaned_as_stages_are() {
    let space = probed();
    space.run("run probed.toml").ok();
    space.run("verify cache").ok();
    let before = space.results("cache");
    for name in ["ensemble/val/logits/c/0/0", "ensemble/val/labels/c/0", "stage1-near/zarr.json"] {
        let path = space.path("cache").join(name);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last / 2] ^= 1;
        fs::write(&path, &bytes).unwrap();
        space.run("verify cache").fails(1, &["1 file is missing, damaged or foreign"]);
        space.run("verify cache --repair").ok();
        space.same_results("cache", &before, name);
        fs::remove_file(&path).unwrap();
        let states = space.states("probed.toml");
        assert_eq!(states.iter().filter(|state| *state != "current").collect::<Vec<_>>(), ["partial"], "{name}");
        space.run("run probed.toml").ok();
        space.same_results("cache", &before, name);
    }
    fs::remove_file(space.path("cache/stage1-linear/record.json")).unwrap();
    fs::remove_file(space.path("cache/stage1-linear/spare/record.json")).unwrap();
    space.run("run probed.toml --json").fails(1, &["stage1-linear", "no `record.json`"]);
    fs::remove_dir_all(space.path("cache/stage1-linear")).unwrap();
    assert_eq!(space.run("run probed.toml --json").ok().json()["done"], json!(["stage1-linear"]));
    // Without its sections nobody needs them.
    let clean = space.run("clean small.toml --yes --json").ok().json();
    assert_eq!(clean["removed"].as_array().map(Vec::len), Some(8), "{clean}");
    assert_eq!(space.states("small.toml"), ["current"; 3]);
    assert!(!space.path("cache/ensemble").exists() && !space.path("cache/stage2-near").exists());
}

#[test]
fn a_slip_in_a_probe_is_placed() {
    let space = Space::new();
    let refused = |more: &str, words: &[&str]| {
        space.write("wrong.toml", crate::space::SMALL.to_string() + more);
        space.run("status wrong.toml").fails(2, words);
    };
    refused("[[probes]]\nkind = \"linaer\"\n", &["wrong.toml:25:8", "did you mean `linear`"]);
    refused("[[probes]]\nk = 1\n", &["`probes[1].kind` is missing"]);
    refused("[[probes]]\nkind = \"linear\"\nk = 1\n", &["unknown key `probes[1].k`"]);
    refused("[[probes]]\nkind = \"linear\"\n[[probes]]\nkind = \"linear\"\n", &["as another probe is called"]);
    refused("[[probes]]\nkind = \"linear\"\nname = \"../x\"\n", &["it is that of a folder"]);
    refused("[[probes]]\nkind = \"linear\"\nstages = [3]\n", &["names stage 3"]);
    refused("[[probes]]\nkind = \"linear\"\nstages = \"al\"\n", &["did you mean `all`"]);
    refused("[ensemble]\nof = \"logit\"\n", &["did you mean `logits`"]);
}

/// A scattering transform, then a classifier of it, on a few built-in pictures.
const SCATTERING: &str = r#"
[data]
source = "builtin"
train_images = 200
val_images = 60
[augmentation]
flip = true
[network]
architecture = "scattering"
angles = 4
order = 1
[auxiliary]
k = 1
[training]
epochs = 4
batch = 20
learning_rate = 0.05
[features]
refresh = 0.0
"#;

#[test]
fn handcrafted_features_are_a_stage_like_any_other() {
    let space = Space::new();
    space.write("scattering.toml", SCATTERING.to_string() + "[ensemble]\n[[probes]]\nkind = \"linear\"\n");
    let run = space.run("run scattering.toml --json").ok().json();
    assert_eq!(run["done"], json!(["stage0", "stage1", "stage2", "ensemble", "stage1-linear", "stage2-linear"]));
    // Three channels of 1 + 2 * 4 coefficients.
    assert_eq!(run["stages"][0]["shape"], json!([1, 200, 27, 8, 8]));
    assert_eq!((&run["stages"][0]["kind"], &run["stages"][0]["accuracy"]), (&json!("scattering"), &Value::Null));
    let history = run["stages"][1]["history"].as_array().unwrap();
    let loss = |epoch: usize| history[epoch]["loss"].as_f64().unwrap();
    assert!(loss(3) < loss(0), "{run}");
    assert_eq!(run["stages"][1]["ensemble_accuracy"], run["stages"][1]["accuracy"]);
    space.run("verify cache").ok();
    let evaluated = space.run("evaluate cache --json").ok().json();
    assert_eq!(evaluated["stages"].as_array().unwrap().len(), 1);
    let image = format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"));
    space.run(&format!("predict {image}")).ok();
    let before = space.results("cache/stage1");
    for name in ["block.safetensors", "train/features/c/0/0/0/0/0"] {
        fs::remove_file(space.path("cache/stage1").join(name)).unwrap();
        space.run("verify cache --repair").ok();
        space.same_results("cache/stage1", &before, name);
    }
    // What is learned on top of it is no business of the transform.
    let states = space.states("scattering.toml --set training.epochs=2");
    assert_eq!(states[..3], ["current", "current", "stale"]);
    assert_eq!(space.states("scattering.toml --set network.order=2")[..3], ["current", "stale", "stale"]);
    let deeper = space.run("run scattering.toml --set network.blocks=2 --set network.width=8 --json").ok().json();
    assert_eq!(deeper["stages"][2]["shape"], json!([1, 200, 8, 8, 8]));
    space.run("stage 2 --from cache/stage1 --to cache/again --set training.epochs=1").ok();
    space.run("plan scattering.toml --profile cpu2").ok();
    let fresh = "run scattering.toml --cache fresh --set features.refresh=0.5 --set features.materialize=[2]";
    space.run(fresh).ok();
}

#[test]
fn a_scattering_transform_reads_images_only() {
    let space = Space::new();
    let blocks = |blocks: &str| {
        let network = format!("architecture = \"custom\"\nblocks = {blocks}");
        let text = SCATTERING.replace("architecture = \"scattering\"\nangles = 4\norder = 1", &network);
        space.write("custom.toml", text);
    };
    blocks("[[{ conv = 4 }, { scattering = 1 }]]");
    space.run("status custom.toml").fails(2, &["reads images only", "first layer of the first block"]);
    blocks("[[{ scattering = 1, angles = 2 }], [{ scattering = 1 }]]");
    space.run("status custom.toml").fails(2, &["reads images only"]);
    blocks("[[{ scattering = 6 }], [\"batch_norm\"]]");
    space.run("status custom.toml").fails(2, &["does not fit into 32 pixels"]);
    // Together with a convolution it is a block that is trained.
    blocks("[[{ scattering = 2, angles = 2 }, \"batch_norm\", { conv = 4 }, \"relu\"]]");
    let run = space.run("run custom.toml --json --set training.epochs=1").ok().json();
    assert_eq!(run["stages"][0]["kind"], "block");
    let run = space.run("run custom.toml --json --set training.epochs=1 --set training.method=end_to_end").ok().json();
    assert_eq!(run["stages"][0]["kind"], "depth");
}
