//! The operations on tensors by each kind of instructions and in f32, given the same maps and weights.

use super::{Instructions, Kind, kinds, noise, sizes, with_instructions};
use crate::ops::{
    Activation, Window, convolution, input_gradient, linear, linear_input_gradient, linear_weight_gradient,
    weight_gradient,
};
use candle_core::{DType, Device, Result, Tensor};

fn maps(shape: &[usize], seed: u32) -> Tensor {
    weights(shape, seed).to_dtype(DType::BF16).unwrap()
}

fn weights(shape: &[usize], seed: u32) -> Tensor {
    Tensor::from_vec(noise(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
}

/// The results differ by less than a digit of bf16, or, of sums, by what their order makes.
fn same<const N: usize>(what: &str, f: impl Fn() -> Result<[Tensor; N]>) {
    let in_singles = with_instructions(None, || f().unwrap());
    let in_halves = kinds().into_iter().flat_map(|instructions| with_instructions(Some(instructions), || f().unwrap()));
    for (at, (found, expected)) in in_halves.zip(in_singles.iter().cycle()).enumerate() {
        assert_eq!((found.dtype(), found.dims()), (expected.dtype(), expected.dims()), "{what}");
        let values = |tensor: &Tensor| -> Vec<f32> {
            tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let (found_values, expected_values) = (values(&found), values(expected));
        let largest = expected_values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let bound = if found.dtype() == DType::BF16 { 1.0 / 128.0 } else { 1e-5 } * largest;
        for (found, expected) in found_values.iter().zip(&expected_values) {
            assert!((found - expected).abs() <= bound, "{what}, result {at}: {found} {expected}");
        }
    }
}

#[test]
fn vectors_multiply_what_winograd_does_not() {
    let window = |kernel, stride| Window::new(kernel, stride, 1);
    for (channels, window, by_vectors) in
        [((64, 64), window(3, 1), false), ((64, 64), window(3, 2), true), ((3, 64), window(7, 2), true)]
    {
        let (sizes, maps) = (sizes((1, 8, 8), channels, window), maps(&[1], 1));
        let chosen = |kind| {
            with_instructions(Some(Instructions(kind)), || sizes.instructions(&maps).map(|chosen| chosen.name()))
        };
        assert_eq!(chosen(Kind::Vectors), by_vectors.then_some("AVX-512 BF16"), "{channels:?}, {window:?}");
        assert_eq!(chosen(Kind::MatrixUnits), Some("AMX"));
        with_instructions(Some(Instructions(Kind::MatrixUnits)), || {
            assert!(sizes.instructions(&weights(&[1], 1)).is_none(), "maps in f32");
        });
    }
}

#[test]
fn all_instructions_agree_on_the_same_maps() {
    for (shape, outputs, window) in [
        ([2, 8, 8, 33], 20, Window::new(3, 1, 1)),
        ([1, 5, 7, 3], 5, Window::new(3, 1, 1)),
        ([2, 9, 9, 12], 34, Window::new(5, 2, 2)),
        ([1, 4, 4, 40], 16, Window::new(1, 1, 0)),
    ] {
        let (x, weight) = (maps(&shape, 1), weights(&[outputs, shape[3], window.kernel, window.kernel], 2));
        let bias = weights(&[outputs], 3);
        let size = window.output(shape[1]).zip(window.output(shape[2])).unwrap();
        let grad = maps(&[shape[0], size.0, size.1, outputs], 4);
        same(&format!("{shape:?} to {outputs}, {window:?}"), || {
            Ok([
                convolution(&x, &weight, Some(&bias), window, Activation::Relu)?,
                weight_gradient(&x, &grad, window)?,
                input_gradient(&weight, &grad, window, (shape[1], shape[2]))?,
            ])
        });
    }
    let (x, weight, grad) = (maps(&[9, 33], 5), weights(&[7, 33], 6), maps(&[9, 7], 7));
    let bias = weights(&[7], 8);
    same("linear", || {
        Ok([linear(&x, &weight, &bias)?, linear_weight_gradient(&x, &grad)?, linear_input_gradient(&weight, &grad)?])
    });
}
