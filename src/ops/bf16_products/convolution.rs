//! Convolutions as products of tiles: pixels are the rows of left tiles, weights right ones.

use super::super::axes::Axis;
use super::super::direct::Sizes;
use super::super::element::Element;
use super::super::geometry::{Finish, Images};
use super::Instructions;
use super::band::Layout;
use super::finish::{NONE, Results};
use super::packing::Weights;
use super::parts::{PARTS, lanes, parts};
use super::phase::Phase;
use super::task::{Run, Task};
use super::tiles::{DEEP, Line, ROWS};
use half::bf16;
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;

thread_local! {
    /// Copied source; kept, so that a step allocates none.
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Instructions {
    /// Convolves `x` \[batch, height, width, inputs\] with weights \[outputs, inputs, kernel, kernel\], which are rounded to
    /// bf16: \[batch, height', width', outputs\].
    pub(in crate::ops) fn convolve<T: Element>(
        self,
        sizes: &Sizes,
        x: &[bf16],
        weight: &[f32],
        finish: Finish<'_>,
    ) -> Vec<T> {
        let Sizes { images, inputs, outputs, window, rows, columns } = *sizes;
        let area = window.kernel * window.kernel;
        assert!(weight.len() == outputs * inputs * area);
        let weights = Weights { values: weight, results: (outputs, inputs), sources: (inputs, 1), area };
        let axes = [Axis::forward(window, rows), Axis::forward(window, columns)];
        let phase = Phase::new(axes, weights, window.kernel);
        self.run(&[phase], (images, inputs, x), sizes.results(), finish)
    }

    /// The gradient of the input \[batch, height, width, inputs\], from that of the result.
    pub(in crate::ops) fn input_gradient<T: Element>(self, sizes: &Sizes, weight: &[f32], grad: &[bf16]) -> Vec<T> {
        let Sizes { images, inputs, outputs, window, .. } = *sizes;
        let area = window.kernel * window.kernel;
        assert!(weight.len() == outputs * inputs * area);
        let weights = Weights { values: weight, results: (inputs, 1), sources: (outputs, inputs), area };
        // Pixels with other remainders have no taps: their gradient is 0.
        let remainders = window.stride.min(window.kernel);
        let phases: Vec<Phase> = (0..remainders * remainders)
            .map(|at| {
                let (down, right) = (at / remainders, at % remainders);
                let axes = [Axis::backward(window, down, images.height), Axis::backward(window, right, images.width)];
                Phase::new(axes, weights, window.kernel)
            })
            .collect();
        self.run(&phases, (sizes.results(), outputs, grad), images, Finish { bias: None, relu: false })
    }

    /// Makes a result from a source, which has its own images and channels.
    fn run<T: Element>(
        self,
        phases: &[Phase],
        source: (Images, usize, &[bf16]),
        result: Images,
        finish: Finish<'_>,
    ) -> Vec<T> {
        let (images, channels, values) = source;
        assert!(values.len() == images.batch * images.height * images.width * channels);
        let channels = phases.first().map_or(0, |phase| phase.kernels.results);
        let pixels = result.batch * result.height * result.width;
        assert!(pixels < NONE as usize);
        let mut out: Vec<T> = Vec::with_capacity(pixels * channels);
        let covered = phases.iter().all(|phase| phase.steps == phases.len());
        if !covered {
            out.resize(pixels * channels, T::ZERO);
        }
        let results = match covered {
            true => Results::new(&mut out.spare_capacity_mut()[..pixels * channels], channels),
            // SAFETY: only values are written.
            false => {
                Results::new(unsafe { &mut *(std::ptr::from_mut(&mut out[..]) as *mut [MaybeUninit<T>]) }, channels)
            }
        };
        for phase in phases {
            phase.run(self, source, result, finish, &results);
        }
        // SAFETY: all were cleared, or the phases cover all rows and columns, and all channels of each pixel are written.
        unsafe { out.set_len(pixels * channels) };
        out
    }
}

impl Phase {
    /// Writes the pixels of the result.
    fn run<T: Element>(
        &self,
        instructions: Instructions,
        source: (Images, usize, &[bf16]),
        result: Images,
        finish: Finish<'_>,
        results: &Results<'_, T>,
    ) {
        let ([rows, columns], (images, channels, _)) = (self.sides, source);
        if rows.count * columns.count * self.kernels.steps == 0 {
            return;
        }
        let lanes = lanes(columns.count, images.batch);
        let tiles = (columns.count * lanes).div_ceil(ROWS);
        let layout = Layout {
            slices: (self.run * channels).div_ceil(DEEP),
            groups: 1,
            rows: (rows.count - 1) * rows.stride + rows.taps,
            stride: columns.stride,
            columns: (tiles * ROWS).div_ceil(lanes) + (columns.taps - 1) / columns.stride,
            lanes,
        };
        let parts = parts(layout, (images.batch.div_ceil(lanes), rows, tiles), self.kernels.lines());
        // Where parts are few, blocks of channels are apart too.
        let blocks = self.kernels.blocks();
        let apart = (PARTS * rayon::current_num_threads()).div_ceil(parts.len().max(1)).min(blocks);
        (0..parts.len() * apart).into_par_iter().for_each(|at| {
            let (groups, rows_of) = parts[at / apart].clone();
            let part = at % apart;
            let blocks = part * blocks / apart..(part + 1) * blocks / apart;
            let layout = Layout { groups: groups.len(), rows: (rows_of.len() - 1) * rows.stride + rows.taps, ..layout };
            let task =
                Task { phase: self, source, result, finish, results, layout, groups, rows: rows_of, tiles, blocks };
            LINES.with_borrow_mut(|lines| instructions.dispatch(Run { task, lines }));
        });
    }
}
