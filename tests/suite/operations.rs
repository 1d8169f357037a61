//! Every tensor operation agrees with PyTorch's figures, and with candle's own slow path on random shapes.

use candle_core::{DType, Device, Result, Tensor, Var};
use greedy::ops::{Activation, batch_norm, convolution, pool, space_to_depth};
use greedy::random::{Purpose, Stream};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

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

fn cases(all: &HashMap<String, Tensor>) -> BTreeSet<&str> {
    all.keys().filter_map(|name| name.split_once('.').map(|(case, _)| case)).collect()
}

/// The gradients of sum(y * grad_y) with respect to variables.
fn gradients(y: &Tensor, grad_y: &Tensor, variables: &[&Var]) -> Vec<Tensor> {
    let store = (y * grad_y).unwrap().sum_all().unwrap().backward().unwrap();
    variables.iter().map(|variable| store.get(variable).unwrap().clone()).collect()
}

#[test]
fn convolution_agrees_with_pytorch() {
    let all = fixture("conv");
    for case in cases(&all) {
        let get = |name: &str| all.get(&format!("{case}.{name}"));
        let var = |name: &str| Var::from_tensor(get(name).unwrap()).unwrap();
        let (x, w, b) = (var("x"), var("w"), get("b").map(|b| Var::from_tensor(b).unwrap()));
        let (size, out) = (x.dim(2).unwrap(), get("y").unwrap().dim(2).unwrap());
        let padding = (out + w.dim(2).unwrap() - 1 - size) / 2;
        let y = convolution(&x, &w, b.as_deref(), padding, Activation::Identity).unwrap();
        assert_close(&y, get("y").unwrap(), 1e-5, case);
        let mut variables = vec![&x, &w];
        variables.extend(&b);
        for (found, name) in gradients(&y, get("grad_y").unwrap(), &variables).iter().zip(["x", "w", "b"]) {
            assert_close(found, get(&format!("grad_{name}")).unwrap(), 1e-5, &format!("{case} gradient of {name}"));
        }
    }
}

