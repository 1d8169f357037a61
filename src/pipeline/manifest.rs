//! All that a stage's result depends on, as text; its hash is the stage's key, its differences are the explanation.

use super::{Augmentation, BadImage, Codec, Crop, Data, Orientation, Pipeline, Precision, Shuffle, Stage};

/// Names and values of everything that a stage depends on, but for the output of the stages before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<(String, String)>,
}

/// Names that begin so change how a stage's output is stored, but not what it learns.
const STORAGE: &str = "features.";

impl Manifest {
    /// A manifest with these entries, such as one read back from a record.
    pub fn new(entries: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { entries: entries.into_iter().collect() }
    }

    /// Names and values, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn add(&mut self, name: &str, value: impl ToString) {
        self.entries.push((name.into(), value.to_string()));
    }

    /// The value of a name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.entries().find(|(mine, _)| *mine == name).map(|(_, value)| value)
    }

    /// The key: a BLAKE3 hash of all names and values.
    pub fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in self.entries() {
            for part in [name, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// What differs in `new`: name, old value, new value. Empty exactly when the keys are equal, but for order.
    pub fn changes(&self, new: &Self) -> Vec<(String, Option<String>, Option<String>)> {
        let changed = new
            .entries()
            .filter(|(name, value)| self.value(name) != Some(value))
            .map(|(name, value)| (name.to_string(), self.value(name).map(str::to_string), Some(value.to_string())));
        let gone = self.entries().filter(|(name, _)| new.value(name).is_none());
        changed.chain(gone.map(|(name, value)| (name.to_string(), Some(value.to_string()), None))).collect()
    }

    /// Whether a name changes only how the output is stored.
    pub fn is_storage(name: &str) -> bool {
        name.starts_with(STORAGE)
    }

    /// What stage 0 depends on: the files (`files` is their fingerprint as observed) and how they are decoded.
    pub fn of_images(pipeline: &Pipeline, files: &str) -> Self {
        let Data {
            source,
            size,
            channels,
            train_images,
            val_images,
            on_bad_image,
            max_pixels,
            orientation,
            mean: _,
            std: _,
        } = &pipeline.data;
        let limit = |count: &Option<usize>| count.map_or("all".into(), |count| count.to_string());
        let mut manifest = Self::default();
        // To be raised when a new version of the program would decode the same files to other pixels.
        manifest.add("decoding", 1);
        manifest.add("data.source", source.word());
        manifest.add("data.files", files);
        manifest.add("data.size", size);
        manifest.add("data.channels", channels);
        manifest.add("data.train_images", limit(train_images));
        manifest.add("data.val_images", limit(val_images));
        manifest.add("data.on_bad_image", if *on_bad_image == BadImage::Fail { "fail" } else { "skip" });
        manifest.add("data.max_pixels", max_pixels);
        if *orientation == Orientation::Ignore {
            manifest.add("data.orientation", "ignore");
        }
        if train_images.is_some() || val_images.is_some() {
            manifest.add("seed", pipeline.seed);
        }
        manifest.add("features.shard_mib", pipeline.features.shard_mib);
        manifest
    }

    /// What a trained stage depends on, but for the features it reads.
    pub fn of_stage(pipeline: &Pipeline, stage: &Stage) -> Self {
        let Stage { number, block, auxiliary, training } = stage;
        let mut manifest = Self::default();
        // To be raised when a new version of the program would learn or write something else from the same settings.
        manifest.add("training", 2);
        manifest.add("seed", pipeline.seed);
        manifest.add("stage", number);
        if pipeline.reads(*number).start == 0 || pipeline.features.late_crops {
            manifest.add_augmentation(&pipeline.augmentation, &pipeline.data);
        }
        manifest.add_input(pipeline, *number);
        manifest.add("block.space_to_depth", block.space_to_depth);
        manifest.add("block.in_channels", block.input.channels);
        manifest.add("block.width", block.output.channels);
        manifest.add("block.size", block.output.size);
        manifest.add("block.batch_norm", block.batch_norm);
        manifest.add("auxiliary.convolutions", auxiliary.convolutions);
        manifest.add("auxiliary.width", auxiliary.width);
        manifest.add("auxiliary.batch_norm", auxiliary.batch_norm);
        manifest.add("training.epochs", training.epochs);
        manifest.add("training.batch", training.batch);
        manifest.add("training.learning_rate", training.learning_rate);
        manifest.add("training.momentum", training.momentum);
        manifest.add("training.weight_decay", training.weight_decay);
        manifest.add("training.decay", training.decay);
        manifest.add("training.decay_every", training.decay_every);
        if training.precision != Precision::F32 {
            manifest.add("training.precision", training.precision.word());
        }
        manifest.add_features(pipeline, *number);
        manifest
    }

    /// How the input of a stage is drawn, where it is not read once from the stage before.
    fn add_input(&mut self, pipeline: &Pipeline, stage: usize) {
        let features = &pipeline.features;
        let nearest = features.nearest(stage);
        if nearest + 1 != stage {
            self.add("input.features_of", nearest);
        }
        if nearest > 0 && pipeline.refresh() > 0.0 {
            self.add("input.refresh", pipeline.refresh());
        }
        if nearest > 0 && features.late_crops {
            self.add("input.crop", late(pipeline));
        }
        if features.shuffle != Shuffle::Global {
            self.add("input.shuffle", features.shuffle.word());
        }
    }

    /// What is written of a stage.
    fn add_features(&mut self, pipeline: &Pipeline, stage: usize) {
        let features = &pipeline.features;
        if !features.keeps(stage) {
            return self.add("features.kept", false);
        }
        self.add("features.dtype", features.dtype.word());
        self.add("features.shard_mib", features.shard_mib);
        if features.codec != Codec::None {
            self.add("features.codec", features.codec.word());
        }
        if features.views != 1 {
            self.add("features.views", features.views);
        }
        if features.late_crops {
            self.add("features.crop", late(pipeline));
        }
    }

    fn add_augmentation(&mut self, augmentation: &Augmentation, data: &Data) {
        self.add("data.mean", format!("{:?}", data.mean));
        self.add("data.std", format!("{:?}", data.std));
        self.add("augmentation.size", augmentation.size);
        self.add("augmentation.flip", augmentation.flip);
        match augmentation.crop {
            Crop::Centre => self.add("augmentation.crop", "centre"),
            Crop::Padded { padding } => {
                self.add("augmentation.crop", "padded");
                self.add("augmentation.padding", padding);
            }
            Crop::Resized { scale, ratio } => {
                self.add("augmentation.crop", "resized");
                self.add("augmentation.scale", format!("{scale:?}"));
                self.add("augmentation.ratio", format!("{ratio:?}"));
            }
        }
    }
}

/// How canvases lie depends on the network: they are moved by less than the widest step of a feature grid.
fn late(pipeline: &Pipeline) -> String {
    format!("late, moved by less than {}", pipeline.widest_step())
}
