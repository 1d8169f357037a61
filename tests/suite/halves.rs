//! Feature maps in bf16 on the CPU: every operation against what it is in f64 of the same rounded values, whole steps, and
//! runs that are killed.

use crate::operations::{assert_near, noise, single};
use crate::space::Space;
use crate::training_step::under;
use candle_core::{DType, Device, Tensor};
use greedy::network::{Network, Noise};
use greedy::ops::*;
use greedy::pipeline::Recipe;
use greedy::random::{Purpose, Stream};
use proptest::prelude::*;
use std::slice::from_ref;

/// What a result in bf16 may be off by, relative to its root mean square: half of its last digit, of 8.
const ROUNDED: f64 = 1.0 / 256.0;
/// The same of sums in f32.
const SUMS: f64 = 1e-5;

/// Values that bf16 has, in f64, and as they are in bf16.
fn halves(shape: &[usize], seed: u64) -> (Tensor, Tensor) {
    let own = noise(shape, seed).to_dtype(DType::BF16).unwrap();
    (double(&own), own)
}

fn double(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F64).unwrap()
}

/// Compares a convolution and its gradients with those of candle in f64; weights are rounded before they are multiplied.
fn check_convolution(shape: &[usize], outputs: usize, window: Window, relu: bool, seed: u64) {
    let ((x, own_x), kernel) = (halves(shape, seed), window.kernel);
    let (rounded, _) = halves(&[outputs, shape[3], kernel, kernel], seed ^ 1);
    let bias = double(&single(&noise(&[outputs], seed ^ 2)));
    // Weights that are no more than a fifth of their last digit away from the rounded ones.
    let weight = single(&(&rounded * (1.0 + 0.2 / 256.0)).unwrap());
    let activation = if relu { Activation::Relu } else { Activation::Identity };
    let what = format!("convolution of {shape:?} to {outputs} with {window:?}");
    let y = convolution(&own_x, &weight, Some(&single(&bias)), window, activation).unwrap();
    assert_eq!(y.dtype(), DType::BF16);
    let expected = convolution(&x, &rounded, Some(&bias), window, activation).unwrap();
    assert_near(&[y], from_ref(&expected), ROUNDED, &what);
    let (grad, own_grad) = halves(expected.dims(), 99);
    let found = weight_gradient(&own_x, &own_grad, window).unwrap();
    assert_eq!(found.dtype(), DType::F32);
    assert_near(&[found], &[weight_gradient(&x, &grad, window).unwrap()], SUMS, &what);
    let size = (shape[1], shape[2]);
    let found = input_gradient(&weight, &own_grad, window, size).unwrap();
    assert_near(&[found], &[input_gradient(&rounded, &grad, window, size).unwrap()], ROUNDED, &what);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn tiled_convolution_agrees_with_double_precision(
        batch in 1usize..4, inputs in 1usize..40, outputs in 1usize..40, height in 1usize..20, width in 1usize..20,
        relu in any::<bool>(), seed in any::<u64>(),
    ) {
        check_convolution(&[batch, height, width, inputs], outputs, Window::new(3, 1, 1), relu, seed);
    }

    #[test]
    fn other_convolutions_agree_with_double_precision(
        batch in 1usize..4, inputs in 1usize..20, outputs in 1usize..20, height in 5usize..12, width in 5usize..12,
        kernel in 1usize..6, stride in 1usize..4, padding in 0usize..5, relu in any::<bool>(), seed in any::<u64>(),
    ) {
        prop_assume!(padding < kernel);
        check_convolution(&[batch, height, width, inputs], outputs, Window::new(kernel, stride, padding), relu, seed);
    }

    #[test]
    fn batch_norm_agrees_with_double_precision(
        batch in 1usize..6, channels in 1usize..40, size in 2usize..7, relu in any::<bool>(), seed in any::<u64>(),
    ) {
        let (x, own_x) = halves(&[batch, size, size, channels], seed);
        let (grad, own_grad) = halves(x.dims(), 99);
        let [gamma, beta] = [1, 2].map(|at| double(&single(&noise(&[channels], seed ^ at))));
        let [own_gamma, own_beta] = [&gamma, &beta].map(single);
        let activation = if relu { Activation::Relu } else { Activation::Identity };
        let norm = BatchNorm { gamma: &gamma, beta: &beta, epsilon: 1e-3, activation };
        let own = BatchNorm { gamma: &own_gamma, beta: &own_beta, ..norm };
        let ((expected, by), (y, statistics)) = (norm.forward(&x).unwrap(), own.forward(&own_x).unwrap());
        assert_near(&[y], from_ref(&expected), ROUNDED, "batch norm");
        assert_near(&[statistics.mean.clone(), statistics.variance.clone()], &[by.mean.clone(), by.variance.clone()], SUMS, "statistics");
        // On which side of zero a result lies that is hardly any is left open.
        prop_assume!(!relu || double(&expected).abs().unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
            .iter().all(|value| *value == 0.0 || *value > 1e-4));
        let expected = norm.gradients(&x, &by, &grad).unwrap();
        let found = own.gradients(&own_x, &statistics, &own_grad).unwrap();
        assert_near(&[found.x], &[expected.x], ROUNDED, "batch norm, gradient of the input");
        assert_near(&[found.gamma, found.beta], &[expected.gamma, expected.beta], 1e-4, "batch norm, gradients of gain and shift");
    }
}

