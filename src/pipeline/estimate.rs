//! How long the stages of a pipeline take on a machine, and how many bytes their features, for any choice of the stages
//! whose features are written.
//!
//! The model is simple on purpose. A stage is fed from the nearest features before it that are written, or from the
//! images: each sample is read, made into values, run through the frozen blocks between, and trained on. On a CPU all but
//! the disk share the same cores, so that their times add up; with a GPU loading and computing run side by side, and the
//! slower counts. The disk works beside both, and not at all for files that stay in memory from one epoch to the next.

use super::{Cost, Machine, Memory, Recipe, Stage, Training, footprint};
use std::ops::{Add, Mul, Range};

/// What the time of some work is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Blocks and classifiers.
    Compute,
    /// Reading or writing.
    Disk,
    /// Making values of what was read, and stored bytes of values.
    Decode,
}

/// Seconds of some work, and what limits it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// Seconds.
    pub seconds: f64,
    /// The greatest part of it.
    pub limit: Limit,
}

/// Seconds that each part of the machine is busy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub decode: f64,
    pub compute: f64,
    pub disk: f64,
}

impl Add for Load {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { decode: self.decode + other.decode, compute: self.compute + other.compute, disk: self.disk + other.disk }
    }
}

impl Mul<f64> for Load {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self { decode: self.decode * times, compute: self.compute * times, disk: self.disk * times }
    }
}

/// A pipeline on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Estimate<'a> {
    /// The pipeline; its own choice of what is written is not looked at.
    pub pipeline: &'a Recipe,
    /// The machine, with the parts of all stages of the pipeline.
    pub machine: &'a Machine,
    /// Training and validation images.
    pub images: [usize; 2],
    /// Bytes of stored features over bytes of their values, where it is known: less than 1 where they are compressed. Else
    /// that of each stage is what is usual.
    pub compression: Option<f64>,
}

