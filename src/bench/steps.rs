//! Whole training steps, and passes of a frozen block, of SimCNN's stages.

use super::Bench;
use crate::error::Result;
use crate::network::StageNetwork;
use crate::pipeline::{Auxiliary, Block, Pipeline, Shape, Stage};
use crate::random::{Purpose, Stream};
use crate::training::{Sgd, step};
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
pub fn steps(bench: &mut Bench<'_>) -> Result<()> {
    for (channels, size, batch) in STAGES {
        let case = format!("{channels} channels, {size} x {size}, batch {batch}");
        let images = (batch as f64, "images/s");
        let x = bench.noise(&[batch, size, size, channels], 1)?;
        let labels: Vec<u32> = (0..batch).map(|at| (at % CLASSES) as u32).collect();
        let labels = Tensor::from_vec(labels, batch, &bench.device)?;
        for k in 1..=3 {
            let network = network(bench, k, channels, size)?;
            let sgd = &mut Sgd::new(&network.variables(), 0.9, 5e-4)?;
            bench.measure((&format!("training step, k = {k}"), &case), images, None, || {
                Ok(step(&network, sgd, (&x, &labels), 0.01).map(drop)?)
            })?;
        }
        let block = network(bench, 1, channels, size)?.block.frozen()?;
        bench.measure(("frozen block", &case), images, None, || Ok(rayon::scope(|_| block.forward(&x)).map(drop)?))?;
    }
    Ok(())
}

/// A stage in the middle of SimCNN: as many channels out as in, an auxiliary classifier as wide.
fn network(bench: &Bench<'_>, k: usize, channels: usize, size: usize) -> Result<StageNetwork> {
    let shape = Shape { channels, size };
    let stage = Stage {
        number: 2,
        block: Block { input: shape, output: shape, space_to_depth: false, batch_norm: true },
        auxiliary: Auxiliary { input: shape, convolutions: k - 1, width: channels, batch_norm: true },
        training: Pipeline::parse("bench", "bench", "[data]\nsource = \"builtin\"\n", &[])?.stages[0].training,
    };
    let mut draw = Stream::new(Purpose::Bench, 0, (0, 0));
    Ok(StageNetwork::new(&stage, CLASSES, &mut draw, &bench.device)?)
}
