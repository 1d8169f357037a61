//! `greedy inspect --pictures`: files that are the same each time, and never written over those of others.

use crate::space::Space;
use std::fs;

fn decoded(space: &Space, name: &str) -> image::RgbImage {
    image::load_from_memory(&fs::read(space.path(name)).unwrap()).unwrap().to_rgb8()
}

#[test]
fn pictures_of_a_stage_are_written_and_come_out_the_same_again() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let said = space.run("inspect cache/stage1 --pictures a --sample 3 --json").ok().json();
    let names = ["a/channels-val-3.png", "a/kernels.png", "a/nearest-val-3.png", "a/classes.svg"];
    let files: Vec<_> = said["files"].as_array().unwrap().iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(files, names);
    let nearest = said["nearest"].as_array().unwrap();
    assert_eq!((nearest.len(), said["among"].as_u64()), (10, Some(100)));
    assert!(nearest.iter().all(|near| near["sample"] != 3));
    let distances: Vec<f64> = nearest.iter().map(|near| near["distance"].as_f64().unwrap()).collect();
    assert!(distances.is_sorted() && distances[0] > 0.0);
    // Six kernels of 2 x 2 squares: three columns of kernels of 6 x 6 pixels.
    let kernels = decoded(&space, "a/kernels.png");
    assert_eq!(kernels.dimensions(), (3 * 48 + 2 * 2 + 8, 2 * 48 + 2 + 8));
    let svg = fs::read_to_string(space.path("a/classes.svg")).unwrap();
    assert_eq!(svg.matches("<title>").count(), 100);
    // The sample's ring.
    assert_eq!(svg.matches("fill=\"none\" stroke=\"black\"").count(), 1);

    space.run("inspect cache/stage1 --pictures b --sample 3").ok();
    space.run("inspect cache/stage1 --pictures a --sample 3").ok();
    assert!(space.files("a") == space.files("b") && space.files("a").len() == 4);
    // Another stage reads features: its kernels are a matrix of outputs and inputs.
    space.run("inspect cache/stage2 --pictures c").ok();
    assert_eq!(decoded(&space, "c/kernels.png").dimensions().0, 6 * (12 + 2) - 2 + 8);
    // Features of images are the images.
    let images = space.run("inspect cache/stage0 --pictures d --json").ok().json();
    assert_eq!(images["files"].as_array().unwrap().len(), 3);
}

#[test]
fn features_that_are_not_kept_are_computed_and_look_alike() {
    let space = Space::new();
    space.run("run small.toml --set features.dtype=f32").ok();
    space.run("run small.toml --set features.materialize=[1] --cache lean --set features.dtype=f32").ok();
    let near = |cache: &str| {
        let said = space.run(&format!("inspect {cache}/stage2 --pictures {cache}/p --sample 5 --json")).ok().json();
        let samples = said["nearest"].as_array().unwrap().iter().map(|near| near["sample"].as_u64().unwrap());
        samples.collect::<Vec<_>>()
    };
    assert!(!space.path("lean/stage2/val/features/zarr.json").exists());
    assert_eq!(near("cache"), near("lean"));
}

#[test]
fn an_image_file_goes_through_the_frozen_network_as_the_same_sample_did() {
    let space = Space::with_photos();
    // The second validation image, once as a sample and once as a file.
    space.run("run photos.toml --set features.dtype=f32").ok();
    let sample = space.run("inspect cache/stage2 --pictures p --sample 1 --json").ok().json();
    let file = space.run("inspect cache/stage2 --pictures p --image photos/val/b/6.png --json").ok().json();
    assert_eq!(decoded(&space, "p/channels-val-1.png"), decoded(&space, "p/channels-6.png"));
    assert_eq!(sample["nearest"][0]["sample"], 0);
    assert_eq!(file["nearest"].as_array().unwrap().len(), 2);
}

