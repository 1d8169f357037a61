//! Principal components by subspace iteration: the same rows give the same components.

use super::validation::Matrix;
use crate::random::{Purpose, Stream};
use rayon::prelude::*;

/// Directions that are iterated: some more than are wanted, so that the wanted ones settle quickly.
const DIRECTIONS: usize = 6;
/// Iterations at most, and the relative change of the variances below which they end.
const ITERATIONS: usize = 300;
const SETTLED: f64 = 1e-10;
/// Rows that are summed as one.
const BLOCK: usize = 256;

/// The first components of some rows.
pub struct Components {
    /// Where each row lies along the first two.
    pub places: Vec<[f64; 2]>,
    /// Their shares of the variance of all columns.
    pub shares: [f64; 2],
}

/// The first two principal components of rows; columns are centred but not scaled.
///
/// A component's sign is such that its largest entry is positive.
pub fn principal(rows: &Matrix) -> Components {
    let (count, columns) = (rows.rows().len().max(1) as f64, rows.columns);
    let means: Vec<f64> =
        sum(rows, columns, |row, out| add(out, row, 1.0)).into_iter().map(|sum| sum / count).collect();
    let squares = |row: &[f32], out: &mut [f64]| {
        out[0] += row.iter().zip(&means).map(|(value, mean)| (f64::from(*value) - mean).powi(2)).sum::<f64>();
    };
    let total = sum(rows, 1, squares)[0] / count;
    let mut stream = Stream::new(Purpose::Weights, 0, (0, columns as u64));
    let used = DIRECTIONS.min(columns);
    let mut basis: Vec<Vec<f64>> = (0..used).map(|_| (0..columns).map(|_| stream.normal()).collect()).collect();
    orthonormalise(&mut basis);
    let mut before = vec![0.0; used];
    for _ in 0..ITERATIONS {
        let mut next = covariance_times(rows, &means, &basis, count);
        // Their lengths tend to the variances along the components.
        let lengths = orthonormalise(&mut next);
        basis = next;
        let settled = lengths.iter().zip(&before).take(2).all(|(now, then)| (now - then).abs() <= SETTLED * now);
        before = lengths;
        if settled {
            break;
        }
    }
    basis.truncate(2);
    for direction in &mut basis {
        let largest =
            direction.iter().copied().fold(0.0, |most: f64, value| if value.abs() > most.abs() { value } else { most });
        direction.iter_mut().for_each(|value| *value *= largest.signum());
    }
    let along = |row: &[f32], direction: &[f64]| -> f64 {
        let parts = row.iter().zip(&means).zip(direction);
        parts.map(|((value, mean), part)| (f64::from(*value) - mean) * part).sum()
    };
    let place = |row: &[f32]| std::array::from_fn(|c| basis.get(c).map_or(0.0, |direction| along(row, direction)));
    let places: Vec<[f64; 2]> = rows.rows().map(place).collect();
    let variance = |c: usize| places.iter().map(|place| place[c].powi(2)).sum::<f64>() / count;
    let shares = std::array::from_fn(|c| if total > 0.0 { variance(c) / total } else { 0.0 });
    Components { places, shares }
}

/// The covariance of the columns times each direction.
fn covariance_times(rows: &Matrix, means: &[f64], basis: &[Vec<f64>], count: f64) -> Vec<Vec<f64>> {
    let columns = rows.columns;
    let act = |row: &[f32], out: &mut [f64]| {
        for (direction, out) in basis.iter().zip(out.chunks_exact_mut(columns)) {
            let parts = row.iter().zip(means).zip(direction);
            let along: f64 = parts.map(|((value, mean), part)| (f64::from(*value) - mean) * part).sum();
            let back = out.iter_mut().zip(row).zip(means);
            back.for_each(|((out, value), mean)| *out += along / count * (f64::from(*value) - mean));
        }
    };
    sum(rows, basis.len() * columns, act).chunks_exact(columns.max(1)).map(<[f64]>::to_vec).collect()
}

