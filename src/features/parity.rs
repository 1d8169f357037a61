//! Tests that samples become the same bits on every data path: decoded on the way out of their shards, sent to
//! the device as they are stored, or resident there.

use super::*;
use crate::images::ImageSet;
use crate::network::{Chain, Frozen, Network};
use crate::pipeline::Recipe;
use crate::progress::Silent;
use crate::random::{Purpose, Stream};
use candle_core::{DType, Device};
use std::path::PathBuf;
use tempfile::TempDir;

const CLASSES: usize = 10;
const SAMPLES: usize = 50;
const BATCH: usize = 16;
/// Memory for what is cached.
const MEMORY: u64 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq)]
enum DataPath {
    Host,
    Device,
    Resident,
}

/// Images, and what a random block makes of them.
struct Stages {
    folder: TempDir,
    pipeline: Recipe,
}

impl Stages {
    fn new(settings: &[&str]) -> Self {
        let (folder, pipeline) = (tempfile::tempdir().unwrap(), pipeline(settings));
        let images = ImageSet::open(&pipeline.data, pipeline.seed).unwrap();
        decode(&folder.path().join("stage0"), Split::Train, &images.train, &pipeline, &Silent).unwrap();
        Self { folder, pipeline }
    }

    fn stage(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("stage{number}"))
    }

    /// Writes the features of the first stage.
    fn with_features(self) -> Self {
        let input = self.open(0, DataPath::Host);
        let stage = &self.stage(1);
        write_files(stage, &label_files(Split::Train, input.labels()).unwrap()).unwrap();
        let (block, features) = (self.block(), &self.pipeline.features);
        let encoding = features.encoding(&self.pipeline.stages[0].block);
        let extraction = Extraction { stage, block: &block, features, encoding, progress: &Silent };
        extraction.write(Split::Train, &input, &()).unwrap();
        self
    }

    fn block(&self) -> Frozen {
        let mut rng = Stream::new(Purpose::Weights, 3, (1, 0));
        let start = (self.pipeline.init, &mut rng, &Device::Cpu);
        Network::block(&self.pipeline.stages[0].block, start).unwrap().frozen().unwrap()
    }

    fn open(&self, number: usize, path: DataPath) -> Loader {
        let none = Chain::new(Vec::new(), &Device::Cpu, DType::F32);
        let loader = Loader::open(&self.stage(number), Split::Train, &self.pipeline, CLASSES, none).unwrap();
        match path {
            DataPath::Host => loader,
            DataPath::Device => loader.decoded_on_device().unwrap(),
            DataPath::Resident => loader.resident(u64::MAX).unwrap(),
        }
    }

    /// The features, of which views are refreshed as a pipeline says.
    fn refreshed(&self, path: DataPath, pipeline: &Recipe) -> Loader {
        let chain = Chain::new(vec![self.block()], &Device::Cpu, DType::F32);
        let refresh = Refresh::open(&self.stage(0), chain, pipeline).unwrap();
        let refresh = if path == DataPath::Resident { refresh.resident(u64::MAX).unwrap() } else { refresh };
        self.open(1, path).refreshed(refresh, MEMORY, self.folder.path()).unwrap()
    }
}

fn pipeline(settings: &[&str]) -> Recipe {
    let text = format!(
        "[data]\nsource = \"builtin\"\nsize = 12\ntrain_images = {SAMPLES}\nval_images = 4\n\
         [augmentation]\nflip = true\n\
         [network]\nblocks = 2\nwidth = 5\nspace_to_depth = [1]\n[features]\nshard_mib = 1\n"
    );
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    Recipe::parse("p", "p", &text, &settings).unwrap()
}

/// The bits of all values, and the labels, of a few epochs and other views.
fn met(loader: &Loader) -> Vec<(Vec<u32>, Vec<u32>)> {
    let epochs = (0..6).map(|epoch| View::Epoch { stage: 2, epoch });
    let mut all = Vec::new();
    for view in epochs.chain([View::Cached(0), View::Centre, View::CentreCanvas]) {
        let order = loader.order(&mut Stream::new(Purpose::Order, 1, (0, all.len() as u64)));
        let read = loader.for_each_batch(&order, BATCH, view, |batch| {
            let values: Vec<f32> = batch.x.flatten_all()?.to_vec1()?;
            all.push((values.into_iter().map(f32::to_bits).collect(), batch.labels.to_vec1()?));
            Ok(())
        });
        read.unwrap();
    }
    all
}

