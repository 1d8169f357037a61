//! How long the stages of a pipeline take on a machine, and how many bytes their features, for any choice of the stages
//! whose features are written.
//!
//! The model is simple on purpose. A stage is fed from the nearest features before it that are written, or from the
//! images: each sample is read, made into values, run through the frozen blocks between, and trained on. On a CPU all but
//! the disk share the same cores, so that their times add up; with a GPU loading and computing run side by side, and the
//! slower counts. The disk works beside both, and not at all for files that stay in memory from one epoch to the next.

use super::{Cost, Machine, Pipeline, Stage};
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
struct Load {
    decode: f64,
    compute: f64,
    disk: f64,
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

/// Bytes of memory that a stage takes at most; on a CPU the device's are the host's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Of the host.
    pub host: f64,
    /// Of the device.
    pub device: f64,
}

/// Bytes of an f32.
const VALUE: usize = 4;
/// Batches of input that are in memory at once: one is used, two wait, one is being read.
const BATCHES: usize = 4;
/// Samples that extraction runs at once at most, and the values of such a batch.
const EXTRACTED: (usize, usize) = (256, 1 << 24);
/// Bytes that the program takes before it does anything.
const PROGRAM: usize = 32 << 20;

/// A pipeline on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Estimate<'a> {
    /// The pipeline; its own choice of what is written is not looked at.
    pub pipeline: &'a Pipeline,
    /// The machine, with the parts of all stages of the pipeline.
    pub machine: &'a Machine,
    /// Training and validation images.
    pub images: [usize; 2],
    /// Bytes of stored features over bytes of their values: less than 1 where they are compressed.
    pub compression: f64,
}

impl Estimate<'_> {
    /// Bytes of a stored sample's checksum and of its place in the index of the shard.
    pub const BESIDE_SAMPLE: u64 = 20;

    fn stage(&self, number: usize) -> &Stage {
        &self.pipeline.stages[number - 1]
    }

    /// How much larger a kept training sample is than what the network takes of it: the whole padded image with late crops.
    fn canvas(&self, stage: usize) -> f64 {
        if stage == 0 || !self.pipeline.features.late_crops {
            return 1.0;
        }
        let crop = self.stage(stage).block.output;
        self.pipeline.canvas(crop).values() as f64 / crop.values() as f64
    }

    /// Bytes of a stored sample as the network takes it: of one view, and of one image for stage 0.
    pub fn sample_bytes(&self, stage: usize) -> f64 {
        let (data, features) = (&self.pipeline.data, &self.pipeline.features);
        let bytes = match stage {
            0 => (data.channels * data.size * data.size) as f64,
            _ => (self.stage(stage).block.output.values() * features.dtype.bytes()) as f64 * self.compression,
        };
        bytes + Self::BESIDE_SAMPLE as f64
    }

    /// Bytes of the training samples of a stage, all views.
    fn train_bytes(&self, stage: usize) -> f64 {
        let views = if stage == 0 { 1 } else { self.pipeline.features.views };
        (self.images[0] * views) as f64 * self.sample_bytes(stage) * self.canvas(stage)
    }

    /// Bytes that the output of a stage takes on the disk where it is written.
    pub fn bytes(&self, stage: usize) -> u64 {
        (self.train_bytes(stage) + self.images[1] as f64 * self.sample_bytes(stage)) as u64
    }

    /// Reading one training sample of a stage's output.
    fn loading(&self, from: usize) -> Load {
        let stays = self.train_bytes(from) <= self.machine.memory;
        let disk = if stays { 0.0 } else { self.sample_bytes(from) / self.machine.read };
        Load { decode: self.machine.stages[from].load, compute: 0.0, disk } * self.canvas(from)
    }

    /// Running the frozen blocks of some stages.
    fn frozen(&self, stages: Range<usize>) -> Load {
        Load { compute: self.machine.stages[stages].iter().map(|parts| parts.frozen).sum(), ..Load::default() }
    }

    /// Making a view of an image, as far as the output of a stage.
    fn refreshing(&self, stage: usize) -> Load {
        if stage == 0 { Load::default() } else { self.loading(0) + self.frozen(1..stage + 1) }
    }

    fn time(&self, load: Load) -> Time {
        let Load { decode, compute, disk } = load;
        let busiest = if compute >= decode { Limit::Compute } else { Limit::Decode };
        let seconds = if self.machine.overlaps { decode.max(compute) } else { decode + compute };
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
        let check = Load { decode: self.machine.stages[from].load, ..Load::default() } + blocks + store;
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

    /// Seconds of all epochs of a stage, without evaluation.
    pub fn epochs(&self, stage: usize, from: usize) -> f64 {
        self.stage(stage).training.epochs as f64 * self.epoch(stage, from).seconds
    }

    /// Seconds until a stage is trained: its epochs, and the looks at the validation images between.
    pub fn training(&self, stage: usize, from: usize) -> f64 {
        let training = &self.stage(stage).training;
        let looks = (0..training.epochs).filter(|&epoch| training.evaluates_at(epoch)).count();
        self.epochs(stage, from) + looks as f64 * self.evaluation(stage, from).seconds
    }

    /// Memory that a stage takes, whose costs are given, for training or for writing features; roughly, as a step holds a
    /// little less than all that is counted.
    pub fn memory(&self, stage: usize, from: usize, cost: &Cost) -> Memory {
        let (own, training) = (&self.stage(stage).block, &self.stage(stage).training);
        let first = self.stage(from + 1).block.input.values();
        let between = self.pipeline.stages[from..stage - 1].iter().map(|stage| stage.block);
        let widest = between.map(|block| block.input.values() + block.output.values()).max().unwrap_or(0);
        let step = training.batch * cost.step_values.max(widest) + 3 * cost.parameters();
        let at_once = EXTRACTED.0.min(EXTRACTED.1 / first.max(own.output.values())).max(1);
        let extraction = at_once * widest.max(own.input.values() + own.output.values());
        let loaded = BATCHES * first * training.batch.max(at_once);
        let bytes = |values: usize| (values * VALUE) as f64;
        let index = (self.images[0] * self.pipeline.features.views) as f64 * Self::BESIDE_SAMPLE as f64;
        let host = PROGRAM as f64 + bytes(loaded) + index;
        let device = bytes(step.max(extraction));
        if self.machine.overlaps { Memory { host, device } } else { Memory { host: host + device, device: 0.0 } }
    }

    /// Seconds of everything where the features of these stages are written, which are in order.
    pub fn total(&self, kept: &[usize]) -> f64 {
        let mut all = self.decoding().seconds;
        let mut from = 0;
        for stage in 1..=self.pipeline.stages.len() {
            all += self.training(stage, from);
            if kept.contains(&stage) {
                all += self.extraction(stage, from).seconds;
                from = stage;
            }
        }
        all
    }
}