/// Sums what each row adds, in an order that does not depend on the number of threads.
fn sum(rows: &Matrix, length: usize, add: impl Fn(&[f32], &mut [f64]) + Sync) -> Vec<f64> {
    let blocks = rows.values.par_chunks((BLOCK * rows.columns).max(1)).map(|block| {
        let mut out = vec![0.0; length];
        block.chunks_exact(rows.columns.max(1)).for_each(|row| add(row, &mut out));
        out
    });
    let blocks: Vec<Vec<f64>> = blocks.collect();
    let mut all = vec![0.0; length];
    blocks.iter().for_each(|block| all.iter_mut().zip(block).for_each(|(all, part)| *all += part));
    all
}

fn add(out: &mut [f64], row: &[f32], factor: f64) {
    out.iter_mut().zip(row).for_each(|(out, value)| *out += factor * f64::from(*value));
}

/// Makes directions orthogonal, first to last, and of length 1; gives the lengths that they had then. One that depends on
/// those before it becomes 0.
fn orthonormalise(basis: &mut [Vec<f64>]) -> Vec<f64> {
    let mut lengths = Vec::with_capacity(basis.len());
    for at in 0..basis.len() {
        let (done, rest) = basis.split_at_mut(at);
        let own = &mut rest[0];
        let before = length(own);
        // Twice: once leaves what rounding left.
        for other in done.iter().chain(done.iter()) {
            let along: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
            own.iter_mut().zip(other).for_each(|(own, other)| *own -= along * other);
        }
        let found = length(own);
        let kept = found > 1e-12 * before && found > 0.0;
        own.iter_mut().for_each(|value| *value = if kept { *value / found } else { 0.0 });
        lengths.push(if kept { found } else { 0.0 });
    }
    lengths
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows made of known orthogonal directions with known coordinates come apart into just these.
    #[test]
    fn components_of_known_rows_are_found_with_their_shares() {
        let directions = [[0.6, 0.8, 0.0, 0.0], [0.0, 0.0, -0.6, 0.8], [0.8, -0.6, 0.0, 0.0]];
        let mut stream = Stream::new(Purpose::Weights, 3, (0, 0));
        let mut coordinates: Vec<[f64; 3]> = Vec::new();
        for _ in 0..500 {
            // Every sign with every other, so that the coordinates are uncorrelated and centred.
            let sizes = [5.0 * stream.unit(), 3.0 * stream.unit(), stream.unit()];
            let signed = |bits: usize| std::array::from_fn(|c| if bits >> c & 1 == 1 { sizes[c] } else { -sizes[c] });
            coordinates.extend((0..8).map(signed));
        }
        let row = |place: &[f64; 3]| {
            let value = |column: usize| 10.0 + (0..3).map(|c| place[c] * directions[c][column]).sum::<f64>();
            (0..4).map(|column| value(column) as f32).collect::<Vec<_>>()
        };
        let rows = Matrix { columns: 4, values: coordinates.iter().flat_map(row).collect() };
        let found = principal(&rows);
        for (place, expected) in found.places.iter().zip(&coordinates) {
            assert!(
                (place[0] - expected[0]).abs() < 1e-3 && (place[1] - expected[1]).abs() < 1e-3,
                "{place:?} {expected:?}"
            );
        }
        let variance = |c: usize| coordinates.iter().map(|place| place[c].powi(2)).sum::<f64>();
        let total: f64 = (0..3).map(variance).sum();
        assert!(
            (found.shares[0] - variance(0) / total).abs() < 1e-6
                && (found.shares[1] - variance(1) / total).abs() < 1e-6
        );
    }

    #[test]
    fn rows_of_one_column_or_without_any_spread_have_components_too() {
        let line = principal(&Matrix { columns: 1, values: vec![1.0, 3.0] });
        assert_eq!((line.places, line.shares), (vec![[-1.0, 0.0], [1.0, 0.0]], [1.0, 0.0]));
        let still = principal(&Matrix { columns: 3, values: vec![2.0; 12] });
        assert_eq!((still.places, still.shares), (vec![[0.0; 2]; 4], [0.0; 2]));
    }
}
