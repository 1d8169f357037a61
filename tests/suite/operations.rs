//! Every tensor operation agrees with PyTorch's figures, and with candle's own slow path on random shapes.

use candle_core::{DType, Device, Result, Tensor, Var};
use greedy::ops::*;
use greedy::random::{Purpose, Stream};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

/// The window of most convolutions.
const USUAL: Window = Window::new(3, 1, 1);

/// The tensors of a fixture file.
pub fn fixture(name: &str) -> HashMap<String, Tensor> {
    let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Fails unless all values agree within `tolerance` of the larger of 1 and the reference's largest value.
#[track_caller]
pub fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let values = |tensor: &Tensor| -> Vec<f64> {
        tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let (found, expected) = (values(found), values(expected));
    let scale = expected.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * scale, "{what}: value {at} is {found}, not {expected}");
    }
}

/// The names of the cases of a fixture file.
pub fn cases(all: &HashMap<String, Tensor>) -> BTreeSet<&str> {
    all.keys().filter_map(|name| name.split_once('.').map(|(case, _)| case)).collect()
}

#[test]
fn convolution_agrees_with_pytorch() {
    let all = fixture("conv");
    for case in cases(&all) {
        let get = |name: &str| all.get(&format!("{case}.{name}"));
        let (x, w, b) = (to_nhwc(&all[&format!("{case}.x")]).unwrap(), get("w").unwrap(), get("b"));
        let (size, out) = (x.dim(2).unwrap(), get("y").unwrap().dim(3).unwrap());
        let kernel = w.dim(2).unwrap();
        let window = Window::new(kernel, 1, (out + kernel - 1 - size) / 2);
        let y = convolution(&x, w, b, window, Activation::Identity).unwrap();
        assert_close(&to_nchw(&y).unwrap(), get("y").unwrap(), 1e-5, case);
        let grad = to_nhwc(get("grad_y").unwrap()).unwrap();
        let found = input_gradient(w, &grad, window, (x.dim(1).unwrap(), size)).unwrap();
        assert_close(&to_nchw(&found).unwrap(), get("grad_x").unwrap(), 1e-5, &format!("{case} gradient of x"));
        let found = weight_gradient(&x, &grad, window).unwrap();
        assert_close(&found, get("grad_w").unwrap(), 1e-5, &format!("{case} gradient of w"));
        if b.is_some() {
            let everywhere = Tensor::ones_like(&y).unwrap();
            let (passed, found) = bias_relu_gradients(&everywhere, &grad).unwrap();
            assert_close(&found, get("grad_b").unwrap(), 1e-5, &format!("{case} gradient of b"));
            assert_close(&passed, &grad, 0.0, case);
        }
    }
}

#[test]
fn an_impossible_convolution_is_an_error() {
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let of = |x: &[usize], w: &[usize], padding| {
        convolution(&ones(x), &ones(w), None, Window::new(3, 1, padding), Activation::Relu)
    };
    assert!(of(&[1, 4, 4, 2], &[3, 1, 3, 3], 1).is_err());
    assert!(of(&[1, 1, 1, 2], &[3, 2, 3, 3], 0).is_err());
    assert!(of(&[1, 4, 4, 2], &[3, 2, 3, 3], 3).is_err());
    assert!(weight_gradient(&ones(&[1, 4, 4, 2]), &ones(&[1, 5, 4, 3]), USUAL).is_err());
    assert!(input_gradient(&ones(&[3, 2, 3, 3]), &ones(&[1, 4, 4, 4]), USUAL, (4, 4)).is_err());
    let bias = ones(&[2]);
    assert!(convolution(&ones(&[1, 4, 4, 2]), &ones(&[3, 2, 3, 3]), Some(&bias), USUAL, Activation::Relu).is_err());
}

#[test]
fn what_is_empty_is_an_error() {
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let of = |x: &[usize], w: &[usize]| convolution(&ones(x), &ones(w), None, USUAL, Activation::Relu);
    assert!(of(&[1, 4, 4, 0], &[16, 0, 3, 3]).is_err());
    assert!(of(&[1, 4, 4, 3], &[0, 3, 3, 3]).is_err());
    assert_eq!(of(&[0, 4, 4, 3], &[2, 3, 3, 3]).unwrap().dims(), [0, 4, 4, 2]);
    assert!(input_gradient(&ones(&[0, 3, 3, 3]), &ones(&[1, 4, 4, 0]), USUAL, (4, 4)).is_err());
    assert!(pool(&ones(&[1, 0, 4, 3]), 2).is_err());
    let two = ones(&[2]);
    let norm = BatchNorm { gamma: &two, beta: &two, epsilon: 1e-5, activation: Activation::Relu };
    assert!(norm.forward(&ones(&[0, 4, 4, 2])).is_err());
    let three = BatchStatistics { mean: ones(&[3]), variance: ones(&[3]) };
    assert!(norm.gradients(&ones(&[1, 4, 4, 2]), &three, &ones(&[1, 4, 4, 2])).is_err());
}

