//! How far samples of one class lie from each other, beside samples of different classes.

use super::table::Table;
use crate::error::Result;
use crate::progress::Progress;
use candle_core::Device;
use rayon::prelude::*;

/// Mean distances over all pairs of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contraction {
    /// Of samples of the same class; no number where no class has two.
    pub within: f64,
    /// Of samples of different classes; no number where there is one class.
    pub between: f64,
}

/// Rows that are compared at once.
const ROWS: usize = 1024;

/// The mean Euclidean distances of the rows of a table.
///
/// # Errors
/// When the device has no memory or the user interrupts.
pub fn contraction(table: &Table, device: &Device, progress: &dyn Progress) -> Result<Contraction> {
    let blocks = table.blocks(ROWS, device)?;
    let (squares, labels) = (table.squares(), &table.labels);
    let task = progress.start("compare", table.len() as u64);
    // Sum and number of distances: within, between.
    let mut all = [(0.0, 0u64); 2];
    for (row, a) in blocks.iter().enumerate() {
        for (column, b) in blocks.iter().enumerate().skip(row) {
            progress.check()?;
            let products = a.matmul(&b.t()?)?.flatten_all()?.to_vec1::<f32>()?;
            let of_row = |(at, products): (usize, &[f32])| {
                let at = row * ROWS + at;
                let mut sums = [(0.0, 0u64); 2];
                for (other, &product) in (column * ROWS..).zip(products).filter(|(other, _)| *other > at) {
                    let distance = (squares[at] + squares[other] - 2.0 * f64::from(product)).max(0.0).sqrt();
                    let sum = &mut sums[usize::from(labels[at] != labels[other])];
                    *sum = (sum.0 + distance, sum.1 + 1);
                }
                sums
            };
            let rows: Vec<[(f64, u64); 2]> = products.par_chunks(b.dim(0)?).enumerate().map(of_row).collect();
            for sums in rows {
                all.iter_mut().zip(sums).for_each(|(all, sum)| *all = (all.0 + sum.0, all.1 + sum.1));
            }
        }
        task.advance(a.dim(0)? as u64);
    }
    let [within, between] = all.map(|(sum, count)| sum / count as f64);
    Ok(Contraction { within, between })
}
