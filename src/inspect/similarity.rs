//! Linear CKA (Kornblith et al. 2019): how alike two sets of features of the same samples are.

use super::validation::Matrix;
use rayon::prelude::*;

/// Linear centred kernel alignment of two matrices with the same number of rows, between 0 and 1; 0 where one of them is
/// the same for all rows.
pub fn cka(a: &Matrix, b: &Matrix) -> f64 {
    let (a, b) = (centred_gram(a), centred_gram(b));
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let lengths = (dot(&a, &a) * dot(&b, &b)).sqrt();
    if lengths > 0.0 { (dot(&a, &b) / lengths).clamp(0.0, 1.0) } else { 0.0 }
}

/// The products of all pairs of rows, once the mean row is subtracted.
fn centred_gram(rows: &Matrix) -> Vec<f64> {
    let count = rows.rows().len();
    let mut means = vec![0.0; rows.columns];
    for row in rows.rows() {
        means.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) / count as f64);
    }
    let centre = |row: &[f32]| row.iter().zip(&means).map(|(value, mean)| (f64::from(*value) - mean) as f32).collect();
    let centred: Vec<Vec<f32>> = rows.rows().map(centre).collect();
    let mut gram = vec![0.0; count * count];
    gram.par_chunks_mut(count.max(1)).zip(&centred).for_each(|(out, own)| {
        out.iter_mut().zip(&centred).for_each(|(out, other)| *out = dot(own, other));
    });
    gram
}

/// In eight partial sums, as processors compute them side by side.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| f64::from(a * b)).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut stream = Stream::new(Purpose::Weights, seed, (0, 0));
        Matrix { columns, values: (0..rows * columns).map(|_| stream.normal() as f32).collect() }
    }

    /// The other way to write it: by the cross-covariance of features instead of the similarity of samples.
    fn by_features(a: &Matrix, b: &Matrix) -> f64 {
        let centred = |m: &Matrix| {
            let count = m.rows().len() as f64;
            let mean = |c: usize| m.rows().map(|row| f64::from(row[c])).sum::<f64>() / count;
            let means: Vec<f64> = (0..m.columns).map(mean).collect();
            m.rows().map(|row| row.iter().zip(&means).map(|(v, mean)| f64::from(*v) - mean).collect()).collect()
        };
        let cross = |a: &Vec<Vec<f64>>, b: &Vec<Vec<f64>>| {
            let mut sum = 0.0;
            for (i, j) in (0..a[0].len()).flat_map(|i| (0..b[0].len()).map(move |j| (i, j))) {
                sum += a.iter().zip(b).map(|(a, b)| a[i] * b[j]).sum::<f64>().powi(2);
            }
            sum
        };
        let (a, b) = (centred(a), centred(b));
        cross(&a, &b) / (cross(&a, &a) * cross(&b, &b)).sqrt()
    }

    #[test]
    fn similarity_of_samples_equals_that_of_features() {
        let (a, mut b) = (random(40, 11, 1), random(40, 5, 2));
        for (row, own) in b.values.chunks_exact_mut(5).zip(a.rows()) {
            row[0] += 2.0 * own[3] + 4.0;
        }
        let found = cka(&a, &b);
        assert!((found - by_features(&a, &b)).abs() < 1e-6 && found > 0.1 && found < 0.9, "{found}");
    }

    #[test]
    fn scale_shift_and_order_of_channels_change_nothing() {
        let a = random(30, 4, 3);
        let turned = a.rows().flat_map(|row| [row[2] * 3.0 + 1.0, -row[0] * 3.0, row[3] * 3.0, row[1] * 3.0 - 9.0]);
        let b = Matrix { columns: 4, values: turned.collect() };
        assert!((cka(&a, &b) - 1.0).abs() < 1e-6);
        assert_eq!(cka(&a, &Matrix { columns: 2, values: vec![5.0; 60] }), 0.0);
    }
}