#[test]
fn batch_norm_agrees_with_pytorch() {
    let all = fixture("batch_norm");
    for case in cases(&all) {
        let get = |name: &str| &all[&format!("{case}.{name}")];
        let x = to_nhwc(get("x")).unwrap();
        let activation = if case.ends_with("relu") { Activation::Relu } else { Activation::Identity };
        let norm = BatchNorm { gamma: get("gamma"), beta: get("beta"), epsilon: 1e-5, activation };
        let running = ["running_mean_before", "running_var_before"].map(|name| Var::from_tensor(get(name)).unwrap());
        let (y, statistics) = norm.train(&x, running.each_ref(), 0.1).unwrap();
        assert_close(&to_nchw(&y).unwrap(), get("y"), 2e-5, case);
        let found = norm.gradients(&x, &statistics, &to_nhwc(get("grad_y")).unwrap()).unwrap();
        assert_close(&to_nchw(&found.x).unwrap(), get("grad_x"), 2e-5, &format!("{case} gradient of x"));
        assert_close(&found.gamma, get("grad_gamma"), 2e-5, &format!("{case} gradient of gamma"));
        assert_close(&found.beta, get("grad_beta"), 2e-5, &format!("{case} gradient of beta"));
        let [mean, variance] = &running;
        assert_close(mean, get("running_mean_after"), 1e-6, &format!("{case} mean"));
        assert_close(variance, get("running_var_after"), 1e-5, &format!("{case} variance"));
    }
}

#[test]
fn pooling_agrees_with_pytorch() {
    let all = fixture("pool");
    for case in cases(&all) {
        let get = |name: &str| &all[&format!("{case}.{name}")];
        let x = to_nhwc(get("x")).unwrap();
        let y = pool(&x, 2).unwrap();
        assert_close(&to_nchw(&y).unwrap(), get("y"), 1e-6, case);
        let (height, width) = (x.dim(1).unwrap(), x.dim(2).unwrap());
        let found = pool_gradient(&to_nhwc(get("grad_y")).unwrap(), (height, width), DType::F32).unwrap();
        assert_close(&to_nchw(&found).unwrap(), get("grad_x"), 1e-6, case);
    }
}

#[test]
fn max_pooling_agrees_with_pytorch() {
    let all = fixture("max_pool");
    for case in cases(&all) {
        let get = |name: &str| &all[&format!("{case}.{name}")];
        let numbers: Vec<usize> = case.split('_').take(3).map(|number| number.parse().unwrap()).collect();
        let window = Window::new(numbers[0], numbers[1], numbers[2]);
        let x = to_nhwc(get("x")).unwrap();
        assert_close(&to_nchw(&max_pool(&x, window).unwrap()).unwrap(), get("y"), 0.0, case);
        let found = max_pool_gradient(&x, &to_nhwc(get("grad_y")).unwrap(), window).unwrap();
        assert_close(&to_nchw(&found).unwrap(), get("grad_x"), 1e-6, case);
    }
    let narrow = Tensor::ones((1, 2, 4, 1), DType::F32, &Device::Cpu).unwrap();
    assert!(max_pool(&narrow, Window::new(3, 1, 0)).is_err());
}

#[test]
fn space_to_depth_agrees_with_pytorch() {
    let all = fixture("space_to_depth");
    for case in cases(&all) {
        let y = space_to_depth(&to_nhwc(&all[&format!("{case}.x")]).unwrap()).unwrap();
        assert_close(&to_nchw(&y).unwrap(), &all[&format!("{case}.y")], 0.0, case);
    }
    assert!(space_to_depth(&Tensor::ones((1, 3, 4, 1), DType::F32, &Device::Cpu).unwrap()).is_err());
}