#[test]
fn wide_and_deep_convolutions_agree_with_double_precision() {
    check_convolution(&[1, 13, 210, 5], 7, Window::new(3, 1, 1), false, 1);
    check_convolution(&[3, 8, 8, 300], 260, Window::new(3, 1, 1), true, 2);
    check_convolution(&[1, 96, 90, 40], 3, Window::new(5, 1, 2), false, 3);
    check_convolution(&[2, 63, 63, 3], 20, Window::new(11, 4, 2), true, 4);
}

#[test]
fn what_lies_between_convolutions_agrees_with_double_precision() {
    let ((x, own_x), (grad, own_grad)) = (halves(&[3, 6, 10, 5], 1), halves(&[3, 6, 10, 5], 2));
    let near = |found: Tensor, expected: Tensor, what: &str| assert_near(&[found], &[expected], ROUNDED, what);
    let sums = |found: Tensor, expected: Tensor, what: &str| {
        assert_eq!(found.dtype(), DType::F32, "{what}");
        assert_near(&[found], &[expected], SUMS, what);
    };
    let same = |found: Tensor, expected: Tensor, what: &str| assert_near(&[found], &[expected], 0.0, what);
    same(relu(&own_x).unwrap(), relu(&x).unwrap(), "ReLU");
    same(relu_gradient(&own_x, &own_grad).unwrap(), relu_gradient(&x, &grad).unwrap(), "gradient of ReLU");
    sums(bias_gradient(&own_grad).unwrap(), bias_gradient(&grad).unwrap(), "gradient of a bias");
    let row = |tensor: &Tensor| tensor.reshape((18, 50)).unwrap();
    sums(bias_gradient(&row(&own_grad)).unwrap(), bias_gradient(&row(&grad)).unwrap(), "gradient of a bias, of rows");
    same(space_to_depth(&own_x).unwrap(), space_to_depth(&x).unwrap(), "space-to-depth");
    let deep = |tensor: &Tensor| space_to_depth(tensor).unwrap();
    same(depth_to_space(&deep(&own_x)).unwrap(), x.clone(), "depth-to-space");
    for window in [Window::new(2, 2, 0), Window::new(3, 2, 1), Window::new(3, 1, 1)] {
        let (y, expected) = (max_pool(&own_x, window).unwrap(), max_pool(&x, window).unwrap());
        let (grad, own_grad) = halves(expected.dims(), 3);
        same(y, expected, "max pooling");
        let found = max_pool_gradient(&own_x, &own_grad, window).unwrap();
        near(found, max_pool_gradient(&x, &grad, window).unwrap(), "gradient of max pooling");
    }
    for side in [1, 2, 4] {
        sums(pool(&own_x, side).unwrap(), pool(&x, side).unwrap(), "average pooling");
        let grad = double(&single(&noise(&[3, side, side, 5], 4)));
        let found = pool_gradient(&single(&grad), (6, 10), DType::BF16).unwrap();
        near(found, pool_gradient(&grad, (6, 10), DType::F64).unwrap(), "gradient of average pooling");
    }
    let seeds = [7, 8, 9];
    near(dropout(&own_x, 0.3, &seeds).unwrap(), dropout(&x, 0.3, &seeds).unwrap(), "dropout");
    let [scale, shift] = [5, 6].map(|seed| double(&single(&noise(&[5], seed))));
    let found = affine(&own_x, &single(&scale), &single(&shift)).unwrap();
    near(found, affine(&x, &scale, &shift).unwrap(), "scale and shift");
    same(cast(&own_x, DType::F32).unwrap(), x.clone(), "to f32");
    let wide = single(&noise(&[40_000], 7));
    same(cast(&wide, DType::BF16).unwrap(), double(&wide.to_dtype(DType::BF16).unwrap()), "to bf16");
    let offsets = Tensor::new(&[[0u32, 1], [2, 3], [1, 0]], &Device::Cpu).unwrap();
    let found = cut(&own_x, &offsets, 4).unwrap();
    same(found, double(&cut(&single(&x), &offsets, 4).unwrap()), "a crop");
}

