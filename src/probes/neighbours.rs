//! Nearest neighbours, exactly: every row is compared with every other, block by block as matrix products.

use super::table::Table;
use crate::error::Result;
use crate::progress::Progress;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Rows of either table that are compared at once.
const ASKED: usize = 512;
const KNOWN: usize = 4096;

/// The class that most of the `k` nearest rows of a table have, by Euclidean distance, for each row of another; of several
/// such classes the first. Of rows that are equally far the first are taken.
///
/// # Errors
/// When the device has no memory or the user interrupts.
pub fn neighbours(
    known: &Table,
    asked: &Table,
    (k, classes): (usize, usize),
    device: &Device,
    progress: &dyn Progress,
) -> Result<Vec<u32>> {
    let blocks: Vec<Tensor> = known.blocks(KNOWN, device)?;
    let squares: Vec<f32> = known.squares().into_iter().map(|square| square as f32).collect();
    let task = progress.start("compare", asked.len() as u64);
    let mut all = Vec::with_capacity(asked.len());
    for rows in asked.blocks(ASKED, device)? {
        let mut nearest: Vec<Vec<(f32, usize)>> = vec![Vec::with_capacity(k + 1); rows.dim(0)?];
        for (number, block) in blocks.iter().enumerate() {
            progress.check()?;
            let products = rows.matmul(&block.t()?)?.flatten_all()?.to_vec1::<f32>()?;
            let first = number * KNOWN;
            nearest.par_iter_mut().zip(products.par_chunks(block.dim(0)?)).for_each(|(nearest, products)| {
                for (at, product) in (first..).zip(products) {
                    // The squared distance, but for the square of the row that asks, which is the same for all.
                    keep(nearest, k, (squares[at] - 2.0 * product, at));
                }
            });
        }
        all.par_extend(nearest.par_iter().map(|nearest| most(nearest, &known.labels, classes)));
        task.advance(rows.dim(0)? as u64);
    }
    Ok(all)
}

/// Keeps the nearest `k`, nearest first.
fn keep(nearest: &mut Vec<(f32, usize)>, k: usize, new: (f32, usize)) {
    if nearest.len() == k && nearest.last().is_some_and(|last| last.0 <= new.0) {
        return;
    }
    let place = nearest.partition_point(|other| other.0 <= new.0);
    nearest.insert(place, new);
    nearest.truncate(k);
}

fn most(nearest: &[(f32, usize)], labels: &[u32], classes: usize) -> u32 {
    let mut counts = vec![0usize; classes];
    for label in nearest.iter().map(|&(_, at)| labels[at] as usize).filter(|&label| label < classes) {
        counts[label] += 1;
    }
    let best = counts.iter().enumerate().rev().max_by_key(|(_, count)| **count);
    best.map_or(0, |(class, _)| class as u32)
}