#[test]
fn cross_entropy_agrees_with_pytorch() {
    let all = fixture("cross_entropy");
    for case in cases(&all) {
        let get = |name: &str| &all[&format!("{case}.{name}")];
        let labels = get("labels").to_dtype(DType::U32).unwrap();
        let loss = cross_entropy(get("logits"), &labels).unwrap();
        assert_close(&loss.mean.reshape(1).unwrap(), get("loss"), 1e-6, case);
        assert_close(&loss.gradient, get("grad_logits"), 1e-6, case);
    }
    let logits = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(cross_entropy(&logits, &Tensor::new(&[0u32, 3], &Device::Cpu).unwrap()).is_err());
}

/// Random values with a fixed seed.
pub fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Stream::new(Purpose::Weights, seed, (0, 0));
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The result of a function of tensors and its gradients, by candle's backward pass, for a given gradient of the result.
fn by_candle(inputs: &[Tensor], grad: &Tensor, f: impl Fn(&[Var]) -> Result<Tensor>) -> Vec<Tensor> {
    let variables: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let y = f(&variables).unwrap();
    let store = (&y * grad).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![y];
    all.extend(variables.iter().map(|variable| store.get(variable).unwrap().clone()));
    all
}

/// Fails unless each tensor agrees with its reference in double precision, by the root mean square of the difference
/// relative to that of the reference.
#[track_caller]
pub fn assert_near(found: &[Tensor], expected: &[Tensor], tolerance: f64, what: &str) {
    let mean_square = |tensor: &Tensor| -> f64 {
        tensor.to_dtype(DType::F64).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar().unwrap()
    };
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.dims(), expected.dims(), "{what}, tensor {at}");
        let difference = (found.to_dtype(DType::F64).unwrap() - expected).unwrap();
        let error = (mean_square(&difference) / mean_square(expected).max(1e-12)).sqrt();
        assert!(error <= tolerance, "{what}, tensor {at}: relative error {error:.1e}");
    }
}

/// In single precision.
pub fn single(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F32).unwrap()
}

/// The convolution's result, bias gradient included, and its gradients, against candle's in double precision.
pub fn check_convolution(x: &[usize], outputs: usize, window: Window, relu: bool, seed: u64, tolerance: f64) {
    let Window { kernel, stride, padding } = window;
    let (x, w) = (noise(x, seed), noise(&[outputs, x[3], kernel, kernel], seed ^ 1));
    let b = noise(&[outputs], seed ^ 2);
    let activation = if relu { Activation::Relu } else { Activation::Identity };
    let reference = |v: &[Var]| {
        // Cut to what the windows reach, which candle's gradient of strides needs.
        let side = |x: Tensor, dim: usize| {
            let reached = (window.output(x.dim(dim)?).unwrap() - 1) * stride + kernel;
            x.pad_with_zeros(dim, padding, padding)?.narrow(dim, 0, reached)?.contiguous()
        };
        let y = side(side(to_nchw(&v[0])?, 2)?, 3)?.conv2d(&v[1], 0, stride, 1, 1)?;
        let y = to_nhwc(&y)?.broadcast_add(&v[2])?;
        if relu { y.relu() } else { Ok(y) }
    };
    let y = convolution(&single(&x), &single(&w), Some(&single(&b)), window, activation).unwrap();
    let grad = noise(y.dims(), 99);
    let expected = by_candle(&[x.clone(), w.clone(), b], &grad, reference);
    let passing = if relu { y.clone() } else { y.ones_like().unwrap() };
    let (passed, bias_grad) = bias_relu_gradients(&passing, &single(&grad)).unwrap();
    let x_grad = input_gradient(&single(&w), &passed, window, (x.dim(1).unwrap(), x.dim(2).unwrap())).unwrap();
    let w_grad = weight_gradient(&single(&x), &passed, window).unwrap();
    let what = format!("convolution of {:?} with {:?} and {window:?}", x.dims(), w.dims());
    assert_near(&[y, x_grad, w_grad, bias_grad], &expected, tolerance, &what);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn tiled_convolution_agrees_with_candle_in_double_precision(
        batch in 1usize..4, inputs in 1usize..40, outputs in 1usize..40, height in 1usize..20, width in 1usize..20,
        seed in any::<u64>(),
    ) {
        check_convolution(&[batch, height, width, inputs], outputs, USUAL, false, seed, 1e-5);
    }

    #[test]
    fn unfolded_convolution_agrees_with_candle_in_double_precision(
        batch in 1usize..4, inputs in 1usize..20, outputs in 1usize..20, height in 5usize..12, width in 5usize..12,
        kernel in 1usize..6, stride in 1usize..4, padding in 0usize..5, relu in any::<bool>(), seed in any::<u64>(),
    ) {
        prop_assume!(padding < kernel && (kernel, stride, padding) != (3, 1, 1));
        check_convolution(&[batch, height, width, inputs], outputs, Window::new(kernel, stride, padding), relu, seed, 1e-5);
    }

    #[test]
    fn batch_norm_agrees_with_candle_in_double_precision(
        batch in 1usize..6, channels in 1usize..40, height in 1usize..7, width in 1usize..7, seed in any::<u64>(),
    ) {
        // A single value a channel has no variance: its gradient is a rounding error times 1 / sqrt(epsilon).
        prop_assume!(batch * height * width > 2);
        let tensors = [noise(&[batch, height, width, channels], seed), noise(&[channels], seed ^ 1), noise(&[channels], seed ^ 2)];
        let grad = noise(tensors[0].dims(), 99);
        let expected = by_candle(&tensors, &grad, |v| {
            let centred = v[0].broadcast_sub(&v[0].mean_keepdim((0, 1, 2))?)?;
            let deviation = (centred.sqr()?.mean_keepdim((0, 1, 2))? + 1e-3)?.sqrt()?;
            centred.broadcast_div(&deviation)?.broadcast_mul(&v[1])?.broadcast_add(&v[2])
        });
        let [x, gamma, beta] = tensors.map(|tensor| single(&tensor));
        let norm = BatchNorm { gamma: &gamma, beta: &beta, epsilon: 1e-3, activation: Activation::Identity };
        let (y, statistics) = norm.forward(&x).unwrap();
        let found = norm.gradients(&x, &statistics, &single(&grad)).unwrap();
        assert_near(&[y, found.x, found.gamma, found.beta], &expected, 1e-4, "batch norm");
    }
}

