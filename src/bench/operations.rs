//! Tensor operations one by one, beside the matrix product that bounds them.

use super::Bench;
use crate::error::Result;
use crate::ops::{
    Activation, BatchNorm, Window, bf16_instructions, convolution, dropout, input_gradient, linear,
    linear_input_gradient, linear_weight_gradient, max_pool, max_pool_gradient, pool, space_to_depth, weight_gradient,
};
use candle_core::{DType, Tensor};

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

/// Convolutions of AlexNet, VGG and ResNet that SimCNN has not, with their batch on a CPU.
const OTHERS: [(Shape, Window, usize); 6] = [
    ((3, 64, 224), Window::new(11, 4, 2), 32),
    ((64, 192, 27), Window::new(5, 1, 2), 32),
    ((3, 64, 224), Window::new(3, 1, 1), 8),
    ((3, 64, 224), Window::new(7, 2, 3), 16),
    ((128, 256, 28), Window::new(3, 2, 1), 32),
    ((256, 256, 14), Window::new(3, 1, 0), 32),
];
/// Channels, height and width, window and batch on a CPU of max pooling in VGG, AlexNet and ResNet.
const POOLINGS: [(usize, usize, Window, usize); 3] =
    [(64, 224, Window::new(2, 2, 0), 8), (64, 55, Window::new(3, 2, 0), 32), (64, 112, Window::new(3, 2, 1), 16)];
/// Inputs and outputs of the linear layers of AlexNet and VGG, and their batch.
const LINEAR: [(usize, usize); 3] = [(9216, 4096), (4096, 4096), (4096, 1000)];
const LINEAR_BATCH: usize = 128;

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
const LINEAR_LAYERS: [&str; 4] = ["linear", "linear weight gradient", "linear input gradient", "dropout"];
const MAX_POOLING: [&str; 2] = ["max pooling", "max pooling gradient"];
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
        convolutions(bench, &scale, (shape, WINDOW, scale.batch), peak)?;
    }
    for (shape, window, batch) in OTHERS {
        let batch = if bench.device.is_cpu() { batch } else { scale.batch };
        convolutions(bench, &scale, (shape, window, batch), peak)?;
    }
    for sizes in LINEAR {
        linear_layer(bench, &scale, sizes, peak)?;
    }
    let peak = copy(bench, &scale)?;
    for &(_, channels, size) in scale.maps {
        memory_bound(bench, [scale.batch, size, size, channels], peak)?;
    }
    for (channels, size, window, batch) in POOLINGS {
        let batch = if bench.device.is_cpu() { batch } else { scale.batch };
        max_pooling(bench, [batch, size, size, channels], window, peak)?;
    }
    Ok(())
}

