//! The pixels of a convolution's result that are made with the same taps, and their weights.

use super::super::axes::Axis;
use super::packing::{Kernels, Weights};
use super::parts::Side;
use super::tiles::DEEP;

/// Pixels of a result that are made with the same taps.
pub(super) struct Phase {
    /// Rows and columns.
    pub sides: [Side; 2],
    /// How far apart these are in the result.
    pub steps: usize,
    pub kernels: Kernels,
    /// Pixels of the source that count as one, and how far apart they begin.
    pub run: usize,
    pub pitch: usize,
}

impl Phase {
    /// Packs the weights of kernels of so many pixels a side for the result's pixels along both axes.
    pub fn new(axes: [Axis; 2], weights: Weights<'_>, kernel: usize) -> Self {
        let (steps, [rows, columns], sources) = (axes[0].step() * axes[1].step(), axes, weights.sources.0);
        let [down, mut right] = axes.map(Side::new);
        // Channels of all taps of a row lie side by side. Where few fill no tile, they take far fewer steps together.
        let (run, pitch) = (right.taps, right.stride);
        if 4 * (run * sources).div_ceil(DEEP) <= 3 * run * sources.div_ceil(DEEP) {
            let results = weights.results.0;
            let mut values = vec![0.0; results * run * sources * rows.taps];
            for (at, value) in values.iter_mut().enumerate() {
                let (y, at) = (at % rows.taps, at / rows.taps);
                let (source, at) = (at % sources, at / sources);
                let (x, result) = (at % run, at / run);
                let at = result * weights.results.1 + source * weights.sources.1;
                *value = weights.values[at * weights.area + rows.tap(y) * kernel + columns.tap(x)];
            }
            let sources = run * sources;
            let weights =
                Weights { values: &values, results: (results, sources), sources: (sources, 1), area: rows.taps };
            let kernels = Kernels::new(weights, &(0..rows.taps).collect::<Vec<_>>());
            (right.taps, right.stride) = (1, 1);
            return Self { sides: [down, right], steps, kernels, run, pitch };
        }
        let taps = (0..rows.taps * columns.taps)
            .map(|at| rows.tap(at / columns.taps) * kernel + columns.tap(at % columns.taps));
        let kernels = Kernels::new(weights, &taps.collect::<Vec<_>>());
        Self { sides: [down, right], steps, kernels, run: 1, pitch }
    }
}
