//! Scaling by a triangle filter that widens on reduction: bit for bit what Pillow's and torchvision's `BILINEAR` gives.

use std::ops::Range;

/// Bits after the point of the weights, as in Pillow.
const PRECISION: u32 = 22;

/// Which pixels of one axis, with which weights, make each of its output pixels.
pub(super) struct Axis {
    /// The first input pixel of each output pixel.
    first: Vec<usize>,
    /// `taps` weights for each output pixel, the unused ones zero.
    weights: Vec<i32>,
    /// The number of weights in use for each output pixel.
    used: Vec<usize>,
    taps: usize,
}

impl Axis {
    /// Scales the pixels of `region` to `scaled` pixels, of which only those in `wanted` are made.
    ///
    /// Nothing outside `region` is looked at. `region` must not be empty.
    pub fn new(region: Range<usize>, scaled: usize, wanted: Range<usize>) -> Self {
        let scale = region.len() as f64 / scaled as f64;
        let support = scale.max(1.0);
        let taps = support.ceil() as usize * 2 + 1;
        let mut axis = Self { first: Vec::new(), weights: Vec::new(), used: Vec::new(), taps };
        for position in wanted {
            let centre = (position as f64 + 0.5) * scale;
            // A float that is cast saturates at zero.
            let low = (centre - support + 0.5) as usize;
            let high = ((centre + support + 0.5) as usize).min(region.len());
            let triangle = |pixel: usize| (1.0 - ((pixel as f64 - centre + 0.5) / support).abs()).max(0.0);
            let total: f64 = (low..high).map(triangle).sum();
            let fixed = |pixel| (triangle(pixel) / total * f64::from(1u32 << PRECISION)).round() as i32;
            axis.first.push(region.start + low);
            axis.used.push(high - low);
            axis.weights.extend((low..low + taps).map(|pixel| if pixel < high { fixed(pixel) } else { 0 }));
        }
        axis
    }

    /// The number of output pixels.
    fn len(&self) -> usize {
        self.first.len()
    }

    /// The weights of each output pixel, with the first input pixel that they belong to.
    fn kernels(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let kernels = self.weights.chunks_exact(self.taps).zip(&self.used);
        self.first.iter().copied().zip(kernels.map(|(weights, &used)| &weights[..used]))
    }

    /// All input pixels that some output pixel needs.
    fn reach(&self) -> Range<usize> {
        let end = self.first.last().zip(self.used.last()).map_or(0, |(first, used)| first + used);
        self.first.first().copied().unwrap_or(0)..end
    }
}

/// Scales an image [height, width, C] of `width` pixels a row to [rows, columns, C], columns first.
pub(super) fn resample<const C: usize>(pixels: &[u8], width: usize, columns: &Axis, rows: &Axis) -> Vec<u8> {
    let reach = rows.reach();
    let mut narrow = Vec::with_capacity(reach.len() * columns.len() * C);
    for row in pixels.chunks_exact(width * C).skip(reach.start).take(reach.len()) {
        resample_row::<C>(row, columns, &mut narrow);
    }
    let stride = columns.len() * C;
    let mut scaled = Vec::with_capacity(rows.len() * stride);
    let mut sums = vec![0i32; stride];
    for (first, weights) in rows.kernels() {
        sums.fill(1 << (PRECISION - 1));
        for (row, &weight) in narrow.chunks_exact(stride).skip(first - reach.start).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        scaled.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    scaled
}

fn resample_row<const C: usize>(row: &[u8], columns: &Axis, out: &mut Vec<u8>) {
    let (row, _) = row.as_chunks::<C>();
    for (first, weights) in columns.kernels() {
        let mut sums = [1i32 << (PRECISION - 1); C];
        for (pixel, &weight) in row[first..].iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.map(to_byte));
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_to_the_same_size_changes_nothing() {
        let pixels: Vec<u8> = (0..5 * 7 * 3).map(|value| (value * 37 % 256) as u8).collect();
        let (columns, rows) = (Axis::new(0..7, 7, 0..7), Axis::new(0..5, 5, 0..5));
        assert_eq!(resample::<3>(&pixels, 7, &columns, &rows), pixels);
    }

    #[test]
    fn values_agree_with_pillow() {
        // Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8) * 6).resize((3, 2), Image.BILINEAR)
        let pixels: Vec<u8> = (0..40).map(|value| value * 6).collect();
        let scaled = resample::<1>(&pixels, 8, &Axis::new(0..8, 3, 0..3), &Axis::new(0..5, 2, 0..2));
        assert_eq!(scaled, [55, 69, 83, 151, 165, 179]);
        // the same with crop((2, 1, 5, 3)).resize((5, 3), Image.BILINEAR)
        let scaled = resample::<1>(&pixels, 8, &Axis::new(2..5, 5, 0..5), &Axis::new(1..3, 3, 0..3));
        assert_eq!(scaled, [60, 62, 66, 70, 72, 84, 86, 90, 94, 96, 108, 110, 114, 118, 120]);
    }

    #[test]
    fn a_part_of_the_output_is_that_part_of_the_whole() {
        let pixels: Vec<u8> = (0..90).map(|value| value * 2).collect();
        let rows = Axis::new(0..9, 4, 0..4);
        let whole = resample::<1>(&pixels, 10, &Axis::new(0..10, 6, 0..6), &rows);
        let part = resample::<1>(&pixels, 10, &Axis::new(0..10, 6, 2..4), &rows);
        let expected: Vec<u8> = whole.chunks(6).flat_map(|row| row[2..4].to_vec()).collect();
        assert_eq!(part, expected);
    }
}
