//! The same bits again, and what is not a finite number.

use super::super::super::geometry::Finish;
use super::*;

/// The results of all operations as bits.
fn bits(instructions: Instructions, sizes: &Sizes, threads: usize) -> [Vec<u32>; 3] {
    let Images { batch, height, width } = sizes.images;
    let x = rounded(&noise(batch * height * width * sizes.inputs, 1));
    let grad = rounded(&noise(batch * sizes.rows * sizes.columns * sizes.outputs, 2));
    let weight = noise(sizes.inputs * sizes.outputs * sizes.window.kernel.pow(2), 3);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let forward: Vec<f32> = instructions.convolve(sizes, &x, &weight, Finish { bias: None, relu: false });
        let backward: Vec<f32> = instructions.input_gradient(sizes, &weight, &grad);
        [forward, backward, instructions.weight_gradient(sizes, &x, &grad)]
            .map(|values| values.iter().map(|v| v.to_bits()).collect())
    })
}

#[test]
fn results_are_the_same_bits_again() {
    let window = Window::new(3, 1, 1);
    let sizes = [sizes((5, 8, 8), (40, 24), window), sizes((3, 9, 5), (3, 70), window)];
    for (instructions, sizes) in
        kinds().into_iter().flat_map(|instructions| sizes.iter().map(move |sizes| (instructions, sizes)))
    {
        let one = bits(instructions, sizes, 1);
        for threads in [2, 5] {
            let [forward, backward, of_weights] = bits(instructions, sizes, threads);
            assert!(forward == one[0] && backward == one[1], "for any number of threads");
            for _ in 0..2 {
                assert!(of_weights == bits(instructions, sizes, threads)[2], "for one number of threads");
            }
        }
    }
}

/// Whether both are the same number, or none.
fn assert_alike(found: &[f32], expected: &[f64]) {
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let alike = match expected.is_finite() {
            true => (f64::from(found) - expected).abs() <= 1e-2 * expected.abs().max(1.0),
            false => f64::from(found) == expected || (found.is_nan() && expected.is_nan()),
        };
        assert!(alike, "{found} for {expected} at {at}");
    }
}

#[test]
fn what_is_not_finite_reaches_the_sums_that_it_is_part_of_and_no_other() {
    // Tiles that are not full in any direction. Without padding, whose zeros make infinite values none.
    let sizes = [
        sizes((3, 6, 7), (5, 20), Window::new(3, 1, 0)),
        sizes((2, 5, 5), (34, 3), Window::new(2, 2, 0)),
        sizes((1, 4, 19), (32, 40), Window::new(3, 1, 0)),
    ];
    for (instructions, sizes) in
        kinds().into_iter().flat_map(|instructions| sizes.iter().map(move |sizes| (instructions, sizes)))
    {
        let Images { batch, height, width } = sizes.images;
        let area = sizes.window.kernel.pow(2);
        let mut x = rounded(&noise(batch * height * width * sizes.inputs, 1));
        let weight = noise(sizes.outputs * sizes.inputs * area, 2);
        let mut grad = rounded(&noise(batch * sizes.rows * sizes.columns * sizes.outputs, 3));
        for values in [&mut x, &mut grad] {
            let many = values.len();
            for (at, value) in [(many / 3, bf16::INFINITY), (many / 2, bf16::NAN), (many - 2, bf16::NEG_INFINITY)] {
                values[at] = value;
            }
        }
        let at = |at: usize| bf16::from_f32(weight[at]).to_f64();
        let (expected, _) = summed(batch * sizes.rows * sizes.columns * sizes.outputs, |term| {
            products(sizes, |x_at, w, sum| term(sum, x[x_at].to_f64() * at(w)));
        });
        let result: Vec<bf16> = instructions.convolve(sizes, &x, &weight, Finish { bias: None, relu: false });
        assert_alike(&result.iter().map(|value| value.to_f32()).collect::<Vec<_>>(), &expected);
        let result: Vec<bf16> = instructions.convolve(sizes, &x, &weight, Finish { bias: None, relu: true });
        let positive: Vec<f64> = expected.iter().map(|&sum| if sum < 0.0 { 0.0 } else { sum }).collect();
        assert_alike(&result.iter().map(|value| value.to_f32()).collect::<Vec<_>>(), &positive);
        // One at a time, as their products are none.
        let finite = rounded(&noise(x.len(), 4));
        let (expected, _) = summed(weight.len(), |term| {
            products(sizes, |x_at, w, sum| term(w, finite[x_at].to_f64() * grad[sum].to_f64()));
        });
        assert_alike(&instructions.weight_gradient(sizes, &finite, &grad), &expected);
        let finite = rounded(&noise(grad.len(), 4));
        let (expected, _) = summed(weight.len(), |term| {
            products(sizes, |x_at, w, sum| term(w, x[x_at].to_f64() * finite[sum].to_f64()));
        });
        assert_alike(&instructions.weight_gradient(sizes, &x, &finite), &expected);
    }
}

#[test]
fn rounding_to_bf16_is_to_the_nearest_of_two_the_even() {
    use super::super::packing::rounded;
    let values = [
        0,
        1,
        0x7fff,
        0x8000,
        0x8001,
        0x1_8000,
        0xffff,
        0x7f7f_7fff,
        0x7f7f_8000,
        0x7f80_0000,
        0x7f80_0001,
        0x7fff_ffff,
    ];
    for bits in values.into_iter().chain((0..1 << 16).map(|at: u32| at.wrapping_mul(2_654_435_761))) {
        for bits in [bits, bits | 1 << 31] {
            let value = f32::from_bits(bits);
            let (found, expected) = (bf16::from_bits(rounded(value)), bf16::from_f32(value));
            assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && value.is_nan()), "{bits:x}");
        }
    }
}