fn matrix_product(bench: &mut Bench<'_>, scale: &Scale) -> Result<Peak> {
    let side = scale.matrix;
    // On a CPU candle multiplies in f32 only.
    let matrix =
        |seed| if bench.device.is_cpu() { bench.noise(&[side, side], seed) } else { bench.maps(&[side, side], seed) };
    let (a, b) = (matrix(1)?, matrix(2)?);
    let work = 2.0 * (side as f64).powi(3) / scale.operations.0;
    let product = || Ok(a.matmul(&b).map(drop)?);
    let peak = work / bench.seconds(product)?;
    let case = format!("{side} x {side} x {side}");
    bench.measure(("matrix product", &case), (work, scale.operations.1), None, product)?;
    let instructions = bf16_instructions(&bench.device).filter(|_| bench.precision == DType::BF16);
    let Some(instructions) = instructions else { return Ok(Some((peak, "of the matrix product"))) };
    // As a convolution, since candle multiplies no such matrices: the right one is brought into tiles each time.
    let (a, b) = (bench.maps(&[1, side / 64, 64, side], 1)?, b.reshape((side, side, 1, 1))?);
    let product = || Ok(convolution(&a, &b, None, Window::new(1, 1, 0), Activation::Identity).map(drop)?);
    let rate = work / bench.seconds(product)?;
    let (name, beside) = (format!("matrix product by {instructions}"), Some((peak, "of the matrix product in f32")));
    bench.measure((&name, &case), (work, scale.operations.1), beside, product)?;
    Ok(Some((rate, "of the matrix product in bf16")))
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

fn convolutions(
    bench: &mut Bench<'_>,
    scale: &Scale,
    ((inputs, outputs, size), window, batch): (Shape, Window, usize),
    peak: Peak,
) -> Result<()> {
    let case = format!("{inputs} -> {outputs} channels, {size} x {size}, batch {batch}{}", told(window));
    if !bench.wants_any(&CONVOLUTIONS, &case) {
        return Ok(());
    }
    let x = bench.maps(&[batch, size, size, inputs], 1)?;
    let w = bench.noise(&[outputs, inputs, window.kernel, window.kernel], 2)?;
    let result = window.output(size).unwrap_or(0);
    let grad = bench.maps(&[batch, result, result, outputs], 3)?;
    let (unit, name) = scale.operations;
    let work = (2.0 * (grad.elem_count() * inputs * window.kernel * window.kernel) as f64 / unit, name);
    let [convolution_name, weight_name, input_name] = CONVOLUTIONS;
    let forward = || Ok(convolution(&x, &w, None, window, Activation::Identity).map(drop)?);
    bench.measure((convolution_name, &case), work, peak, forward)?;
    let gradient = || Ok(weight_gradient(&x, &grad, window).map(drop)?);
    bench.measure((weight_name, &case), work, peak, gradient)?;
    bench.measure((input_name, &case), work, peak, || Ok(input_gradient(&w, &grad, window, (size, size)).map(drop)?))
}

/// What is said of a window that is not the usual one.
fn told(window: Window) -> String {
    let Window { kernel, stride, padding } = window;
    if window == WINDOW { String::new() } else { format!(", kernel {kernel}, stride {stride}, padding {padding}") }
}

fn linear_layer(bench: &mut Bench<'_>, scale: &Scale, (inputs, outputs): (usize, usize), peak: Peak) -> Result<()> {
    let case = format!("{inputs} -> {outputs} features, batch {LINEAR_BATCH}");
    if !bench.wants_any(&LINEAR_LAYERS, &case) {
        return Ok(());
    }
    let (x, grad) = (bench.maps(&[LINEAR_BATCH, inputs], 1)?, bench.maps(&[LINEAR_BATCH, outputs], 2)?);
    let (w, bias) = (bench.noise(&[outputs, inputs], 3)?, bench.noise(&[outputs], 4)?);
    let (unit, name) = scale.operations;
    let work = (2.0 * (LINEAR_BATCH * inputs * outputs) as f64 / unit, name);
    let [forward, weight_gradient, input_gradient, dropping] = LINEAR_LAYERS;
    bench.measure((forward, &case), work, peak, || Ok(linear(&x, &w, &bias).map(drop)?))?;
    bench.measure((weight_gradient, &case), work, peak, || Ok(linear_weight_gradient(&x, &grad).map(drop)?))?;
    bench.measure((input_gradient, &case), work, peak, || Ok(linear_input_gradient(&w, &grad).map(drop)?))?;
    let seeds: Vec<u64> = (0..LINEAR_BATCH as u64).collect();
    let moved = ((2 * x.elem_count() * x.dtype().size_in_bytes()) as f64 / 1e9, "GB/s");
    bench.measure((dropping, &case), moved, None, || Ok(dropout(&x, 0.5, &seeds).map(drop)?))
}

/// Max pooling: GB/s of the maps that it must read and write.
fn max_pooling(bench: &mut Bench<'_>, sizes: [usize; 4], window: Window, peak: Peak) -> Result<()> {
    let [batch, size, _, channels] = sizes;
    let case = format!("{channels} channels, {size} x {size}, batch {batch}{}", told(window));
    if !bench.wants_any(&MAX_POOLING, &case) {
        return Ok(());
    }
    let x = bench.maps(&sizes, 1)?;
    let grad = max_pool(&x, window)?;
    let moved = |maps: usize| {
        ((maps * x.elem_count() + grad.elem_count()) as f64 * x.dtype().size_in_bytes() as f64 / 1e9, "GB/s")
    };
    let [forward, gradient] = MAX_POOLING;
    bench.measure((forward, &case), moved(1), peak, || Ok(max_pool(&x, window).map(drop)?))?;
    bench.measure((gradient, &case), moved(2), peak, || Ok(max_pool_gradient(&x, &grad, window).map(drop)?))
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
