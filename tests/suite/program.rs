//! The program as a user runs it.

use crate::space::{Run, Space};

#[test]
fn a_pipeline_runs_and_a_second_run_has_nothing_to_do() {
    let space = Space::new();
    let first = space.run("run small.toml --json").ok().json();
    assert_eq!(first["done"], serde_json::json!(["stage0", "stage1", "stage2"]));
    let stages = first["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 2);
    for stage in stages {
        assert!(stage["accuracy"].as_f64().unwrap() >= 0.0 && stage["seconds"].as_f64().unwrap() > 0.0);
        assert!(stage["ensemble_accuracy"].is_number());
    }
    let before = space.files("cache");
    let second = space.run("run small.toml").ok();
    assert!(second.stderr.contains("nothing to be done"), "{}", second.stderr);
    assert_eq!(space.files("cache"), before);
    let dry = space.run("run small.toml --dry-run --json --set seed=3").ok().json();
    assert_eq!(dry["would_do"].as_array().unwrap().len(), 3);
    assert!(space.run("run small.toml --dry-run").ok().stdout.contains("nothing to be done"));
}

#[test]
fn the_same_pipeline_gives_the_same_bytes_elsewhere() {
    let space = Space::new();
    let first = space.run("run small.toml --cache a --json").ok().json();
    let second = space.run("run small.toml --cache b --json").ok().json();
    for at in 0..2 {
        assert_eq!(first["stages"][at]["output"], second["stages"][at]["output"]);
        assert_eq!(first["stages"][at]["accuracy"], second["stages"][at]["accuracy"]);
    }
}

#[test]
fn a_changed_setting_is_named_with_its_old_and_new_value() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let status = space.run("status small.toml --set stage.2.training.learning_rate=0.05").ok();
    assert!(status.stdout.contains("stage 2: training.learning_rate: 0.1 -> 0.05"), "{}", status.stdout);
    assert_eq!(space.states("small.toml --set stage.2.auxiliary.width=9"), ["current", "current", "stale"]);
    assert_eq!(space.states("small.toml --set network.width=7"), ["current", "stale", "stale"]);
}

#[test]
fn another_storage_type_keeps_what_was_learned() {
    let space = Space::new();
    let first = space.run("run small.toml --json").ok().json();
    let weights = std::fs::read(space.path("cache/stage1/block.safetensors")).unwrap();
    let again = space.run("run small.toml --set features.dtype=f32 --json").ok();
    assert!(again.stderr.contains("stage 1 (re-extract: features.dtype: u8 -> f32"), "{}", again.stderr);
    assert_eq!(std::fs::read(space.path("cache/stage1/block.safetensors")).unwrap(), weights);
    assert_eq!(again.json()["stages"][0]["accuracy"], first["stages"][0]["accuracy"]);
    assert_eq!(again.json()["done"], serde_json::json!(["stage1", "stage2"]));
}

#[test]
fn a_stage_is_made_from_the_folder_before_it_alone() {
    let space = Space::new();
    let whole = space.run("run small.toml --json").ok().json();
    std::fs::remove_file(space.path("small.toml")).unwrap();
    std::fs::rename(space.path("cache"), space.path("moved")).unwrap();
    let made = space.run("stage 2 --from moved/stage1 --to elsewhere --json").ok().json();
    assert_eq!(made["stages"][0]["output"], whole["stages"][1]["output"]);
    assert_eq!(made["stages"][0]["ensemble_accuracy"], whole["stages"][1]["ensemble_accuracy"]);
    let again = space.run("stage 2 --from moved/stage1 --to elsewhere").ok();
    assert!(again.stderr.contains("nothing to be done"), "{}", again.stderr);
    let more = space.run("stage 3 --from elsewhere --set network.blocks=3").ok();
    assert!(more.stdout.contains('3') && space.path("stage3/record.json").exists(), "{}", more.stdout);
}

#[test]
fn stages_outlive_the_data_they_were_made_of() {
    let space = Space::with_photos();
    space.run("run photos.toml --set network.blocks=1").ok();
    std::fs::remove_dir_all(space.path("photos")).unwrap();
    space.run("run photos.toml").fails(1, &["photos", "hint:", "greedy stage N --from cache/stage"]);
    space.run("stage 2 --from cache/stage1 --set network.blocks=2").ok();
}

