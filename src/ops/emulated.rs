//! Every launch on an emulated GPU against our operations on the CPU, which are held to PyTorch's figures.
//!
//! Results lie in poisoned memory with guards, blocks and threads run in an order that is drawn, and every launch runs twice.

use super::{Descent, Window, accumulate, bias_relu_gradients, cross_entropy, descend, max_pool, max_pool_gradient};
use super::{dropout, relu};
use super::{pool, pool_gradient, space_to_depth, to_nhwc};
use crate::cuda::dropout::Mask;
use crate::cuda::elementwise;
use crate::cuda::emulator::{Emulator, Memory};
use crate::cuda::gpu::{Element, Gpu, Pointer};
use crate::cuda::learning::{self, LossPointers, Moved, Step, Weights};
use crate::cuda::normalise;
use crate::cuda::pixels::{self, Images, Windows};
use crate::cuda::tiling::Maps;
use candle_core::{DType, Device, Result, Tensor, Var};

mod norms;
mod samples;

const ELEMENTS: [Element; 2] = [Element::F32, Element::Bf16];
/// Channels with and without vectors, fewer and more than the lanes of a block hold.
const CHANNELS: [usize; 8] = [1, 3, 8, 12, 40, 64, 130, 520];

/// Values between -2 and 2 that look random, rounded to a type.
fn noise(shape: &[usize], seed: u32, element: Element) -> Tensor {
    let value =
        |at: u32| (at.wrapping_add(seed * 7919).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 22) as f32 - 2.0;
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(value).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    match element {
        Element::F32 => tensor,
        Element::Bf16 => tensor.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap(),
    }
}

fn floats(shape: &[usize], seed: u32) -> Tensor {
    noise(shape, seed, Element::F32)
}

/// Fails unless tensors agree: f32 within `tolerance` of the largest value, bf16 within half of its last bit besides.
#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, element: Element, tolerance: f32, what: &str) {
    let values = |tensor: &Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
    let (found, expected) = (values(found), values(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    let rounding = if element == Element::Bf16 { 1.0 / 256.0 } else { 0.0 };
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let bound = tolerance * largest + rounding * expected.abs();
        assert!((found - expected).abs() <= bound, "{what}, value {at}: {found}, not {expected}");
    }
}

