//! Every operation of `ops`, compared on the sizes that networks have and on odd ones.

use super::Bench;
use super::agreement::{Agreement, Comparison, is_spoilt};
use crate::error::{Error, Result};
use crate::ops::{
    Activation, BatchNorm, Crops, Descent, Form, PooledNorm, Values, Window, bias_gradient, bias_relu_gradients, cast,
    convolution, cross_entropy, cut, descend, dropout, input_gradient, linear, linear_input_gradient,
    linear_weight_gradient, max_pool, max_pool_gradient, pool, pool_gradient, put, relu, space_to_depth, to_nchw,
    to_nhwc, unpacked, weight_gradient,
};
use candle_core::{DType, Device, Tensor, Var};

/// Batch, height, width and channels of feature maps.
type Sizes = [usize; 4];

/// Feature maps as networks have them for CIFAR-10 and ImageNet, with fewer images, and channels of the result.
const USUAL: [(Sizes, usize); 6] = [
    ([16, 32, 32, 3], 128),
    ([16, 16, 16, 12], 64),
    ([16, 16, 16, 128], 256),
    ([2, 112, 112, 64], 64),
    ([4, 28, 28, 256], 256),
    ([4, 14, 14, 512], 512),
];
/// The window of their convolutions.
const USUAL_WINDOW: Window = Window::new(3, 1, 1);
/// Feature maps of odd sizes that are drawn.
const ODD: usize = 4;
/// Windows that SimCNN has not.
const OTHER_WINDOWS: [Window; 7] = [
    Window::new(1, 1, 0),
    Window::new(3, 1, 0),
    Window::new(5, 1, 2),
    Window::new(3, 2, 1),
    Window::new(7, 2, 3),
    Window::new(11, 4, 5),
    Window::new(1, 2, 0),
];
/// Distances of results from zero within which it is left open on which side they are: their gradients are not looked at.
const OPEN: f64 = 1e-3;

/// Pixels of a batch over which rounding is averaged away.
const MANY: usize = 1000;

/// Compares every operation on the bench's device, with feature maps in f32 and in bf16, with one thread of the CPU in f32. Says
/// whether results lay in memory that had been spoilt, which cannot be told on the CPU.
///
/// # Errors
/// With the error of the report, or when the user interrupts.
pub fn agreement(
    bench: &Bench<'_>,
    seed: u64,
    report: &mut dyn FnMut(Agreement) -> Result<()>,
) -> Result<Option<bool>> {
    let is_gpu = !bench.device.is_cpu();
    for precision in [DType::F32, DType::BF16] {
        let thread = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let thread = thread.map_err(|e| Error::failed(format!("cannot start a thread: {e}")))?;
        let mut on = Comparison { bench, precision, thread, seed, drawn: 0, report };
        for (sizes, outputs) in USUAL {
            convolutions(&mut on, sizes, outputs, USUAL_WINDOW)?;
            maps(&mut on, sizes)?;
        }
        for _ in 0..ODD {
            let (sizes, outputs) = odd(&mut on);
            convolutions(&mut on, sizes, outputs, USUAL_WINDOW)?;
            maps(&mut on, sizes)?;
            samples(&mut on, sizes)?;
        }
        samples(&mut on, [64, 16, 16, 128])?;
        convolutions(&mut on, [1, 1, 1, 3], 5, USUAL_WINDOW)?;
        for window in OTHER_WINDOWS {
            let (sizes, outputs) = odd(&mut on);
            convolutions(&mut on, sizes, outputs, window)?;
        }
        // The first layers of AlexNet and VGG.
        convolutions(&mut on, [2, 224, 224, 3], 64, Window::new(11, 4, 2))?;
        convolutions(&mut on, [4, 27, 27, 64], 192, Window::new(5, 1, 2))?;
        convolutions(&mut on, [1, 224, 224, 3], 64, USUAL_WINDOW)?;
        for sizes in [(16, 9216, 512), (128, 512, 1000), (3, 7, 5)] {
            linear_layers(&mut on, sizes)?;
        }
        for (batch, classes) in [(128, 10), (64, 1000), (3, 2), (1, 7)] {
            losses(&mut on, batch, classes)?;
        }
        for count in [1, 1000, 512 * 512 * 9] {
            descents(&mut on, count)?;
        }
    }
    if is_gpu { is_spoilt(&bench.device).map(Some) } else { Ok(None) }
}