#[test]
fn a_stage_that_cannot_be_made_is_refused_with_the_way_out() {
    let space = Space::new();
    space.run("run small.toml").ok();
    space.run("stage 1 --from cache/stage1").fails(2, &["stage 1 reads stage 0", "hint:"]);
    std::fs::rename(space.path("cache/stage0"), space.path("alone")).unwrap();
    space.run("stage 2 --from alone").fails(2, &["stage 2 reads stage 1, but `alone` is stage 0", "hint:"]);
    space.run("stage 9 --from cache/stage2").fails(2, &["stages 1 to 2", "hint:"]);
    space.run("stage 1 --from nowhere").fails(1, &["`nowhere` is no folder of a stage", "hint:"]);
}

#[test]
fn a_stage_that_does_not_fit_its_input_is_refused_and_the_old_one_stays() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let before = space.files("cache");
    let other = "stage 2 --from cache/stage1 --set augmentation.size=16";
    space.run(other).fails(
        2,
        &["`cache/stage1`, which is stage 1, gives 6 x 16 x 16 features, but the block reads 6 x 8 x 8", "hint:"],
    );
    space.run("stage 2 --from cache/stage1 --to cache/stage1").fails(2, &["holds stage 1", "--to"]);
    space.run("stage 2 --from cache/stage1 --to cache/stage0").fails(2, &["holds images"]);
    assert_eq!(space.files("cache"), before);
}

#[test]
fn images_are_never_taken_for_a_stages_folder() {
    let space = Space::new();
    space.run("run small.toml --set network.blocks=1").ok();
    space.write("photos/train/cat/1.jpg", "a cat");
    space.write("photos/val/cat/2.jpg", "another cat");
    space.run("stage 1 --from cache/stage0 --to photos").fails(1, &["photos", "nothing was removed"]);
    assert!(space.path("photos/train/cat/1.jpg").exists() && space.path("photos/val/cat/2.jpg").exists());
}

#[test]
fn stages_that_do_not_belong_together_are_not_evaluated() {
    let space = Space::new();
    space.run("run small.toml").ok();
    space.run("run small.toml --set network.blocks=1 --set seed=5").ok();
    space.run("evaluate cache/stage2").fails(1, &["is not what `cache/stage2` was made of", "hint:"]);
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    use std::process::Stdio;
    let space = Space::new();
    let mut child = space.command("run small.toml").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    assert!(space.path("cache/stage2/record.json").exists() && space.path("cache/CACHEDIR.TAG").exists());
}

#[test]
fn evaluation_through_the_whole_network_agrees_with_training() {
    let space = Space::new();
    space.write("small.toml", crate::space::SMALL.replace("blocks = 2", "blocks = 3"));
    for settings in ["", "--set features.crop=late", "--set features.mode=recompute"] {
        let run = space.run(&format!("run small.toml --set features.dtype=f32 {settings} --json")).ok().json();
        let found = space.run("evaluate cache/stage3 --json").ok().json();
        for at in 0..3 {
            let figure = |of: &serde_json::Value, key: &str| of["stages"][at][key].as_f64().unwrap();
            let difference = |key: &str| (figure(&run, key) - figure(&found, key)).abs();
            // 100 images: a tie that rounds the other way may move one of them.
            assert!(difference("accuracy") <= 1.0 && difference("ensemble_accuracy") <= 1.0, "{settings}, {at}");
            assert!(difference("loss") < 1e-3, "{settings}, {at}");
        }
        let image = format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"));
        space.run(&format!("predict --from cache/stage3 {image}")).ok();
    }
}

#[test]
fn predict_names_classes_and_reports_what_it_cannot_read() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let image = format!("{}/tests/fixtures/images/gray.png", env!("CARGO_MANIFEST_DIR"));
    let found = space.run(&format!("predict {image} --from cache --top 10 --json")).ok().json();
    let classes = found["images"][0]["classes"].as_array().unwrap();
    let sum: f64 = classes.iter().map(|class| class["probability"].as_f64().unwrap()).sum();
    assert!(classes.len() == 10 && (sum - 1.0).abs() < 1e-6);
    space.write("broken.jpg", b"not an image");
    let both = space.run(&format!("predict broken.jpg {image} --from cache/stage1"));
    assert!(both.stdout.contains("gray.png"), "{}", both.stdout);
    both.fails(1, &["broken.jpg", "1 of 2 images"]);
}

