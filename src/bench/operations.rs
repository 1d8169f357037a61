//! Tensor operations one by one, beside the matrix product that bounds them.

use super::Bench;
use crate::error::Result;
use crate::ops::{Activation, BatchNorm, Window, convolution, input_gradient, pool, space_to_depth, weight_gradient};
use candle_core::Tensor;

/// Channels in, channels out, and height and width of the feature maps.
type Shape = (usize, usize, usize);

/// What the pipelines for a CPU have, and larger.
const CPU_SHAPES: [Shape; 8] = [
    (12, 32, 16),
    (32, 32, 16),
    (64, 64, 16),
    (128, 128, 16),
    (128, 128, 32),
    (256, 256, 16),
    (512, 512, 8),
    (512, 512, 14),
];
/// Of these, the feature maps that operations which only read and write are timed on.
const CPU_MAPS: [Shape; 2] = [CPU_SHAPES[1], CPU_SHAPES[4]];
/// SimCNN for CIFAR-10 in full size, and ImageNet from its first blocks to its last.
const GPU_SHAPES: [Shape; 11] = [
    (3, 128, 32),
    (128, 128, 32),
    (256, 256, 16),
    (512, 512, 8),
    (64, 64, 112),
    (128, 128, 112),
    (128, 128, 56),
    (256, 256, 56),
    (256, 256, 28),
    (512, 512, 28),
    (512, 512, 14),
];
const GPU_MAPS: [Shape; 4] = [GPU_SHAPES[1], GPU_SHAPES[3], GPU_SHAPES[5], GPU_SHAPES[10]];

/// What depends on where it runs.
struct Scale {
    shapes: &'static [Shape],
    maps: &'static [Shape],
    batch: usize,
    /// The side of the matrices whose product is the peak.
    matrix: usize,
    /// What operations are counted in, and how many make one.
    operations: (f64, &'static str),
    /// Values that are copied to see how fast the memory is: on a CPU that is no measure, as one thread copies.
    copied: Option<usize>,
}

const CPU: Scale =
    Scale { shapes: &CPU_SHAPES, maps: &CPU_MAPS, batch: 64, matrix: 2048, operations: (1e9, "GFLOP/s"), copied: None };
const GPU: Scale = Scale {
    shapes: &GPU_SHAPES,
    maps: &GPU_MAPS,
    batch: 128,
    matrix: 8192,
    operations: (1e12, "TFLOP/s"),
    copied: Some(1 << 28),
};

/// A measured rate that others stand beside, and what it is called.
type Peak = Option<(f64, &'static str)>;

const WINDOW: Window = Window::new(3, 1, 1);
const CONVOLUTIONS: [&str; 3] = ["convolution", "weight gradient", "input gradient"];
const MEMORY_BOUND: [&str; 4] = ["batch norm + ReLU", "batch norm gradients", "average pooling", "space-to-depth"];

/// Times a large matrix product and every operation of a training step.
///
/// Convolutions count the multiplications and additions of their definition, however few were made: Winograd's way of
/// convolving can come out above the matrix product.
///
/// # Errors
/// When the device has no memory.
pub fn operations(bench: &mut Bench<'_>) -> Result<()> {
    let scale = if bench.device.is_cpu() { CPU } else { GPU };
    let peak = matrix_product(bench, &scale)?;
    for &shape in scale.shapes {
        convolutions(bench, &scale, shape, peak)?;
    }
    let peak = copy(bench, &scale)?;
    for &(_, channels, size) in scale.maps {
        memory_bound(bench, [scale.batch, size, size, channels], peak)?;
    }
    Ok(())
}

fn matrix_product(bench: &mut Bench<'_>, scale: &Scale) -> Result<Peak> {
    let side = scale.matrix;
    let (a, b) = (bench.maps(&[side, side], 1)?, bench.maps(&[side, side], 2)?);
    let work = 2.0 * (side as f64).powi(3) / scale.operations.0;
    let product = || Ok(a.matmul(&b).map(drop)?);
    let peak = work / bench.seconds(product)?;
    let case = format!("{side} x {side} x {side}");
    bench.measure(("matrix product", &case), (work, scale.operations.1), None, product)?;
    Ok(Some((peak, "of the matrix product")))
}

fn copy(bench: &mut Bench<'_>, scale: &Scale) -> Result<Peak> {
    let Some(count) = scale.copied else { return Ok(None) };
    let x = Tensor::zeros(count, bench.precision, &bench.device)?;
    let bytes = count * bench.precision.size_in_bytes();
    let moved = (2 * bytes) as f64 / 1e9;
    let copy = || Ok(x.copy().map(drop)?);
    let peak = moved / bench.seconds(copy)?;
    bench.measure(("copy", &format!("{} MiB", bytes >> 20)), (moved, "GB/s"), None, copy)?;
    Ok(Some((peak, "of a copy")))
}

fn convolutions(bench: &mut Bench<'_>, scale: &Scale, (inputs, outputs, size): Shape, peak: Peak) -> Result<()> {
    let batch = scale.batch;
    let case = format!("{inputs} -> {outputs} channels, {size} x {size}, batch {batch}");
    if !bench.wants_any(&CONVOLUTIONS, &case) {
        return Ok(());
    }
    let x = bench.maps(&[batch, size, size, inputs], 1)?;
    let w = bench.noise(&[outputs, inputs, 3, 3], 2)?;
    let grad = bench.maps(&[batch, size, size, outputs], 3)?;
    let (unit, name) = scale.operations;
    let work = ((2 * batch * size * size * inputs * outputs * 9) as f64 / unit, name);
    let [convolution_name, weight_name, input_name] = CONVOLUTIONS;
    let forward = || Ok(convolution(&x, &w, None, WINDOW, Activation::Identity).map(drop)?);
    bench.measure((convolution_name, &case), work, peak, forward)?;
    let gradient = || Ok(weight_gradient(&x, &grad, WINDOW).map(drop)?);
    bench.measure((weight_name, &case), work, peak, gradient)?;
    bench.measure((input_name, &case), work, peak, || Ok(input_gradient(&w, &grad, WINDOW, (size, size)).map(drop)?))
}

/// Operations that read and write more than they compute: GB/s of the feature maps that they must touch.
fn memory_bound(bench: &mut Bench<'_>, sizes: [usize; 4], peak: Peak) -> Result<()> {
    let [batch, size, _, channels] = sizes;
    let case = format!("{channels} channels, {size} x {size}, batch {batch}");
    if !bench.wants_any(&MEMORY_BOUND, &case) {
        return Ok(());
    }
    let (x, grad) = (bench.maps(&sizes, 1)?, bench.maps(&sizes, 2)?);
    let (gamma, beta) = (bench.noise(&[channels], 3)?, bench.noise(&[channels], 4)?);
    let norm = BatchNorm { gamma: &gamma, beta: &beta, epsilon: 1e-5, activation: Activation::Relu };
    let maps = |count: f64| (count * (x.elem_count() * x.dtype().size_in_bytes()) as f64 / 1e9, "GB/s");
    let (_, statistics) = norm.forward(&x)?;
    let [normalise, gradients, pooling, depth] = MEMORY_BOUND;
    bench.measure((normalise, &case), maps(3.0), peak, || Ok(norm.forward(&x).map(drop)?))?;
    bench.measure((gradients, &case), maps(5.0), peak, || Ok(norm.gradients(&x, &statistics, &grad).map(drop)?))?;
    bench.measure((pooling, &case), maps(1.0), peak, || Ok(pool(&x, 2).map(drop)?))?;
    bench.measure((depth, &case), maps(2.0), peak, || Ok(space_to_depth(&x).map(drop)?))
}