/// Sizes that are multiples of nothing, and at least a few pixels.
fn odd(on: &mut Comparison<'_, '_>) -> (Sizes, usize) {
    let mut draw = on.draw();
    let mut between = |least: u64, most: u64| (least + draw.below(most - least + 1)) as usize;
    ([between(1, 5), between(5, 20), between(5, 20), between(1, 70)], between(1, 70))
}

fn convolutions(on: &mut Comparison<'_, '_>, sizes: Sizes, outputs: usize, window: Window) -> Result<()> {
    let ([batch, height, width, inputs], Window { kernel, .. }) = (sizes, window);
    let case = format!("{inputs} -> {outputs} channels, {height} x {width}, batch {batch}, kernel {kernel}");
    let window_of = |size: usize| window.output(size).unwrap_or(0);
    let x = on.maps(&sizes)?;
    let share = 1.0 / (inputs as f64 * 9.0).sqrt();
    let w = (on.noise(&[outputs, inputs, kernel, kernel])? * share)?;
    let bias = on.noise(&[outputs])?;
    on.compare(["convolution"], &case, ([&x], [&w]), |[x], [w]| {
        Ok([convolution(x, w, None, window, Activation::Identity)?])
    })?;
    on.compare(["convolution + bias + ReLU"], &case, ([&x], [&w, &bias]), |[x], [w, bias]| {
        Ok([convolution(x, w, Some(bias), window, Activation::Relu)?])
    })?;
    let grad = on.maps(&[batch, window_of(height), window_of(width), outputs])?;
    // Whatever type it comes in at last, its sums are rounded as feature maps are.
    on.compare(["weight gradient"], &case, ([&x, &grad], []), |[x, grad], []| {
        Ok([cast(&unpacked(&weight_gradient(x, grad, window)?)?, x.dtype())?])
    })?;
    on.compare(["input gradient"], &case, ([&grad], [&w]), |[grad], [w]| {
        Ok([input_gradient(w, grad, window, (height, width))?])
    })
}

/// All that is done to feature maps besides convolving them.
fn maps(on: &mut Comparison<'_, '_>, sizes: Sizes) -> Result<()> {
    let [batch, height, width, channels] = sizes;
    let case = format!("{channels} channels, {height} x {width}, batch {batch}");
    for activation in [Activation::Identity, Activation::Relu] {
        batch_norm(on, sizes, &case, activation)?;
        pooled_norm(on, sizes, &case, activation)?;
    }
    let (x, grad) = (on.maps(&sizes)?, on.maps(&sizes)?);
    let y = x.relu()?;
    on.compare(
        ["bias + ReLU, gradient", "bias + ReLU, gradient of the bias"],
        &case,
        ([&y, &grad], []),
        |[y, grad], []| {
            let (sums, bias) = bias_relu_gradients(y, grad)?;
            Ok([sums, bias])
        },
    )?;
    on.compare(["average pooling"], &case, ([&x], []), |[x], []| Ok([pool(x, 2)?]))?;
    let pooled = on.noise(&[batch, 2, 2, channels])?;
    on.compare(["average pooling, gradient"], &case, ([], [&pooled]), |[], [grad]| {
        Ok([pool_gradient(grad, (height, width), grad.dtype())?])
    })?;
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1)] {
        max_pooling(on, sizes, &x, Window::new(kernel, stride, padding))?;
    }
    on.compare(["channels first"], &case, ([&x], []), |[x], []| Ok([to_nchw(x)?]))?;
    on.compare(["channels last"], &case, ([&x], []), |[x], []| Ok([to_nhwc(x)?]))?;
    let even = x.narrow(1, 0, height / 2 * 2)?.narrow(2, 0, width / 2 * 2)?.contiguous()?;
    on.compare(["space-to-depth"], &case, ([&even], []), |[x], []| Ok([space_to_depth(x)?]))
}

