//! Tensor operations one by one, beside the matrix product that bounds them.

use super::Bench;
use crate::error::Result;
use crate::ops::{Activation, BatchNorm, convolution, input_gradient, pool, space_to_depth, weight_gradient};

/// Channels in, channels out, and height and width of the feature maps.
const SHAPES: [(usize, usize, usize); 8] = [
    (12, 32, 16),
    (32, 32, 16),
    (64, 64, 16),
    (128, 128, 16),
    (128, 128, 32),
    (256, 256, 16),
    (512, 512, 8),
    (512, 512, 14),
];
const BATCH: usize = 64;

/// Times a large matrix product and every operation of a training step.
///
/// Convolutions count the multiplications and additions of their definition, however few were made: Winograd's way of
/// convolving can come out above the matrix product.
///
/// # Errors
/// When the device has no memory.
pub fn operations(bench: &mut Bench<'_>) -> Result<()> {
    const SIDE: usize = 2048;
    let (a, b) = (bench.noise(&[SIDE, SIDE], 1)?, bench.noise(&[SIDE, SIDE], 2)?);
    let work = 2.0 * (SIDE as f64).powi(3) / 1e9;
    let product = || Ok(a.matmul(&b).map(drop)?);
    let peak = work / bench.seconds(product)?;
    bench.measure(("matrix product", "2048 x 2048 x 2048"), (work, "GFLOP/s"), None, product)?;
    for shape in SHAPES {
        convolutions(bench, shape, peak)?;
    }
    for (_, channels, size) in [SHAPES[1], SHAPES[4]] {
        memory_bound(bench, channels, size)?;
    }
    Ok(())
}

fn convolutions(bench: &mut Bench<'_>, (inputs, outputs, size): (usize, usize, usize), peak: f64) -> Result<()> {
    let x = bench.noise(&[BATCH, size, size, inputs], 1)?;
    let w = bench.noise(&[outputs, inputs, 3, 3], 2)?;
    let grad = bench.noise(&[BATCH, size, size, outputs], 3)?;
    let work = ((2 * BATCH * size * size * inputs * outputs * 9) as f64 / 1e9, "GFLOP/s");
    let case = format!("{inputs} -> {outputs} channels, {size} x {size}, batch {BATCH}");
    let beside = Some((peak, "of the matrix product"));
    let forward = || Ok(convolution(&x, &w, None, 1, Activation::Identity).map(drop)?);
    bench.measure(("convolution", &case), work, beside, forward)?;
    let gradient = || Ok(weight_gradient(&x, &grad, 3, 1).map(drop)?);
    bench.measure(("weight gradient", &case), work, beside, gradient)?;
    bench.measure(("input gradient", &case), work, beside, || Ok(input_gradient(&w, &grad, 1).map(drop)?))
}

/// Operations that read and write more than they compute: GB/s of the feature maps that they must touch.
fn memory_bound(bench: &mut Bench<'_>, channels: usize, size: usize) -> Result<()> {
    let x = bench.noise(&[BATCH, size, size, channels], 1)?;
    let grad = bench.noise(&[BATCH, size, size, channels], 2)?;
    let (gamma, beta) = (bench.noise(&[channels], 3)?, bench.noise(&[channels], 4)?);
    let norm = BatchNorm { gamma: &gamma, beta: &beta, epsilon: 1e-5, activation: Activation::Relu };
    let maps = |count: f64| (count * (x.elem_count() * 4) as f64 / 1e9, "GB/s");
    let case = format!("{channels} channels, {size} x {size}, batch {BATCH}");
    let (_, statistics) = norm.forward(&x)?;
    bench.measure(("batch norm + ReLU", &case), maps(3.0), None, || Ok(norm.forward(&x).map(drop)?))?;
    let gradients = || Ok(norm.gradients(&x, &statistics, &grad).map(drop)?);
    bench.measure(("batch norm gradients", &case), maps(5.0), None, gradients)?;
    bench.measure(("average pooling", &case), maps(1.0), None, || Ok(pool(&x, 2).map(drop)?))?;
    bench.measure(("space-to-depth", &case), maps(2.0), None, || Ok(space_to_depth(&x).map(drop)?))
}
