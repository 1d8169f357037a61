//! Which positions of the source each position of a convolution's result is made of, along one side of an image.

use super::window::Window;
use std::ops::Range;

/// Positions of a result that are `step` apart, each made of `taps` neighbours of the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    first: usize,
    step: usize,
    /// Positions of the result, those of other axes included.
    size: usize,
    /// What the first position is made of begins here; before the source where that is negative.
    begin: isize,
    /// How much further in the source that of the next one begins.
    stride: usize,
    pub taps: usize,
    /// The kernel's tap that belongs to the first of the neighbours, and how many taps further on the next one's lies.
    tap: (usize, isize),
}

impl Axis {
    /// All positions of the result of a convolution.
    pub fn forward(window: Window, size: usize) -> Self {
        let Window { kernel, stride, padding } = window;
        Self { first: 0, step: 1, size, begin: -(padding as isize), stride, taps: kernel, tap: (0, 1) }
    }

    /// Positions of the gradient of a convolution's input, which is made of the gradient of its result: as the stride
    /// leaves out taps, those with one remainder of the stride are made of the same taps. Those whose remainder is not
    /// below the kernel are made of none.
    pub fn backward(window: Window, remainder: usize, size: usize) -> Self {
        let Window { kernel, stride, padding } = window;
        // Position p is made of the results at (p + padding - tap) / stride, where that leaves no rest.
        let first = (remainder + stride - padding % stride) % stride;
        let taps = kernel.saturating_sub(remainder).div_ceil(stride);
        let last = (first + padding) / stride;
        let tap = (remainder + taps.saturating_sub(1) * stride, -(stride as isize));
        Self { first, step: stride, size, begin: last as isize + 1 - taps as isize, stride: 1, taps, tap }
    }

    /// The kernel's tap that belongs to a neighbour.
    pub fn tap(&self, at: usize) -> usize {
        self.tap.0.wrapping_add_signed(at as isize * self.tap.1)
    }

    /// Positions between neighbouring ones.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Positions of the source between what neighbouring positions are made of.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The positions within a range.
    pub fn positions(&self, within: Range<usize>) -> impl Iterator<Item = usize> + Clone + use<> {
        let first = self.first + within.start.saturating_sub(self.first).next_multiple_of(self.step);
        (first..within.end.min(self.size)).step_by(self.step)
    }

    /// All of its positions.
    pub fn all(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        self.positions(0..self.size)
    }

    /// Where that begins which a position is made of.
    pub fn begin(&self, position: usize) -> isize {
        self.begin + ((position.saturating_sub(self.first)) / self.step * self.stride) as isize
    }

    /// All of the source that the positions within a range are made of.
    pub fn reach(&self, within: Range<usize>) -> Range<isize> {
        let mut positions = self.positions(within);
        match (positions.next(), self.taps) {
            (None, _) | (_, 0) => 0..0,
            (Some(first), taps) => {
                let last = positions.last().unwrap_or(first);
                self.begin(first)..self.begin(last) + taps as isize
            }
        }
    }
}

/// The least range that holds all of some, of which empty ones count for nothing.
pub(super) fn hull(ranges: impl Iterator<Item = Range<isize>>) -> Range<isize> {
    ranges.filter(|range| !range.is_empty()).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ways_pair_the_same_positions_with_the_same_taps() {
        for (kernel, stride, padding) in [(1, 1, 0), (3, 1, 1), (3, 2, 1), (11, 4, 2), (1, 2, 0), (2, 3, 0), (5, 3, 4)]
        {
            let window = Window::new(kernel, stride, padding);
            for size in 1..40 {
                let Some(results) = window.output(size) else { continue };
                let forward = Axis::forward(window, results);
                let mut pairs: Vec<(isize, usize, usize)> = Vec::new();
                for result in forward.all() {
                    pairs.extend((0..kernel).map(|at| (forward.begin(result) + at as isize, result, forward.tap(at))));
                }
                pairs.retain(|(position, ..)| (0..size as isize).contains(position));
                let mut back: Vec<(isize, usize, usize)> = Vec::new();
                for axis in (0..stride).map(|remainder| Axis::backward(window, remainder, size)) {
                    for position in axis.all() {
                        let sources = (0..axis.taps).map(|at| (axis.begin(position) + at as isize, axis.tap(at)));
                        let inside = sources.filter(|(result, _)| (0..results as isize).contains(result));
                        back.extend(inside.map(|(result, tap)| (position as isize, result as usize, tap)));
                        assert!(axis.reach(position..position + 1).len() == axis.taps);
                    }
                }
                pairs.sort_unstable();
                back.sort_unstable();
                assert_eq!(pairs, back, "{window:?} on {size} positions");
            }
        }
    }
}