#[test]
fn images_are_cropped_alike_wherever_that_is_done() {
    for settings in [
        &["augmentation.crop=padded", "augmentation.padding=4"] as &[&str],
        &["augmentation.crop=padded", "augmentation.padding=1", "augmentation.size=10"],
        &["augmentation.crop=centre", "augmentation.size=10"],
        &["augmentation.crop=resized"],
        &["augmentation.crop=resized", "data.keep=whole", "augmentation.size=10"],
        &["augmentation.crop=centre", "data.keep=whole", "augmentation.size=10"],
        &["augmentation.crop=padded", "features.crop=late", "data.color=gray"],
    ] {
        let stages = Stages::new(settings);
        let expected = met(&stages.open(0, DataPath::Host));
        assert_ne!(expected[0], expected[4], "{settings:?}");
        for path in [DataPath::Device, DataPath::Resident] {
            assert!(met(&stages.open(0, path)) == expected, "{path:?} with {settings:?}");
        }
    }
}

#[test]
fn features_of_every_type_are_decoded_alike_wherever_that_is_done() {
    for settings in [
        &["augmentation.crop=resized", "features.dtype=f16", "features.views=2"] as &[&str],
        &["features.dtype=bf16", "features.codec=zstd:1"],
        &["augmentation.crop=padded", "augmentation.padding=2", "features.crop=late", "features.dtype=f32"],
        &["features.dtype=u8", "features.codec=lz4"],
    ] {
        let stages = Stages::new(settings).with_features();
        let expected = met(&stages.open(1, DataPath::Host));
        for path in [DataPath::Device, DataPath::Resident] {
            assert!(met(&stages.open(1, path)) == expected, "{path:?} with {settings:?}");
            let refreshed = met(&stages.refreshed(path, &stages.pipeline));
            assert!(
                refreshed == met(&stages.refreshed(DataPath::Host, &stages.pipeline)),
                "{path:?} with {settings:?}"
            );
            assert!(refreshed != expected, "no view was refreshed with {settings:?}");
        }
    }
}

#[test]
fn what_is_resident_is_read_once() {
    let stages = Stages::new(&["features.views=2"]).with_features();
    let loader = stages.open(1, DataPath::Resident);
    assert!(loader.describe().contains("resident on the device"), "{}", loader.describe());
    let epoch = |epoch| {
        let order: Vec<u32> = (0..SAMPLES as u32).collect();
        loader.for_each_batch(&order, BATCH, View::Epoch { stage: 2, epoch }, |_| Ok(()))
    };
    epoch(0).unwrap();
    epoch(1).unwrap();
    std::fs::remove_dir_all(stages.stage(1).join("train/features/c")).unwrap();
    epoch(2).unwrap();
    epoch(3).unwrap();
    // A view that never came by is missed; shards that were opened may still be read.
    let other = stages.open(1, DataPath::Resident);
    assert!(other.batch(&[0], View::Cached(0)).err().unwrap().to_string().contains("is missing"));
    // What takes too much is streamed.
    let bytes = loader.layout().logical_bytes();
    let small = stages.open(1, DataPath::Host).resident(bytes - 1).unwrap();
    assert!(small.describe().contains("streamed"), "{}", small.describe());
}

#[test]
fn a_refreshed_view_that_does_not_fit_the_type_is_an_error_on_every_data_path() {
    let stages = Stages::new(&["features.dtype=f16"]).with_features();
    let bright = pipeline(&["data.std=[1e-6,1e-6,1e-6]"]);
    for (path, words) in [
        (DataPath::Host, "does not fit into f16"),
        (DataPath::Resident, "refreshed view is not finite or does not fit"),
    ] {
        let loader = stages.refreshed(path, &bright);
        let order: Vec<u32> = (0..SAMPLES as u32).collect();
        let epoch = |epoch| loader.for_each_batch(&order, BATCH, View::Epoch { stage: 2, epoch }, |_| Ok(()));
        epoch(0).unwrap();
        let error = epoch(2).unwrap_err();
        assert!(error.to_string().contains(words) && error.hint_text().is_some(), "{path:?}: {error}");
    }
}
