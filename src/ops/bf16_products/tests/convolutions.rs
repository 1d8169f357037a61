//! Convolutions and the gradients of their inputs.

use super::super::super::geometry::Finish;
use super::*;

const NOTHING: Finish<'_> = Finish { bias: None, relu: false };

/// Images, channels and windows: all kinds of tiles that are not full, strides and paddings; each for all instructions.
fn cases() -> Vec<(Instructions, Sizes)> {
    let windows = [(1, 1, 0), (3, 1, 1), (3, 2, 1), (2, 3, 0), (5, 3, 4), (3, 1, 0), (1, 2, 0), (2, 1, 1)];
    let images = [(1, 1, 1), (1, 5, 7), (3, 4, 4), (2, 8, 8), (5, 3, 16), (17, 2, 1), (1, 6, 20), (18, 3, 3)];
    let channels = [(1, 1), (3, 16), (12, 33), (33, 12), (32, 32), (40, 64), (2, 50), (64, 5)];
    let mut cases = Vec::new();
    for (at, &(kernel, stride, padding)) in windows.iter().enumerate() {
        for (other, &images) in images.iter().enumerate() {
            let window = Window::new(kernel, stride, padding);
            // Every window with every other kind of image, and the reverse.
            if (at + other) % 2 == 0 && window.outputs(images.1, images.2).is_some() {
                let channels = channels[(at + other / 2) % channels.len()];
                cases.extend(kinds().into_iter().map(|instructions| (instructions, sizes(images, channels, window))));
            }
        }
    }
    cases
}

fn named(sizes: &Sizes) -> String {
    let Images { batch, height, width } = sizes.images;
    format!("{batch} x {height} x {width}, {} to {}, {:?}", sizes.inputs, sizes.outputs, sizes.window)
}

#[test]
fn convolutions_are_sums_of_products() {
    for (instructions, sizes) in cases() {
        let Images { batch, height, width } = sizes.images;
        let (inputs, outputs, area) = (sizes.inputs, sizes.outputs, sizes.window.kernel.pow(2));
        let x = rounded(&noise(batch * height * width * inputs, 1));
        let weight = noise(outputs * inputs * area, 2);
        let bias = noise(outputs, 3);
        let expected = summed(batch * sizes.rows * sizes.columns * outputs, |term| {
            products(&sizes, |x_at, at, sum| {
                term(sum, x[x_at].to_f64() * bf16::from_f32(weight[at]).to_f64());
            });
        });
        let plain: Vec<f32> = instructions.convolve(&sizes, &x, &weight, NOTHING);
        assert_near(&plain, &expected, area * inputs, false, &named(&sizes));
        let mut finished = expected;
        for (at, (sum, size)) in finished.0.iter_mut().zip(&mut finished.1).enumerate() {
            let bias = f64::from(bias[at % outputs]);
            (*sum, *size) = ((*sum + bias).max(0.0), *size + bias.abs());
        }
        let result: Vec<bf16> = instructions.convolve(&sizes, &x, &weight, Finish { bias: Some(&bias), relu: true });
        let result: Vec<f32> = result.into_iter().map(bf16::to_f32).collect();
        assert_near(&result, &finished, area * inputs, true, &named(&sizes));
    }
}

#[test]
fn gradients_of_inputs_are_sums_of_products() {
    for (instructions, sizes) in cases() {
        let Images { batch, height, width } = sizes.images;
        let (inputs, outputs, area) = (sizes.inputs, sizes.outputs, sizes.window.kernel.pow(2));
        let grad = rounded(&noise(batch * sizes.rows * sizes.columns * outputs, 1));
        let weight = noise(outputs * inputs * area, 2);
        let expected = summed(batch * height * width * inputs, |term| {
            products(&sizes, |x_at, at, sum| {
                term(x_at, grad[sum].to_f64() * bf16::from_f32(weight[at]).to_f64());
            });
        });
        let result: Vec<bf16> = instructions.input_gradient(&sizes, &weight, &grad);
        let result: Vec<f32> = result.into_iter().map(bf16::to_f32).collect();
        assert_near(&result, &expected, area * outputs, true, &named(&sizes));
    }
}

#[test]
fn gradients_of_weights_are_sums_of_products() {
    for (instructions, sizes) in cases() {
        let Images { batch, height, width } = sizes.images;
        let (inputs, outputs, area) = (sizes.inputs, sizes.outputs, sizes.window.kernel.pow(2));
        let x = rounded(&noise(batch * height * width * inputs, 1));
        let grad = rounded(&noise(batch * sizes.rows * sizes.columns * outputs, 2));
        let expected = summed(outputs * inputs * area, |term| {
            products(&sizes, |x_at, at, sum| term(at, x[x_at].to_f64() * grad[sum].to_f64()));
        });
        let result = instructions.weight_gradient(&sizes, &x, &grad);
        assert_near(&result, &expected, batch * sizes.rows * sizes.columns, false, &named(&sizes));
    }
}

#[test]
fn images_that_are_too_large_are_worked_on_in_bands_of_rows() {
    for instructions in kinds() {
        let large = sizes((1, 40, 60), (128, 3), Window::new(3, 1, 1));
        let (x, weight) = (rounded(&noise(40 * 60 * 128, 1)), noise(3 * 128 * 9, 2));
        let expected = summed(40 * 60 * 3, |term| {
            products(&large, |x_at, at, sum| term(sum, x[x_at].to_f64() * bf16::from_f32(weight[at]).to_f64()));
        });
        let result: Vec<f32> = instructions.convolve(&large, &x, &weight, NOTHING);
        assert_near(&result, &expected, 9 * 128, false, "convolution");
        let large = sizes((1, 40, 60), (32, 3), Window::new(3, 1, 1));
        let (x, grad) = (rounded(&noise(40 * 60 * 32, 1)), rounded(&noise(40 * 60 * 3, 2)));
        let expected = summed(3 * 32 * 9, |term| {
            products(&large, |x_at, at, sum| term(at, x[x_at].to_f64() * grad[sum].to_f64()));
        });
        assert_near(&instructions.weight_gradient(&large, &x, &grad), &expected, 40 * 60, false, "weight gradient");
    }
}

#[test]
fn no_images_have_no_result_and_a_gradient_of_zero() {
    for instructions in kinds() {
        let sizes = sizes((0, 4, 4), (3, 5), Window::new(3, 1, 1));
        let weight = noise(5 * 3 * 9, 1);
        assert!(instructions.convolve::<f32>(&sizes, &[], &weight, NOTHING).is_empty());
        assert!(instructions.input_gradient::<f32>(&sizes, &weight, &[]).is_empty());
        assert_eq!(instructions.weight_gradient(&sizes, &[], &[]), [0.0; 5 * 3 * 9]);
    }
}
