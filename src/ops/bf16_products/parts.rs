//! Which pixels of a convolution's result are worked on at a time.

use super::super::axes::Axis;
use super::band::Layout;
use super::tiles::ROWS;
use std::ops::Range;

/// Lines of the source that are worked on at a time: 512 KiB, so that they stay in the second-level cache beside weights.
const AT_ONCE: usize = 1 << 13;
/// Parts for each thread, so that none waits long for another's last.
pub const PARTS: usize = 4;
/// Tiles of pixels that a part has at least: all weights are read for each part.
const LEAST: usize = 8;

/// Pixels along one side.
#[derive(Clone, Copy)]
pub struct Side {
    /// Of the result: the first, how far apart, and how many.
    pub first: usize,
    pub step: usize,
    pub count: usize,
    /// Of the source: where that begins which the first is made of, how much further that of the next, and how many each.
    pub begin: isize,
    pub stride: usize,
    pub taps: usize,
}

impl Side {
    pub fn new(axis: Axis) -> Self {
        let (first, count) = (axis.all().next().unwrap_or(0), axis.all().count());
        let (begin, stride) = (axis.begin(first), axis.stride());
        Self { first, step: axis.step(), count, begin, stride, taps: axis.taps }
    }
}

/// Images whose pixels lie side by side: as few as fill tiles nearly as well as more would.
pub fn lanes(columns: usize, batch: usize) -> usize {
    let filled = |lanes: usize| {
        let pixels = (columns * lanes).div_ceil(ROWS) * ROWS * batch.div_ceil(lanes);
        (columns * batch) as f64 / pixels.max(1) as f64
    };
    let best = [1, 2, 4, 8, 16].into_iter().map(filled).fold(0.0, f64::max);
    [1, 2, 4, 8, 16].into_iter().find(|&lanes| filled(lanes) >= 0.95 * best).unwrap_or(1)
}

/// Groups of images and the rows of each that are worked on at a time: all rows of some groups, or some of one. All of the
/// weights, so many lines, are read for each part: it has about as many itself.
pub fn parts(
    layout: Layout,
    (groups, rows, tiles): (usize, Side, usize),
    weights: usize,
) -> Vec<(Range<usize>, Range<usize>)> {
    let fits = AT_ONCE / layout.len().max(1);
    if fits > 0 {
        let each = groups.div_ceil(PARTS * rayon::current_num_threads());
        let least = LEAST.div_ceil(tiles * rows.count);
        let many = fits.min(each.min(weights.div_ceil(layout.len())).max(least));
        return (0..groups).step_by(many).map(|at| (at..(at + many).min(groups), 0..rows.count)).collect();
    }
    let row = (layout.row() * layout.slices).max(1);
    let many = (AT_ONCE / row).saturating_sub(rows.taps).div_ceil(rows.stride).max(1);
    // As equal as can be.
    let bands = rows.count.div_ceil(many);
    let band = |at: usize| at * rows.count / bands..(at + 1) * rows.count / bands;
    (0..groups).flat_map(|group| (0..bands).map(move |at| (group..group + 1, band(at)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_row_once_and_fit() {
        for (groups, count, row, weights) in [(1, 1, 64, 32), (7, 9, 300, 4000), (5, 50, 700, 100), (2, 3, 9000, 64)] {
            let rows = Side { first: 0, step: 1, count, begin: -1, stride: 2, taps: 3 };
            let lines = |rows: usize| ((rows - 1) * 2 + 3) * row;
            let layout = Layout { slices: 1, groups: 1, rows: (count - 1) * 2 + 3, stride: 1, columns: row, lanes: 1 };
            let parts = parts(layout, (groups, rows, 2), weights);
            let all: Vec<(usize, usize)> = parts
                .iter()
                .flat_map(|(groups, rows)| groups.clone().flat_map(|group| rows.clone().map(move |row| (group, row))))
                .collect();
            let expected: Vec<_> = (0..groups).flat_map(|group| (0..count).map(move |row| (group, row))).collect();
            assert_eq!(all, expected);
            for (groups, rows) in parts {
                assert!(groups.len() * lines(rows.len()) <= AT_ONCE || (groups.len(), rows.len()) == (1, 1));
            }
        }
    }

    #[test]
    fn lanes_fill_tiles() {
        for (columns, batch, expected) in [(16, 64, 1), (8, 64, 2), (4, 64, 4), (7, 64, 16), (1, 64, 16), (1, 1, 1)] {
            assert_eq!(lanes(columns, batch), expected, "{columns} columns");
        }
    }
}
