//! Rows of some images with what lies around them, so that every window finds its pixels at the same distances.

use super::element::Element;
use super::geometry::Images;
use std::ops::Range;

/// Part of some images in NHWC order, zeros around them included, in f32.
#[derive(Clone, Copy)]
pub(super) struct Band<'a> {
    pub values: &'a [f32],
    /// Values between the starts of neighbouring images.
    image: usize,
    /// Values of a row, and of a pixel.
    pub row: usize,
    pub pixel: usize,
    /// The row and the column that come first.
    top: isize,
    left: isize,
}

impl<'a> Band<'a> {
    /// Takes rows and columns of some images of a map with so many channels; those that lie outside of an image are zeros,
    /// and so many values after each pixel are left free. The values are only copied, into the buffer, where there is any
    /// such, or where they must be widened.
    pub fn new<E: Element>(
        map: &'a [E],
        (images, channels, free): (Images, usize, usize),
        which: Range<usize>,
        (rows, columns): (Range<isize>, Range<isize>),
        buffer: &'a mut Vec<f32>,
    ) -> Self {
        let Images { height, width, .. } = images;
        let (line, image) = (width * channels, height * width * channels);
        let map = &map[which.start * image..which.end * image];
        let within = |range: &Range<isize>, size: usize| range.start >= 0 && range.end <= size as isize;
        if let (0, Some(values)) = (free, E::plain(map))
            && within(&rows, height)
            && within(&columns, width)
        {
            return Self { values, image, row: line, pixel: channels, top: 0, left: 0 };
        }
        let pixel = channels + free;
        let row = columns.len() * pixel;
        let band = Self { values: &[], image: rows.len() * row, row, pixel, top: rows.start, left: columns.start };
        let length = which.len() * band.image;
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
        // Columns of the image, the first of them that is taken, and where it comes to lie.
        let (first, end) = (columns.start.max(0) as usize, columns.end.clamp(0, width as isize) as usize);
        let before = (first as isize - columns.start) as usize * pixel;
        let columns = end.saturating_sub(first);
        let out = &mut buffer[..length];
        for (at, out) in out.chunks_exact_mut(row.max(1)).enumerate() {
            let y = rows.start + (at % rows.len()) as isize;
            match usize::try_from(y).ok().filter(|&y| y < height && columns > 0) {
                None => out.fill(0.0),
                Some(y) => {
                    let from = (at / rows.len()) * image + y * line + first * channels;
                    let (left, rest) = out.split_at_mut(before);
                    let (inside, right) = rest.split_at_mut(columns * pixel);
                    left.fill(0.0);
                    right.fill(0.0);
                    let values = &map[from..from + columns * channels];
                    match free {
                        0 => inside.iter_mut().zip(values).for_each(|(out, value)| *out = value.widen()),
                        _ => {
                            let pixels = inside.chunks_exact_mut(pixel).zip(values.chunks_exact(channels));
                            pixels.for_each(|(out, values)| {
                                out.iter_mut().zip(values).for_each(|(out, value)| *out = value.widen());
                            });
                        }
                    }
                }
            }
        }
        Self { values: out, ..band }
    }

    /// The values from a row and a column of an image on.
    pub fn from(&self, image: usize, row: isize, column: isize) -> &'a [f32] {
        let (y, x) = ((row - self.top) as usize, (column - self.left) as usize);
        &self.values[image * self.image + y * self.row + x * self.pixel..]
    }
}
