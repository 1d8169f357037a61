//! Convolution of any kernel size on images in NHWC order, by unfolding images into a matrix, forward and backward.

use super::cpu::build_parts;
use super::geometry::{Finish, Images};
use super::matrix::{Matrix, multiply};
use super::window::Window;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Values of unfolded input that are worked on at a time: 1 MiB, so that they stay in the second-level cache.
const TILE: usize = 1 << 18;

thread_local! {
    /// Unfolded input; kept, so that a step allocates none.
    static UNFOLDED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// All sizes of one convolution.
#[derive(Clone, Copy)]
pub(super) struct Unfolding {
    pub images: Images,
    pub inputs: usize,
    pub outputs: usize,
    pub window: Window,
    /// Rows and columns of the result.
    pub rows: usize,
    pub columns: usize,
}

impl Unfolding {
    /// Values that an output is made of.
    fn taps(&self) -> usize {
        self.window.kernel * self.window.kernel * self.inputs
    }

    /// Rows of output that are worked on at a time, over all images.
    fn parts(&self) -> Vec<Range<usize>> {
        let (all, height) = (self.images.batch * self.rows, self.rows);
        let at_once = (TILE / (self.taps() * self.columns).max(1)).clamp(1, height);
        (0..all).step_by(at_once).map(|first| first..(first + at_once).min(all)).collect()
    }

    /// Convolves `x` with weights: \[batch, height, width, outputs\].
    pub fn convolve(&self, x: &[f32], weight: &[f32], finish: Finish<'_>) -> Vec<f32> {
        let by_tap = self.by_tap(weight);
        let weight = Matrix::new(&by_tap, self.taps(), self.outputs, self.outputs);
        let parts = self.parts();
        let lengths: Vec<usize> = parts.iter().map(|rows| rows.len() * self.columns * self.outputs).collect();
        build_parts(&lengths, |part, out| {
            self.with_unfolded(x, parts[part].clone(), |unfolded| multiply(unfolded, weight, out, self.outputs, false));
            finish.apply(self.outputs, out);
        })
    }

    /// The gradient of weights \[outputs, inputs, kernel, kernel\]. Each thread sums a share of the rows, and the shares
    /// are added in order.
    pub fn weight_gradient(&self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        let parts = self.parts();
        let row = self.columns * self.outputs;
        let share = parts.len().div_ceil(rayon::current_num_threads()).max(1);
        let add_part = |sums: &mut [f32], rows: &Range<usize>| {
            let grad = &grad[rows.start * row..rows.end * row];
            self.with_unfolded(x, rows.clone(), |unfolded| {
                let grad = Matrix::new(grad, unfolded.rows, self.outputs, self.outputs);
                multiply(unfolded.transposed(), grad, sums, self.outputs, true);
            });
        };
        let sum_share = |parts: &[Range<usize>]| {
            let mut sums = vec![0.0; self.taps() * self.outputs];
            parts.iter().for_each(|rows| add_part(&mut sums, rows));
            sums
        };
        let shares: Vec<Vec<f32>> = parts.par_chunks(share).map(sum_share).collect();
        let sum = |at: usize| shares.iter().map(|share| share[at]).sum();
        let place = |output: usize, input: usize, tap: usize| (tap * self.inputs + input) * self.outputs + output;
        let area = self.window.kernel * self.window.kernel;
        let values = 0..self.outputs * self.inputs * area;
        values.map(|at| sum(place(at / area / self.inputs, at / area % self.inputs, at % area))).collect()
    }

    /// Weights \[outputs, inputs, kernel, kernel\] as \[kernel, kernel, inputs, outputs\].
    fn by_tap(&self, weight: &[f32]) -> Vec<f32> {
        let area = self.window.kernel * self.window.kernel;
        let value = |output: usize, input: usize, tap: usize| weight[(output * self.inputs + input) * area + tap];
        let places = 0..weight.len();
        let inputs = self.inputs;
        places.map(|at| value(at % self.outputs, at / self.outputs % inputs, at / self.outputs / inputs)).collect()
    }

    /// Calls a function with the matrix \[pixel, tap\] of some rows of output.
    fn with_unfolded(&self, x: &[f32], rows: Range<usize>, f: impl FnOnce(Matrix<'_>)) {
        UNFOLDED.with_borrow_mut(|unfolded| {
            let pixels = rows.len() * self.columns;
            unfolded.clear();
            unfolded.resize(pixels * self.taps(), 0.0);
            let lines = unfolded.chunks_exact_mut(self.taps().max(1));
            let places = rows.flat_map(|row| (0..self.columns).map(move |column| (row, column)));
            places.zip(lines).for_each(|((row, column), line)| self.unfold(x, row, column, line));
            f(Matrix::new(unfolded, pixels, self.taps(), self.taps()));
        });
    }

    /// Copies what one output is made of; what lies outside the image stays as it is.
    fn unfold(&self, x: &[f32], row: usize, column: usize, line: &mut [f32]) {
        let Images { height, width, .. } = self.images;
        let Window { kernel, stride, padding } = self.window;
        let (image, y, x_at) = (row / self.rows, row % self.rows * stride, column * stride);
        // Columns of the kernel that lie inside the image.
        let left = padding.saturating_sub(x_at).min(kernel);
        let right = (width + padding).saturating_sub(x_at).clamp(left, kernel);
        for (dy, line) in line.chunks_exact_mut((kernel * self.inputs).max(1)).enumerate() {
            let inside = (y + dy).checked_sub(padding).filter(|&y| y < height);
            if let (Some(y), true) = (inside, left < right) {
                let first = (image * height + y) * width + x_at + left - padding;
                let values = (right - left) * self.inputs;
                line[left * self.inputs..][..values].copy_from_slice(&x[first * self.inputs..][..values]);
            }
        }
    }
}