#[test]
fn wide_and_deep_convolutions_agree_with_candle_in_double_precision() {
    // Rows of tiles that are longer than a part, several parts an image, and several images a part.
    check_convolution(&[1, 13, 210, 5], 7, USUAL, false, 1, 1e-5);
    check_convolution(&[2, 40, 36, 33], 18, USUAL, false, 2, 1e-5);
    check_convolution(&[40, 4, 5, 20], 64, USUAL, false, 3, 1e-5);
    check_convolution(&[3, 8, 8, 300], 260, USUAL, false, 4, 1e-5);
    // Shares of the tiles as well as groups of channels.
    let threads = rayon::ThreadPoolBuilder::new().num_threads(16).build().unwrap();
    threads.install(|| check_convolution(&[40, 8, 8, 150], 140, USUAL, false, 6, 1e-5));
    check_convolution(&[1, 96, 90, 40], 3, Window::new(5, 1, 2), false, 5, 1e-5);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let (x, w, grad) = (noise(&[2, 5, 6, 3], 1), noise(&[4, 3, 3, 3], 2), noise(&[2, 5, 6, 4], 3));
    // The loss is linear in the input and in the weights, so that a difference of any width is exact.
    let loss = |x: &Tensor, w: &Tensor| -> f64 {
        let y = convolution(x, w, None, USUAL, Activation::Identity).unwrap();
        (y * &grad).unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    let slope = |at: usize, of: &Tensor, loss: &dyn Fn(&Tensor) -> f64| {
        let mut values: Vec<f64> = of.flatten_all().unwrap().to_vec1().unwrap();
        values[at] += 1.0;
        loss(&Tensor::from_vec(values, of.shape(), &Device::Cpu).unwrap()) - loss(of)
    };
    let values = |tensor: &Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
    let found = values(&weight_gradient(&single(&x), &single(&grad), USUAL).unwrap());
    for (at, &found) in found.iter().enumerate() {
        assert!((f64::from(found) - slope(at, &w, &|w| loss(&x, w))).abs() < 1e-4, "weight {at}");
    }
    let found = values(&input_gradient(&single(&w), &single(&grad), USUAL, (5, 6)).unwrap());
    for (at, &found) in found.iter().enumerate() {
        assert!((f64::from(found) - slope(at, &x, &|x| loss(x, &w))).abs() < 1e-4, "input {at}");
    }
}

#[test]
fn other_types_are_computed_by_candle_and_agree() {
    let (x, w, grad) = (noise(&[2, 6, 4, 3], 1), noise(&[4, 3, 3, 3], 2), noise(&[2, 6, 4, 4], 3));
    let close = |found: Tensor, expected: Tensor| assert_near(&[single(&found)], &[expected], 1e-5, "fallback");
    close(weight_gradient(&single(&x), &single(&grad), USUAL).unwrap(), weight_gradient(&x, &grad, USUAL).unwrap());
    close(
        input_gradient(&single(&w), &single(&grad), USUAL, (6, 4)).unwrap(),
        input_gradient(&w, &grad, USUAL, (6, 4)).unwrap(),
    );
    close(
        pool_gradient(&single(&grad.narrow(1, 0, 2).unwrap().narrow(2, 0, 2).unwrap()), (5, 7), DType::F32).unwrap(),
        pool_gradient(&grad.narrow(1, 0, 2).unwrap().narrow(2, 0, 2).unwrap(), (5, 7), DType::F64).unwrap(),
    );
    close(space_to_depth(&single(&x)).unwrap(), space_to_depth(&x).unwrap());
    close(pool(&single(&x), 2).unwrap(), pool(&x, 2).unwrap());
    let window = Window::new(2, 2, 0);
    close(max_pool(&single(&x), window).unwrap(), max_pool(&x, window).unwrap());
    let (logits, labels) = (noise(&[4, 7], 5), Tensor::new(&[0u32, 6, 3, 3], &Device::Cpu).unwrap());
    let (ours, theirs) = (cross_entropy(&single(&logits), &labels).unwrap(), cross_entropy(&logits, &labels).unwrap());
    close(ours.mean, theirs.mean);
    close(ours.gradient, theirs.gradient);
    let (gamma, beta) = (noise(&[4], 6), noise(&[4], 7));
    let norm = BatchNorm { gamma: &gamma, beta: &beta, epsilon: 1e-5, activation: Activation::Relu };
    let (gamma, beta) = (single(&gamma), single(&beta));
    let ours = BatchNorm { gamma: &gamma, beta: &beta, ..norm };
    let of = |norm: &BatchNorm<'_>, x: &Tensor, grad: &Tensor| {
        let (y, statistics) = norm.forward(x).unwrap();
        let found = norm.gradients(x, &statistics, grad).unwrap();
        vec![y, found.x, found.gamma, found.beta]
    };
    let x = noise(&[2, 6, 4, 4], 8);
    assert_near(&of(&ours, &single(&x), &single(&grad)), &of(&norm, &x, &grad), 1e-5, "batch norm");
    let [weight, velocity] = [&w, &w].map(|w| (Var::from_tensor(&single(w)).unwrap(), Var::from_tensor(w).unwrap()));
    let settings = Descent { rate: 0.1, momentum: 0.9, weight_decay: 1e-3 };
    descend(&[(&weight.0, &velocity.0, &single(&w))], settings).unwrap();
    descend(&[(&weight.1, &velocity.1, &w)], settings).unwrap();
    close(weight.0.as_detached_tensor(), weight.1.as_detached_tensor());
    close(velocity.0.as_detached_tensor(), velocity.1.as_detached_tensor());
}

