//! Operations with windows, dropout and linear layers: PyTorch's figures, plain definitions in double precision, and
//! finite differences.

use crate::operations::{assert_close, assert_near, cases, check_convolution, fixture, noise, single};
use candle_core::{DType, Device, Result, Tensor};
use greedy::ops::*;
use proptest::prelude::*;

fn ones(shape: &[usize]) -> Tensor {
    Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Height and width of feature maps.
fn size(x: &Tensor) -> (usize, usize) {
    (x.dim(1).unwrap(), x.dim(2).unwrap())
}

#[test]
fn convolutions_with_any_window_agree_with_pytorch() {
    let all = fixture("windows");
    let cases = cases(&all);
    assert_eq!(cases.len(), 8);
    for case in cases {
        let get = |name: &str| &all[&format!("{case}.{name}")];
        let numbers: Vec<usize> = case.split('_').map(|number| number.parse().unwrap()).collect();
        let window = Window::new(numbers[0], numbers[1], numbers[2]);
        for dtype in [DType::F32, DType::F64] {
            let maps = |name: &str| to_nhwc(&get(name).to_dtype(dtype).unwrap()).unwrap();
            let [w, b] = ["w", "b"].map(|name| get(name).to_dtype(dtype).unwrap());
            let (x, grad) = (maps("x"), maps("grad_y"));
            let y = convolution(&x, &w, Some(&b), window, Activation::Identity).unwrap();
            assert_close(&to_nchw(&y).unwrap(), get("y"), 1e-5, case);
            let found = input_gradient(&w, &grad, window, size(&x)).unwrap();
            assert_close(&to_nchw(&found).unwrap(), get("grad_x"), 1e-5, &format!("{case} gradient of x"));
            let found = weight_gradient(&x, &grad, window).unwrap();
            assert_close(&found, get("grad_w"), 1e-5, &format!("{case} gradient of w"));
            assert_close(&bias_gradient(&grad).unwrap(), get("grad_b"), 1e-5, &format!("{case} gradient of b"));
            let bent = convolution(&x, &w, Some(&b), window, Activation::Relu).unwrap();
            assert_close(&bent, &y.relu().unwrap(), 1e-6, &format!("{case} with a ReLU"));
        }
    }
}

#[test]
fn linear_layers_agree_with_pytorch() {
    let all = fixture("linear");
    for case in cases(&all) {
        for dtype in [DType::F32, DType::F64] {
            let [x, w, b, y, grad] =
                ["x", "w", "b", "y", "grad_y"].map(|name| all[&format!("{case}.{name}")].to_dtype(dtype).unwrap());
            assert_close(&linear(&x, &w, &b).unwrap(), &y, 1e-5, case);
            let close = |found: Result<Tensor>, name: &str| {
                assert_close(&found.unwrap(), &all[&format!("{case}.{name}")], 1e-5, &format!("{case} {name}"));
            };
            close(linear_input_gradient(&w, &grad), "grad_x");
            close(linear_weight_gradient(&x, &grad), "grad_w");
            close(bias_gradient(&grad), "grad_b");
        }
    }
}

#[test]
fn wide_and_deep_convolutions_with_any_window_agree_with_candle_in_double_precision() {
    // First layers, several bands an image, several images a band, and kernels that are read in parts.
    check_convolution(&[2, 67, 61, 3], 64, Window::new(11, 4, 2), false, 1, 1e-5);
    check_convolution(&[1, 112, 96, 3], 20, Window::new(7, 2, 3), false, 2, 1e-5);
    check_convolution(&[9, 5, 4, 20], 64, Window::new(5, 1, 2), false, 3, 1e-5);
    check_convolution(&[2, 13, 13, 300], 70, Window::new(5, 1, 2), false, 4, 1e-5);
    check_convolution(&[5, 14, 14, 130], 260, Window::new(1, 1, 0), false, 5, 1e-5);
    check_convolution(&[3, 20, 21, 40], 33, Window::new(3, 2, 1), true, 6, 1e-5);
    check_convolution(&[70, 3, 3, 24], 17, Window::new(3, 2, 0), false, 7, 1e-5);
    check_convolution(&[3, 12, 10, 64], 40, Window::new(3, 1, 0), false, 8, 1e-5);
    check_convolution(&[3, 12, 10, 24], 40, Window::new(3, 1, 2), false, 9, 1e-5);
}

/// Max pooling and its gradient by their definition, in double precision.
fn max_pool_by_definition(x: &Tensor, grad: impl Fn(&Tensor) -> Tensor, window: Window) -> [Tensor; 3] {
    let (batch, height, width, channels) = x.dims4().unwrap();
    let (rows, columns) = (window.output(height).unwrap(), window.output(width).unwrap());
    let all = values(x);
    let mut largest = Vec::new();
    for at in 0..batch * rows * columns * channels {
        let (channel, pixel) = (at % channels, at / channels);
        let (column, row, image) = (pixel % columns, pixel / columns % rows, pixel / columns / rows);
        let mut best: Option<usize> = None;
        for tap in 0..window.kernel * window.kernel {
            let y = (row * window.stride + tap / window.kernel).wrapping_sub(window.padding);
            let x = (column * window.stride + tap % window.kernel).wrapping_sub(window.padding);
            if y < height && x < width {
                let place = ((image * height + y) * width + x) * channels + channel;
                best = best.filter(|&best| all[place] <= all[best]).or(Some(place));
            }
        }
        largest.push(best.unwrap());
    }
    let shape = (batch, rows, columns, channels);
    let y = Tensor::from_vec(largest.iter().map(|&at| all[at]).collect(), shape, &Device::Cpu).unwrap();
    let grad = grad(&y);
    let mut out = vec![0.0; all.len()];
    largest.iter().zip(values(&grad)).for_each(|(&at, grad)| out[at] += grad);
    [y, grad, Tensor::from_vec(out, x.shape(), &Device::Cpu).unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn max_pooling_agrees_with_its_definition(
        batch in 1usize..4, channels in 1usize..40, height in 1usize..20, width in 1usize..20,
        kernel in 1usize..6, stride in 1usize..5, padding in 0usize..3, seed in any::<u64>(),
    ) {
        let window = Window::new(kernel, stride, padding);
        let fits = window.output(height).is_some() && window.output(width).is_some() && padding <= kernel / 2;
        // Whole numbers, so that many are equal.
        let x = (noise(&[batch, height, width, channels], seed) * 2.0).unwrap().round().unwrap();
        prop_assert_eq!(max_pool(&single(&x), window).is_ok(), fits);
        prop_assume!(fits);
        let [y, grad, of_x] = max_pool_by_definition(&x, |y| noise(y.dims(), seed ^ 1), window);
        for x in [single(&x), x] {
            assert_near(&[max_pool(&x, window).unwrap()], std::slice::from_ref(&y), 0.0, "max pooling");
            let grad = grad.to_dtype(x.dtype()).unwrap();
            assert_near(&[max_pool_gradient(&x, &grad, window).unwrap()], std::slice::from_ref(&of_x), 1e-6, "max pooling's gradient");
        }
    }
}

#[test]
fn max_pooling_of_large_maps_agrees_with_its_definition() {
    for (shape, window) in [
        ([2, 55, 55, 64], Window::new(3, 2, 0)),
        ([1, 112, 112, 33], Window::new(2, 2, 0)),
        ([2, 40, 41, 64], Window::new(3, 2, 1)),
    ] {
        let x = noise(&shape, 1);
        let [y, grad, of_x] = max_pool_by_definition(&x, |y| noise(y.dims(), 2), window);
        assert_near(&[max_pool(&single(&x), window).unwrap()], &[y], 1e-6, "max pooling");
        let found = max_pool_gradient(&single(&x), &single(&grad), window).unwrap();
        assert_near(&[found], &[of_x], 1e-6, "max pooling's gradient");
    }
}

#[test]
fn max_pooling_keeps_what_is_not_a_number() {
    let mut x = values(&noise(&[1, 4, 4, 9], 1));
    x[(4 + 1) * 9] = f64::NAN;
    let x = Tensor::from_vec(x, (1, 4, 4, 9), &Device::Cpu).unwrap();
    let window = Window::new(3, 1, 1);
    for x in [single(&x), x] {
        let y = values(&max_pool(&x, window).unwrap());
        // The nine windows that hold the pixel, in its own channel.
        let lost: Vec<usize> = (0..y.len()).filter(|&at| y[at].is_nan()).collect();
        assert_eq!(lost.len(), if x.dtype() == DType::F32 { 9 } else { lost.len() });
        let grad = Tensor::ones((1, 4, 4, 9), x.dtype(), &Device::Cpu).unwrap();
        assert_eq!(values(&max_pool_gradient(&x, &grad, window).unwrap())[(4 + 1) * 9], 9.0);
    }
}

/// Fails unless a gradient in double precision agrees with the slope of a loss, the sum of `f` times `grad`.
fn check_slope(what: &str, x: &Tensor, grad: &Tensor, gradient: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) {
    let loss = |x: Vec<f64>| -> f64 {
        let y = f(&Tensor::from_vec(x, gradient.shape(), &Device::Cpu).unwrap()).unwrap();
        (y * grad).unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    let (start, width) = (values(x), 1e-5);
    assert_eq!(x.dims(), gradient.dims(), "{what}");
    for (at, found) in values(gradient).into_iter().enumerate() {
        let moved = |by: f64| {
            let mut x = start.clone();
            x[at] += by;
            loss(x)
        };
        let slope = (moved(width) - moved(-width)) / (2.0 * width);
        assert!((found - slope).abs() < 1e-6 * slope.abs().max(1.0), "{what}, value {at}: {found}, not {slope}");
    }
}

#[test]
fn gradients_with_windows_agree_with_finite_differences() {
    for window in
        [Window::new(11, 4, 2), Window::new(3, 2, 1), Window::new(5, 1, 2), Window::new(3, 1, 0), Window::new(1, 2, 0)]
    {
        let (x, w) = (noise(&[2, 9, 8, 2], 1), noise(&[3, 2, window.kernel, window.kernel], 2));
        let forward = |x: &Tensor, w: &Tensor| convolution(x, w, None, window, Activation::Identity);
        let grad = noise(forward(&x, &w).unwrap().dims(), 3);
        let what = format!("{window:?}");
        check_slope(&what, &w, &grad, &weight_gradient(&x, &grad, window).unwrap(), |w| forward(&x, w));
        check_slope(&what, &x, &grad, &input_gradient(&w, &grad, window, (9, 8)).unwrap(), |x| forward(x, &w));
        // Those that are computed in single precision are near.
        let (x, w, grad) = (single(&x), single(&w), single(&grad));
        let found = [weight_gradient(&x, &grad, window).unwrap(), input_gradient(&w, &grad, window, (9, 8)).unwrap()];
        let [x, w, grad] = [x, w, grad].map(|tensor| tensor.to_dtype(DType::F64).unwrap());
        let expected =
            [weight_gradient(&x, &grad, window).unwrap(), input_gradient(&w, &grad, window, (9, 8)).unwrap()];
        assert_near(&found, &expected, 1e-5, &what);
    }
    for window in [Window::new(2, 2, 0), Window::new(3, 2, 0), Window::new(3, 2, 1), Window::new(3, 1, 1)] {
        let x = noise(&[2, 6, 7, 3], 4);
        let grad = noise(max_pool(&x, window).unwrap().dims(), 5);
        let found = max_pool_gradient(&x, &grad, window).unwrap();
        check_slope(&format!("max pooling, {window:?}"), &x, &grad, &found, |x| max_pool(x, window));
    }
}

#[test]
fn gradients_of_layers_without_windows_agree_with_finite_differences() {
    let (x, w, b, grad) = (noise(&[4, 6], 1), noise(&[5, 6], 2), noise(&[5], 3), noise(&[4, 5], 4));
    check_slope("x", &x, &grad, &linear_input_gradient(&w, &grad).unwrap(), |x| linear(x, &w, &b));
    check_slope("w", &w, &grad, &linear_weight_gradient(&x, &grad).unwrap(), |w| linear(&x, w, &b));
    check_slope("b", &b, &grad, &bias_gradient(&grad).unwrap(), |b| linear(&x, &w, b));
    let (x, grad) = (noise(&[2, 3, 4, 5], 5), noise(&[2, 3, 4, 5], 6));
    let found = relu_gradient(&relu(&x).unwrap(), &grad).unwrap();
    check_slope("ReLU", &x, &grad, &found, relu);
    let found = dropout(&grad, 0.4, &[7, 8]).unwrap();
    check_slope("dropout", &x, &grad, &found, |x| dropout(x, 0.4, &[7, 8]));
    let bias = noise(&[5], 7);
    check_slope("bias", &bias, &grad, &bias_gradient(&grad).unwrap(), |bias| x.broadcast_add(bias));
}

#[test]
fn relu_and_its_gradient_keep_shapes_and_what_is_not_a_number() {
    let x = Tensor::new(&[[-1f32, 0.0, 2.0], [f32::NAN, 3.0, -0.0]], &Device::Cpu).unwrap();
    let y = relu(&x).unwrap();
    assert_eq!(y.dims(), [2, 3]);
    assert_eq!(y.get(0).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 2.0]);
    assert!(y.get(1).unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
    let passed = relu_gradient(&y, &x.ones_like().unwrap()).unwrap();
    assert_eq!(passed.to_vec2::<f32>().unwrap(), [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]);
    let double = relu_gradient(&y.to_dtype(DType::F64).unwrap(), &x.ones_like().unwrap().to_dtype(DType::F64).unwrap());
    assert_eq!(double.unwrap().to_vec2::<f64>().unwrap(), [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]);
    let large = noise(&[3, 50, 40, 33], 1);
    assert_near(&[relu(&single(&large)).unwrap()], &[large.relu().unwrap()], 1e-6, "ReLU");
    assert!(relu_gradient(&y, &ones(&[3, 2])).is_err());
    assert!(bias_gradient(&ones(&[3, 0])).is_err());
}

#[test]
fn dropout_keeps_its_share_and_scales_it() {
    let x = ones(&[3, 200, 500]);
    for rate in [0.0, 0.2, 0.5, 0.9] {
        let y = values(&dropout(&x, rate, &[1, 2, 3]).unwrap());
        let kept = y.iter().filter(|&&value| value != 0.0).count() as f64 / y.len() as f64;
        assert!((kept - (1.0 - rate)).abs() < 5e-3, "{kept} of the values stay at a rate of {rate}");
        assert!(y.iter().all(|&value| value == 0.0 || (value - 1.0 / (1.0 - rate)).abs() < 1e-6 / (1.0 - rate)));
    }
}

#[test]
fn dropout_depends_on_seed_and_index_only() {
    let x = single(&noise(&[3, 4, 5, 6], 1));
    let all = dropout(&x, 0.5, &[11, 12, 13]).unwrap();
    // A sample by itself, among others, and in another shape.
    let one = dropout(&x.narrow(0, 1, 1).unwrap(), 0.5, &[12]).unwrap();
    assert_eq!(values(&one), values(&all.narrow(0, 1, 1).unwrap()));
    let turned = dropout(&x.flip(&[0]).unwrap(), 0.5, &[13, 12, 11]).unwrap().flip(&[0]).unwrap();
    assert_eq!(values(&turned), values(&all));
    let flat = dropout(&x.reshape((3, 120)).unwrap(), 0.5, &[11, 12, 13]).unwrap();
    assert_eq!(values(&flat), values(&all));
    // Other types lose the same values.
    let double = dropout(&x.to_dtype(DType::F64).unwrap(), 0.5, &[11, 12, 13]).unwrap();
    assert_near(std::slice::from_ref(&all), &[double], 1e-6, "dropout");
    // Other seeds lose others; neighbouring ones have nothing in common.
    let lost = |seed: u64| -> Vec<bool> {
        values(&dropout(&ones(&[1, 1000]), 0.5, &[seed]).unwrap()).iter().map(|&value| value == 0.0).collect()
    };
    let common = lost(1).iter().zip(&lost(2)).filter(|(a, b)| a == b).count();
    assert!((400..600).contains(&common), "{common} of 1000 values share their fate under two seeds");
    // What is not a number does not come back where it was dropped.
    let nothing = (ones(&[1, 1000]) * f64::NAN).unwrap();
    let y = values(&dropout(&nothing, 0.5, &[1]).unwrap());
    assert_eq!(
        y.iter().map(|value| value.is_nan()).collect::<Vec<_>>(),
        lost(1).iter().map(|lost| !lost).collect::<Vec<_>>()
    );
}

#[test]
fn what_does_not_fit_is_an_error() {
    let x = ones(&[2, 5, 6, 3]);
    let of = |w: &[usize], window| convolution(&x, &ones(w), None, window, Activation::Identity);
    assert!(of(&[4, 3, 3, 3], Window::new(3, 2, 0)).is_ok());
    for window in
        [Window::new(3, 0, 1), Window::new(5, 1, 0), Window::new(3, 1, 3), Window::new(3, 1, usize::MAX / 2 + 1)]
    {
        assert!(of(&[4, 3, 3, 3], window).is_err(), "{window:?}");
    }
    assert!(of(&[4, 3, 0, 0], Window::new(0, 1, 0)).is_err());
    // Windows that are further apart than the image is large are one.
    let far = Window::new(3, usize::MAX, 1);
    assert_eq!(of(&[4, 3, 3, 3], far).unwrap().dims(), [2, 1, 1, 4]);
    assert!(weight_gradient(&x, &ones(&[2, 1, 1, 4]), far).is_ok());
    assert!(input_gradient(&ones(&[4, 3, 3, 3]), &ones(&[2, 1, 1, 4]), far, (5, 6)).is_ok());
    assert!(max_pool_gradient(&x, &max_pool(&x, far).unwrap(), far).is_ok());
    assert!(of(&[4, 3, 7, 7], Window::new(7, 1, 0)).is_err());
    assert!(of(&[4, 3, 3, 2], Window::new(3, 1, 0)).is_err());
    assert!(weight_gradient(&x, &ones(&[2, 2, 3, 4]), Window::new(3, 2, 0)).is_err());
    assert!(weight_gradient(&x, &ones(&[1, 2, 2, 4]), Window::new(3, 2, 0)).is_err());
    assert!(input_gradient(&ones(&[4, 3, 3, 3]), &ones(&[2, 2, 2, 4]), Window::new(3, 2, 0), (5, 7)).is_err());
    assert!(input_gradient(&ones(&[4, 3, 3, 3]), &ones(&[2, 2, 2, 4]), Window::new(3, 2, 0), (5, 6)).is_ok());
    for window in [Window::new(0, 1, 0), Window::new(2, 0, 0), Window::new(6, 1, 0), Window::new(3, 1, 2)] {
        assert!(max_pool(&x, window).is_err(), "{window:?}");
        assert!(max_pool_gradient(&x, &x, window).is_err(), "{window:?}");
    }
    assert!(max_pool(&ones(&[2, 5, 6, 0]), Window::new(2, 2, 0)).is_err());
    assert!(max_pool_gradient(&x, &ones(&[2, 2, 2, 3]), Window::new(2, 2, 0)).is_err());
    assert!(dropout(&x, 0.5, &[1]).is_err());
    assert!(dropout(&x, 1.0, &[1, 2]).is_err());
    assert!(dropout(&x, -0.1, &[1, 2]).is_err());
    assert!(dropout(&x, f64::NAN, &[1, 2]).is_err());
    let (flat, w, b) = (ones(&[2, 3]), ones(&[4, 3]), ones(&[4]));
    assert!(linear(&flat, &w, &b).is_ok());
    assert!(linear(&flat, &ones(&[4, 2]), &b).is_err());
    assert!(linear(&flat, &w, &ones(&[3])).is_err());
    assert!(linear(&x, &w, &b).is_err());
    assert!(linear_weight_gradient(&flat, &ones(&[3, 4])).is_err());
    assert!(linear_input_gradient(&w, &ones(&[2, 3])).is_err());
}

#[test]
fn an_empty_batch_gives_an_empty_result() {
    let (x, window) = (ones(&[0, 7, 7, 3]), Window::new(3, 2, 1));
    let y = convolution(&x, &ones(&[5, 3, 3, 3]), None, window, Activation::Relu).unwrap();
    assert_eq!(y.dims(), [0, 4, 4, 5]);
    assert_eq!(values(&weight_gradient(&x, &y, window).unwrap()), vec![0.0; 5 * 27]);
    assert_eq!(input_gradient(&ones(&[5, 3, 3, 3]), &y, window, (7, 7)).unwrap().dims(), [0, 7, 7, 3]);
    let pooled = max_pool(&x, window).unwrap();
    assert_eq!(pooled.dims(), [0, 4, 4, 3]);
    assert_eq!(max_pool_gradient(&x, &pooled, window).unwrap().dims(), [0, 7, 7, 3]);
    assert_eq!(dropout(&x, 0.5, &[]).unwrap().dims(), [0, 7, 7, 3]);
}

#[test]
fn windows_are_counted_as_pytorch_does() {
    for (window, size, count) in [
        (Window::new(11, 4, 2), 224, Some(55)),
        (Window::new(3, 2, 0), 55, Some(27)),
        (Window::new(7, 2, 3), 224, Some(112)),
        (Window::new(3, 1, 1), 1, Some(1)),
        (Window::new(3, 1, 0), 2, None),
        (Window::new(2, 0, 0), 5, None),
        (Window::new(0, 1, 0), 5, None),
        (Window::new(3, 1, usize::MAX), 5, None),
    ] {
        assert_eq!(window.output(size), count, "{window:?} on {size}");
    }
}

#[test]
fn the_same_input_gives_the_same_bits_with_any_window() {
    for window in [Window::new(5, 1, 2), Window::new(3, 2, 1), Window::new(3, 1, 0)] {
        let (x, w) = (single(&noise(&[7, 21, 20, 24], 1)), single(&noise(&[40, 24, window.kernel, window.kernel], 2)));
        let run = || {
            let y = convolution(&x, &w, None, window, Activation::Relu).unwrap();
            let all = [weight_gradient(&x, &y, window), input_gradient(&w, &y, window, (21, 20))]
                .map(|found| values(&found.unwrap()));
            (
                values(&y),
                all,
                values(&max_pool_gradient(&x, &max_pool(&x, window).unwrap_or(x.clone()), window).unwrap_or(x.clone())),
            )
        };
        let first = run();
        (0..4).for_each(|_| assert!(run() == first, "{window:?}"));
    }
}
