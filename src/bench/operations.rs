//! Tensor operations one by one, beside the matrix product that bounds them.

use super::{Measurement, Setting};
use crate::error::Result;
use crate::ops::{self, Activation, BatchNorm, convolution, input_gradient, weight_gradient};

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
pub fn operations(setting: &Setting, mut each: impl FnMut(Measurement) -> Result<()>) -> Result<()> {
    let peak = matrix_product(setting)?;
    let beside = Some((peak, "of the matrix product"));
    let product = Measurement {
        name: "matrix product".into(),
        case: "2048 x 2048 x 2048".into(),
        value: peak,
        unit: "GFLOP/s",
        beside: None,
    };
    each(product)?;
    for (inputs, outputs, size) in SHAPES {
        let x = setting.noise(&[BATCH, size, size, inputs], 1)?;
        let w = setting.noise(&[outputs, inputs, 3, 3], 2)?;
        let grad = setting.noise(&[BATCH, size, size, outputs], 3)?;
        let work = (2 * BATCH * size * size * inputs * outputs * 9) as f64 / 1e9;
        let case = format!("{inputs} -> {outputs} channels, {size} x {size}, batch {BATCH}");
        let mut report = |name: &str, seconds: f64| {
            each(Measurement { name: name.into(), case: case.clone(), value: work / seconds, unit: "GFLOP/s", beside })
        };
        let forward = || Ok(convolution(&x, &w, None, 1, Activation::Identity).map(drop)?);
        report("convolution", setting.seconds(forward)?)?;
        report("weight gradient", setting.seconds(|| Ok(weight_gradient(&x, &grad, 3, 1).map(drop)?))?)?;
        report("input gradient", setting.seconds(|| Ok(input_gradient(&w, &grad, 1).map(drop)?))?)?;
    }
    for (_, channels, size) in [SHAPES[1], SHAPES[4]] {
        memory_bound(setting, channels, size, &mut each)?;
    }
    Ok(())
}

fn matrix_product(setting: &Setting) -> Result<f64> {
    const SIDE: usize = 2048;
    let (a, b) = (setting.noise(&[SIDE, SIDE], 1)?, setting.noise(&[SIDE, SIDE], 2)?);
    let seconds = setting.seconds(|| Ok(a.matmul(&b).map(drop)?))?;
    Ok(2.0 * (SIDE as f64).powi(3) / seconds / 1e9)
}

/// Operations that read and write more than they compute: GB/s of the feature maps that they must touch.
fn memory_bound(
    setting: &Setting,
    channels: usize,
    size: usize,
    each: &mut impl FnMut(Measurement) -> Result<()>,
) -> Result<()> {
    let x = setting.noise(&[BATCH, size, size, channels], 1)?;
    let grad = setting.noise(&[BATCH, size, size, channels], 2)?;
    let (gamma, beta) = (setting.noise(&[channels], 3)?, setting.noise(&[channels], 4)?);
    let norm = BatchNorm { gamma: &gamma, beta: &beta, epsilon: 1e-5, activation: Activation::Relu };
    let map = (x.elem_count() * 4) as f64 / 1e9;
    let case = format!("{channels} channels, {size} x {size}, batch {BATCH}");
    let mut report = |name: &str, maps: f64, seconds: f64| {
        let value = maps * map / seconds;
        each(Measurement { name: name.into(), case: case.clone(), value, unit: "GB/s", beside: None })
    };
    let (_, statistics) = norm.forward(&x)?;
    report("batch norm + ReLU", 3.0, setting.seconds(|| Ok(norm.forward(&x).map(drop)?))?)?;
    let gradients = || Ok(norm.gradients(&x, &statistics, &grad).map(drop)?);
    report("its gradients", 5.0, setting.seconds(gradients)?)?;
    report("average pooling", 1.0, setting.seconds(|| Ok(ops::pool(&x, 2).map(drop)?))?)?;
    report("space-to-depth", 2.0, setting.seconds(|| Ok(ops::space_to_depth(&x).map(drop)?))?)
}
