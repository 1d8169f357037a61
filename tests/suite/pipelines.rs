//! Recipe files: those that come with the program, and what is said about wrong ones.

use greedy::pipeline::{Graph, Layer, Layers, Manifest, Recipe, Stage};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn parse(text: &str) -> Result<Recipe, String> {
    parse_with(text, &[])
}

fn parse_with(text: &str, overrides: &[&str]) -> Result<Recipe, String> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Recipe::parse("p.toml", "p", text, &overrides)
        .map_err(|fault| format!("{fault} | {}", fault.hint_text().unwrap_or_default()))
}

const LEAST: &str = "[data]\nsource = \"builtin\"\n";

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let error = parse(text).expect_err("it was taken");
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn every_pipeline_that_comes_along_is_understood() {
    let folder = format!("{}/pipelines", env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    let below = format!("{folder}/paper-small");
    let entries = [folder, below].into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let pipeline = Recipe::parse(&name, &name, &text, &[]).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(pipeline.name, name);
        names.insert(name);
    }
    for name in ["demo", "cifar10-quick", "imagenette", "cifar10-simcnn-k1", "imagenet-simcnn-k3", "imagenet-vgg11"] {
        assert!(names.contains(name), "{name}");
    }
}

/// The stages of a pipeline that comes along, with overrides.
fn stages_of(name: &str, overrides: &[&str]) -> Vec<Stage> {
    let path = format!("{}/pipelines/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    parse_with(&std::fs::read_to_string(path).unwrap(), overrides).unwrap().stages
}

#[test]
fn vgg_and_alexnet_have_as_many_parameters_as_in_torchvision() {
    let count = |name: &str, overrides: &[&str]| -> usize {
        let stages = stages_of(name, overrides);
        let blocks: usize = stages.iter().map(|stage| stage.block.parameters(1000)).sum();
        blocks + stages.last().unwrap().head.as_ref().unwrap().parameters(1000)
    };
    assert_eq!(count("imagenet-vgg11", &[]), 132_868_840);
    for (architecture, parameters) in [
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("vgg19_bn", 143_678_248),
    ] {
        let architecture = format!("network.architecture={architecture}");
        assert_eq!(count("imagenet-vgg11-end-to-end", &[&architecture]), parameters, "{architecture}");
    }
    assert_eq!(count("imagenet-alexnet", &[]), 61_100_840);
}

#[test]
fn the_papers_vgg_is_trained_by_the_papers_classifiers() {
    let stages = stages_of("imagenet-vgg11", &[]);
    let text = |number: usize| stages[number - 1].head.as_ref().unwrap().to_string();
    let widened = |shape: &str, half: usize, width: usize| {
        let unit = format!("conv {width}, 3x3 > batch norm > ReLU");
        format!(
            "{shape} > average pool to {half}x{half} > {unit} > {unit} > average pool to 2x2 > batch norm > flatten > linear, one logit a class"
        )
    };
    assert_eq!(text(1), widened("64 x 224 x 224", 112, 128));
    assert_eq!(text(2), widened("128 x 112 x 112", 56, 256));
    assert_eq!(text(6), widened("512 x 28 x 28", 14, 1024));
    assert_eq!(text(7), widened("512 x 14 x 14", 7, 1024));
    let hidden = "linear 4096 > ReLU > linear 4096 > ReLU > linear, one logit a class";
    assert_eq!(text(8), format!("512 x 14 x 14 > max pool 2x2 stride 2 > average pool to 7x7 > flatten > {hidden}"));
    assert_eq!(
        stages[2].block.to_string(),
        "128 x 112 x 112 > max pool 2x2 stride 2 > conv 256, 3x3 padding 1, bias > batch norm > ReLU"
    );
}

#[test]
fn the_papers_networks_have_the_papers_shapes() {
    let stages = |name: &str| stages_of(name, &[]);
    let shape = |stage: &Stage| (stage.block.output.channels, stage.block.output.size);
    let hidden = |layers: &Layers| layers.iter().filter(|layer| matches!(layer, Layer::Conv { .. })).count();
    let width = |stage: &Stage| key(stage, "auxiliary.width").parse::<usize>().unwrap();
    let k1 = stages("imagenet-simcnn-k1");
    let shapes: Vec<_> = k1.iter().map(shape).collect();
    assert_eq!(shapes[..4], [(256, 112), (256, 112), (512, 56), (1024, 28)]);
    assert_eq!(shapes[4..], [(2048, 14), (2048, 14), (4096, 7), (4096, 7)]);
    assert_eq!((hidden(k1[0].head.as_ref().unwrap()), normalised(&k1[0].block)), (0, false));
    let k3 = stages("imagenet-simcnn-k3");
    assert_eq!([&k3[0], &k3[7]].map(|stage| (shape(stage), width(stage))), [((128, 112), 256), ((1024, 14), 2048)]);
    assert_eq!((hidden(k3[0].head.as_ref().unwrap()), normalised(&k3[0].block)), (2, true));
    let cifar: Vec<_> = stages("cifar10-simcnn-k2").iter().map(|stage| (shape(stage), width(stage))).collect();
    assert_eq!(cifar, [((128, 32), 128), ((128, 32), 128), ((256, 16), 256), ((256, 16), 256)]);
    assert_eq!(stages("cifar10-simcnn-k1").len(), 5);
}

/// The value of a setting that a stage comes from.
fn key(stage: &Stage, name: &str) -> String {
    stage.keys.iter().find(|(own, _)| *own == name).unwrap().1.clone()
}

fn normalised(layers: &Layers) -> bool {
    layers.iter().any(|layer| layer == Layer::BatchNorm)
}

#[test]
fn a_typo_is_placed_and_the_right_word_suggested() {
    refused(
        &format!("{LEAST}[training]\n  epohcs = 3\n"),
        &["p.toml:4:3", "`training.epohcs`", "did you mean `training.epochs`"],
    );
    refused("[data]\nsource = \"folde\"\n", &["p.toml:2:10", "\"folde\"", "did you mean `folder`"]);
    refused(&format!("{LEAST}[trainings]\n"), &["unknown key `trainings`", "did you mean `training`"]);
    refused(&format!("{LEAST}[augmentation]\ncrop = \"pad\""), &["p.toml:4:8", "\"padded\""]);
}

#[test]
fn wrong_types_and_impossible_values_are_refused() {
    refused(&format!("{LEAST}[training]\nepochs = \"many\""), &["p.toml:4:10", "must be a whole number", "a text"]);
    refused(&format!("{LEAST}[training]\nepochs = 0"), &["between 1 and"]);
    refused(&format!("{LEAST}[training]\nprecision = \"bf61\""), &["p.toml:4:13", "did you mean `bf16`"]);
    refused(&format!("{LEAST}[training]\nlearning_rate = nan"), &["a number", "not NaN"]);
    refused(&format!("{LEAST}[training]\nlearning_rate = 1e-300"), &["1e-300"]);
    refused("[dat]\nsource = \"builtin\"", &["p.toml:1:2", "unknown key `dat`", "did you mean `data`"]);
    refused(&format!("{LEAST}[network]\nwidth = -3"), &["p.toml:4:9", "not -3"]);
    refused(&format!("{LEAST}[network]\nspace_to_depth = [9]"), &["names block 9"]);
    refused(&format!("{LEAST}[network]\nblocks = 8\nspace_to_depth = [1,2,3,4,5,6]"), &["must be even"]);
    refused(&format!("{LEAST}[stage.7.training]\nepochs = 1"), &["`stage.7`", "stages are 1 to 4"]);
    refused(&format!("{LEAST}training = 3"), &["`data.training`"]);
    refused(&format!("training = 3\n{LEAST}"), &["must be a table"]);
    refused("[data]\nsource = \"folder\"\nsize = 32", &["`data.path` is missing"]);
    refused("[data]\nsource = \"builtin\"\npath = \"x\"", &["no meaning"]);
    refused("[data]\nsource = \"tar\"\npath = \"x.tar\"", &["`data.size` is missing"]);
    refused("", &["`data.source` is missing", "builtin"]);
    refused("[data\n", &["p.toml:1"]);
    refused("[data]\nsource = \"builtin\"\ntrain_images = 0", &["p.toml:3:16", "is 0"]);
    refused(&format!("{LEAST}[network]\nspace_to_depth = [2, 2]"), &["names block 2 twice"]);
    refused("seed = 99999999999999999999999", &["too large"]);
}

#[test]
fn overrides_come_last_and_are_checked_as_strictly() {
    let pipeline = parse_with(LEAST, &["training.epochs=7", "name=x", "stage.2.training.epochs=9"]).unwrap();
    let epochs: Vec<usize> = pipeline.stages.iter().map(|stage| stage.training.epochs).collect();
    assert_eq!((pipeline.name.as_str(), epochs), ("x", vec![7, 9, 7, 7]));
    assert!(parse_with(LEAST, &["training.epochs"]).unwrap_err().contains("no `=`"));
    assert!(parse_with(LEAST, &["training.epocs=1"]).unwrap_err().contains("--set training.epocs=1:1:10"));
}

#[test]
fn a_recorded_text_means_the_same_pipeline() {
    let text = format!("{LEAST}[stage.3.auxiliary]\nk = 3\n[training]\nbatch = 16");
    let pipeline = parse_with(&text, &["network.width=24"]).unwrap();
    assert_eq!(parse(&pipeline.text).unwrap(), pipeline);
}

#[test]
fn batch_norm_is_as_written_and_otherwise_as_in_the_paper() {
    let of = |text: &str| {
        let stages = parse(&format!("{LEAST}{text}")).unwrap().stages.into_iter();
        stages.map(|stage| (normalised(&stage.block), normalised(&stage.head.unwrap()))).collect::<Vec<_>>()
    };
    assert_eq!(of("")[0], (true, true));
    assert_eq!(of("[auxiliary]\nk = 1")[0], (false, false));
    assert_eq!(of("[auxiliary]\nbatch_norm = false\n[stage.3.auxiliary]\nk = 3")[2], (true, false));
}

/// Each setting that changes results makes just the right stages stale.
#[test]
fn every_ingredient_is_in_the_right_manifests() {
    let text = "[data]\nsource = \"tar\"\npath = \"a.tar\"\nsize = 32\n[augmentation]\ncrop = \"padded\"\n[network]\nblocks = 3\nspace_to_depth = [1]\n[features]\nrefresh = 0.0\n";
    let manifests = |overrides: &[&str]| {
        let pipeline = parse_with(text, overrides).unwrap();
        let mut all = vec![Manifest::of_images(&pipeline, "files")];
        all.extend(pipeline.stages.iter().map(|stage| Manifest::of_stage(&pipeline, stage)));
        all
    };
    let stale = |setting: &str| {
        let (old, new) = (manifests(&[]), manifests(&[setting]));
        old.iter().zip(&new).enumerate().filter(|(_, (old, new))| old.key() != new.key()).map(|(at, _)| at).collect()
    };
    let all: [(&str, &[usize]); 44] = [
        ("seed=1", &[1, 2, 3]),
        ("data.source=folder", &[0]),
        ("data.size=34", &[0, 1, 2, 3]),
        ("data.color=gray", &[0, 1]),
        ("data.train_images=5", &[0]),
        ("data.val_images=5", &[0]),
        ("data.on_bad_image=skip", &[0]),
        ("data.max_pixels=99", &[0]),
        ("data.mean=[0.1,0.2,0.3]", &[1]),
        ("data.std=[0.1,0.2,0.3]", &[1]),
        ("augmentation.crop=centre", &[1]),
        ("augmentation.padding=3", &[1]),
        ("augmentation.flip=true", &[1]),
        ("augmentation.size=28", &[1, 2, 3]),
        ("network.width=64", &[1, 2, 3]),
        ("network.batch_norm=false", &[1, 2, 3]),
        ("network.init=kaiming_normal", &[1, 2, 3]),
        ("network.space_to_depth=[2]", &[1, 2, 3]),
        ("network.space_to_depth=[1,3]", &[3]),
        ("auxiliary.width=64", &[1, 2, 3]),
        ("auxiliary.batch_norm=false", &[1, 2, 3]),
        ("stage.3.auxiliary.k=3", &[3]),
        ("stage.2.training.epochs=3", &[2]),
        ("training.batch=3", &[1, 2, 3]),
        ("training.precision=bf16", &[1, 2, 3]),
        ("stage.2.training.precision=bf16", &[2]),
        ("training.learning_rate=0.3", &[1, 2, 3]),
        ("training.momentum=0.3", &[1, 2, 3]),
        ("training.weight_decay=0.3", &[1, 2, 3]),
        ("training.decay=0.3", &[1, 2, 3]),
        ("training.decay_every=3", &[1, 2, 3]),
        ("features.dtype=f32", &[1, 2, 3]),
        ("features.shard_mib=3", &[0, 1, 2, 3]),
        ("features.codec=zstd:3", &[1, 2, 3]),
        ("features.views=2", &[1, 2, 3]),
        ("features.crop=late", &[1, 2, 3]),
        ("features.refresh=0.5", &[2, 3]),
        ("features.mode=recompute", &[1, 2, 3]),
        ("features.materialize=[2,3]", &[1, 2]),
        ("features.shuffle=\"shards:2\"", &[1, 2, 3]),
        ("features.memory=1GB", &[]),
        ("training.evaluate_every=3", &[]),
        ("training.checkpoint_minutes=0.5", &[]),
        ("cache=elsewhere", &[]),
    ];
    for (setting, expected) in all {
        let found: Vec<usize> = stale(setting);
        assert_eq!(found, expected, "{setting}");
    }
    // No ingredient is left out: each is changed by one of these settings, but for the versions of the program's own
    // work, the number of the stage and the files, which have a test of their own.
    let mut untouched: BTreeSet<String> = manifests(&[]).iter().flat_map(names).collect();
    for (setting, _) in all {
        for (old, new) in manifests(&[]).iter().zip(&manifests(&[setting])) {
            for (name, ..) in old.changes(new) {
                untouched.remove(&name);
            }
        }
    }
    let own: BTreeSet<String> = ["decoding", "training", "stage", "data.files"].map(String::from).into();
    assert_eq!(untouched, own);
    // Padding needs square images, so whole ones go with another crop.
    let [square, whole] =
        ["square", "whole"].map(|keep| manifests(&["augmentation.crop=resized", &format!("data.keep={keep}")]));
    let kept = square[0].changes(&whole[0]);
    assert_eq!(kept, [("data.keep".to_string(), None, Some("whole".to_string()))]);
    assert_eq!(square[1..], whole[1..]);
    assert_eq!(stale("data.path=b.tar"), Vec::<usize>::new(), "a path is no ingredient; its files are");
    assert_eq!(stale("name=other"), Vec::<usize>::new());
}

/// The same of what says something about stages, and of a stage that is handcrafted.
#[test]
fn every_ingredient_of_probes_ensembles_and_scattering_is_in_their_manifests() {
    let text = "[data]\nsource = \"builtin\"\n[network]\narchitecture = \"scattering\"\nblocks = 1\n[features]\nrefresh = 0.0\n\
                materialize = [2]\n[ensemble]\n";
    let probes = |edit: (&str, &str)| {
        let probe = |kind: &str, more: &str| format!("{{ kind = \"{kind}\", stages = [2], {more} }}");
        let all = [
            probe(
                "linear",
                "penalty = 0.1, iterations = 3, tolerance = 0.1, pool = 2, standardise = true, train_images = 7",
            ),
            probe("cnn", "depth = 1, width = 4, epochs = 3, batch = 4"),
            probe("neighbours", "k = 1"),
            "{ kind = \"contraction\", stages = [1] }".to_string(),
        ];
        format!("probes = [{}]\n{text}", all.join(", ").replacen(edit.0, edit.1, 1))
    };
    let manifests = |text: &str, overrides: &[&str]| {
        let graph = Graph::of(&parse_with(text, overrides).unwrap(), "files");
        graph.nodes().iter().map(|node| (node.id.clone(), node.manifest.clone())).collect::<Vec<_>>()
    };
    let plain = manifests(&probes(("", "")), &[]);
    let ids: Vec<&str> = plain.iter().map(|(id, _)| id.as_str()).collect();
    let own = ["stage2-linear", "stage2-cnn", "stage2-neighbours", "stage1-contraction"];
    assert_eq!(ids, [&["stage0", "stage1", "stage2", "ensemble"][..], &own].concat());
    let changed = |new: Vec<(String, Manifest)>| -> Vec<usize> {
        (0..plain.len()).filter(|&at| plain[at].1.key() != new[at].1.key()).collect()
    };
    // Nodes by their places above. The features of stage 1 are not kept: its probe reads the images.
    let settings: [(&str, &[usize]); 8] = [
        ("ensemble.of=softmax", &[3]),
        ("network.scales=3", &[1, 2]),
        ("network.angles=4", &[1, 2]),
        ("network.order=1", &[1, 2]),
        ("network.blocks=0", &[2]),
        ("augmentation.flip=true", &[1, 2, 7]),
        ("features.shuffle=\"shards:2\"", &[1, 2, 5]),
        ("training.momentum=0.5", &[2, 5]),
    ];
    for (setting, expected) in settings {
        assert_eq!(changed(manifests(&probes(("", "")), &[setting])), expected, "{setting}");
    }
    let edits = [
        ("penalty = 0.1", "penalty = 0.2", 4),
        ("iterations = 3", "iterations = 4", 4),
        ("tolerance = 0.1", "tolerance = 0.2", 4),
        ("pool = 2", "pool = 1", 4),
        ("standardise = true", "standardise = false", 4),
        ("train_images = 7", "train_images = 8", 4),
        ("depth = 1", "depth = 2", 5),
        ("width = 4", "width = 5", 5),
        ("epochs = 3", "epochs = 4", 5),
        ("k = 1", "k = 2", 6),
        ("\"contraction\"", "\"contraction\", standardise = false", 7),
    ];
    for (old, new, node) in edits {
        assert_eq!(changed(manifests(&probes((old, new)), &[])), [node], "{new}");
    }
    // The seed draws weights and crops, and the samples that are learned from where they are but some.
    assert_eq!(changed(manifests(&probes(("", "")), &["seed=1"])), [1, 2, 4, 5, 7]);
}

/// The same of a network whose blocks are trained by one node, and of the stages that are taken from it.
#[test]
fn every_ingredient_of_a_whole_network_is_in_the_right_manifests() {
    let manifests = |method: &str, overrides: &[&str]| {
        let text =
            format!("{LEAST}[network]\nblocks = 3\n[features]\nrefresh = 0.0\n[training]\nmethod = \"{method}\"\n");
        let graph = Graph::of(&parse_with(&text, overrides).unwrap(), "files");
        graph.nodes().iter().map(|node| node.manifest.clone()).collect::<Vec<_>>()
    };
    // Nodes are the images, the network and its three stages.
    let both: [(&str, &[usize]); 9] = [
        ("seed=1", &[1, 2, 3, 4]),
        ("augmentation.flip=true", &[1, 2]),
        ("network.width=64", &[1]),
        ("stage.3.auxiliary.width=64", &[1]),
        ("training.epochs=3", &[1]),
        ("training.precision=bf16", &[1, 2, 3, 4]),
        ("features.dtype=f32", &[2, 3, 4]),
        ("features.shuffle=\"shards:2\"", &[1]),
        ("training.checkpoint_minutes=0.5", &[]),
    ];
    let own: [(&str, &str, &[usize]); 8] = [
        ("end_to_end", "training.feedback=aligned", &[1]),
        ("end_to_end", "training.feedback=direct", &[1]),
        ("end_to_end", "training.feedback=exact", &[]),
        ("end_to_end", "training.method=decoupled", &[1]),
        ("end_to_end", "stage.2.auxiliary.width=64", &[]),
        ("decoupled", "stage.2.auxiliary.width=64", &[1]),
        ("decoupled", "training.replay=3", &[1]),
        ("decoupled", "training.replay=0", &[]),
    ];
    let both = ["end_to_end", "decoupled"].into_iter().flat_map(|method| both.map(|(set, nodes)| (method, set, nodes)));
    for (method, setting, expected) in both.chain(own) {
        let (old, new) = (manifests(method, &[]), manifests(method, &[setting]));
        let changed: Vec<usize> = (0..old.len()).filter(|&at| old[at].key() != new[at].key()).collect();
        assert_eq!(changed, expected, "{method}: {setting}");
    }
}

fn names(manifest: &Manifest) -> Vec<String> {
    manifest.entries().map(|(name, _)| name.to_string()).collect()
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_mangled_pipeline_makes_the_reader_panic(at in 0usize..600, with in any::<char>()) {
        let path = format!("{}/pipelines/demo.toml", env!("CARGO_MANIFEST_DIR"));
        let mut letters: Vec<char> = std::fs::read_to_string(path).unwrap().chars().collect();
        let at = at % letters.len();
        letters[at] = with;
        let _ = parse(&letters.into_iter().collect::<String>());
    }

    #[test]
    fn a_fault_is_placed_where_the_wrong_value_is(lines in 0usize..20, spaces in 0usize..20) {
        let text = format!("{LEAST}{}[training]\n{}epochs = 0", "\n".repeat(lines), " ".repeat(spaces));
        let place = format!("p.toml:{}:{}:", 4 + lines, 10 + spaces);
        prop_assert!(parse(&text).unwrap_err().starts_with(&place));
    }
}

/// The same of a network that comes from a file, and of blocks that are pruned.
#[test]
fn every_ingredient_of_imports_and_of_pruning_is_in_their_manifests() {
    let nodes = |text: &str, overrides: &[&str]| -> Vec<(String, Manifest)> {
        let graph = Graph::of(&parse_with(text, overrides).unwrap(), "files");
        graph.nodes().iter().map(|node| (node.id.clone(), node.manifest.clone())).collect()
    };
    let check = |text: &str, settings: &[(&str, &[&str])]| {
        let plain = nodes(text, &[]);
        for (setting, expected) in settings {
            let new = nodes(text, &[setting]);
            let changed = plain.iter().zip(&new).filter(|(old, new)| old.1.key() != new.1.key());
            let changed: Vec<&str> = changed.map(|(old, _)| old.0.as_str()).collect();
            assert_eq!(changed, *expected, "{setting}");
        }
    };
    let imported = "[data]\nsource = \"builtin\"\n[network]\narchitecture = \"vgg11_bn\"\nwidth = 2\nhidden = 5\npooled = 2\n\
                    weights = \"w\"\n[features]\nrefresh = 0.0\n";
    check(
        imported,
        &[
            ("network.imported=8", &["network"]),
            ("network.width=3", &["network"]),
            ("network.hidden=6", &["network"]),
            ("data.mean=[0.1,0.2,0.3]", &["network", "stage1"]),
            ("network.weights=elsewhere", &[]),
            ("network.init=uniform", &[]),
            ("training.epochs=3", &[]),
        ],
    );
    let mut other = parse(imported).unwrap();
    other.pretrained.as_mut().unwrap().hash = "of the file".into();
    let (old, new) = (nodes(imported, &[]), Graph::of(&other, "files"));
    let changed = old.iter().zip(new.nodes()).filter(|(old, new)| old.1.key() != new.manifest.key());
    assert_eq!(changed.map(|(old, _)| old.0.as_str()).collect::<Vec<_>>(), ["network"]);
    check(
        "[data]\nsource = \"builtin\"\n[network]\nblocks = 2\nwidth = 8\n[features]\nrefresh = 0.0\n[compression]\nepochs = 3\n",
        &[
            ("compression.width=0.25", &["stage1", "stage2.wide", "stage2"]),
            ("compression.epochs=4", &["stage1", "stage2"]),
            ("compression.learning_rate=0.3", &["stage1", "stage2"]),
            ("compression.batch=9", &["stage1", "stage2"]),
            ("compression.decay_every=2", &["stage1", "stage2"]),
            ("training.epochs=9", &["stage1.wide", "stage2.wide"]),
            ("training.batch=9", &["stage1.wide", "stage1", "stage2.wide", "stage2"]),
            ("stage.2.training.epochs=9", &["stage2.wide"]),
            ("features.dtype=f32", &["stage1", "stage2"]),
        ],
    );
    check(
        "[data]\nsource = \"builtin\"\n[network]\nblocks = 2\nwidth = 8\n[features]\nrefresh = 0.0\n\
         [compression]\nwidth = 1.0\n[compression.classifier]\nepochs = 3\n",
        &[
            ("seed=1", &["stage1", "stage2", "classifier"]),
            ("compression.classifier.k=3", &["classifier"]),
            ("compression.classifier.width=4", &["classifier"]),
            ("compression.classifier.batch_norm=false", &["classifier"]),
            ("compression.classifier.layers=[\"flatten\", { linear = \"classes\" }]", &["classifier"]),
            ("compression.classifier.epochs=4", &["classifier"]),
            ("compression.classifier.batch=9", &["classifier"]),
            ("compression.classifier.learning_rate=0.3", &["classifier"]),
            ("compression.classifier.momentum=0.3", &["classifier"]),
            ("compression.classifier.weight_decay=0.3", &["classifier"]),
            ("compression.classifier.decay=0.3", &["classifier"]),
            ("compression.classifier.decay_every=2", &["classifier"]),
            ("compression.classifier.precision=bf16", &["classifier"]),
            ("compression.classifier.checkpoint_minutes=0.5", &[]),
            ("training.epochs=9", &["stage1", "stage2"]),
            ("training.batch=9", &["stage1", "stage2", "classifier"]),
            ("auxiliary.k=1", &["stage1", "stage2", "classifier"]),
            ("stage.2.auxiliary.k=1", &["stage2"]),
            ("features.dtype=f32", &["stage1", "stage2"]),
            ("features.materialize=[1]", &["stage2", "classifier"]),
            ("features.shuffle=\"shards:2\"", &["stage1", "stage2", "classifier"]),
        ],
    );
}
