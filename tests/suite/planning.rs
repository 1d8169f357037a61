//! `greedy plan`: what is predicted, what is chosen, and what docs/planning.md shows of it.

use crate::space::Space;

const IMAGENET: &str = "--profile h200 --disk 2TB --images 1281167 --val-images 50000";

fn shipped(pipeline: &str) -> String {
    format!("{}/pipelines/{pipeline}.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_plan_measures_this_machine_and_leaves_nothing_behind() {
    let space = Space::new();
    let plan = space.run("plan small.toml --json").ok().json();
    let stages = plan["stages"].as_array().unwrap();
    assert_eq!((stages.len(), &plan["images"]["train"]), (2, &serde_json::json!(300)));
    for stage in stages {
        let positive = ["epoch_seconds_read", "epoch_seconds_recomputed", "host_bytes"];
        assert!(positive.iter().all(|name| stage[name].as_f64().unwrap() > 0.0), "{stage}");
        assert!(stage["actual_seconds"].is_null());
    }
    assert!(plan["read_bytes_per_second"].as_f64().unwrap() > 0.0);
    let left: Vec<_> = std::fs::read_dir(space.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["small.toml"]);
}

#[test]
fn what_stages_took_stands_beside_what_is_predicted() {
    let space = Space::new();
    let pipeline = "small.toml --set features.dtype=f16";
    let run = space.run(&format!("run {pipeline} --json")).ok().json();
    let before = space.files("cache");
    let plan = space.run(&format!("plan {pipeline} --json")).ok().json();
    for at in 0..2 {
        assert_eq!(plan["stages"][at]["dtype"], "f16");
        assert!((plan["stages"][at]["compression"].as_f64().unwrap() - 1.0).abs() < 1e-3);
        assert_eq!(plan["stages"][at]["actual_seconds"], run["stages"][at]["seconds_of"]);
        // But for the checksum of each shard's index, what is predicted is what was written.
        let [predicted, written] = [&plan, &run].map(|json| json["stages"][at]["bytes"].as_u64().unwrap());
        assert!(predicted.abs_diff(written) <= 4 * 16, "{predicted} {written}");
        assert_eq!(plan["stages"][at]["block_parameters"], run["stages"][at]["block_parameters"]);
        assert_eq!(plan["stages"][at]["auxiliary_parameters"], run["stages"][at]["auxiliary_parameters"]);
    }
    let table = space.run(&format!("plan {pipeline}")).ok().stdout;
    assert!(table.contains("it took"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert_eq!(space.files("cache"), before);
    // What was made otherwise says nothing of this pipeline: compressed features are expected to be as they usually are.
    let other = space.run("plan small.toml --profile cpu2 --set network.width=9 --json").ok().json();
    let stage = &other["stages"][0];
    assert!(stage["actual_seconds"].is_null() && stage["codec"] == "huffman", "{stage}");
    assert!((0.4..0.5).contains(&stage["compression"].as_f64().unwrap()), "{stage}");
}

#[test]
fn a_plan_knows_probes_the_ensemble_and_stages_that_are_not_trained() {
    let space = Space::new();
    let probes = "[ensemble]\n[[probes]]\nkind = \"linear\"\nstages = [0, 2]\niterations = 20\n[[probes]]\nkind = \"neighbours\"\n\
                  stages = [1]\n[[probes]]\nkind = \"contraction\"\n[[probes]]\nkind = \"cnn\"\nwidth = 4\nepochs = 1\nstages = [2]\n";
    space.write("probed.toml", crate::space::SMALL.to_string() + probes);
    let plan = |more: &str| space.run(&format!("plan probed.toml --json {more}")).ok().json();
    let measured = |plan: &serde_json::Value| plan["measured"].as_array().unwrap().clone();
    let before = measured(&plan(""));
    let names: Vec<&str> = before.iter().map(|row| row["node"].as_str().unwrap()).collect();
    let expected = [
        "ensemble",
        "stage0-linear",
        "stage2-linear",
        "stage1-neighbours",
        "stage1-contraction",
        "stage2-contraction",
        "stage2-cnn",
    ];
    assert_eq!(names, expected);
    for row in &before {
        assert!(row["seconds"].as_f64().unwrap() > 0.0 && row["actual_seconds"].is_null(), "{row}");
        assert!(row["node"] == "ensemble" || row["host_bytes"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(
        (&before[1]["fed_by"], &before[2]["fed_by"], &before[2]["values_of_each"]),
        (&"images".into(), &"2".into(), &24.into())
    );
    space.run("run probed.toml").ok();
    let after = measured(&plan(""));
    assert!(after.iter().all(|row| row["actual_seconds"].as_f64().unwrap() > 0.0), "{after:?}");
    let logits = std::fs::metadata(space.path("cache/ensemble/val/logits/c/0/0")).unwrap().len();
    let labels = std::fs::metadata(space.path("cache/ensemble/val/labels/c/0")).unwrap().len();
    assert_eq!(after[0]["bytes"].as_u64().unwrap(), logits + labels);
    // From images, through both blocks, it takes longer; and a profile knows all of them too.
    let assumed = |kept: &str| {
        let plan = plan(&format!("--profile cpu2 --set features.materialize={kept}"));
        (measured(&plan)[2]["seconds"].as_f64().unwrap(), plan["choices"][2]["seconds"].as_f64().unwrap())
    };
    assert!(assumed("[]").0 > assumed("[1,2]").0);
    let table = space.run("plan probed.toml --profile cpu2").ok().stdout;
    assert!(table.contains("measured") && table.contains("stage1-neighbours"), "{table}");

    let whole = space.run("plan small.toml --set training.method=end_to_end --json").ok().json();
    let train = |plan: &serde_json::Value, at: usize| plan["stages"][at]["seconds"]["train"].as_f64().unwrap();
    assert!(whole["network"]["seconds"].as_f64().unwrap() > 0.0 && train(&whole, 1) == 0.0, "{whole}");
    space.write(
        "wavelets.toml",
        "[data]\nsource = \"builtin\"\n[network]\narchitecture = \"scattering\"\n[features]\nrefresh = 0.0\n",
    );
    let wavelets = space.run("plan wavelets.toml --profile cpu2 --json").ok().json();
    assert!(train(&wavelets, 0) == 0.0 && train(&wavelets, 1) > 0.0, "{wavelets}");
    assert!(wavelets["stages"][0]["seconds"]["features"].as_f64().unwrap() > 0.0, "{wavelets}");
}

#[test]
fn the_choice_fits_the_disk_and_is_no_slower_than_the_alternatives() {
    let space = Space::new();
    for name in ["imagenet-simcnn-k1", "imagenet-simcnn-k2", "imagenet-simcnn-k3"] {
        let plan = space.run(&format!("plan {} {IMAGENET} --json", shipped(name))).ok().json();
        let choices = plan["choices"].as_array().unwrap();
        let best = choices.last().unwrap();
        assert!(best["name"] == "fastest" && best["bytes"].as_u64().unwrap() <= 2_000_000_000_000);
        let mut others = choices.iter().filter(|choice| choice["bytes"].as_u64().unwrap() <= 2_000_000_000_000);
        assert!(others.all(|choice| choice["seconds"].as_f64() >= best["seconds"].as_f64()), "{name}");
        let better = |decision: &&serde_json::Value| decision["otherwise_more_seconds"].as_f64().unwrap() < 0.0;
        let better = plan["decisions"].as_array().unwrap().iter().filter(better);
        assert!(better.into_iter().all(|decision| decision["otherwise_fits"] == false), "{name}");
    }
}

#[test]
fn figures_on_the_command_line_change_what_they_are_of() {
    let space = Space::new();
    let seconds = |more: &str| {
        let plan = space
            .run(&format!("plan {} {IMAGENET} --json --set features.dtype=f16 {more}", shipped("imagenet-simcnn-k2")))
            .ok()
            .json();
        let stage = &plan["stages"][2];
        let of = |name: &str| stage[name].as_f64().unwrap();
        (of("epoch_seconds_read"), of("epoch_seconds_recomputed"), stage["limit"].as_str().unwrap().to_string())
    };
    let (read, recomputed, limit) = seconds("");
    assert_eq!(limit, "compute");
    let slow_disk = seconds("--read 3GB/s");
    assert!(slow_disk.0 > 2.0 * read && slow_disk.1 == recomputed, "{slow_disk:?}");
    let slow_blocks = seconds("--forward 10TFLOPS");
    assert!(slow_blocks.0 == read && slow_blocks.1 > 2.0 * recomputed, "{slow_blocks:?}");
    assert_eq!(seconds("--decode 100").2, "decode");
    assert!(seconds("--training 10TFLOPS").0 > read);
}

#[test]
fn a_plan_that_cannot_be_made_says_what_is_missing() {
    let space = Space::new();
    space.write("big.toml", "[data]\nsource = \"folder\"\npath = \"nowhere\"\nsize = 32\n");
    space.run("plan big.toml --profile h200").fails(1, &["nowhere", "hint:", "--images N --val-images N"]);
    space.run("plan big.toml --profile h300").fails(2, &["h300", "h200"]);
    space.run("plan big.toml --disk lots").fails(2, &["lots", "2TB"]);
    space.run("plan big.toml --forward 3").fails(2, &["100TFLOPS"]);
    space.run("plan small.toml --set features.disk=lots").fails(2, &["features.disk", "2TB"]);
    space.run("plan big.toml --profile h200 --images 10 --val-images 10").ok();
}

#[test]
fn the_plans_in_the_docs_are_those_that_are_printed() {
    let space = Space::new();
    let page = std::fs::read_to_string(format!("{}/docs/planning.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    for name in ["imagenet-simcnn-k1", "imagenet-simcnn-k2", "imagenet-simcnn-k3"] {
        assert!(page.contains(&format!("greedy plan pipelines/{name}.toml {IMAGENET}")), "{name}");
        let plan = space.run(&format!("plan {} {IMAGENET}", shipped(name))).ok().stdout;
        assert!(page.contains(&plan), "docs/planning.md does not show\n{plan}");
    }
}
