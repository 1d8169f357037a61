//! Augmented views of features: cached, refreshed, cropped late, or recomputed from the nearest features on the fly.

use crate::space::{SMALL, Space};
use candle_core::{DType, Device, Tensor};
use greedy::features::{Loader, Split, View};
use greedy::network::{Chain, Network, load};
use greedy::pipeline::{Recipe, Shape};
use greedy::random::{Purpose, Stream};

/// The small pipeline with other settings.
fn pipeline(overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Recipe::parse("small.toml", "small", SMALL, &overrides).unwrap()
}

/// The frozen block of a stage of a cache.
fn block(space: &Space, pipeline: &Recipe, number: usize) -> Chain {
    let mut rng = Stream::new(Purpose::Weights, 0, (0, 0));
    let start = (pipeline.init, &mut rng, &Device::Cpu);
    let block = Network::block(&pipeline.stages[number - 1].block, start).unwrap();
    let bytes = std::fs::read(space.path(&format!("cache/stage{number}/block.safetensors"))).unwrap();
    block.variables().set(&load(&bytes, "weights", &Device::Cpu).unwrap(), "weights").unwrap();
    Chain::new(vec![block.frozen().unwrap()], &Device::Cpu, DType::F32)
}

fn no_blocks() -> Chain {
    Chain::new(Vec::new(), &Device::Cpu, DType::F32)
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn loader(space: &Space, number: usize, pipeline: &Recipe, chain: Chain) -> Loader {
    Loader::open(&space.path(&format!("cache/stage{number}")), Split::Train, pipeline, 10, chain).unwrap()
}

/// The loss of each stage on the validation images.
fn losses(run: &serde_json::Value) -> Vec<f64> {
    run["stages"].as_array().unwrap().iter().map(|stage| stage["loss"].as_f64().unwrap()).collect()
}

#[test]
fn cached_views_are_what_the_block_makes_of_the_drawn_images() {
    let space = Space::new();
    let settings = ["network.blocks=1", "features.views=3", "features.dtype=f32"];
    space.run("run small.toml --set network.blocks=1 --set features.views=3 --set features.dtype=f32").ok();
    let pipeline = pipeline(&settings);
    let cached = loader(&space, 1, &pipeline, no_blocks());
    let computed = loader(&space, 0, &pipeline, block(&space, &pipeline, 1));
    assert_eq!(cached.layout().views, 3);
    let samples: Vec<u32> = (0..300).step_by(7).collect();
    let values = |loader: &Loader, view| values(&loader.batch(&samples, view).unwrap().x);
    for view in 0..3 {
        assert_eq!(values(&cached, View::Cached(view)), values(&computed, View::Cached(view)), "view {view}");
    }
    assert_ne!(values(&cached, View::Cached(0)), values(&cached, View::Cached(1)));
    assert!(cached.batch(&samples, View::Cached(3)).err().unwrap().to_string().contains("3 views"));
    // An epoch shows all views, each sample's next one in the next epoch.
    let of = |epoch: usize| values(&cached, View::Epoch { stage: 2, epoch });
    assert_ne!(of(0), of(1));
    assert_eq!(of(0), of(3));
}

#[test]
fn what_is_recomputed_is_what_would_have_been_cached() {
    let space = Space::new();
    let three = SMALL.replace("blocks = 2", "blocks = 3");
    space.write("small.toml", three.replace("crop = \"padded\"\npadding = 2\n", ""));
    // Without random crops nothing differs from epoch to epoch, so both ways lead to the same weights.
    let plain = "--set augmentation.flip=false --set features.dtype=f32 --json";
    let cached = space.run(&format!("run small.toml {plain} --cache a")).ok().json();
    let none = space.run(&format!("run small.toml {plain} --cache b --set features.mode=recompute")).ok().json();
    let middle = space.run(&format!("run small.toml {plain} --cache c --set features.materialize=[2]")).ok().json();
    assert_eq!(losses(&cached), losses(&none));
    assert_eq!(losses(&cached), losses(&middle));
    for stage in 1..=3 {
        let weights =
            |cache: &str| std::fs::read(space.path(&format!("{cache}/stage{stage}/block.safetensors"))).unwrap();
        assert_eq!(weights("a"), weights("b"), "stage {stage}");
        assert_eq!(weights("a"), weights("c"), "stage {stage}");
        let kept = |cache: &str| space.path(&format!("{cache}/stage{stage}/train/features")).exists();
        assert_eq!((kept("a"), kept("b"), kept("c")), (true, false, stage == 2));
    }
    let again = space.run(&format!("run small.toml {plain} --cache b --set features.mode=recompute")).ok();
    assert_eq!(again.json()["done"], serde_json::json!([]));
    assert_eq!(space.run("verify c --json").ok().code, 0);
    space.run("evaluate b/stage3 --json").ok();
    space.run("inspect b/stage3 --json").ok();
}

#[test]
fn what_is_worth_keeping_is_planned_once() {
    let space = Space::new();
    let auto = "small.toml --set features.materialize=auto";
    let first = space.run(&format!("run {auto}")).ok();
    assert!(first.stderr.contains("measuring which features are worth keeping"), "{}", first.stderr);
    let plan: serde_json::Value =
        serde_json::from_slice(&std::fs::read(space.path("cache/plan.json")).unwrap()).unwrap();
    // Nobody reads the features of the last stage.
    assert!(!plan["materialize"].as_array().unwrap().contains(&2.into()), "{plan}");
    assert!(!space.path("cache/stage2/train/features").exists());
    let second = space.run(&format!("run {auto}")).ok();
    assert!(second.stderr.contains("nothing to be done"), "{}", second.stderr);
    assert_eq!(space.states(auto), ["current"; 3]);
    // What was planned otherwise is kept to.
    let other = serde_json::json!({ "planned_for": plan["planned_for"], "materialize": [2] });
    space.write("cache/plan.json", other.to_string());
    assert_ne!(space.states(auto)[2], "current");
}

#[test]
fn a_stage_from_a_far_ancestor_is_the_one_from_the_near() {
    let space = Space::new();
    space.write("small.toml", SMALL.replace("blocks = 2", "blocks = 3"));
    space.run("run small.toml --set features.dtype=f32 --set features.views=2").ok();
    let far = space.run("stage 3 --from cache/stage1 --to far --json").ok();
    assert!(far.stderr.contains("run through 1 frozen blocks"), "{}", far.stderr);
    for file in ["block.safetensors", "auxiliary.safetensors", "train/features/c/1/0/0/0/0"] {
        let bytes = |folder: &str| std::fs::read(space.path(&format!("{folder}/{file}"))).unwrap();
        assert!(bytes("far") == bytes("cache/stage3"), "{file}");
    }
    // Its record says what it was made of, and a shard of it is made again from there.
    std::fs::write(space.path("far/train/features/c/1/0/0/0/0"), "damaged").unwrap();
    space.run("verify far").fails(1, &[]);
    space.run("verify far --repair").ok();
    space.run("verify far").ok();
}

#[test]
fn stages_without_features_lead_on() {
    let space = Space::new();
    space.write("small.toml", SMALL.replace("blocks = 2", "blocks = 3"));
    let text = "run small.toml --set features.materialize=[1]";
    space.run(text).ok();
    assert_eq!(space.states("small.toml --set features.materialize=[1]"), ["current"; 4]);
    let again = space.run("stage 3 --from cache/stage2 --to other --set auxiliary.width=5").ok();
    assert!(again.stderr.contains("run through 1 frozen blocks"), "{}", again.stderr);
    // Features that are wanted after all are written without training anything again, and others are removed.
    let wanted = space.run("run small.toml --set features.materialize=[1,3]").ok();
    assert!(
        wanted.stderr.contains("stage 3 (restore: features.materialize: false -> nothing")
            || wanted.stderr.contains("re-extract"),
        "{}",
        wanted.stderr
    );
    assert!(!wanted.stderr.contains("epoch"), "{}", wanted.stderr);
    assert!(space.path("cache/stage3/train/features/zarr.json").exists());
    let removed = space.run(text).ok();
    assert!(
        !removed.stderr.contains("epoch") && !space.path("cache/stage3/train/features").exists(),
        "{}",
        removed.stderr
    );
    // A change of an early block is a change of what a late one read.
    let states = space.states("small.toml --set features.materialize=[1] --set stage.2.training.epochs=4");
    assert_eq!(states, ["current", "current", "stale", "waiting"]);
}

#[test]
fn refreshed_views_are_those_of_the_images_and_a_run_that_was_killed_meets_the_same() {
    let space = Space::new();
    let settings = "--set features.refresh=0.5 --set features.dtype=f32 --set training.epochs=6";
    space.run(&format!("run small.toml {settings} --cache whole")).ok();
    let still = "--set features.refresh=0 --set features.dtype=f32 --set training.epochs=6";
    let plain = space.run(&format!("run small.toml {still} --cache plain")).ok();
    assert!(!plain.stderr.contains("new view"));
    let weights = |cache: &str| std::fs::read(space.path(&format!("{cache}/stage2/block.safetensors"))).unwrap();
    assert_ne!(weights("whole"), weights("plain"), "new views change nothing");
    crate::interruption::kill_after_three_epochs(
        &space,
        &format!("run small.toml {settings}"),
        "cache/stage2/checkpoint",
    );
    let again = space.run(&format!("run small.toml {settings}")).ok();
    assert!(again.stderr.contains("goes on after epoch"), "{}", again.stderr);
    assert!(again.stderr.contains("50.0 % of the samples get a new view"), "{}", again.stderr);
    assert!(weights("whole") == weights("cache"));
    // Where there is no memory, a file serves as well, and nothing of it is left.
    let file = space.run(&format!("run small.toml {settings} --cache file --set features.memory=0")).ok();
    assert!(weights("whole") == weights("file"), "{}", file.stderr);
    space.run("verify file").ok();
}

#[test]
fn late_crops_are_crops_of_the_image_but_for_their_border() {
    let space = Space::new();
    let late = ["features.crop=late", "features.views=2", "features.dtype=f32", "network.blocks=2"];
    let options: String = late.iter().map(|setting| format!(" --set {setting}")).collect();
    let run = space.run(&format!("run small.toml {options}")).ok();
    assert!(run.stderr.contains("cropped from 18 x 18 to 16 x 16"), "{}", run.stderr);
    let (pipeline, early) = (pipeline(&late), pipeline(&[]));
    let features = loader(&space, 1, &pipeline, no_blocks());
    assert_eq!(features.layout().shape, Shape { channels: 6, size: 18 });
    let canvases = loader(&space, 0, &pipeline, no_blocks());
    let first = block(&space, &early, 1);
    let samples: Vec<u32> = (0..12).collect();
    let mut places = std::collections::BTreeSet::new();
    for epoch in 0..8 {
        let late = View::Epoch { stage: 2, epoch };
        let shape = features.shape(late);
        assert_eq!(shape, Shape { channels: 6, size: 16 });
        let crops = values(&features.batch(&samples, late).unwrap().x);
        for (&sample, crop) in samples.iter().zip(crops.chunks_exact(shape.values())) {
            // The crop must be that of one place of the canvas whose turn it is: it is searched for.
            let view = (epoch + sample as usize) % 2;
            let image = canvases.batch(&[sample], View::Cached(view)).unwrap().x;
            let found: Vec<(usize, usize)> = (0..9)
                .map(|at| (at / 3, at % 3))
                .filter(|&(top, left)| {
                    let window = image.narrow(1, 2 * top, 32).unwrap().narrow(2, 2 * left, 32).unwrap();
                    let expected = values(&first.run(window).unwrap());
                    let inside = |at: &usize| {
                        let (y, x) = (at / (6 * 16), at / 6 % 16);
                        (1..15).contains(&y) && (1..15).contains(&x)
                    };
                    (0..crop.len()).filter(inside).all(|at| (crop[at] - expected[at]).abs() < 1e-4)
                })
                .collect();
            assert_eq!(found.len(), 1, "sample {sample} in epoch {epoch}: {found:?}");
            places.insert(found[0]);
        }
    }
    assert!(places.len() >= 6, "few places are used: {places:?}");
}

#[test]
fn samples_can_be_met_shard_by_shard() {
    let space = Space::new();
    space.write("small.toml", SMALL.replace("width = 6", "width = 48"));
    let run = space.run("run small.toml --set features.shuffle=shards:1").ok();
    assert!(run.stderr.contains("classes mixed to"), "{}", run.stderr);
    assert_eq!(space.states("small.toml --set features.shuffle=shards:2"), ["current", "stale", "stale"]);
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let space = Space::new();
    space.write("resized.toml", SMALL.replace("crop = \"padded\"\npadding = 2\n", "crop = \"resized\"\n"));
    space.run("run resized.toml --set features.crop=late").fails(2, &["scaled"]);
    for (settings, words) in [
        ("--set features.crop=late --set augmentation.padding=3 --set network.space_to_depth=[1,2]", "no multiple"),
        ("--set features.mode=recompute --set features.materialize=[1]", "no meaning"),
        ("--set features.materialize=[3]", "stages are 1 to 2"),
        ("--set features.crop=late --set features.mode=recompute", "features of stage 1 are not cached"),
        ("--set features.materialize=some", "\"auto\", \"all\" or a list"),
        ("--set features.shuffle=shards:0", "shards:8"),
        ("--set features.codec=zstd:99", "zstd:22"),
        ("--set features.refresh=1.5", "between"),
        ("--set features.disk=lots", "2TB"),
    ] {
        space.run(&format!("run small.toml {settings}")).fails(2, &[words]);
    }
}

#[test]
fn compression_changes_no_result_and_what_is_compressed_is_read_once() {
    let space = Space::new();
    let weights = |cache: &str| std::fs::read(space.path(&format!("{cache}/stage2/block.safetensors"))).unwrap();
    space.run("run small.toml --cache plain --set features.codec=none").ok();
    for codec in ["lz4", "huffman", "zstd:3"] {
        let run = space.run(&format!("run small.toml --cache {codec} --set features.codec={codec}")).ok();
        assert!(run.stderr.contains("features, cached in memory once they are read"), "{}", run.stderr);
        assert!(weights(codec) == weights("plain"), "{codec}");
    }
    let streamed = space.run("run small.toml --cache s --set features.codec=lz4 --set features.memory=0").ok();
    assert!(streamed.stderr.contains("features, streamed from shards"), "{}", streamed.stderr);
    assert!(weights("s") == weights("plain"));
    // Whole numbers are rounded, but not by much.
    space.run("run small.toml --cache halves --set features.dtype=f16").ok();
    assert!(weights("halves") != weights("plain"));
}

#[test]
fn what_does_not_go_together_is_refused_and_costs_nothing() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let before = space.files("cache");
    for (settings, words) in [
        ("--set features.views=4", "holds 1 views, too few to make 4"),
        ("--set features.crop=late", "was made with `features.crop = \"early\"`"),
        ("--set data.size=36 --set training.epochs=2 --set augmentation.size=32", "holds images of 32 x 32"),
    ] {
        space.run(&format!("stage 2 --from cache/stage1 {settings}")).fails_with(&[words, "hint:"]);
        assert_eq!(space.files("cache"), before, "{settings}");
    }
    // Without its images a stage that was begun with new views is not begun again without.
    std::fs::rename(space.path("cache/stage0"), space.path("elsewhere")).unwrap();
    let lost = space.files("cache");
    space.run("stage 2 --from cache/stage1 --set training.epochs=2").fails_with(&["features.refresh=0"]);
    assert_eq!(space.files("cache"), lost);
    let other = space.run("stage 2 --from cache/stage1 --to other").ok();
    assert!(other.stderr.contains("no views are refreshed"), "{}", other.stderr);
    // A wider step of the grid moves canvases further: all of them are refreshed.
    space.write("late.toml", SMALL.replace("blocks = 2", "blocks = 3"));
    let late = "late.toml --cache late --set features.crop=late --set augmentation.padding=4";
    space.run(&format!("run {late}")).ok();
    let states = space.states(&format!("{late} --set network.space_to_depth=[1,3]"));
    assert_eq!(states[1], "re-extract");
}
