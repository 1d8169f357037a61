//! The one model of sizes: bytes on the disk, samples that are worked on at once, and values that lie in memory.
//!
//! The planner predicts by it, the check for room refuses by it, and extraction and the frozen chain take batches by it, so
//! that none of them can disagree.

use super::{Cost, Data, Encoding, Layers, Recipe, Shape, Stage};

/// Bytes of an f32.
pub const VALUE: usize = 4;
/// Bytes of a stored sample's checksum and of its place in the index of the shard.
pub const BESIDE_SAMPLE: u64 = 4 + 16;
/// Bytes of a label.
const LABEL: u64 = 4;
/// Checkpoints that lie side by side at most: two that are kept and one that is being written.
const CHECKPOINTS: u64 = 3;
/// Batches of input that are in memory at once: one is used, two wait, one is being read.
pub const BATCHES: usize = 4;

/// Batches that wait between two networks that are trained at once, each by a thread of its own, beside those of a ring.
pub const AHEAD: usize = 1;

/// Samples that extraction takes at once at most.
const EXTRACTED: usize = 256;
/// Values of such a batch, in or out, at most, so that large feature maps take fewer samples at once: 8 MiB of f32 for each
/// thread, which go to the disk while the next are made, and 64 MiB on a GPU.
const THREAD_VALUES: usize = 1 << 21;
const GPU_VALUES: usize = 1 << 24;
/// Values that go through frozen blocks at once at most: 64 MiB of f32, and on a GPU half a GiB.
const CHAIN_VALUES: usize = 1 << 24;
const GPU_CHAIN_VALUES: usize = 1 << 27;

/// What computes, as far as sizes depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// A CPU with so many threads, whose memory is the host's.
    Cpu {
        /// Threads.
        threads: usize,
    },
    /// A GPU with memory of its own.
    Gpu,
}

impl Processor {
    /// Samples of these shapes, read and made, that extraction takes at once. Results do not depend on it.
    pub fn extraction_batch(self, read: Shape, made: Shape) -> usize {
        let values = match self {
            Self::Cpu { threads } => THREAD_VALUES * threads.max(1),
            Self::Gpu => GPU_VALUES,
        };
        (values / read.values().max(made.values()).max(1)).clamp(1, EXTRACTED)
    }

    /// Whether loading and computing share the same cores and memory.
    pub fn is_cpu(self) -> bool {
        self != Self::Gpu
    }
}

/// Samples whose largest feature map has so many values that frozen blocks take at once, on a CPU or a GPU.
pub fn chain_batch(values: usize, on_cpu: bool) -> usize {
    (if on_cpu { CHAIN_VALUES } else { GPU_CHAIN_VALUES } / values.max(1)).max(1)
}

/// Bytes of stored samples, without labels.
fn samples(sample_bytes: usize, count: usize) -> u64 {
    count as u64 * (sample_bytes as u64 + BESIDE_SAMPLE)
}

/// Bytes on the disk of so many decoded images with their labels.
pub fn images_on_disk(data: &Data, count: usize) -> u64 {
    samples(data.image_bytes(), count) + count as u64 * LABEL
}

/// Bytes on the disk that a stage writes, where features are compressed at least: features and labels of all samples, logits of the validation samples,
/// weights, and the checkpoints, which hold the weights and a velocity for each.
pub fn stage_on_disk(recipe: &Recipe, stage: &Stage, [train, val]: [usize; 2], classes: usize) -> u64 {
    let logits = if stage.head.is_some() { val as u64 * classes as u64 * VALUE as u64 } else { 0 };
    let weights = stage.block.weights(classes) + stage.head.as_ref().map_or(0, |head| head.weights(classes));
    let labels = (train + val) as u64 * LABEL;
    features_on_disk(recipe, stage, [train, val]) + labels + logits + learned(weights)
}

/// Bytes on the disk of a network of which stages are taken, without these: weights, checkpoints where it is trained, with
/// the batches that wait between blocks, labels and logits of the validation samples.
pub fn network_on_disk(recipe: &Recipe, val: usize, classes: usize) -> u64 {
    let Some(whole) = recipe.whole() else { return 0 };
    let layers = whole.stages.iter().flat_map(|stage| [Some(&stage.block), stage.head.as_ref()]).flatten();
    let weights = layers.map(|layers| layers.weights(classes)).sum();
    let weights = if whole.is_imported() { (weights * VALUE) as u64 } else { learned(weights) };
    weights
        + CHECKPOINTS * (waiting_values(recipe) * VALUE) as u64
        + val as u64 * (classes as u64 * VALUE as u64 + LABEL)
}

/// Bytes on the disk of a classifier in the place of the last one: weights, checkpoints, labels and logits of the validation
/// samples.
pub fn classifier_on_disk(layers: &Layers, val: usize, classes: usize) -> u64 {
    learned(layers.weights(classes)) + val as u64 * (classes as u64 * VALUE as u64 + LABEL)
}

/// Values of the batches that wait in rings between networks that are trained at once.
fn waiting_values(recipe: &Recipe) -> usize {
    between_values(recipe).saturating_mul(recipe.replay)
}

/// Values of a batch at all places between networks that are trained at once.
fn between_values(recipe: &Recipe) -> usize {
    let groups = recipe.whole().map_or_else(Vec::new, |whole| whole.groups());
    let inputs = groups.iter().skip(1).filter_map(|group| Some(group.blocks.first()?.input.values()));
    inputs.sum::<usize>().saturating_mul(recipe.training.batch)
}