#[test]
fn inspect_describes_arrays_labels_and_channels() {
    let space = Space::new();
    space.run("run small.toml --set features.dtype=f16").ok();
    let text = space.run("inspect cache/stage1").ok().stdout;
    for part in ["float16, view 1, sample 300, channel 6, y 16, x 16", "bytes + crc32c", "training.epochs = 3", "zeros"]
    {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let json = space.run("inspect cache/stage0 --json --values").ok().json();
    assert_eq!(json["arrays"]["train/features"]["dtype"], "uint8");
    assert_eq!(json["labels"]["val"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 100);
    assert_eq!(json["channels"]["of"].as_array().unwrap().len(), 3);
}

#[test]
fn another_pipelines_stages_are_never_overwritten() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let before = space.files("cache");
    space
        .run("run small.toml --set name=other --set network.width=5")
        .fails(1, &["belongs to pipeline `small`", "hint:"]);
    assert_eq!(space.files("cache"), before);
}

#[test]
fn a_folder_with_foreign_files_is_not_emptied() {
    let space = Space::new();
    space.write("cache/stage0/thesis.tex", "years of work");
    space.run("run small.toml").fails(1, &["thesis.tex", "nothing was removed"]);
    assert!(space.path("cache/stage0/thesis.tex").exists());
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let space = Space::new();
    space.run("run missing.toml").fails(2, &["cannot read `missing.toml`", "hint:"]);
    space.run("run small.toml --device tpu").fails(2, &["`tpu` is no device", "hint:"]);
    space.run("run small.toml --set training.epoch=5").fails(2, &["training.epoch", "did you mean `training.epochs`?"]);
    space.run("inspect .").fails(1, &["`.` is no folder of a stage"]);
    space.run("inspect nowhere").fails(1, &["`nowhere`", "hint:"]);
    space.run("wobble").fails(2, &["wobble"]);
    assert!(space.run("completions bash").ok().stdout.contains("_greedy"));
}

#[test]
fn a_precision_that_is_written_down_as_it_is_changes_nothing() {
    let space = Space::new();
    space.run("run small.toml").ok();
    assert_eq!(space.states("small.toml --set training.precision=f32"), ["current"; 3]);
    assert_eq!(space.states("small.toml --set training.precision=bf16"), ["current", "stale", "stale"]);
}

#[test]
fn the_machine_is_measured_and_nothing_is_left_behind() {
    let space = Space::new();
    let found = space.run("bench operations --seconds 0 --json --only space-to-depth").ok().json();
    let all = found["measurements"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|one| one["unit"] == "GB/s" && one["median"].as_f64().unwrap() > 0.0));
    space.run("bench operations --seconds 0 --only nonsense").fails(2, &["nonsense", "--seconds 0"]);
    space.write("folder/keep", "");
    for (only, count) in [("random samples", 2), ("64 channels", 5)] {
        let mut command = space.command("bench cache --seconds 0 --folder folder --json");
        assert_eq!(
            Run::of(command.args(["--only", only]).output().unwrap()).ok().json()["measurements"]
                .as_array()
                .unwrap()
                .len(),
            count
        );
        assert_eq!(space.files("folder").len(), 1);
    }
}

#[test]
fn operations_agree_on_any_number_of_threads_and_again() {
    let space = Space::new();
    let found = space.run("bench agreement --seed 7 --json").ok().json();
    assert_eq!(found["agreement"]["seed"], 7);
    let results = found["agreement"]["results"].as_array().unwrap();
    for precision in ["f32", "bf16"] {
        let own = results.iter().filter(|result| result["precision"] == precision).count();
        assert!(own > 250, "{own} in {precision}");
    }
    for result in results {
        assert_eq!(result["holds"], true, "{result}");
    }
    let few = space.run("bench agreement --seed 7 --only convolution").ok();
    assert!(few.stderr.contains("--seed 7") && few.stdout.contains("same bits"), "{}{}", few.stderr, few.stdout);
    assert!(!few.stdout.contains("pooling"), "{}", few.stdout);
    space.run("bench agreement --only nonsense").fails(2, &["nonsense"]);
}
