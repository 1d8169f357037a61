//! The channels of one sample's features as a grid of maps.

use super::picture::{BACKGROUND, Picture, ramp, signed};
use crate::pipeline::Shape;

/// About how many pixels the grid is wide.
const WIDTH: usize = 1200;
/// A map's pixel is drawn at most so large.
const MOST_SCALE: usize = 24;
/// Pixels between maps.
const GAP: usize = 2;
/// Rows of the image above the grid.
const IMAGE: usize = 192;
/// The share of values that may be brighter than the brightest colour.
const OUTLIERS: f64 = 0.002;

/// A grid of all channels of a sample \[channel, y, x\], row by row, below the image that they are features of.
///
/// All maps have one scale, so that strong channels look strong: from 0 (dark) to the largest value but for a few
/// outliers, or with blue for values below zero where there are any.
pub fn channel_grid(sample: &[f32], shape: Shape, image: Option<&Picture>) -> Picture {
    let side = shape.size.max(1);
    let columns = (shape.channels as f64).sqrt().ceil().max(1.0) as usize;
    let room = (WIDTH / columns).saturating_sub(GAP).max(1);
    let reach = reach(sample);
    let is_signed = sample.iter().any(|&value| value < 0.0);
    let colour = |value: f32| if is_signed { signed(value / reach) } else { ramp(value / reach) };
    let tile = |plane: &[f32]| {
        let map = Picture::from_fn(side, side, |x, y| colour(plane[y * side + x]));
        map.resized(room.min(side * MOST_SCALE))
    };
    let tiles: Vec<Picture> = sample.chunks_exact(side * side).map(tile).collect();
    let grid = Picture::grid(&tiles, columns, (GAP, BACKGROUND));
    let whole = match image {
        Some(image) => image.resized(IMAGE).above(&grid, 4 * GAP),
        None => grid,
    };
    whole.framed(BACKGROUND, 2 * GAP)
}

/// The size of the largest values, but for outliers; never zero.
fn reach(sample: &[f32]) -> f32 {
    let mut sizes: Vec<f32> = sample.iter().map(|value| value.abs()).filter(|&size| size > 0.0).collect();
    if sizes.is_empty() {
        return 1.0;
    }
    let at = ((sizes.len() - 1) as f64 * (1.0 - OUTLIERS)) as usize;
    *sizes.select_nth_unstable_by(at, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_has_a_map_on_the_common_scale() {
        let shape = Shape { channels: 3, size: 2 };
        let sample = [[0.0; 4], [1.0; 4], [0.0, 0.0, 0.5, 0.5]].concat();
        let grid = channel_grid(&sample, shape, None);
        // Two columns of maps of 48 pixels, with gaps of 2 and a margin of 4.
        assert_eq!((grid.width, grid.height), (2 * 48 + 2 + 8, 2 * 48 + 2 + 8));
        assert_eq!([grid.at(4, 4), grid.at(60, 10)], [ramp(0.0), ramp(1.0)]);
        assert_eq!([grid.at(10, 60), grid.at(10, 90)], [ramp(0.0), ramp(0.5)]);
    }

    #[test]
    fn an_image_stands_above_and_values_below_zero_are_blue() {
        let image = Picture::new(4, 4, [1, 2, 3]);
        let grid = channel_grid(&[-1.0, 1.0], Shape { channels: 2, size: 1 }, Some(&image));
        assert_eq!(grid.at(10, 10), [1, 2, 3]);
        assert_eq!([grid.at(8, 220), grid.at(40, 220)], [signed(-1.0), signed(1.0)]);
    }
}
