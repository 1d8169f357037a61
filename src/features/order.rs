//! The order of values: files hold an image channel by channel, networks take it pixel by pixel.

use crate::ops::Element;

/// Values along a side of the squares that are turned at a time, so that both sides stay in the cache.
const SQUARE: usize = 16;

/// \[channel, pixel\] → \[pixel, channel\], in the type of feature maps.
pub fn chw_to_hwc<E: Element>(planes: &[f32], channels: usize, out: &mut [E]) {
    transpose(planes, channels, out);
}

/// \[pixel, channel\] → \[channel, pixel\].
pub fn hwc_to_chw(pixels: &[f32], channels: usize, out: &mut [f32]) {
    transpose(pixels, pixels.len() / channels.max(1), out);
}

/// Turns a matrix of so many rows.
fn transpose<E: Element>(values: &[f32], rows: usize, out: &mut [E]) {
    let columns = values.len() / rows.max(1);
    for first_row in (0..rows).step_by(SQUARE) {
        let last_row = (first_row + SQUARE).min(rows);
        for first_column in (0..columns).step_by(SQUARE) {
            for column in first_column..(first_column + SQUARE).min(columns) {
                let out = &mut out[column * rows + first_row..column * rows + last_row];
                let column = values[first_row * columns + column..].iter().step_by(columns);
                out.iter_mut().zip(column).for_each(|(out, &value)| *out = E::narrow(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels_and_planes_again() {
        for (channels, pixels) in [(1, 7), (3, 5), (17, 33), (40, 16)] {
            let planes: Vec<f32> = (0..channels * pixels).map(|at| at as f32).collect();
            let (mut found, mut back) = (vec![0.0; planes.len()], vec![0.0; planes.len()]);
            chw_to_hwc(&planes, channels, &mut found);
            for (at, &value) in found.iter().enumerate() {
                assert_eq!(value, planes[at % channels * pixels + at / channels]);
            }
            hwc_to_chw(&found, channels, &mut back);
            assert_eq!(back, planes);
        }
    }
}
