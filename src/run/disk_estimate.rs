//! What a stage will write at most, so that a disk without room for it is refused before anything begins.

use crate::pipeline::{Codec, CodecChoice, Dtype, Features, Recipe, Shape, Stage};

/// Bytes of a sample's checksum, of its place in the shard's index and of its label.
const BESIDE_SAMPLE: u64 = 4 + 16 + 4;
/// Bytes of an f32.
const VALUE: u64 = 4;
/// Checkpoints that lie side by side at most: two that are kept and one that is being written.
const CHECKPOINTS: u64 = 3;

/// Bytes of so many decoded images.
pub(super) fn images(image: Shape, count: usize) -> u64 {
    samples(image, Dtype::U8, count)
}

/// Bytes of a trained stage: features and labels of all samples, logits of the validation samples, weights, and the
/// checkpoints, which hold the weights and a velocity for each.
pub(super) fn stage(pipeline: &Recipe, stage: &Stage, [train, val]: [usize; 2], classes: usize) -> u64 {
    let logits = val as u64 * classes as u64 * VALUE;
    let weights =
        (stage.block.weights(classes) + stage.head.as_ref().map_or(0, |head| head.weights(classes))) as u64 * VALUE;
    features(pipeline, stage, [train, val]) + logits + weights * (1 + 2 * CHECKPOINTS)
}

/// Bytes of a network that is trained as a whole: weights, checkpoints, labels and logits of the validation samples.
pub(super) fn network(pipeline: &Recipe, val: usize, classes: usize) -> u64 {
    let blocks: usize = pipeline.stages.iter().map(|stage| stage.block.weights(classes)).sum();
    let head = pipeline.stages.last().and_then(|stage| stage.head.as_ref()).map_or(0, |head| head.weights(classes));
    (blocks + head) as u64 * VALUE * (1 + 2 * CHECKPOINTS) + val as u64 * (classes as u64 + 1) * VALUE
}

fn features(pipeline: &Recipe, stage: &Stage, [train, val]: [usize; 2]) -> u64 {
    let Features { dtype, codec, views, late_crops, .. } = pipeline.features;
    if !pipeline.features.keeps(stage.number) {
        return (train + val) as u64 * BESIDE_SAMPLE;
    }
    let crop = stage.block.output;
    let bytes = samples(if late_crops { pipeline.canvas(crop) } else { crop }, dtype, views * train + val);
    // Nobody knows yet what compressed features take; hardly less than a quarter.
    if matches!(codec, CodecChoice::Fixed(Codec::None) | CodecChoice::Fastest) { bytes } else { bytes / 4 }
}

fn samples(shape: Shape, dtype: Dtype, count: usize) -> u64 {
    count as u64 * (shape.values() as u64 * dtype.bytes() as u64 + BESIDE_SAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use crate::random::{Purpose, Stream};
    use candle_core::Device;

    #[test]
    fn weights_are_counted_as_the_network_has_them() {
        let text = "[data]\nsource = \"builtin\"\n[network]\nwidth = 5\nspace_to_depth = [1, 3]\n[auxiliary]\nwidth = 7\n\
                    [stage.2.auxiliary]\nk = 1\n[stage.4.auxiliary]\nbatch_norm = false\nk = 4\n";
        let pipeline = Recipe::parse("p.toml", "p", text, &[]).unwrap();
        for stage in &pipeline.stages {
            let mut draw = Stream::new(Purpose::Weights, 0, (0, 0));
            let network = Network::of_stage(stage, 9, (pipeline.init, &mut draw, &Device::Cpu)).unwrap();
            let all: usize = network.variables().iter().map(|(_, variable)| variable.elem_count()).sum();
            assert_eq!(stage.block.weights(9) + stage.head.as_ref().unwrap().weights(9), all, "stage {}", stage.number);
        }
    }

    #[test]
    fn the_papers_first_block_on_imagenet_takes_four_terabytes() {
        let file = format!("{}/pipelines/imagenet-simcnn-k2.toml", env!("CARGO_MANIFEST_DIR"));
        let pipeline = Recipe::parse("p.toml", "p", &std::fs::read_to_string(file).unwrap(), &[]).unwrap();
        let bytes = stage(&pipeline, &pipeline.stages[0], [1_281_167, 50_000], 1000);
        assert!((4_000_000_000_000..4_500_000_000_000).contains(&bytes), "{bytes}");
    }
}
