//! All that a stage's result depends on, as text; its hash is the stage's key, its differences are the explanation.

use super::{
    Augmentation, Average, BadImage, Codec, CodecChoice, Crop, Data, Encoding, Feedback, Init, Keep, Keys, Layers,
    Orientation, Precision, Probe, ProbeKind, Recipe, Shuffle, Stage, Training, Whole,
};

/// Names and values of everything that a stage depends on, but for the output of the stages before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<(String, String)>,
}

/// Names that begin so change how a stage's output is stored, but not what it learns.
const STORAGE: &str = "features.";
/// The names of type and codec; features without a codec are not compressed.
const DTYPE: &str = "features.dtype";
const CODEC: &str = "features.codec";
/// To be raised when a new version of the program would learn or write something else from the same settings.
const TRAINING: u32 = 2;
/// The same of weights that are read from a file.
const IMPORT: u32 = 1;
/// The same of what is measured of features.
const PROBE: u32 = 1;
/// Names that begin so follow from settings that are entries as well: they explain nothing that those do not.
const DERIVED: &str = "layers.";

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
        let gone = gone.map(|(name, value)| (name.to_string(), Some(value.to_string()), None));
        let (derived, mut all): (Vec<_>, Vec<_>) =
            changed.chain(gone).partition(|(name, ..)| name.starts_with(DERIVED));
        if all.is_empty() {
            all = derived;
        }
        all
    }

    /// How the features of a stage are stored that has this manifest, where they are.
    pub fn encoding(&self) -> Option<Encoding> {
        Encoding::named(self.value(DTYPE)?, self.value(CODEC))
    }

    /// Whether a name changes only how the output is stored.
    pub fn is_storage(name: &str) -> bool {
        name.starts_with(STORAGE)
    }

    /// What stage 0 depends on: the files (`files` is their fingerprint as observed) and how they are decoded.
    pub fn of_images(pipeline: &Recipe, files: &str) -> Self {
        let Data {
            source,
            size,
            keep,
            channels,
            train_images,
            val_images,
            on_bad_image,
            max_pixels,
            decoded: _,
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
        if *keep == Keep::Whole {
            manifest.add("data.keep", "whole");
        }
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

    /// What a trained stage depends on, but for the features it reads and what it is pruned from.
    pub fn of_stage(pipeline: &Recipe, stage: &Stage) -> Self {
        let mut manifest = Self::of_wide(pipeline, stage);
        manifest.add_features(pipeline, stage.number);
        manifest
    }

    /// The same of one that writes no features.
    pub fn of_wide(pipeline: &Recipe, stage: &Stage) -> Self {
        let Stage { number, block, head, keys, training, pruning } = stage;
        let mut manifest = Self::default();
        manifest.add("training", TRAINING);
        manifest.add("seed", pipeline.seed);
        manifest.add("stage", number);
        if pipeline.reads(*number).start == 0 || pipeline.features.late_crops {
            manifest.add_augmentation(&pipeline.augmentation, &pipeline.data);
        }
        manifest.add_input(pipeline, *number);
        manifest.add_network(Some(pipeline.init), &[(block, keys)], &Vec::from_iter(head));
        match (head, pruning) {
            (Some(_), Some(pruning)) => {
                let mut own = Self::default();
                own.add_training(&pruning.training);
                manifest.add("compression.width", pruning.width);
                for (name, value) in own.entries() {
                    manifest.add(&name.replacen("training", "compression", 1), value);
                }
            }
            (Some(_), None) => manifest.add_training(training),
            (None, _) => manifest.add_precision(training),
        }
        manifest
    }

    /// What a network of which stages are taken depends on, but for the images it reads.
    pub fn of_network(pipeline: &Recipe, whole: &Whole<'_>) -> Self {
        let blocks: Vec<(&Layers, &Keys)> = whole.stages.iter().map(|stage| (&stage.block, &stage.keys)).collect();
        let heads: Vec<&Layers> = whole.stages.iter().filter_map(|stage| stage.head.as_ref()).collect();
        let mut manifest = Self::default();
        if let Some(pretrained) = &pipeline.pretrained {
            manifest.add("import", IMPORT);
            manifest.add("network.weights", &pretrained.hash);
            manifest.add("network.imported", pretrained.part());
            // Of the images there are logits, where anything classifies.
            if whole.head.is_some() {
                manifest.add_augmentation(&pipeline.augmentation, &pipeline.data);
            }
            manifest.add_network(None, &blocks, &heads);
            return manifest;
        }
        manifest.add("training", TRAINING);
        manifest.add("seed", pipeline.seed);
        manifest.add("training.method", pipeline.method.word());
        if pipeline.feedback != Feedback::Exact {
            manifest.add("training.feedback", pipeline.feedback.word());
        }
        if pipeline.replay > 0 {
            manifest.add("training.replay", pipeline.replay);
        }
        manifest.add_augmentation(&pipeline.augmentation, &pipeline.data);
        if pipeline.features.shuffle != Shuffle::Global {
            manifest.add("input.shuffle", pipeline.features.shuffle.word());
        }
        manifest.add_network(Some(pipeline.init), &blocks, &heads);
        manifest.add_training(&pipeline.training);
        manifest
    }

    /// What the features of a stage of such a network depend on, but for the network and the features it reads.
    pub fn of_depth(pipeline: &Recipe, stage: usize) -> Self {
        let mut manifest = Self::default();
        manifest.add("training", TRAINING);
        manifest.add("seed", pipeline.seed);
        manifest.add("stage", stage);
        if pipeline.features.nearest(stage) == 0 || pipeline.features.late_crops {
            manifest.add_augmentation(&pipeline.augmentation, &pipeline.data);
        }
        let nearest = pipeline.features.nearest(stage);
        if nearest + 1 != stage {
            manifest.add("input.features_of", nearest);
        }
        manifest.add_precision(&pipeline.training);
        manifest.add_features(pipeline, stage);
        manifest
    }

    /// What a classifier in the place of that of the last stage depends on, but for the features of that.
    pub fn of_classifier(
        pipeline: &Recipe,
        stage: usize,
        ((layers, keys), training): ((&Layers, &Keys), &Training),
    ) -> Self {
        let mut manifest = Self::default();
        manifest.add("training", TRAINING);
        manifest.add("seed", pipeline.seed);
        manifest.add("stage", stage);
        if pipeline.reads(stage + 1).start == 0 || pipeline.features.late_crops {
            manifest.add_augmentation(&pipeline.augmentation, &pipeline.data);
        }
        manifest.add_input(pipeline, stage + 1);
        let mut own = Self::default();
        keys.iter().for_each(|(name, value)| own.add(name, value));
        own.add_training(training);
        for (name, value) in own.entries() {
            let name = name.trim_start_matches("auxiliary.").trim_start_matches("training.");
            manifest.add(&format!("compression.classifier.{name}"), value);
        }
        manifest.add_network(Some(pipeline.init), &[], &[layers]);
        manifest
    }

    /// What the ensemble of all stages depends on, but for their logits.
    pub fn of_ensemble(of: Average) -> Self {
        let mut manifest = Self::default();
        manifest.add("ensemble.of", of.word());
        manifest
    }

    /// What a measurement of the features of a stage depends on, but for these.
    pub fn of_probe(pipeline: &Recipe, probe: &Probe, stage: usize) -> Self {
        let mut manifest = Self::default();
        manifest.add("probe", PROBE);
        manifest.add("stage", stage);
        manifest.add("probes.name", &probe.name);
        manifest.add("probes.kind", probe.kind.word());
        let nearest = pipeline.features.nearest(stage + 1);
        if nearest == 0 {
            manifest.add_augmentation(&pipeline.augmentation, &pipeline.data);
        }
        if nearest != stage {
            manifest.add("input.features_of", nearest);
        }
        if nearest > 0 && pipeline.features.late_crops {
            manifest.add("input.crop", late(pipeline));
        }
        let trained = matches!(probe.kind, ProbeKind::Cnn { .. });
        if trained || nearest == 0 || probe.train_images.is_some() {
            manifest.add("seed", pipeline.seed);
        }
        match &probe.kind {
            ProbeKind::Linear { penalty, iterations, tolerance } => {
                manifest.add("probes.penalty", penalty);
                manifest.add("probes.iterations", iterations);
                manifest.add("probes.tolerance", tolerance);
            }
            ProbeKind::Cnn { depth, width, training } => {
                manifest.add("probes.depth", depth);
                manifest.add("probes.width", width);
                if pipeline.features.shuffle != Shuffle::Global {
                    manifest.add("input.shuffle", pipeline.features.shuffle.word());
                }
                manifest.add_training(training);
            }
            ProbeKind::Neighbours { k } => manifest.add("probes.k", k),
            ProbeKind::Contraction | ProbeKind::Classifier { .. } => {}
        }
        if let Some(pool) = probe.pool {
            manifest.add("probes.pool", pool);
            manifest.add("probes.standardise", probe.standardise);
        }
        if let Some(images) = probe.train_images {
            manifest.add("probes.train_images", images);
        }
        manifest
    }

    /// Blocks of one network, and its classifiers: the settings that they come from, how weights begin where they are
    /// trained, and the layers that come of these.
    fn add_network(&mut self, init: Option<Init>, blocks: &[(&Layers, &Keys)], heads: &[&Layers]) {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in blocks.iter().flat_map(|(_, keys)| keys.iter()) {
            if !names.contains(name) {
                names.push(name);
            }
        }
        for name in names {
            let values = blocks.iter().flat_map(|(_, keys)| keys.iter()).filter(|(own, _)| *own == name);
            let values: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
            self.add(name, values.join(", "));
        }
        if let Some(init) = init.filter(|init| *init != Init::Uniform) {
            self.add("network.init", init.word());
        }
        let name = |what: &str, number: usize, count: usize| {
            if count == 1 { format!("layers.{what}") } else { format!("layers.{what}{number}") }
        };
        for (number, (block, _)) in (1..).zip(blocks) {
            self.add(&name("block", number, blocks.len()), block);
        }
        for (number, head) in (1..).zip(heads) {
            self.add(&name("head", number, heads.len()), head);
        }
    }

    fn add_training(&mut self, training: &Training) {
        self.add("training.epochs", training.epochs);
        self.add("training.batch", training.batch);
        self.add("training.learning_rate", training.learning_rate);
        self.add("training.momentum", training.momentum);
        self.add("training.weight_decay", training.weight_decay);
        self.add("training.decay", training.decay);
        self.add("training.decay_every", training.decay_every);
        self.add_precision(training);
    }

    fn add_precision(&mut self, training: &Training) {
        if training.precision != Precision::F32 {
            self.add("training.precision", training.precision.word());
        }
    }

    /// How the input of a stage is drawn, where it is not read once from the stage before.
    fn add_input(&mut self, pipeline: &Recipe, stage: usize) {
        let features = &pipeline.features;
        let nearest = features.nearest(stage);
        if nearest + 1 != stage {
            self.add("input.features_of", nearest);
        }
        if nearest > 0 && pipeline.features.refresh > 0.0 {
            self.add("input.refresh", pipeline.features.refresh);
        }
        if nearest > 0 && features.late_crops {
            self.add("input.crop", late(pipeline));
        }
        if features.shuffle != Shuffle::Global {
            self.add("input.shuffle", features.shuffle.word());
        }
    }

    /// What is written of a stage.
    fn add_features(&mut self, pipeline: &Recipe, stage: usize) {
        let features = &pipeline.features;
        if !features.caches(stage) {
            return self.add("features.materialize", false);
        }
        let Encoding { dtype, codec } = features.encoding(&pipeline.stages[stage - 1].block);
        self.add(DTYPE, dtype.word());
        self.add("features.shard_mib", features.shard_mib);
        if codec != CodecChoice::Fixed(Codec::None) {
            self.add(CODEC, codec.word());
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
fn late(pipeline: &Recipe) -> String {
    format!("late, moved by less than {}", pipeline.widest_step())
}