impl Estimate<'_> {
    fn stage(&self, number: usize) -> &Stage {
        &self.pipeline.stages[number - 1]
    }

    /// How much larger a kept sample is than what the network takes of it: the whole padded image with late crops.
    fn canvas(&self, stage: usize) -> f64 {
        if stage == 0 || !self.pipeline.features.late_crops {
            return 1.0;
        }
        let crop = self.stage(stage).block.output;
        self.pipeline.canvas(crop).values() as f64 / crop.values() as f64
    }

    /// Bytes of a stored sample as the network takes it: of one view, and of one image for stage 0.
    pub fn sample_bytes(&self, stage: usize) -> f64 {
        let bytes = match stage {
            0 => self.pipeline.data.image_bytes() as f64,
            _ => self.values_bytes(stage) * self.compression(stage),
        };
        bytes + footprint::BESIDE_SAMPLE as f64
    }

    /// Bytes of the values of a sample.
    fn values_bytes(&self, stage: usize) -> f64 {
        let block = &self.stage(stage).block;
        (block.output.values() * self.pipeline.features.encoding(block).dtype.bytes()) as f64
    }

    /// Bytes of the features of a stage over bytes of their values.
    pub fn compression(&self, stage: usize) -> f64 {
        let usual = || self.pipeline.features.encoding(&self.stage(stage).block).usual_compression();
        self.compression.unwrap_or_else(usual)
    }

    /// Bytes of the training samples of a stage, all views.
    fn train_bytes(&self, stage: usize) -> f64 {
        let views = if stage == 0 { 1 } else { self.pipeline.features.views };
        (self.images[0] * views) as f64 * self.sample_bytes(stage) * self.canvas(stage)
    }

    /// Bytes that the output of a stage takes on the disk where it is written.
    pub fn bytes(&self, stage: usize) -> u64 {
        (self.train_bytes(stage) + self.images[1] as f64 * self.sample_bytes(stage) * self.canvas(stage)) as u64
    }

    /// Reading one training sample of a stage's output.
    pub(super) fn loading(&self, from: usize) -> Load {
        let stays = self.train_bytes(from) <= self.machine.memory;
        let disk = if stays { 0.0 } else { self.sample_bytes(from) / self.machine.read };
        Load { decode: self.machine.stages[from].load, compute: 0.0, disk } * self.canvas(from)
    }

    /// Running the frozen blocks of some stages.
    pub(super) fn frozen(&self, stages: Range<usize>) -> Load {
        Load { compute: self.machine.stages[stages].iter().map(|parts| parts.frozen).sum(), ..Load::default() }
    }

    /// Making a view of an image, as far as the output of a stage.
    pub(super) fn refreshing(&self, stage: usize) -> Load {
        if stage == 0 { Load::default() } else { self.loading(0) + self.frozen(1..stage + 1) }
    }

    pub(super) fn time(&self, load: Load) -> Time {
        let Load { decode, compute, disk } = load;
        let busiest = if compute >= decode { Limit::Compute } else { Limit::Decode };
        let seconds = if !self.machine.processor.is_cpu() { decode.max(compute) } else { decode + compute };
        if disk > seconds { Time { seconds: disk, limit: Limit::Disk } } else { Time { seconds, limit: busiest } }
    }

    /// One epoch of training a stage from the features of an earlier one; 0 are the images.
    pub fn epoch(&self, stage: usize, from: usize) -> Time {
        let step = Load { compute: self.machine.stages[stage].train, ..Load::default() };
        let fresh = self.refreshing(from) * self.pipeline.features.refresh;
        self.time((self.loading(from) + self.frozen(from + 1..stage) + step + fresh) * self.images[0] as f64)
    }

    /// One look at the validation images. They are few, and stay in memory.
    pub fn evaluation(&self, stage: usize, from: usize) -> Time {
        let own =
            Load { decode: self.machine.stages[from].load, compute: self.machine.stages[stage].classify, disk: 0.0 };
        self.time((self.frozen(from + 1..stage) + own) * self.images[1] as f64)
    }

    /// Writing the features of a stage: all views of the training images, and the validation images.
    pub fn extraction(&self, stage: usize, from: usize) -> Time {
        let store = Load { decode: self.machine.stages[stage].store, ..Load::default() };
        let blocks = self.frozen(from + 1..stage + 1);
        let canvas = self.canvas(stage);
        let view = self.loading(from) + (blocks + store) * canvas;
        let check = (Load { decode: self.machine.stages[from].load, ..Load::default() } + blocks + store) * canvas;
        let views = (self.images[0] * self.pipeline.features.views) as f64;
        let mut load = view * views + check * self.images[1] as f64;
        load.disk += self.bytes(stage) as f64 / self.machine.write;
        self.time(load)
    }

    /// Decoding all image files.
    pub fn decoding(&self) -> Time {
        let decode = self.machine.stages[0].store * self.images.iter().sum::<usize>() as f64;
        self.time(Load { decode, compute: 0.0, disk: self.bytes(0) as f64 / self.machine.write })
    }

    /// Seconds of all epochs of a stage, without evaluation; 0 where it is not trained by itself.
    pub fn epochs(&self, stage: usize, from: usize) -> f64 {
        if !self.pipeline.trains_alone(self.stage(stage)) {
            return 0.0;
        }
        let (own, epoch) = (self.stage(stage), self.epoch(stage, from).seconds);
        let Some(wide) = own.wide() else { return own.training.epochs as f64 * epoch };
        // A step before it is pruned takes longer, as it has more operations; how many classes there are is of no weight.
        let times = Cost::of(&wide, 1).training / Cost::of_network(&[&own.block], own.head.as_ref(), 1).training;
        let more = (times - 1.0) * self.machine.stages[stage].train * self.images[0] as f64;
        wide.training.epochs as f64 * (epoch + more) + own.last_training().epochs as f64 * epoch
    }

    /// Seconds until a stage is trained: its epochs, and the looks at the validation images between; 0 where it is not
    /// trained by itself.
    pub fn training(&self, stage: usize, from: usize) -> f64 {
        if !self.pipeline.trains_alone(self.stage(stage)) {
            return 0.0;
        }
        let own = self.stage(stage);
        let all = [Some(&own.training), own.pruning.as_ref().map(|pruning| &pruning.training)].into_iter().flatten();
        let looks = |training: &Training| (0..training.epochs).filter(|&epoch| training.evaluates_at(epoch)).count();
        let looks: usize = all.map(looks).sum();
        self.epochs(stage, from) + looks as f64 * self.evaluation(stage, from).seconds
    }

    /// Memory that a stage takes, whose costs are given, for training or for writing features.
    pub fn memory(&self, stage: usize, from: usize, cost: &Cost) -> Memory {
        Memory::of_stage(self.pipeline, (stage, from), cost, (self.images[0], self.machine.processor))
    }

    /// One epoch of training the whole network on the images.
    pub fn epoch_of_network(&self) -> Time {
        let step = Load { compute: self.machine.network.train, ..Load::default() };
        self.time((self.loading(0) + step) * self.images[0] as f64)
    }

    /// Seconds until a network of which stages are taken is there: its epochs, and the evaluations between; or, where it
    /// comes from a file, one evaluation where it classifies. 0 where there is none.
    pub fn network(&self) -> f64 {
        let Some(whole) = self.pipeline.whole() else { return 0.0 };
        let training = &self.pipeline.training;
        let classify = Load { decode: self.machine.stages[0].load, compute: self.machine.network.classify, disk: 0.0 };
        let evaluation = self.time(classify * self.images[1] as f64).seconds;
        if whole.is_imported() {
            return if whole.head.is_some() { evaluation } else { 0.0 };
        }
        let evaluated = (0..training.epochs).filter(|&epoch| training.evaluates_at(epoch)).count();
        training.epochs as f64 * self.epoch_of_network().seconds + evaluated as f64 * evaluation
    }

    /// Seconds of everything but the ensemble where the features of these stages are written, which are in order.
    pub fn total(&self, kept: &[usize]) -> f64 {
        let mut all = self.decoding().seconds + self.network() + self.probes_of(0, 0);
        let mut from = 0;
        for stage in 1..=self.pipeline.stages.len() {
            all += self.training(stage, from);
            if kept.contains(&stage) {
                all += self.extraction(stage, from).seconds;
                from = stage;
            }
            all += self.probes_of(stage, from);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Parts, Processor};

    const IMAGES: [usize; 2] = [1000, 100];

    fn pipeline(features: &str) -> Recipe {
        let still = if features.contains("refresh") { "" } else { "refresh = 0.0\n" };
        let text = format!(
            "[data]\nsource = \"builtin\"\nsize = 32\n[augmentation]\ncrop = \"padded\"\npadding = 4\n\
             [network]\nblocks = 3\nwidth = 8\nspace_to_depth = [1]\n[training]\nepochs = 4\nevaluate_every = 3\n\
             [features]\n{still}{features}\n"
        );
        Recipe::parse("p", "p", &text, &[]).unwrap()
    }

    /// Milliseconds: to crop 1, to load 2; frozen 4, train 8, classify 16, store 32.
    fn machine(overlaps: bool, memory: f64) -> Machine {
        let processor = if overlaps { Processor::Gpu } else { Processor::Cpu { threads: 2 } };
        let parts = Parts { load: 2e-3, frozen: 4e-3, train: 8e-3, classify: 16e-3, store: 32e-3 };
        let images = Parts { load: 1e-3, store: 64e-3, ..Parts::default() };
        let stages = vec![images, parts, parts, parts];
        let network = Parts { train: 24e-3, classify: 48e-3, ..Parts::default() };
        Machine { name: "m".into(), processor, stages, network, probes: Vec::new(), read: 1e6, write: 1e9, memory }
    }

    #[track_caller]
    fn same(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 * expected, "{found} instead of {expected}");
    }

    #[test]
    fn on_a_cpu_times_add_up_and_with_a_gpu_the_longest_counts() {
        let pipeline = pipeline("");
        let of = |machine: &Machine| {
            let estimate = Estimate { pipeline: &pipeline, machine, images: IMAGES, compression: None };
            let parts =
                [estimate.epoch(3, 2), estimate.epoch(3, 0), estimate.evaluation(3, 1), estimate.extraction(2, 0)];
            (parts.map(|time| time.seconds), parts.map(|time| time.limit), estimate.training(3, 2))
        };
        let (seconds, limits, training) = of(&machine(false, 1e12));
        let expected = [2.0 + 8.0, 1.0 + 4.0 + 4.0 + 8.0, (2.0 + 4.0 + 16.0) / 10.0, (1.0 + 8.0 + 32.0) * 1.1];
        seconds.into_iter().zip(expected).for_each(|(found, expected)| same(found, expected));
        assert_eq!(limits, [Limit::Compute, Limit::Compute, Limit::Compute, Limit::Decode]);
        // Looks at the validation images after epochs 3 and 4.
        same(training, 4.0 * 10.0 + 2.0 * (2.0 + 16.0) / 10.0);
        let (seconds, _, _) = of(&machine(true, 1e12));
        let expected = [8.0, 16.0, 2.0, 33.0 * 1.1];
        seconds.into_iter().zip(expected).for_each(|(found, expected)| same(found, expected));
    }

    #[test]
    fn the_disk_counts_for_what_does_not_stay_in_memory() {
        let pipeline = pipeline("dtype = \"f16\"");
        let machine = machine(false, 0.0);
        let estimate = Estimate { pipeline: &pipeline, machine: &machine, images: IMAGES, compression: None };
        // 8 x 16 x 16 values of 2 bytes, a checksum and a place in the index, at 1 MB/s: 4 ms each, less than 10.
        let sample = 8.0 * 256.0 * 2.0 + 20.0;
        same(estimate.sample_bytes(1), sample);
        assert_eq!(estimate.bytes(1), 1100 * (sample as u64));
        assert_eq!(estimate.epoch(2, 1), Time { seconds: 10.0, limit: Limit::Compute });
        let slow = Machine { read: 1e5, ..machine.clone() };
        let slow = Estimate { machine: &slow, ..estimate };
        assert_eq!(slow.epoch(2, 1).limit, Limit::Disk);
        same(slow.epoch(2, 1).seconds, 1000.0 * sample / 1e5);
        let half = Estimate { compression: Some(0.5), ..slow };
        same(half.epoch(2, 1).seconds, 1000.0 * (sample / 2.0 + 10.0) / 1e5);
        let roomy = Machine { memory: 1000.0 * sample, ..slow.machine.clone() };
        assert_eq!(Estimate { machine: &roomy, ..estimate }.epoch(2, 1).limit, Limit::Compute);
    }

    #[test]
    fn views_late_crops_and_refreshed_views_have_their_price() {
        let machine = machine(false, 1e12);
        let [one, views, late, fresh] = ["", "views = 4", "crop = \"late\"", "refresh = 0.25"].map(pipeline);
        let of = |pipeline| Estimate { pipeline, machine: &machine, images: IMAGES, compression: None };
        let [one, views, late, fresh] = [&one, &views, &late, &fresh].map(of);
        same(views.bytes(1) as f64, one.sample_bytes(1) * (4000.0 + 100.0));
        same(views.extraction(2, 1).seconds, (2.0 + 4.0 + 32.0) * 4.1);
        same(views.epoch(2, 1).seconds, one.epoch(2, 1).seconds);
        // 40 x 40 pixels instead of 32 x 32.
        let area = (40.0f64 / 32.0).powi(2);
        same(late.bytes(1) as f64, (one.sample_bytes(1) * 1100.0 * area).floor());
        same(late.extraction(2, 1).seconds, 38.0 * 1.1 * area);
        same(late.epoch(2, 1).seconds, 2.0 * area + 8.0);
        // A quarter of the samples comes from the images, through the blocks before.
        same(fresh.epoch(3, 2).seconds, 2.0 + 8.0 + (1.0 + 4.0 + 4.0) / 4.0);
        same(fresh.epoch(3, 0).seconds, one.epoch(3, 0).seconds);
    }

    #[test]
    fn a_network_trained_as_a_whole_reads_images_at_every_epoch_and_its_depths_train_no_more() {
        let text = "[data]\nsource = \"builtin\"\n[network]\nblocks = 3\nwidth = 8\n\
                    [training]\nmethod = \"end_to_end\"\nepochs = 4\nevaluate_every = 2\n";
        let pipeline = Recipe::parse("p", "p", text, &[]).unwrap();
        let machine = machine(false, 1e12);
        let estimate = Estimate { pipeline: &pipeline, machine: &machine, images: IMAGES, compression: None };
        same(estimate.epoch_of_network().seconds, 1.0 + 24.0);
        same(estimate.network(), 4.0 * 25.0 + 2.0 * (1.0 + 48.0) / 10.0);
        same(estimate.total(&[]), estimate.decoding().seconds + estimate.network());
        let more = estimate.extraction(1, 0).seconds + estimate.extraction(2, 1).seconds;
        same(estimate.total(&[1, 2]), estimate.total(&[]) + more);
    }
}