#[test]
fn a_constant_input_gets_no_gradient() {
    let x = Tensor::ones((1, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let w = Var::ones((3, 2, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let y = convolution(&x, &w, None, 1, Activation::Relu).unwrap();
    let store = y.sum_all().unwrap().backward().unwrap();
    assert!(store.get(&w).is_some() && store.get(&x).is_none());
}

#[test]
fn an_impossible_convolution_is_an_error() {
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let of = |x: &[usize], w: &[usize], padding| convolution(&ones(x), &ones(w), None, padding, Activation::Relu);
    assert!(of(&[1, 2, 4, 4], &[3, 1, 3, 3], 1).is_err());
    assert!(of(&[1, 2, 1, 1], &[3, 2, 3, 3], 0).is_err());
    assert!(of(&[1, 2, 4, 4], &[3, 2, 3, 3], 3).is_err());
}

#[test]
fn batch_norm_agrees_with_pytorch() {
    let all = fixture("batch_norm");
    for case in cases(&all) {
        let get = |name: &str| &all[&format!("{case}.{name}")];
        let var = |name: &str| Var::from_tensor(get(name)).unwrap();
        let (x, gamma, beta) = (var("x"), var("gamma"), var("beta"));
        let activation = if case.ends_with("relu") { Activation::Relu } else { Activation::Identity };
        let (y, statistics) = batch_norm(&x, &gamma, &beta, 1e-5, activation).unwrap();
        assert_close(&y, get("y"), 2e-5, case);
        let found = gradients(&y, get("grad_y"), &[&x, &gamma, &beta]);
        for (found, name) in found.iter().zip(["x", "gamma", "beta"]) {
            assert_close(found, get(&format!("grad_{name}")), 2e-5, &format!("{case} gradient of {name}"));
        }
        let count = (x.elem_count() / x.dim(1).unwrap()) as f64;
        let blend = |before: &Tensor, new: &Tensor| ((before * 0.9).unwrap() + (new * 0.1).unwrap()).unwrap();
        let unbiased = (statistics.variance * (count / (count - 1.0))).unwrap();
        let mean = blend(get("running_mean_before"), &statistics.mean);
        let variance = blend(get("running_var_before"), &unbiased);
        assert_close(&mean, get("running_mean_after"), 1e-6, &format!("{case} mean"));
        assert_close(&variance, get("running_var_after"), 1e-5, &format!("{case} variance"));
    }
}

#[test]
fn pooling_agrees_with_pytorch() {
    let all = fixture("pool");
    for case in cases(&all) {
        let get = |name: &str| &all[&format!("{case}.{name}")];
        let x = Var::from_tensor(get("x")).unwrap();
        let y = pool(&x, 2).unwrap();
        assert_close(&y, get("y"), 1e-6, case);
        assert_close(&gradients(&y, get("grad_y"), &[&x])[0], get("grad_x"), 1e-6, case);
    }
}

#[test]
fn space_to_depth_agrees_with_pytorch() {
    let all = fixture("space_to_depth");
    for case in cases(&all) {
        let y = space_to_depth(&all[&format!("{case}.x")]).unwrap();
        assert_close(&y, &all[&format!("{case}.y")], 0.0, case);
    }
}

#[test]
fn cross_entropy_agrees_with_pytorch() {
    let all = fixture("cross_entropy");
    for case in cases(&all) {
        let get = |name: &str| &all[&format!("{case}.{name}")];
        let logits = Var::from_tensor(get("logits")).unwrap();
        let labels = get("labels").to_dtype(DType::U32).unwrap();
        let loss = candle_nn::loss::cross_entropy(&logits, &labels).unwrap();
        assert_close(&loss.reshape(1).unwrap(), get("loss"), 1e-6, case);
        let store = loss.backward().unwrap();
        assert_close(store.get(&logits).unwrap(), get("grad_logits"), 1e-6, case);
    }
}

/// Random values with a fixed seed.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut draw = Stream::new(Purpose::Weights, seed, (0, 0));
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| draw.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Result and gradients of one function in f32 and of another in f64, for the same inputs.
fn compare(
    inputs: &[Tensor],
    ours: impl Fn(&[Var]) -> Result<Tensor>,
    reference: impl Fn(&[Var]) -> Result<Tensor>,
    tolerance: f64,
    what: &str,
) {
    let run = |dtype: DType, f: &dyn Fn(&[Var]) -> Result<Tensor>| {
        let variables: Vec<Var> =
            inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap()).collect();
        let y = f(&variables).unwrap();
        let grad = noise(y.dims(), 99).to_dtype(dtype).unwrap();
        let references: Vec<&Var> = variables.iter().collect();
        let mut all = gradients(&y, &grad, &references);
        all.push(y);
        all
    };
    let (found, expected) = (run(DType::F32, &ours), run(DType::F64, &reference));
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_close(found, expected, tolerance, &format!("{what}, tensor {at}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn convolution_agrees_with_candle_in_double_precision(
        batch in 1usize..4, inputs in 1usize..20, outputs in 1usize..20, height in 3usize..12, width in 3usize..12,
        padding in 0usize..3, relu in any::<bool>(), seed in any::<u64>(),
    ) {
        let tensors = [noise(&[batch, inputs, height, width], seed), noise(&[outputs, inputs, 3, 3], seed ^ 1), noise(&[outputs], seed ^ 2)];
        let activation = if relu { Activation::Relu } else { Activation::Identity };
        compare(
            &tensors,
            |v| convolution(&v[0], &v[1], Some(&v[2]), padding, activation),
            |v| {
                let y = v[0].conv2d(&v[1], padding, 1, 1, 1)?.broadcast_add(&v[2].reshape((1, (), 1, 1))?)?;
                if relu { y.relu() } else { Ok(y) }
            },
            1e-5,
            "convolution",
        );
    }

    #[test]
    fn batch_norm_agrees_with_candle_in_double_precision(
        batch in 1usize..6, channels in 1usize..9, height in 1usize..7, width in 1usize..7, seed in any::<u64>(),
    ) {
        // A single value a channel has no variance: its gradient is a rounding error times 1 / sqrt(epsilon).
        prop_assume!(batch * height * width > 1);
        let tensors = [noise(&[batch, channels, height, width], seed), noise(&[channels], seed ^ 1), noise(&[channels], seed ^ 2)];
        compare(
            &tensors,
            |v| Ok(batch_norm(&v[0], &v[1], &v[2], 1e-3, Activation::Identity)?.0),
            |v| {
                let centred = v[0].broadcast_sub(&v[0].mean_keepdim((0, 2, 3))?)?;
                let deviation = (centred.sqr()?.mean_keepdim((0, 2, 3))? + 1e-3)?.sqrt()?;
                let row = |v: &Var| v.reshape((1, (), 1, 1));
                centred.broadcast_div(&deviation)?.broadcast_mul(&row(&v[1])?)?.broadcast_add(&row(&v[2])?)
            },
            1e-4,
            "batch norm",
        );
    }
}

#[test]
fn large_feature_maps_are_unfolded_in_tiles_without_a_seam() {
    // 40 channels at 96 x 90 need several tiles an image.
    let tensors = [noise(&[1, 40, 96, 90], 5), noise(&[3, 40, 3, 3], 6)];
    compare(
        &tensors,
        |v| convolution(&v[0], &v[1], None, 1, Activation::Identity),
        |v| v[0].conv2d(&v[1], 1, 1, 1, 1),
        1e-5,
        "tiles",
    );
}
