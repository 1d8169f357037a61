//! Whole training steps, and passes of a frozen block, of SimCNN's stages.

use super::Bench;
use crate::error::{Error, Result};
use crate::network::{Network, Noise};
use crate::ops::compute;
use crate::pipeline::{Init, Layer, Layers, Outputs, Shape};
use crate::random::{Purpose, Stream};
use crate::training::{Sgd, step};
use candle_core::Tensor;

/// Channels of input and output, and size, of the stages that are timed on a CPU.
const CPU_STAGES: [(usize, usize, usize); 5] =
    [(32, 32, 16), (64, 64, 16), (128, 128, 16), (128, 128, 32), (256, 256, 16)];
/// The same on a GPU: SimCNN for CIFAR-10 in full size and for ImageNet, of which some are VGG-11's as well, and the rest
/// of VGG-11.
const GPU_STAGES: [(usize, usize, usize); 11] = [
    (128, 128, 32),
    (256, 256, 16),
    (64, 64, 112),
    (128, 128, 112),
    (256, 256, 56),
    (512, 512, 28),
    (512, 512, 14),
    (3, 64, 224),
    (64, 128, 112),
    (128, 256, 56),
    (256, 512, 28),
];
const BATCH: usize = 128;
const CLASSES: usize = 10;

const STEPS: [&str; 3] = ["training step, k = 1", "training step, k = 2", "training step, k = 3"];
const HOST: [&str; 3] =
    ["host's part of a step, k = 1", "host's part of a step, k = 2", "host's part of a step, k = 3"];
const FROZEN: &str = "frozen block";

/// Times a training step with k = 1, 2 and 3, and a frozen block alone: images a second; on a GPU also for how long the host
/// is busy asking for a step.
///
/// A step is the forward pass, the loss, all gradients and the optimiser's update, on a batch that is in memory.
///
/// # Errors
/// When the device has no memory.
pub fn steps(bench: &mut Bench<'_>) -> Result<()> {
    let stages = if bench.device.is_cpu() { &CPU_STAGES[..] } else { &GPU_STAGES };
    for &(inputs, channels, size) in stages {
        let from = if inputs == channels { String::new() } else { format!("{inputs} -> ") };
        let case = format!("{from}{channels} channels, {size} x {size}, batch {BATCH}");
        if !bench.wants_any(&[STEPS, HOST].concat(), &case) && !bench.wants(FROZEN, &case) {
            continue;
        }
        let images = (BATCH as f64, "images/s");
        let x = bench.maps(&[BATCH, size, size, inputs], 1)?;
        let labels: Vec<u32> = (0..BATCH).map(|at| (at % CLASSES) as u32).collect();
        let labels = Tensor::from_vec(labels, BATCH, &bench.device)?;
        let samples: Vec<u32> = (0..BATCH as u32).collect();
        let noise = Noise::new(0, (1, 0), &samples);
        for (hidden, (name, host)) in STEPS.into_iter().zip(HOST).enumerate() {
            if !bench.wants(name, &case) && !bench.wants(host, &case) {
                continue;
            }
            let network = network(bench, hidden + 1, (inputs, channels), size)?;
            let sgd = &Sgd::new(&network.variables(), 0.9, 5e-4)?;
            let mut step = || Ok(step(&network, sgd, (&x, &labels, &noise), 0.01).map(drop)?);
            bench.measure((name, &case), images, None, &mut step)?;
            if !bench.device.is_cpu() {
                bench.measure_host((host, &case), step)?;
            }
        }
        let block = network(bench, 1, (inputs, channels), size)?.blocks[0].frozen()?;
        bench.measure((FROZEN, &case), images, None, || Ok(compute(x.device(), || block.forward(&x)).map(drop)?))?;
    }
    Ok(())
}

/// A stage with an auxiliary classifier as wide as its block.
pub(super) fn network(bench: &Bench<'_>, k: usize, (inputs, channels): (usize, usize), size: usize) -> Result<Network> {
    let unit = [Layer::conv3x3(channels, false), Layer::BatchNorm, Layer::Relu];
    let fitted = |input, layers: Vec<Layer>| Layers::new(input, layers).map_err(|misfit| Error::failed(misfit.message));
    let block = fitted(Shape { channels: inputs, size }, unit.to_vec())?;
    let mut head = unit.repeat(k - 1);
    head.extend([Layer::AvgPool { size: 2 }, Layer::BatchNorm, Layer::Flatten]);
    head.push(Layer::Linear { outputs: Outputs::Classes });
    let head = fitted(block.output, head)?;
    let mut rng = Stream::new(Purpose::Bench, 0, (0, 0));
    Ok(Network::new(&[&block], &head, CLASSES, (Init::Uniform, &mut rng, &bench.device))?)
}
