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

    /// Lines from a pixel to one so far below and to the right, within a slice, where the pixel's column is a multiple of the stride.
    pub fn step(&self, down: usize, right: usize) -> usize {
        down * self.row() + (right % self.stride * self.columns + right / self.stride) * self.lanes
    }
}

/// The pixels that a layout is filled with. A line has values of `N` images.
pub struct Pixels<'a> {
    /// \[batch, height, width, channels\].
    pub values: &'a [bf16],
    pub images: Images,
    pub channels: usize,
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

    /// Fills the lines with values of `N` images each.
    #[inline(always)]
    fn fill_with<const N: usize>(&self, layout: Layout, out: &mut Vec<Line>) {
        let Images { batch, height, width } = self.images;
        let Layout { stride, columns, lanes, .. } = layout;
        // What is there already need not be cleared, as all is written.
        out.resize(layout.len(), Line::ZERO);
        let run = columns * lanes;
        for (at, out) in out.chunks_exact_mut(run.max(1)).enumerate() {
            let (remainder, at) = (at % stride, at / stride);
            let (row, at) = (at % layout.rows, at / layout.rows);
            let (group, slice) = (at % layout.groups, at / layout.groups);
            let y = self.corner.0 + row as isize;
            let left = self.corner.1 + remainder as isize;
            // Columns before the image, and those up to its end.
            let before = ((-left).max(0) as usize).div_ceil(stride).min(columns);
            let inside = (width as isize - left).max(0) as usize;
            let end = inside.div_ceil(stride).clamp(before, columns);
            let first = (left + (before * stride) as isize).max(0) as usize;
            if before == end || y < 0 || y >= height as isize {
                out.fill(Line::ZERO);
                continue;
            }
            let channel = self.channel + slice * (DEEP / N);
            out[..before * lanes].fill(Line::ZERO);
            out[end * lanes..].fill(Line::ZERO);
            for lane in 0..lanes {
                let image = self.first + (group * lanes + lane) * N;
                let out = &mut out[before * lanes + lane..];
                if image >= batch {
                    for column in 0..end - before {
                        out[column * lanes] = Line::ZERO;
                    }
                    continue;
                }
                let pixel = ((image * height + y as usize) * width + first) * self.channels;
                let others = pixel + if image + 1 < batch { height * width * self.channels } else { 0 };
                let run = self.channels * stride;
                let pixels = self.values[pixel + channel..].chunks(run);
                let others = (image + 1 < batch, self.values[others + channel..].chunks(run));
                let many = (DEEP / N).min(self.channels - channel);
                let out = out.chunks_mut(lanes).take(end - before);
                for ((out, pixel), other) in out.zip(pixels).zip(others.1) {
                    let out = &mut out[0];
                    if N == 1 && many == DEEP {
                        out.0.copy_from_slice(&pixel[..DEEP]);
                    } else if N == 2 && many == DEEP / 2 && others.0 {
                        interleave(pixel, other, out);
                    } else {
                        *out = Line::ZERO;
                        for at in 0..many {
                            out.0[N * at] = pixel[at];
                            if N == 2 && others.0 {
                                out.0[N * at + 1] = other[at];
                            }
                        }
                    }
                }
            }
        }
    }
}

/// 16 values of each of two, alternating.
#[inline(always)]
fn interleave(first: &[bf16], second: &[bf16], out: &mut Line) {
    let (first, second) = (&first[..DEEP / 2], &second[..DEEP / 2]);
    for at in 0..DEEP / 2 {
        out.0[2 * at] = first[at];
        out.0[2 * at + 1] = second[at];
    }
}