#[test]
fn files_of_others_stay_and_what_cannot_be_shown_is_said() {
    let space = Space::new();
    space.run("run small.toml").ok();
    space.write("p/kernels.png", include_bytes!("../fixtures/images/rgba.png"));
    space.run("inspect cache/stage1 --pictures p").fails(2, &["p/kernels.png` is there already", "--force"]);
    assert_eq!(fs::read(space.path("p/kernels.png")).unwrap(), include_bytes!("../fixtures/images/rgba.png"));
    space.run("inspect cache/stage1 --pictures p --force").ok();
    assert!(fs::read(space.path("p/kernels.png")).unwrap() != include_bytes!("../fixtures/images/rgba.png"));
    space.run("inspect cache/stage1 --pictures p --sample 100").fails(2, &["no validation sample 100", "0 to 99"]);
    space.run("inspect cache/stage1 --pictures p --image nowhere.jpg").fails_with(&["nowhere.jpg"]);
    space.run("inspect cache/stage0 --pictures p --image p/kernels.png").fails(2, &["decoded images"]);
    space.run("inspect cache/stage1 --sample 3").fails(2, &["--pictures"]);
    // Where the images are gone, all but the thumbnails is still there.
    fs::remove_dir_all(space.path("cache/stage0")).unwrap();
    let said = space.run("inspect cache/stage1 --pictures q").ok().stdout;
    assert!(said.contains("not shown: nearest images") && said.contains("q/channels-val-0.png"), "{said}");
}

#[test]
fn histograms_are_in_json_and_not_in_plain_tables() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let found = space.run("inspect cache/stage1 --json").ok().json();
    let values = 300 * 16 * 16;
    for channel in found["channels"]["of"].as_array().unwrap() {
        let counts: u64 = channel["histogram"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
        let zeros = channel["zeros"].as_f64().unwrap() / 100.0 * f64::from(values);
        assert_eq!(counts, (f64::from(values) - zeros).round() as u64);
        assert!(channel["max"].as_f64() >= channel["min"].as_f64());
    }
    let plain = space.run("inspect cache/stage1").ok().stdout;
    assert!(!plain.contains("values but zeros") && !plain.contains('█'), "{plain}");
}

#[test]
fn two_stages_of_one_shape_are_compared_by_value_and_others_by_what_they_represent() {
    let space = Space::new();
    space.run("run small.toml").ok();
    space.run("run small.toml --cache other --set seed=5").ok();
    let compare = |a: &str, b: &str| space.run(&format!("inspect {a} {b} --json")).ok().json();
    let same = compare("cache/stage1", "cache/stage1");
    assert_eq!(same["values"]["all"]["relative"], 0.0);
    assert!((same["cka"]["averaged"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    assert_eq!((same["predictions"]["agreement"].as_f64(), same["compared"].as_u64()), (Some(100.0), Some(100)));

    // Two blocks in a row: the shapes are the same too.
    let next = compare("cache/stage1", "cache/stage2");
    assert_eq!(next["values"]["channels"].as_array().unwrap().len(), 6);
    let cka = next["cka"]["spatial"].as_f64().unwrap();
    assert!(cka > 0.05 && cka < 0.999, "{cka}");
    // The same comparison, by the values that the arrays hold.
    let predictions = &next["predictions"];
    let sum = ["both", "only"].map(|key| match &predictions[key] {
        serde_json::Value::Array(both) => both[0].as_f64().unwrap(),
        one => one.as_f64().unwrap(),
    });
    let accuracy = space.run("inspect cache/stage1").ok().stdout;
    let accuracy = accuracy.lines().find(|line| line.starts_with("accuracy")).unwrap().to_string();
    let expected = predictions["accuracy"][0].as_f64().unwrap();
    assert!((sum[0] + sum[1] - expected).abs() < 1e-9 && accuracy.contains(&format!("{expected:.1} %")), "{accuracy}");

    // The images themselves have another shape; another seed chose other images.
    let images = compare("cache/stage0", "cache/stage2");
    assert!(images["values"].is_null() && images["predictions"].is_null() && images["cka"]["averaged"].is_number());
    let foreign = compare("cache/stage1", "other/stage1");
    assert!(foreign["same_labels"] == false && foreign["cka"].is_null());
    let said = space.run("inspect cache/stage1 other/stage1").ok().stdout;
    assert!(said.contains("nothing is compared sample by sample"), "{said}");
    let said = space.run("inspect cache/stage1 cache/stage2").ok().stdout;
    assert!(said.contains("linear CKA") && said.contains("correlation"), "{said}");
    space.run("inspect cache/stage1 nowhere").fails(1, &["nowhere"]);
}