fn batch_norm(on: &mut Comparison<'_, '_>, sizes: Sizes, case: &str, activation: Activation) -> Result<()> {
    let [.., channels] = sizes;
    // None has a mean of about zero, whose digits would say nothing, and some lie far from it, where the difference of two
    // large squares would lose its digits.
    let far: Vec<f32> = (0..channels).map(|at| if at % 5 == 4 { 50.0 } else { 0.5 }).collect();
    let x = on.noise(&sizes)?.broadcast_add(&Tensor::from_vec(far, channels, &Device::Cpu)?)?;
    let x = on.rounded(&x)?;
    let (gamma, beta) = (on.noise(&[channels])?, on.noise(&[channels])?);
    let names = match activation {
        Activation::Identity => ["batch norm", "batch norm, mean", "batch norm, variance"],
        Activation::Relu => ["batch norm + ReLU", "batch norm + ReLU, mean", "batch norm + ReLU, variance"],
    };
    on.compare(names, case, ([&x], [&gamma, &beta]), |[x], [gamma, beta]| {
        let (y, statistics) = BatchNorm { gamma, beta, epsilon: 1e-5, activation }.forward(x)?;
        Ok([y, statistics.mean, statistics.variance])
    })?;
    let line = BatchNorm { gamma: &gamma, beta: &beta, epsilon: 1e-5, activation: Activation::Identity };
    let settled = line.forward(&x)?.0.abs()?.gt(OPEN)?.to_dtype(DType::F32)?;
    let grad = (on.maps(&sizes)? * settled)?;
    let names = match activation {
        Activation::Identity => {
            ["batch norm, gradient", "batch norm, gradient of the scale", "batch norm, gradient of the shift"]
        }
        Activation::Relu => [
            "batch norm + ReLU, gradient",
            "batch norm + ReLU, gradient of the scale",
            "batch norm + ReLU, gradient of the shift",
        ],
    };
    on.compare(names, case, ([&x, &grad], [&gamma, &beta]), |[x, grad], [gamma, beta]| {
        let norm = BatchNorm { gamma, beta, epsilon: 1e-5, activation };
        let (_, statistics) = norm.forward(x)?;
        let gradients = norm.gradients(x, &statistics, grad)?;
        Ok([gradients.x, gradients.gamma, gradients.beta])
    })
}

/// Batch norm as a training step has it: with running statistics, and with average pooling in the same pass.
fn pooled_norm(on: &mut Comparison<'_, '_>, sizes: Sizes, case: &str, activation: Activation) -> Result<()> {
    let [batch, height, width, channels] = sizes;
    let x = on.maps(&sizes)?;
    let [gamma, beta, cells] =
        [vec![channels], vec![channels], vec![batch, 2, 2, channels]].map(|dims| on.noise(&dims));
    let (gamma, beta, cells) = (gamma?, beta?, cells?);
    let names = match activation {
        Activation::Identity => {
            ["batch norm + pooling", "batch norm + pooling, mean", "batch norm + pooling, variance"]
        }
        Activation::Relu => [
            "batch norm + ReLU + pooling",
            "batch norm + ReLU + pooling, mean",
            "batch norm + ReLU + pooling, variance",
        ],
    };
    on.compare(names, case, ([&x], [&gamma, &beta]), |[x], [gamma, beta]| {
        let running = [Var::from_tensor(gamma)?, Var::from_tensor(beta)?];
        let norm = BatchNorm { gamma, beta, epsilon: 1e-5, activation };
        let (y, _) = PooledNorm { norm, side: 2 }.train(x, running.each_ref(), 0.5)?;
        let [mean, variance] = running.map(|own| own.as_detached_tensor());
        // Where it is done in two passes, what lies between is rounded to the type of feature maps.
        Ok([cast(&y, x.dtype())?, mean, variance])
    })?;
    // What a ReLU lets pass near zero is left open, and a cell has many pixels; sums over few have much of what is rounded.
    if activation == Activation::Relu || batch * height * width < MANY {
        return Ok(());
    }
    let names = [
        "batch norm + pooling, gradient",
        "batch norm + pooling, gradient of the scale",
        "batch norm + pooling, gradient of the shift",
    ];
    on.compare(names, case, ([&x], [&gamma, &beta, &cells]), |[x], [gamma, beta, cells]| {
        let norm = PooledNorm { norm: BatchNorm { gamma, beta, epsilon: 1e-5, activation }, side: 2 };
        let (_, statistics) = norm.norm.forward(x)?;
        let gradients = norm.gradients(x, &statistics, cells)?;
        let [gamma, beta] = [&gradients.gamma, &gradients.beta].map(|gradient| cast(gradient, x.dtype()));
        Ok([gradients.x, gamma?, beta?])
    })
}