fn learned(weights: usize) -> u64 {
    (weights * VALUE) as u64 * (1 + 2 * CHECKPOINTS)
}

fn features_on_disk(recipe: &Recipe, stage: &Stage, [train, val]: [usize; 2]) -> u64 {
    let features = &recipe.features;
    if !features.caches(stage.number) {
        return 0;
    }
    let crop = stage.block.output;
    let stored = if features.late_crops { recipe.canvas(crop) } else { crop };
    let encoding @ Encoding { dtype, .. } = features.encoding(&stage.block);
    // Nobody knows yet what compressed ones take: hardly less than half of what is usual.
    let usual = encoding.usual_compression();
    let least = if usual < 1.0 { usual / 2.0 } else { 1.0 };
    samples((least * (stored.values() * dtype.bytes()) as f64) as usize, features.views * train + val)
}

/// Bytes that the program takes itself, and that its allocator keeps of what was freed, such as batches of decoded images.
const PROGRAM: usize = 96 << 20;

/// Bytes of memory that work takes at most; on a CPU the device's are the host's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Of the host.
    pub host: f64,
    /// Of the device.
    pub device: f64,
}

impl Memory {
    pub(super) fn of(processor: Processor, host: usize, device: usize) -> Self {
        let [host, device] = [PROGRAM + host * VALUE, device * VALUE].map(|bytes| bytes as f64);
        if processor.is_cpu() { Self { host: host + device, device: 0.0 } } else { Self { host, device } }
    }

    /// What a stage takes for training or for writing its features, fed from the features of the stage `from`;
    /// roughly, as a step holds a little less than all that is counted. `samples` are the training images.
    pub fn of_stage(
        recipe: &Recipe,
        (stage, from): (usize, usize),
        cost: &Cost,
        (samples, processor): (usize, Processor),
    ) -> Self {
        let own = &recipe.stages[stage - 1];
        let first = recipe.stages[from].block.input;
        let between = recipe.stages[from..stage - 1].iter().map(|stage| &stage.block);
        let widest = between.map(|block| block.input.values() + block.output.values()).max().unwrap_or(0);
        let trained = if recipe.trains_alone(own) { own.training.batch } else { 0 };
        let maps = |values: usize| values * own.training.precision.bytes() / VALUE;
        let step = maps(trained * cost.step_values.max(widest)) + 3 * cost.parameters();
        let at_once = processor.extraction_batch(first, own.block.output);
        let extraction = maps(at_once * widest.max(own.block.input.values() + own.block.output.values()));
        let loaded = maps(BATCHES * first.values() * trained.max(at_once));
        let index = samples * recipe.features.views * BESIDE_SAMPLE as usize / VALUE;
        Self::of(processor, loaded + index, step.max(extraction))
    }

    /// What a network takes that is trained as a whole.
    pub fn of_network(recipe: &Recipe, cost: &Cost, (samples, processor): (usize, Processor)) -> Self {
        let batch = recipe.training.batch;
        // Beside those that wait between threads, one each is to be handed over.
        let handed = if processor.is_cpu() { (AHEAD + 1) * between_values(recipe) } else { 0 };
        let waiting = waiting_values(recipe) + handed;
        let maps = |values: usize| values * recipe.training.precision.bytes() / VALUE;
        let step = maps(batch * cost.step_values + waiting) + 3 * cost.parameters() + cost.feedback_values;
        let loaded = maps(BATCHES * recipe.image().values() * batch);
        Self::of(processor, loaded + samples * BESIDE_SAMPLE as usize / VALUE, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_first_block_on_imagenet_takes_four_terabytes() {
        let file = format!("{}/pipelines/imagenet-simcnn-k2.toml", env!("CARGO_MANIFEST_DIR"));
        let recipe =
            Recipe::parse("p.toml", "p", &std::fs::read_to_string(file).unwrap(), &["features.dtype=f16".into()])
                .unwrap();
        let bytes = stage_on_disk(&recipe, &recipe.stages[0], [1_281_167, 50_000], 1000);
        assert!((4_000_000_000_000..4_500_000_000_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn batches_fit_the_caches_and_memory() {
        let shape = |channels, size| Shape { channels, size };
        let two = Processor::Cpu { threads: 2 };
        assert_eq!(two.extraction_batch(shape(3, 32), shape(8, 16)), 256);
        assert_eq!(two.extraction_batch(shape(64, 32), shape(64, 32)), 64);
        assert_eq!(Processor::Gpu.extraction_batch(shape(256, 224), shape(1, 1)), 1);
        assert_eq!((chain_batch(1 << 20, true), chain_batch(1 << 30, true), chain_batch(1 << 20, false)), (16, 1, 128));
    }

    #[test]
    fn a_whole_network_takes_more_memory_than_any_of_its_stages() {
        let text = "[data]\nsource = \"builtin\"\n[network]\nwidth = 16\n[training]\nmethod = \"end_to_end\"\n";
        let recipe = Recipe::parse("p", "p", text, &[]).unwrap();
        let blocks: Vec<_> = recipe.stages.iter().map(|stage| &stage.block).collect();
        let whole = Cost::of_network(&blocks, recipe.stages[3].head.as_ref(), 10);
        let machine = (8000, Processor::Gpu);
        let all = Memory::of_network(&recipe, &whole, machine).device;
        for stage in 1..=4 {
            let cost = Cost::of(&recipe.stages[stage - 1], 10);
            assert!(all > Memory::of_stage(&recipe, (stage, stage - 1), &cost, machine).device, "stage {stage}");
        }
    }
}