#[test]
fn numbers_that_are_hard_to_round_are_rounded_to_the_nearest() {
    let hard = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN];
    let ties = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x0000_8000, 0x0000_0001, 0x8000_0000, 0x7f7f_8000];
    let all: Vec<f32> = hard.into_iter().chain(ties.map(f32::from_bits)).collect();
    let wide = Tensor::new(all.as_slice(), &Device::Cpu).unwrap();
    let found: Vec<half::bf16> = cast(&wide, DType::BF16).unwrap().to_vec1().unwrap();
    for (found, value) in found.into_iter().zip(all) {
        let expected = half::bf16::from_f32(value);
        assert!(found == expected || found.is_nan() && expected.is_nan(), "{value}: {found}, not {expected}");
        assert_eq!(found.is_sign_negative(), value.is_sign_negative());
    }
}

#[test]
fn what_is_not_a_number_stays_so_in_16_bits() {
    let x = Tensor::full(half::bf16::NAN, (1, 4, 4, 2), &Device::Cpu).unwrap();
    let all_nan = |tensor: &Tensor| {
        let values: Vec<f32> = single(tensor).flatten_all().unwrap().to_vec1().unwrap();
        values.iter().all(|value| value.is_nan())
    };
    let weight = single(&noise(&[3, 2, 3, 3], 1));
    assert!(all_nan(&convolution(&x, &weight, None, Window::new(3, 1, 1), Activation::Relu).unwrap()));
    assert!(all_nan(&relu(&x).unwrap()) && all_nan(&max_pool(&x, Window::new(2, 2, 0)).unwrap()));
    let one = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
    let norm = BatchNorm { gamma: &one, beta: &one, epsilon: 1e-5, activation: Activation::Relu };
    let (y, statistics) = norm.forward(&x).unwrap();
    assert!(all_nan(&y) && all_nan(&statistics.mean) && all_nan(&statistics.variance));
}

/// How far off a tensor is, relative to the root mean square of what it should be.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    let mean_square = |tensor: Tensor| tensor.sqr().unwrap().mean_all().unwrap().to_scalar::<f64>().unwrap();
    (mean_square((double(found) - expected).unwrap()) / mean_square(expected.clone())).sqrt()
}