fn max_pooling(on: &mut Comparison<'_, '_>, sizes: Sizes, x: &Tensor, window: Window) -> Result<()> {
    let [batch, height, width, channels] = sizes;
    let Window { kernel, stride, padding } = window;
    let case = format!(
        "{channels} channels, {height} x {width}, batch {batch}, {kernel} x {kernel} every {stride}, padding {padding}"
    );
    on.compare(["max pooling"], &case, ([x], []), |[x], []| Ok([max_pool(x, window)?]))?;
    let grad = on.maps(&[batch, window.output(height).unwrap_or(0), window.output(width).unwrap_or(0), channels])?;
    on.compare(["max pooling, gradient"], &case, ([x, &grad], []), |[x, grad], []| {
        Ok([max_pool_gradient(x, grad, window)?])
    })
}

/// Samples as they are stored: feature maps of every type, and images.
fn samples(on: &mut Comparison<'_, '_>, [batch, size, _, channels]: Sizes) -> Result<()> {
    for values in [Values::U8 { scale: 0.01 }, Values::F16, Values::Bf16, Values::F32] {
        for planes in [false, true] {
            stored(on, &Form { values, planes, size, channels }, batch)?;
        }
    }
    crops(on, (batch, channels.min(4)), size)?;
    let x = on.maps(&[batch, size, size, channels])?;
    let mut draw = on.draw();
    let offsets: Vec<u32> = (0..2 * batch).map(|_| draw.below(size as u64 / 2 + 1) as u32).collect();
    let offsets = Tensor::from_vec(offsets, (batch, 2), &Device::Cpu)?;
    let case = format!("{channels} channels, {size} x {size}, batch {batch}");
    on.compare(["squares of maps"], &case, ([&x], [&offsets]), |[x], [offsets]| Ok([cut(x, offsets, size - size / 2)?]))
}

/// As many slots as twice the batch, and those of the batch in any order.
fn slots(on: &mut Comparison<'_, '_>, batch: usize) -> Result<Tensor> {
    let order = on.draw().permutation(2 * batch);
    Ok(Tensor::from_vec(order[..batch].to_vec(), batch, &Device::Cpu)?)
}

fn stored(on: &mut Comparison<'_, '_>, form: &Form, batch: usize) -> Result<()> {
    let Form { values, planes, size, channels } = form;
    let order = if *planes { "channels first" } else { "channels last" };
    let case = format!("{values:?}, {order}, {channels} channels, {size} x {size}, batch {batch}");
    let x = on.maps(&[batch, *size, *size, *channels])?.abs()?;
    let slots = slots(on, batch)?;
    let stored = Tensor::zeros((2 * batch, form.bytes()), DType::U8, &Device::Cpu)?;
    form.encode(&x, (&stored, &slots), &Tensor::zeros(1, DType::U8, &Device::Cpu)?)?;
    on.compare(["stored samples, read"], &case, ([&x], [&stored, &slots]), |[x], [stored, slots]| {
        Ok([form.decode(stored, slots, x.dtype())?])
    })?;
    let names = ["stored samples, written", "stored samples, fault"];
    on.compare(names, &case, ([&x], [&stored, &slots]), |[x], [stored, slots]| {
        let (stored, fault) = (stored.zeros_like()?, Tensor::zeros(1, DType::U8, x.device())?);
        form.encode(x, (&stored, slots), &fault)?;
        Ok([stored, fault])
    })?;
    on.compare(["stored samples, copied"], &case, ([], [&stored, &slots]), |[], [stored, slots]| {
        let (rows, copy) = (stored.narrow(0, 0, batch)?, stored.copy()?);
        put(&rows, (&copy, slots))?;
        Ok([copy])
    })
}