#[test]
fn what_is_not_a_number_stays_so() {
    let x = Tensor::full(f32::NAN, (1, 4, 4, 2), &Device::Cpu).unwrap();
    let w = single(&noise(&[3, 2, 3, 3], 1));
    let y: Vec<f32> =
        convolution(&x, &w, None, USUAL, Activation::Relu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert!(y.iter().all(|value| value.is_nan()));
    let one = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
    let norm = BatchNorm { gamma: &one, beta: &one, epsilon: 1e-5, activation: Activation::Relu };
    let (y, statistics) = norm.forward(&x).unwrap();
    let all = [&y.flatten_all().unwrap(), &statistics.mean, &statistics.variance];
    assert!(all.iter().all(|tensor| tensor.to_vec1::<f32>().unwrap().iter().all(|value| value.is_nan())));
    let y = Tensor::full(f32::NAN, (1, 1, 1, 2), &Device::Cpu).unwrap();
    let grad = Tensor::ones((1, 1, 1, 2), DType::F32, &Device::Cpu).unwrap();
    assert_close(&bias_relu_gradients(&y, &grad).unwrap().0, &grad, 0.0, "a gradient is let through, as in PyTorch");
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let (x, w, grad) =
        (single(&noise(&[9, 16, 16, 24], 1)), single(&noise(&[32, 24, 3, 3], 2)), single(&noise(&[9, 16, 16, 32], 3)));
    let run = || {
        let y = convolution(&x, &w, None, USUAL, Activation::Relu).unwrap();
        let gradients =
            [weight_gradient(&x, &grad, USUAL).unwrap(), input_gradient(&w, &grad, USUAL, (16, 16)).unwrap()];
        [&y, &gradients[0], &gradients[1]].map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    let first = run();
    (0..5).for_each(|_| assert!(run() == first));
}