/// Gradients in 16 bits are as near to those in f64 as PyTorch's are, whose maps are rounded at the same places.
#[test]
fn gradients_of_whole_stages_are_as_exact_as_those_of_pytorch() {
    let theirs = crate::operations::fixture("halves");
    for (k, batch_norm) in [(1, true), (2, true), (3, true), (3, false)] {
        let name = format!("step_k{k}_{}", if batch_norm { "bn" } else { "plain" });
        let all = crate::operations::fixture(&name);
        let mut rng = Stream::new(Purpose::Weights, 0, (1, 0));
        let pipeline: Recipe = crate::training_step::pipeline(k, batch_norm);
        let network = Network::of_stage(&pipeline.stages[0], 5, (pipeline.init, &mut rng, &Device::Cpu)).unwrap();
        let variables = network.variables();
        variables.set(&under(&all, "before."), "fixture").unwrap();
        let x = cast(&to_nhwc(&all["x"]).unwrap(), DType::BF16).unwrap();
        let labels = all["labels"].to_dtype(DType::U32).unwrap();
        let samples: Vec<u32> = (0..labels.elem_count() as u32).collect();
        let (logits, pass) = network.train(&x, &Noise::new(0, (1, 0), &samples)).unwrap();
        assert_near(from_ref(&logits), &[double(&all["logits"])], 0.03, &name);
        let loss = cross_entropy(&logits, &labels).unwrap();
        let gradients = network.gradients(pass, &loss.gradient).unwrap();
        for (parameter, variable) in variables.parameters() {
            let expected = &all[&format!("grad.{parameter}")];
            // Some are sums that cancel: nothing but rounding.
            let largest = |tensor: &Tensor| tensor.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            if largest(expected) > 1e-4 {
                let (found, expected) = (gradients.get(variable).unwrap(), double(expected));
                assert_eq!(found.dtype(), DType::F32);
                let [own, other] =
                    [found, &theirs[&format!("{name}.{parameter}")]].map(|found| error(found, &expected));
                assert!(own < 1.5 * other + 0.01, "{name} {parameter}: {own:.3}, PyTorch {other:.3}");
            }
        }
    }
}

#[test]
fn a_run_in_16_bits_gives_the_same_bytes_again_and_can_be_looked_at() {
    let space = Space::new();
    let run =
        |cache: &str| space.run(&format!("run small.toml --cache {cache} --set training.precision=bf16 --json")).ok();
    let own = run("first").json()["stages"][1]["accuracy"].as_f64().unwrap();
    run("second");
    space.same_results("second", &space.results("first"), "a second run");
    space.run("verify first").ok();
    let evaluated = space.run("evaluate first/stage2 --json").ok().json()["stages"][1]["accuracy"].as_f64().unwrap();
    // Features that are cached are rounded once more.
    assert!((evaluated - own).abs() <= 3.0, "{evaluated} {own}");
}

#[test]
fn linear_layers_agree_with_double_precision() {
    let ((x, own_x), (grad, own_grad)) = (halves(&[9, 33], 1), halves(&[9, 7], 2));
    let (rounded, _) = halves(&[7, 33], 3);
    let (weight, bias) = (single(&(&rounded * (1.0 + 0.2 / 256.0)).unwrap()), single(&noise(&[7], 4)));
    let near = |found: Tensor, expected: Tensor, what: &str| assert_near(&[found], &[expected], ROUNDED, what);
    near(linear(&own_x, &weight, &bias).unwrap(), linear(&x, &rounded, &double(&bias)).unwrap(), "linear");
    let found = linear_input_gradient(&weight, &own_grad).unwrap();
    near(found, linear_input_gradient(&rounded, &grad).unwrap(), "gradient of the input");
    let found = linear_weight_gradient(&own_x, &own_grad).unwrap();
    assert_eq!(found.dtype(), DType::F32);
    assert_near(&[found], &[linear_weight_gradient(&x, &grad).unwrap()], SUMS, "gradient of the weights");
}
