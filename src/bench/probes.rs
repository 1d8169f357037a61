//! How fast this machine is at the probes of a pipeline: each is run on noise of the shape that it will meet.

use super::Bench;
use crate::error::{Error, Result};
use crate::network::{Network, Noise, map_type};
use crate::ops::{cast, compute};
use crate::pipeline::{Init, Parts, ProbeKind, Probed, Training};
use crate::probes::{Fit, Linear, Table, contraction, neighbours};
use crate::progress::Silent;
use crate::random::{Purpose, Stream};
use crate::training::{Sgd, step};
use candle_core::Tensor;

/// Rows that are learned from and compared with, and rows that are asked.
const KNOWN: usize = 4096;
const ASKED: usize = 512;
/// Values of a table at most.
const VALUES: usize = 1 << 24;
/// Iterations of a short fit and of a longer one, which differ by nothing else.
const ITERATIONS: [usize; 2] = [2, 10];
/// Values that a training step may hold at once.
const STEP_VALUES: usize = 1 << 26;

/// What one probe takes: `train` for each training sample of an iteration or an epoch, `classify` for each validation
/// sample or, of what compares, for each pair.
pub(super) fn parts(bench: &Bench<'_>, probed: &Probed<'_>, classes: usize) -> Result<Parts> {
    let width = probed.width();
    let rows = |most: usize| most.min(VALUES / width.max(1)).max(2);
    let (known, asked) = (rows(KNOWN), rows(ASKED));
    Ok(match &probed.probe.kind {
        ProbeKind::Linear { .. } => {
            let table = table(bench, (known, width), classes)?;
            let fit = |iterations: usize| {
                // Nothing ends it before the last iteration.
                let fit = Fit { penalty: 1e-4, iterations, tolerance: 0.0 };
                let mut rounds = 0;
                let seconds = bench.seconds(|| {
                    rounds = Linear::fit(&table, classes, fit, &bench.device, &Silent)?.1;
                    Ok(())
                })?;
                Ok::<_, Error>((seconds, rounds))
            };
            let [short, long] = ITERATIONS.map(fit);
            let ((short, few), (long, many)) = (short?, long?);
            Parts {
                train: (long - short).max(0.0) / (many.saturating_sub(few).max(1) * known) as f64,
                ..Parts::default()
            }
        }
        ProbeKind::Cnn { training, .. } | ProbeKind::Classifier { training, .. } => {
            network(bench, probed, training, classes)?
        }
        ProbeKind::Neighbours { k } => {
            let (known, asked) = (table(bench, (known, width), classes)?, table(bench, (asked, width), classes)?);
            let compare = || neighbours(&known, &asked, (*k, classes), &bench.device, &Silent).map(drop);
            let pairs = (known.len() * asked.len()) as f64;
            Parts { classify: bench.seconds(compare)? / pairs, ..Parts::default() }
        }
        ProbeKind::Contraction => {
            let table = table(bench, (rows(KNOWN / 2), width), classes)?;
            let seconds = bench.seconds(|| contraction(&table, &bench.device, &Silent).map(drop))?;
            Parts { classify: seconds / (table.len() * table.len()) as f64, ..Parts::default() }
        }
    })
}

fn table(bench: &Bench<'_>, (rows, width): (usize, usize), classes: usize) -> Result<Table> {
    let values = bench.noise(&[rows * width], 3)?.to_vec1::<f32>()?;
    Ok(Table { width, values, labels: (0..rows as u32).map(|row| row % classes as u32).collect() })
}

fn network(bench: &Bench<'_>, probed: &Probed<'_>, training: &Training, classes: usize) -> Result<Parts> {
    let (Some((hidden, head)), Some(cost)) = (probed.probe.layers(probed.features), probed.cost(classes)) else {
        return Ok(Parts::default());
    };
    let batch = training.batch.min(STEP_VALUES / cost.step_values.max(1)).max(2);
    let shape = probed.features;
    let mut rng = Stream::new(Purpose::Bench, 0, (0, 0));
    let network = Network::new(&[&hidden], &head, classes, (Init::Uniform, &mut rng, &bench.device))?;
    let x = bench.noise(&[batch, shape.size, shape.size, shape.channels], 1)?;
    let x = cast(&x, map_type(training.precision))?;
    let samples: Vec<u32> = (0..batch as u32).collect();
    let labels: Vec<u32> = samples.iter().map(|sample| sample % classes as u32).collect();
    let labels = Tensor::from_vec(labels, batch, &bench.device)?;
    let noise = Noise::new(0, (0, 0), &samples);
    let sgd = &Sgd::new(&network.variables(), training.momentum, training.weight_decay)?;
    let train = bench.seconds(|| Ok(step(&network, sgd, (&x, &labels, &noise), 1e-6).map(drop)?))?;
    let (block, head) = (network.blocks[0].frozen()?, network.head.frozen()?);
    let classify = || Ok(compute(x.device(), || head.logits(&block.forward(&x)?)).map(drop)?);
    let classify = bench.seconds(classify)?;
    Ok(Parts { train: train / batch as f64, classify: classify / batch as f64, ..Parts::default() })
}
