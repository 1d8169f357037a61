//! Copies a part of some images into lines that tiles are loaded from as they lie there.
//!
//! The 16 rows of a tile must lie at equal distances. Along a row of an image they do, but few images are a multiple of 16
//! pixels wide. So pixels at one position of several images, the lanes, lie side by side: as many lanes as make rows of
//! whole tiles. A step to a neighbouring pixel is then as many lines for all rows of a tile, whatever images they are from.

use super::super::geometry::Images;
use super::tiles::{DEEP, Line};
use half::bf16;

/// Where the lines of a part of some images lie: \[slice of channels, group of images, row, column % stride, column / stride,
/// lane\].
///
/// Columns of different remainders lie apart, so that those that neighbouring windows begin with are neighbours too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub slices: usize,
    pub groups: usize,
    pub rows: usize,
    pub stride: usize,
    /// Columns of one remainder.
    pub columns: usize,
    pub lanes: usize,
}

impl Layout {
    /// Lines of a row.
    pub fn row(&self) -> usize {
        self.stride * self.columns * self.lanes
    }

    /// Lines of a slice.
    pub fn slice(&self) -> usize {
        self.groups * self.rows * self.row()
    }

    pub fn len(&self) -> usize {
        self.slices * self.slice()
    }

    /// Lines from a pixel whose column is a multiple of the stride to one so far below and to the right, within a slice.
    pub fn step(&self, down: usize, right: usize) -> usize {
        down * self.row() + (right % self.stride * self.columns + right / self.stride) * self.lanes
    }
}

/// The pixels that a layout is filled with.
pub struct Pixels<'a> {
    /// \[batch, height, width, channels\].
    pub values: &'a [bf16],
    pub images: Images,
    pub channels: usize,
    /// Neighbours in a row whose channels count as those of one pixel, the leftmost.
    pub run: usize,
    /// Pixels between columns of one remainder.
    pub pitch: usize,
    /// The image of the first lane.
    pub first: usize,
    /// The row and the column of the first pixel, outside of the image where there is padding.
    pub corner: (isize, isize),
    /// The channel of the first slice.
    pub channel: usize,
}

impl Pixels<'_> {
    /// Fills the lines: each slice has 32 channels of one image.
    #[inline(always)]
    pub fn fill(&self, layout: Layout, out: &mut Vec<Line>) {
        self.fill_with::<1>(layout, out);
    }

    /// Fills the lines: each slice has 16 channels of two images, alternating.
    #[inline(always)]
    pub fn fill_pairs(&self, layout: Layout, out: &mut Vec<Line>) {
        self.fill_with::<2>(layout, out);
    }

    /// Fills the lines with values of `N` images each. What is outside of the images is 0.
    #[inline(always)]
    fn fill_with<const N: usize>(&self, layout: Layout, out: &mut Vec<Line>) {
        let Images { batch, height, width } = self.images;
        let Layout { stride, columns, lanes, .. } = layout;
        let row_length = width * self.channels;
        // What is there already need not be cleared, as all is written.
        out.resize(layout.len(), Line::ZERO);
        for (at, out) in out.chunks_exact_mut((columns * lanes).max(1)).enumerate() {
            let (remainder, at) = (at % stride, at / stride);
            let (row, at) = (at % layout.rows, at / layout.rows);
            let (group, slice) = (at % layout.groups, at / layout.groups);
            let y = self.corner.0 + row as isize;
            if y < 0 || y >= height as isize {
                out.fill(Line::ZERO);
                continue;
            }
            let channel = self.channel + slice * (DEEP / N);
            let many = (DEEP / N).min(self.run * self.channels - channel);
            let begin = (self.corner.1 + remainder as isize) * self.channels as isize + channel as isize;
            for lane in 0..lanes {
                let image = self.first + (group * lanes + lane) * N;
                let mut rows = [&[] as &[bf16]; N];
                for (at, row) in rows.iter_mut().enumerate().take(batch.saturating_sub(image)) {
                    *row = &self.values[((image + at) * height + y as usize) * row_length..][..row_length];
                }
                let mut begin = begin;
                for column in 0..columns {
                    let out = &mut out[column * lanes + lane];
                    // Of a negative begin, nothing is found.
                    let whole = |row: &[bf16]| many == DEEP / N && row.len() >= DEEP / N;
                    match (rows[0].get(begin as usize..), rows[N - 1].get(begin as usize..)) {
                        (Some(first), _) if N == 1 && whole(first) => out.0.copy_from_slice(&first[..DEEP]),
                        (Some(first), Some(second)) if N == 2 && whole(first) && whole(second) => {
                            interleave(first, second, out);
                        }
                        _ => partly(rows, begin, many, out),
                    }
                    begin += (self.pitch * self.channels) as isize;
                }
            }
        }
    }
}

/// 16 values of each of two, alternating.
#[inline(always)]
pub fn interleave(first: &[bf16], second: &[bf16], out: &mut Line) {
    let (first, second) = (&first[..DEEP / 2], &second[..DEEP / 2]);
    for at in 0..DEEP / 2 {
        out.0[2 * at] = first[at];
        out.0[2 * at + 1] = second[at];
    }
}

/// Those of so many values from a place on, which may be before the first, that there are, among zeros.
fn partly<const N: usize>(rows: [&[bf16]; N], begin: isize, many: usize, out: &mut Line) {
    *out = Line::ZERO;
    for (at, row) in rows.iter().enumerate() {
        let (first, end) = (begin.max(0), (begin + many as isize).min(row.len() as isize));
        for place in first..end {
            out.0[(place - begin) as usize * N + at] = row[place as usize];
        }
    }
}
