//! Batch norm, alone and with average pooling behind it.

use super::{CHANNELS, ELEMENTS, assert_close, floats, images, noise, put, run};
use crate::cuda::gpu::{Element, Pointer};
use crate::cuda::normalise::{Line, NormGradients, Running};
use crate::ops::{Activation, BatchNorm, BatchStatistics, PooledNorm};
use candle_core::{DType, Var};

/// Checks batch norm of \[batch, height, width, channels\], of which the result may be averaged to so many cells along an
/// axis, and its gradients.
fn check(shape: [usize; 4], element: Element, activation: Activation, pool: Option<usize>) {
    let [batch, height, width, channels] = shape;
    let what = format!("batch norm of {shape:?} in {element:?}, {activation:?}, pooled to {pool:?}");
    let (result, of_result) = match pool {
        Some(side) => ([batch, side, side, channels], Element::F32),
        None => ([batch, height, width, channels], element),
    };
    let (x, grad) = (noise(&shape, 1, element), noise(&result, 2, of_result));
    let x = ((x + 5.0).unwrap() * 2.0).unwrap().to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    let (gamma, beta) = (floats(&[channels], 3), floats(&[channels], 4));
    let norm = BatchNorm { gamma: &gamma, beta: &beta, epsilon: 1e-3, activation };
    let before = [5, 6].map(|seed| floats(&[channels], seed));
    let running = before.each_ref().map(|tensor| Var::from_tensor(tensor).unwrap());
    let ((y, statistics), gradients) = match pool {
        Some(side) => {
            let norm = PooledNorm { norm, side };
            let (y, statistics) = norm.train(&x, running.each_ref(), 0.1).unwrap();
            let gradients = norm.gradients(&x, &statistics, &grad).unwrap();
            ((y, statistics), gradients)
        }
        None => {
            let (y, statistics) = norm.train(&x, running.each_ref(), 0.1).unwrap();
            let gradients = norm.gradients(&x, &statistics, &grad).unwrap();
            ((y, statistics), gradients)
        }
    };
    let images = images(shape, element);
    let line = |[mean, variance, gamma, beta]: [Pointer; 4]| Line {
        mean,
        variance,
        gamma,
        beta,
        epsilon: 1e-3,
        relu: activation == Activation::Relu,
    };
    let one = (&[channels][..], Element::F32);
    let [mean, variance, found] = run([one, one, (&result, of_result)], |gpu, [mean, variance, y]| {
        let (_memory, [x, gamma, beta]) = put(gpu, [(&x, element), (&gamma, Element::F32), (&beta, Element::F32)]);
        let (moved, [of_mean, of_variance]) = put(gpu, before.each_ref().map(|own| (own, Element::F32)));
        let count = (batch * height * width) as f64;
        let shares = [0.1, 0.1 * count / (count - 1.0).max(1.0)];
        let moving = Running { mean: of_mean, variance: of_variance, kept: 0.9, shares };
        let line = line([mean, variance, gamma, beta]);
        // The second time nothing moves.
        for by in [(line, Some(moving)), (line, None)] {
            // SAFETY: memory of the sizes that are said.
            unsafe {
                match pool {
                    Some(side) => images.normalise_pool(gpu, x, by, side, y)?,
                    None => images.maps().normalise_by_moments(gpu, x, by, y)?,
                }
            }
            for (memory, running) in moved.iter().zip(&running) {
                let found = gpu.get(memory, Element::F32, &[channels]);
                assert_close(&found, running, Element::F32, 1e-5, &format!("running statistics of {what}"));
            }
        }
        Ok(())
    });
    assert_close(&mean, &statistics.mean, Element::F32, 1e-5, &format!("mean of {what}"));
    assert_close(&variance, &statistics.variance, Element::F32, 1e-5, &format!("variance of {what}"));
    assert_close(&found, &y, of_result, 1e-5, &what);
    let BatchStatistics { mean, variance } = &statistics;
    let [of_x, of_gamma, of_beta] = run([(&shape, element), one, one], |gpu, [of_x, of_gamma, of_beta]| {
        let single = [mean, variance, &gamma, &beta].map(|tensor| (tensor, Element::F32));
        let (_memory, [x, grad]) = put(gpu, [(&x, element), (&grad, of_result)]);
        let (_more, pointers) = put(gpu, single);
        let to = NormGradients { x: of_x, gamma: of_gamma, beta: of_beta };
        // SAFETY: memory of the sizes that are said.
        unsafe {
            match pool {
                Some(side) => images.normalise_pool_gradients(gpu, (x, grad), (line(pointers), side), to),
                None => images.maps().normalise_gradients(gpu, (x, grad), line(pointers), to),
            }
        }
    });
    assert_close(&of_gamma, &gradients.gamma, Element::F32, 1e-4, &format!("scale's gradient of {what}"));
    assert_close(&of_beta, &gradients.beta, Element::F32, 1e-4, &format!("shift's gradient of {what}"));
    assert_close(&of_x, &gradients.x, element, 1e-4, &format!("gradient of {what}"));
}

#[test]
fn batch_norm_agrees() {
    for element in ELEMENTS {
        for channels in CHANNELS {
            // So few pixels that a block has all of them, and more.
            check([3, 5, 4, channels], element, Activation::Relu, None);
            check([1, 33, 34, channels], element, Activation::Relu, None);
        }
        check([2, 1, 1, 8], element, Activation::Identity, None);
        // More pixels than the blocks that sum take at once.
        check([2, 190, 190, 3], element, Activation::Identity, None);
        check([1, 40, 45, 1040], element, Activation::Relu, None);
    }
}

#[test]
fn batch_norm_agrees_where_its_result_is_pooled() {
    for element in ELEMENTS {
        for channels in CHANNELS {
            check([3, 6, 4, channels], element, Activation::Relu, Some(2));
        }
        check([2, 9, 12, 5], element, Activation::Identity, Some(3));
        check([5, 7, 3, 12], element, Activation::Relu, Some(1));
        // A cell of each pixel; more cells than blocks; more pixels in a cell than a block takes at once.
        check([2, 2, 2, 8], element, Activation::Relu, Some(2));
        check([70, 4, 4, 8], element, Activation::Relu, Some(4));
        check([1, 96, 100, 16], element, Activation::Relu, Some(2));
    }
}

#[test]
fn pooling_takes_one_pass_where_cells_do_not_overlap_and_pixels_are_many() {
    let pools = |shape, side| images(shape, Element::Bf16).pools_normalised(side);
    assert!(pools([128, 32, 32, 128], 2) && pools([128, 9, 9, 128], 3) && pools([128, 7, 5, 128], 1));
    assert!(!pools([128, 7, 7, 128], 2) && !pools([128, 8, 9, 128], 2) && !pools([4, 8, 8, 128], 2));
}