fn crops(on: &mut Comparison<'_, '_>, (batch, channels): (usize, usize), side: usize) -> Result<()> {
    let mut draw = on.draw();
    let images: Vec<u8> = (0..2 * batch * channels * side * side).map(|_| draw.bits() as u8).collect();
    let images = Tensor::from_vec(images, (2 * batch, channels * side * side), &Device::Cpu)?;
    let mut place = |at: usize| if at % 3 == 2 { draw.below(2) as i32 } else { draw.below(9) as i32 - 4 };
    let offsets = Tensor::from_vec((0..3 * batch).map(&mut place).collect::<Vec<i32>>(), (batch, 3), &Device::Cpu)?;
    let (table, slots) = (on.noise(&[channels, 256])?, slots(on, batch)?);
    // The map is there to say which type is wanted.
    let wanted = on.maps(&[1])?;
    let case = format!("{channels} channels, {side} x {side}, batch {batch}");
    on.compare(
        ["crops of images"],
        &case,
        ([&wanted], [&images, &slots, &offsets, &table]),
        |[wanted], [images, slots, offsets, table]| {
            Ok([Crops { offsets, size: side, table }.show(images, slots, wanted.dtype())?])
        },
    )
}

/// Linear layers of so many samples, inputs and outputs, and dropout.
fn linear_layers(on: &mut Comparison<'_, '_>, (batch, inputs, outputs): (usize, usize, usize)) -> Result<()> {
    let case = format!("{inputs} -> {outputs} features, batch {batch}");
    let (x, grad) = (on.maps(&[batch, inputs])?, on.maps(&[batch, outputs])?);
    let w = on.noise(&[outputs, inputs])? * (1.0 / (inputs as f64).sqrt());
    let (w, bias) = (on.rounded(&w?)?, on.noise(&[outputs])?);
    on.compare(["linear"], &case, ([&x], [&w, &bias]), |[x], [w, bias]| Ok([linear(x, w, bias)?]))?;
    on.compare(["linear, weight gradient"], &case, ([&x, &grad], []), |[x, grad], []| {
        Ok([cast(&linear_weight_gradient(x, grad)?, x.dtype())?])
    })?;
    on.compare(["linear, input gradient"], &case, ([&grad], [&w]), |[grad], [w]| {
        Ok([linear_input_gradient(w, grad)?])
    })?;
    on.compare(["gradient of a bias"], &case, ([&grad], []), |[grad], []| Ok([bias_gradient(grad)?]))?;
    let seeds: Vec<u64> = (0..batch as u64).map(|at| at << 33 | at).collect();
    on.compare(["ReLU"], &case, ([&x], []), |[x], []| Ok([relu(x)?]))?;
    on.compare(["dropout"], &case, ([&x], []), |[x], []| Ok([dropout(x, 0.5, &seeds)?]))
}

fn losses(on: &mut Comparison<'_, '_>, batch: usize, classes: usize) -> Result<()> {
    let logits = (on.noise(&[batch, classes])? * 20.0)?;
    let mut draw = on.draw();
    let labels: Vec<u32> = (0..batch).map(|_| draw.below(classes as u64) as u32).collect();
    let labels = Tensor::from_vec(labels, batch, &Device::Cpu)?;
    let case = format!("{classes} classes, batch {batch}");
    on.compare(["cross entropy", "cross entropy, gradient"], &case, ([], [&logits, &labels]), |[], [logits, labels]| {
        let loss = cross_entropy(logits, labels)?;
        Ok([loss.mean, loss.gradient])
    })
}

fn descents(on: &mut Comparison<'_, '_>, count: usize) -> Result<()> {
    let [weight, velocity, gradient] = [on.noise(&[count])?, on.noise(&[count])?, on.noise(&[count])?];
    let settings = Descent { rate: 0.1, momentum: 0.9, weight_decay: 5e-4 };
    let (names, case) = (["descent, weights", "descent, velocities"], format!("{count} weights"));
    on.compare(names, &case, ([], [&weight, &velocity, &gradient]), |[], [weight, velocity, gradient]| {
        let [weight, velocity] = [Var::from_tensor(weight)?, Var::from_tensor(velocity)?];
        descend(&[(&weight, &velocity, gradient)], settings)?;
        Ok([weight.as_detached_tensor(), velocity.as_detached_tensor()])
    })
}
