//! Whole training steps, and passes of a frozen block, of SimCNN's stages.

use super::{Measurement, Setting};
use crate::error::Result;
use crate::network::StageNetwork;
use crate::ops::cross_entropy;
use crate::pipeline::{Auxiliary, Block, Pipeline, Shape, Stage};
use crate::random::{Purpose, Stream};
use crate::training::Sgd;
use candle_core::Tensor;

/// Channels and size of the stages that are timed, with the batch.
const STAGES: [(usize, usize, usize); 5] =
    [(32, 16, 128), (64, 16, 128), (128, 16, 128), (128, 32, 128), (256, 16, 128)];
const CLASSES: usize = 10;

/// Times a training step with k = 1, 2 and 3, and a frozen block alone: images a second.
///
/// A step is the forward pass, the loss, all gradients and the optimiser's update, on a batch that is in memory.
///
/// # Errors
/// When the device has no memory.
pub fn steps(setting: &Setting, mut each: impl FnMut(Measurement) -> Result<()>) -> Result<()> {
    for (channels, size, batch) in STAGES {
        let case = format!("{channels} channels, {size} x {size}, batch {batch}");
        let mut report = |name: String, seconds: f64| {
            let value = batch as f64 / seconds;
            each(Measurement { name, case: case.clone(), value, unit: "images/s", beside: None })
        };
        for k in 1..=3 {
            report(format!("training step, k = {k}"), step(setting, k, channels, size, batch)?)?;
        }
        let x = setting.noise(&[batch, size, size, channels], 1)?;
        let block = network(setting, 1, channels, size)?.block.frozen()?;
        report("frozen block".into(), setting.seconds(|| Ok(block.forward(&x).map(drop)?))?)?;
    }
    Ok(())
}

fn step(setting: &Setting, k: usize, channels: usize, size: usize, batch: usize) -> Result<f64> {
    let network = network(setting, k, channels, size)?;
    let mut sgd = Sgd::new(&network.variables(), 0.9, 5e-4)?;
    let x = setting.noise(&[batch, size, size, channels], 1)?;
    let labels: Vec<u32> = (0..batch).map(|at| (at % CLASSES) as u32).collect();
    let labels = Tensor::from_vec(labels, batch, &setting.device)?;
    setting.seconds(|| {
        let (logits, pass) = network.train(&x)?;
        let loss = cross_entropy(&logits, &labels)?;
        Ok(sgd.step(&network.gradients(&pass, &loss.gradient)?, 0.01)?)
    })
}

/// A stage in the middle of SimCNN: as many channels out as in, an auxiliary classifier as wide.
fn network(setting: &Setting, k: usize, channels: usize, size: usize) -> Result<StageNetwork> {
    let shape = Shape { channels, size };
    let stage = Stage {
        number: 2,
        block: Block { input: shape, output: shape, space_to_depth: false, batch_norm: true },
        auxiliary: Auxiliary { input: shape, convolutions: k - 1, width: channels, batch_norm: true },
        training: Pipeline::parse("bench", "bench", "[data]\nsource = \"builtin\"\n", &[])?.stages[0].training,
    };
    let mut draw = Stream::new(Purpose::Bench, 0, (0, 0));
    Ok(StageNetwork::new(&stage, CLASSES, &mut draw, &setting.device)?)
}