/// What a launch writes into memory of the given shapes and types, the same whatever the order of blocks and threads.
fn run<const N: usize>(
    outputs: [(&[usize], Element); N],
    launch: impl Fn(&Emulator, [Pointer; N]) -> Result<()>,
) -> [Tensor; N] {
    let once = |seed: u32| {
        let gpu = Emulator::with_seed(seed);
        let memory = outputs.map(|(shape, element)| gpu.unset(shape, element));
        launch(&gpu, std::array::from_fn(|at| gpu.pointer(&memory[at]))).unwrap();
        std::array::from_fn(|at| gpu.get(&memory[at], outputs[at].1, outputs[at].0))
    };
    let (first, second): ([Tensor; N], [Tensor; N]) = (once(1), once(2));
    for (first, second) in first.iter().zip(&second) {
        let bits = |tensor: &Tensor| -> Vec<u32> {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        assert!(bits(first) == bits(second), "the bits depend on the order of blocks and threads");
    }
    first
}

fn images(shape: [usize; 4], element: Element) -> Images {
    let [batch, height, width, channels] = shape;
    Images { batch, height, width, channels, element }
}

/// Memory and pointer of tensors.
fn put<const N: usize>(gpu: &Emulator, tensors: [(&Tensor, Element); N]) -> ([Memory; N], [Pointer; N]) {
    let memory = tensors.map(|(tensor, element)| gpu.put(tensor, element));
    let pointers = std::array::from_fn(|at| gpu.pointer(&memory[at]));
    (memory, pointers)
}

#[test]
fn bias_and_relu_agree() {
    for element in ELEMENTS {
        for channels in CHANNELS {
            // So few pixels that a block has all of them, and more.
            let shape = [3, 7, if channels % 8 == 0 { 60 } else { 5 }, channels];
            let maps = images(shape, element).maps();
            let (y, grad, bias) = (noise(&shape, 1, element), noise(&shape, 2, element), floats(&[channels], 3));
            let (expected, sums) = bias_relu_gradients(&y, &grad).unwrap();
            let outputs = [(&shape[..], element), (&[channels], Element::F32)];
            let [passed, found] = run(outputs, |gpu, [passed, to]| {
                let (_memory, [y, grad]) = put(gpu, [(&y, element), (&grad, element)]);
                // SAFETY: memory of the sizes that are said.
                unsafe {
                    maps.relu_gradient(gpu, y, grad, passed)?;
                    maps.channel_sums(gpu, passed, to)
                }
            });
            assert_close(&passed, &expected, element, 0.0, "gradient of a ReLU");
            assert_close(&found, &sums, Element::F32, 1e-5, "gradient of a bias");
            for relu in [false, true] {
                let gpu = Emulator::new();
                let (memory, [x, own]) = put(&gpu, [(&y, element), (&bias, Element::F32)]);
                // SAFETY: memory of the sizes that are said.
                unsafe { maps.add_bias(&gpu, x, own, relu) }.unwrap();
                let expected = y.broadcast_add(&bias).unwrap();
                let expected = if relu { expected.relu().unwrap() } else { expected };
                assert_close(&gpu.get(&memory[0], element, &shape), &expected, element, 1e-6, "bias");
            }
        }
    }
}

#[test]
fn relu_and_dropout_agree() {
    for element in ELEMENTS {
        for shape in [vec![3, 5], vec![2, 4, 3, 8], vec![4, 1000]] {
            let x = noise(&shape, 1, element);
            let maps =
                Maps { pixels: x.elem_count() / shape[shape.len() - 1], channels: shape[shape.len() - 1], element };
            let [found] = run([(&shape, element)], |gpu, [to]| {
                let (_memory, [x]) = put(gpu, [(&x, element)]);
                // SAFETY: memory of the sizes that are said.
                unsafe { maps.relu(gpu, x, to) }
            });
            assert_close(&found, &relu(&x).unwrap(), Element::F32, 0.0, "ReLU");
            let seeds: Vec<u64> = (0..shape[0] as u64).map(|at| (at << 40) + 17 * at + 5).collect();
            let halves: Vec<u8> = seeds.iter().flat_map(|seed| seed.to_le_bytes()).collect();
            let values = Maps { pixels: shape[0], channels: x.elem_count() / shape[0], element };
            for rate in [0.0, 0.5, 0.9] {
                let mask = Mask { threshold: (rate * 2f64.powi(32)) as u32, scale: 1.0 / (1.0 - rate) };
                let [found] = run([(&shape, element)], |gpu, [to]| {
                    let (_memory, [x]) = put(gpu, [(&x, element)]);
                    let seeds = gpu.put_bytes(&halves);
                    // SAFETY: memory of the sizes that are said.
                    unsafe { values.dropout(gpu, [x, gpu.pointer(&seeds)], mask, to) }
                });
                assert_close(&found, &dropout(&x, rate, &seeds).unwrap(), element, 0.0, "dropout");
            }
        }
    }
}

#[test]
fn pooling_agrees() {
    for element in ELEMENTS {
        let sizes = [(1, 1, 1), (3, 5, 4), (8, 2, 2), (40, 7, 9), (130, 6, 3), (264, 30, 28)];
        for ((channels, height, width), side) in sizes.into_iter().flat_map(|sizes| [1, 2, 3].map(|side| (sizes, side)))
        {
            let shape = [2, height, width, channels];
            let cells = [2, side, side, channels];
            let (x, grad) = (noise(&shape, 1, element), floats(&cells, 2));
            let maps = images(shape, element);
            let what = format!("pooling of {shape:?} to {side}");
            let [found] = run([(&cells, Element::F32)], |gpu, [y]| {
                let (_memory, [x]) = put(gpu, [(&x, element)]);
                // SAFETY: memory of the sizes that are said.
                unsafe { maps.pool(gpu, x, side, y) }
            });
            assert_close(&found, &pool(&x, side).unwrap(), Element::F32, 1e-5, &what);
            let [found] = run([(&shape, element)], |gpu, [to]| {
                let (_memory, [grad]) = put(gpu, [(&grad, Element::F32)]);
                // SAFETY: memory of the sizes that are said.
                unsafe { maps.pool_gradient(gpu, grad, side, to) }
            });
            let expected = pool_gradient(&grad, (height, width), DType::F32).unwrap();
            assert_close(&found, &expected, element, 1e-6, &format!("gradient of the {what}"));
        }
    }
}

#[test]
fn moved_values_agree() {
    for element in ELEMENTS {
        for shape in [[1, 2, 2, 1], [3, 6, 4, 3], [2, 8, 10, 12]] {
            let (x, [batch, height, width, channels]) = (noise(&shape, 1, element), shape);
            let [found] = run([(&[batch, height / 2, width / 2, 4 * channels], element)], |gpu, [y]| {
                let (_memory, [x]) = put(gpu, [(&x, element)]);
                // SAFETY: memory of the sizes that are said.
                unsafe { images(shape, element).space_to_depth(gpu, x, y) }
            });
            assert_close(&found, &space_to_depth(&x).unwrap(), Element::F32, 0.0, "space-to-depth");
            let [found] = run([(&shape, element)], |gpu, [y]| {
                let (_memory, [x]) = put(gpu, [(&x, element)]);
                // SAFETY: memory of the sizes that are said.
                unsafe { pixels::exchange(gpu, element, x, [batch, channels, height * width], y) }
            });
            let planes = x.reshape((batch, channels, height, width)).unwrap();
            assert_close(&found, &to_nhwc(&planes).unwrap(), Element::F32, 0.0, "order of values");
            let weights = Weights { outputs: batch, inputs: height * width, kernel: 3 };
            let weight = noise(&[batch, height * width, 3, 3], 5, element);
            let wide = weights.widened(element);
            let packed = [wide.outputs, 3, 3, wide.inputs];
            let [packed, back] = run([(&packed, element), (weight.dims(), Element::F32)], |gpu, [to, back]| {
                let (_memory, [from]) = put(gpu, [(&weight, Element::F32)]);
                // SAFETY: memory of the sizes that are said.
                unsafe {
                    weights.pack(gpu, from, element, to)?;
                    weights.unpack(gpu, to, element, back)
                }
            });
            let expected = to_nhwc(&weight).unwrap().pad_with_zeros(0, 0, wide.outputs - weights.outputs).unwrap();
            let expected = expected.pad_with_zeros(3, 0, wide.inputs - weights.inputs).unwrap();
            assert_close(&packed, &expected, Element::F32, 0.0, "packed weights");
            assert_close(&back, &weight, Element::F32, 0.0, "weights packed and back");
        }
    }
}

#[test]
fn pixels_get_and_lose_channels() {
    for element in ELEMENTS {
        for (channels, wide) in [(3, 8), (12, 16), (5, 5), (1, 2)] {
            let x = noise(&[2, 3, 2, channels], 1, element);
            let maps = |channels| Maps { pixels: 12, channels, element };
            let dims = [2, 3, 2, wide];
            let [found, back] = run([(&dims, element), (x.dims(), element)], |gpu, [y, back]| {
                let (_memory, [x]) = put(gpu, [(&x, element)]);
                // SAFETY: memory of the sizes that are said.
                unsafe {
                    maps(channels).widen(gpu, x, wide, y)?;
                    maps(wide).widen(gpu, y, channels, back)
                }
            });
            assert_close(&found, &x.pad_with_zeros(3, 0, wide - channels).unwrap(), Element::F32, 0.0, "wider pixels");
            assert_close(&back, &x, Element::F32, 0.0, "pixels as they were");
        }
    }
}

#[test]
fn types_are_changed_to_the_nearest() {
    let x = floats(&[3, 7], 1);
    let [rounded, back] = run([(&[3, 7], Element::Bf16), (&[3, 7], Element::F32)], |gpu, [y, back]| {
        let (_memory, [x]) = put(gpu, [(&x, Element::F32)]);
        // SAFETY: memory of the sizes that are said.
        unsafe {
            elementwise::cast(gpu, (x, Element::F32), (y, Element::Bf16), 21)?;
            elementwise::cast(gpu, (y, Element::Bf16), (back, Element::F32), 21)
        }
    });
    let expected = noise(&[3, 7], 1, Element::Bf16);
    assert_close(&rounded, &expected, Element::F32, 0.0, "rounded values");
    assert_close(&back, &expected, Element::F32, 0.0, "rounded values in the wider type");
}

#[test]
fn max_pooling_agrees() {
    for element in ELEMENTS {
        for (side, stride, padding) in
            [(2, 2, 0), (3, 2, 0), (3, 1, 0), (2, 3, 0), (3, 2, 1), (3, 1, 1), (2, 2, 1), (5, 1, 2)]
        {
            let shape = [2, 7, 9, 5];
            // Whole numbers, so that many are equal.
            let x = (noise(&shape, 1, Element::F32) * 2.0).unwrap().round().unwrap();
            let window = Window::new(side, stride, padding);
            let y = max_pool(&x, window).unwrap();
            let [batch, rows, columns, channels] = <[usize; 4]>::try_from(y.dims()).unwrap();
            let windows = Windows { side, stride, padding, rows, columns };
            let [found] = run([(&[batch, rows, columns, channels], element)], |gpu, [y]| {
                let (_memory, [x]) = put(gpu, [(&x, element)]);
                // SAFETY: memory of the sizes that are said.
                unsafe { images(shape, element).max_pool(gpu, x, windows, y) }
            });
            assert_close(&found, &y, Element::F32, 0.0, "max pooling");
            let grad = noise(y.dims(), 2, element);
            let [found] = run([(&shape, element)], |gpu, [to]| {
                let (_memory, from) = put(gpu, [(&x, element), (&grad, element)]);
                // SAFETY: memory of the sizes that are said.
                unsafe { images(shape, element).max_pool_gradient(gpu, from.into(), windows, to) }
            });
            assert_close(
                &found,
                &max_pool_gradient(&x, &grad, window).unwrap(),
                element,
                1e-6,
                "max pooling's gradient",
            );
        }
    }
}

#[test]
fn the_loss_agrees() {
    for (batch, classes) in [(1, 1), (3, 10), (5, 300), (300, 7), (300, 40), (5, 3000)] {
        let logits = (floats(&[batch, classes], 1) * 4.0).unwrap();
        let labels: Vec<u32> = (0..batch).map(|at| (at * 5 % classes) as u32).collect();
        let of = |labels: &[u32]| {
            run(
                [(&[], Element::F32), (&[], Element::F32), (&[batch, classes], Element::F32)],
                |gpu, [mean, correct, gradient]| {
                    let (_memory, [logits]) = put(gpu, [(&logits, Element::F32)]);
                    let labels =
                        gpu.put_bytes(&labels.iter().flat_map(|label| label.to_ne_bytes()).collect::<Vec<u8>>());
                    let to = LossPointers { mean, correct, gradient };
                    // SAFETY: memory of the sizes that are said.
                    unsafe { learning::cross_entropy(gpu, (logits, gpu.pointer(&labels)), (batch, classes), to) }
                },
            )
        };
        let expected = cross_entropy(&logits, &Tensor::new(&labels[..], &Device::Cpu).unwrap()).unwrap();
        let [mean, correct, gradient] = of(&labels);
        assert_close(&mean, &expected.mean, Element::F32, 1e-5, "loss");
        assert_close(&correct, &expected.correct, Element::F32, 0.0, "correct answers");
        assert_close(&gradient, &expected.gradient, Element::F32, 1e-5, "gradient of the loss");
        let mut wrong = labels.clone();
        wrong[0] = classes as u32;
        assert!(of(&wrong)[0].to_scalar::<f32>().unwrap().is_nan(), "a label that is no class");
    }
}

#[test]
fn updates_from_gradients_in_the_order_of_convolutions_agree() {
    for (weights, element) in [
        (Weights { outputs: 3, inputs: 5, kernel: 3 }, Element::F32),
        (Weights { outputs: 16, inputs: 8, kernel: 3 }, Element::Bf16),
        (Weights { outputs: 8, inputs: 24, kernel: 1 }, Element::Bf16),
    ] {
        let shape = [weights.outputs, weights.inputs, weights.kernel, weights.kernel];
        let [weight, velocity] = [1, 2].map(|seed| floats(&shape, seed));
        let gradient = noise(&shape, 3, element);
        let [own, moved] = [&weight, &velocity].map(|tensor| Var::from_tensor(tensor).unwrap());
        descend(&[(&own, &moved, &gradient)], Descent { rate: 0.1, momentum: 0.9, weight_decay: 1e-2 }).unwrap();
        let gpu = Emulator::new();
        let packed = to_nhwc(&gradient).unwrap();
        let (memory, pointers) = put(&gpu, [(&weight, Element::F32), (&velocity, Element::F32), (&packed, element)]);
        let of = Moved { pointers, values: weights.values(), packed: Some((weights, element)) };
        // SAFETY: memory of the sizes that are said.
        unsafe { learning::descend(&gpu, &[of], &Step { rate: 0.1, momentum: 0.9, decay: 1e-2 }) }.unwrap();
        assert_close(&gpu.get(&memory[0], Element::F32, &shape), &own, Element::F32, 1e-6, "weights");
        assert_close(&gpu.get(&memory[1], Element::F32, &shape), &moved, Element::F32, 1e-6, "velocity");
    }
}

fn plain(pointers: [Pointer; 3], values: usize) -> Moved {
    Moved { pointers, values, packed: None }
}

#[test]
fn updates_agree() {
    for values in [1, 255, 256, 1000] {
        let [weight, velocity, gradient, new] = [1, 2, 3, 4].map(|seed| floats(&[values], seed));
        let [own, moved] = [&weight, &velocity].map(|tensor| Var::from_tensor(tensor).unwrap());
        descend(&[(&own, &moved, &gradient)], Descent { rate: 0.1, momentum: 0.9, weight_decay: 1e-2 }).unwrap();
        let gpu = Emulator::new();
        let step = Step { rate: 0.1, momentum: 0.9, decay: 1e-2 };
        // Alone, and as the longest or the shortest of as many as there is room for.
        for others in [0, learning::AT_ONCE - 1] {
            let sizes: Vec<usize> = (0..others).map(|at| if at == 3 { 300 } else { at + 1 }).collect();
            let three = [&weight, &velocity, &gradient].map(|tensor| (tensor, Element::F32));
            let (memory, pointers) = put(&gpu, three);
            let filled = |size: usize| {
                let x = floats(&[size], 9);
                put(&gpu, [&x; 3].map(|tensor| (tensor, Element::F32)))
            };
            let beside: Vec<_> = sizes.iter().map(|&size| filled(size)).collect();
            let mut all: Vec<_> =
                sizes.iter().zip(&beside).map(|(&size, (_, pointers))| plain(*pointers, size)).collect();
            all.insert(others / 2, plain(pointers, values));
            // SAFETY: memory of the sizes that are said.
            unsafe { learning::descend(&gpu, &all, &step) }.unwrap();
            assert_close(&gpu.get(&memory[0], Element::F32, &[values]), &own, Element::F32, 1e-6, "weights");
            assert_close(&gpu.get(&memory[1], Element::F32, &[values]), &moved, Element::F32, 1e-6, "velocity");
            for (&size, (memory, _)) in sizes.iter().zip(&beside) {
                let x = floats(&[size], 9);
                let [own, moved] = [&x; 2].map(|x| Var::from_tensor(&x.copy().unwrap()).unwrap());
                descend(&[(&own, &moved, &x)], Descent { rate: 0.1, momentum: 0.9, weight_decay: 1e-2 }).unwrap();
                assert_close(&gpu.get(&memory[0], Element::F32, &[size]), &own, Element::F32, 1e-6, "others");
            }
        }

        let sums = [&weight, &velocity].map(|tensor| Var::from_tensor(&tensor.copy().unwrap()).unwrap());
        accumulate(sums.each_ref(), [&new, &gradient], [0.1, 1.5]).unwrap();
        let four = [&weight, &velocity, &new, &gradient].map(|tensor| (tensor, Element::F32));
        let (memory, [first, second, of_first, of_second]) = put(&gpu, four);
        // SAFETY: memory of the sizes that are said.
        unsafe { normalise::blend(&gpu, [first, second], [of_first, of_second], values, (1.0, [0.1, 1.5])) }.unwrap();
        for (memory, sum) in memory.iter().zip(&sums) {
            assert_close(&gpu.get(memory, Element::F32, &[values]), sum, Element::F32, 1e-6, "sums");
        }
    }
}
