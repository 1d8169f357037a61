//! The images whose averaged features are nearest to those of another.

use super::picture::{BACKGROUND, Colour, Picture};
use super::validation::Matrix;

/// Rows of a thumbnail, about.
const THUMBNAIL: usize = 112;
/// Pixels of the frame that tells the class.
const FRAME: usize = 4;
/// Pixels between thumbnails.
const GAP: usize = 6;
/// The frame of an image of the query's class.
const SAME: Colour = [0, 140, 110];
/// The frame of an image of another class.
const OTHER: Colour = [225, 120, 30];
/// The frame of the query, and of all where its class is not known.
const NEUTRAL: Colour = [90, 90, 90];

/// A neighbour of the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its row among the samples that were looked at.
    pub row: usize,
    /// The distance, in standard deviations of the channels.
    pub distance: f64,
}

/// The `count` rows nearest to a query, nearest first: by the Euclidean distance of channels that are divided by their
/// standard deviations, the root of the mean over channels. Channels that are the same for all samples do not count. Of
/// equal distances the first row comes first.
pub fn nearest(query: &[f32], all: &Matrix, count: usize, but: Option<usize>) -> Vec<Neighbour> {
    let weights = inverse_variances(all);
    let channels = weights.iter().filter(|&&weight| weight > 0.0).count().max(1) as f64;
    let distance = |row: &[f32]| {
        let parts = row.iter().zip(query).zip(&weights);
        let sum: f64 = parts.map(|((a, b), weight)| weight * (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        (sum / channels).sqrt()
    };
    let rows = all.rows().enumerate().filter(|(row, _)| Some(*row) != but);
    let mut found: Vec<Neighbour> = rows.map(|(row, values)| Neighbour { row, distance: distance(values) }).collect();
    found.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    found.truncate(count);
    found
}

/// One over the variance of each column, 0 where that is none.
fn inverse_variances(all: &Matrix) -> Vec<f64> {
    let count = all.rows().len().max(1) as f64;
    let mut sums = vec![(0.0, 0.0); all.columns];
    let first: Vec<f32> = all.rows().next().unwrap_or_default().to_vec();
    for row in all.rows() {
        for ((sum, value), start) in sums.iter_mut().zip(row).zip(&first) {
            let value = f64::from(*value) - f64::from(*start);
            *sum = (sum.0 + value, sum.1 + value * value);
        }
    }
    let variance = |(sum, squares): (f64, f64)| squares / count - (sum / count).powi(2);
    sums.into_iter().map(variance).map(|variance| if variance > 1e-20 { 1.0 / variance } else { 0.0 }).collect()
}

/// A strip of thumbnails: the query first, then its neighbours, with a frame that says whether they are of its class.
pub fn strip(query: (&Picture, Option<u32>), neighbours: &[(Picture, u32)]) -> Picture {
    let frame = |label: u32| match query.1 {
        Some(own) if own == label => SAME,
        Some(_) => OTHER,
        None => NEUTRAL,
    };
    let tile = |image: &Picture, colour| image.resized(THUMBNAIL).framed(colour, FRAME);
    let first = tile(query.0, NEUTRAL);
    let tiles: Vec<Picture> = neighbours.iter().map(|(image, label)| tile(image, frame(*label))).collect();
    let others = Picture::grid(&tiles, tiles.len(), (GAP, BACKGROUND));
    let left = first.width + 4 * GAP;
    let mut all = Picture::new(left + others.width, first.height.max(others.height), BACKGROUND);
    all.draw(&first, (0, 0), 1);
    all.draw(&others, (left, 0), 1);
    all.framed(BACKGROUND, GAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_count_by_their_spread_and_constant_ones_not_at_all() {
        // The second channel is a hundred times as wide, the third says nothing.
        let values = [[0.0, 0.0, 7.0], [1.0, 10.0, 7.0], [0.1, 100.0, 7.0], [0.2, 30.0, 7.0]].concat();
        let all = Matrix { columns: 3, values };
        let found = nearest(&[0.0, 0.0, 9.0], &all, 2, Some(0));
        assert_eq!(found.iter().map(|found| found.row).collect::<Vec<_>>(), [3, 1]);
        // By hand: variances 0.161875 and 1475 + 175/4... of the four rows, the mean over two channels.
        let variance = |values: [f64; 4]| {
            let mean = values.iter().sum::<f64>() / 4.0;
            values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 4.0
        };
        let (a, b) = (variance([0.0, 1.0, 0.1, 0.2]), variance([0.0, 10.0, 100.0, 30.0]));
        let expected = ((0.04f64 / a + 900.0 / b) / 2.0).sqrt();
        assert!((found[0].distance - expected).abs() < 1e-6, "{} {expected}", found[0].distance);
    }

    #[test]
    fn the_query_stands_first_and_frames_tell_classes() {
        let image = |value: u8| Picture::new(4, 4, [value; 3]);
        let all = strip((&image(1), Some(2)), &[(image(2), 2), (image(3), 5)]);
        let side = 112 + 2 * FRAME;
        let at = |place: usize| all.at(GAP + place, GAP);
        assert_eq!([at(0), at(side + 4 * GAP), at(2 * side + 5 * GAP)], [NEUTRAL, SAME, OTHER]);
    }
}
