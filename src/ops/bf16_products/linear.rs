//! Linear layers: convolutions of images of one pixel.

use super::super::direct::Sizes;
use super::super::element::Element;
use super::super::geometry::{Finish, Images};
use super::super::window::Window;
use super::Instructions;
use half::bf16;

fn sizes(batch: usize, (inputs, outputs): (usize, usize)) -> Sizes {
    let images = Images { batch, height: 1, width: 1 };
    Sizes { images, inputs, outputs, window: Window::new(1, 1, 0), rows: 1, columns: 1 }
}

impl Instructions {
    /// `x` \[batch, inputs\] times the transposed `weight` \[outputs, inputs\], which is rounded to bf16, with bias and ReLU:
    /// \[batch, outputs\].
    pub(in crate::ops) fn linear<T: Element>(
        self,
        batch: usize,
        channels: (usize, usize),
        x: &[bf16],
        weight: &[f32],
        finish: Finish<'_>,
    ) -> Vec<T> {
        self.convolve(&sizes(batch, channels), x, weight, finish)
    }

    /// The gradient of the weights \[outputs, inputs\], from the input \[batch, inputs\] and the gradient of the result
    /// \[batch, outputs\].
    pub(in crate::ops) fn linear_weight_gradient(
        self,
        batch: usize,
        channels: (usize, usize),
        x: &[bf16],
        grad: &[bf16],
    ) -> Vec<f32> {
        self.weight_gradient(&sizes(batch, channels), x, grad)
    }

    /// The gradient of the input \[batch, inputs\], from the weights and the gradient of the result \[batch, outputs\].
    pub(in crate::ops) fn linear_input_gradient<T: Element>(
        self,
        batch: usize,
        channels: (usize, usize),
        weight: &[f32],
        grad: &[bf16],
    ) -> Vec<T> {
        self.input_gradient(&sizes(batch, channels), weight, grad)
    }
}
