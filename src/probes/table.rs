//! The features of many samples in memory: one row a sample, averaged and standardised.

use crate::error::{Error, Result};
use crate::features::{Draw, Loader};
use crate::ops::pool;
use crate::progress::Progress;
use crate::room;
use crate::size;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// Rows of values, each with its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Values of a row.
    pub width: usize,
    /// \[sample, value\]
    pub values: Vec<f32>,
    /// \[sample\]
    pub labels: Vec<u32>,
}

/// What standardises rows: the mean and the standard deviation of each value.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Means.
    pub mean: Vec<f64>,
    /// Standard deviations; 1 where a value is always the same.
    pub std: Vec<f64>,
}

/// Samples that are read at once.
const BATCH: usize = 256;
/// Rows that statistics are summed over at once; the order of sums does not depend on threads.
const BLOCK: usize = 1024;

impl Table {
    /// The features of some samples of a loader, as they are drawn, averaged to a grid of `side` cells a side.
    ///
    /// # Errors
    /// When they do not fit into the memory, a sample is missing or damaged, or the user interrupts.
    pub fn gather(
        samples: &Loader,
        chosen: &[u32],
        (draw, side): (Draw, usize),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let shape = samples.shape(draw);
        let side = side.min(shape.size).max(1);
        let width = shape.channels * side * side;
        // The rows, and a copy of them where they are worked with.
        let (needed, free) = ((chosen.len() * width) as u64 * 8, room::free_memory());
        if needed > free {
            let (needed, free) = (size::words(needed), size::words(free));
            return Err(Error::failed(format!(
                "{} samples of {width} values need {needed} of memory, and {free} are free",
                chosen.len()
            ))
            .hint("`pool = 1` averages more of each, `train_images = N` takes fewer samples"));
        }
        let (mut values, mut labels) = (Vec::with_capacity(chosen.len() * width), Vec::with_capacity(chosen.len()));
        let task = progress.start("read", chosen.len() as u64);
        samples.for_each_batch(chosen, BATCH, draw, |batch| {
            progress.check()?;
            let averaged = pool(&batch.x, side)?.to_dtype(DType::F32)?;
            values.extend(averaged.flatten_all()?.to_vec1::<f32>()?);
            labels.extend(batch.labels.to_vec1::<u32>()?);
            task.advance(batch.len() as u64);
            Ok(())
        })?;
        Ok(Self { width, values, labels })
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The rows in blocks of at most `rows` on a device: \[row, value\].
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn blocks(&self, rows: usize, device: &Device) -> Result<Vec<Tensor>> {
        let block = |values: &[f32]| Ok(Tensor::from_slice(values, (values.len() / self.width, self.width), device)?);
        self.values.chunks(rows.max(1) * self.width.max(1)).map(block).collect()
    }

    /// The squared length of each row.
    pub fn squares(&self) -> Vec<f64> {
        let square = |row: &[f32]| row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        self.values.par_chunks(self.width.max(1)).map(square).collect()
    }

    /// Gives every value the mean 0 and the variance 1 that it has by these statistics.
    pub fn standardise(&mut self, by: &Scaling) {
        self.values.par_chunks_mut(self.width.max(1)).for_each(|row| {
            for ((value, mean), std) in row.iter_mut().zip(&by.mean).zip(&by.std) {
                *value = ((f64::from(*value) - mean) / std) as f32;
            }
        });
    }
}

impl Scaling {
    /// The statistics of the rows of a table.
    pub fn of(table: &Table) -> Self {
        let count = table.len().max(1) as f64;
        let mean: Vec<f64> = sums(table, |value, _| value).into_iter().map(|sum| sum / count).collect();
        let squared = sums(table, |value, at| (value - mean[at]).powi(2));
        let std = squared.into_iter().map(|sum| (sum / count).sqrt()).map(|std| if std > 0.0 { std } else { 1.0 });
        let std = std.collect();
        Self { mean, std }
    }
}

/// The sum over all rows of what is made of each value and its place.
fn sums(table: &Table, of: impl Fn(f64, usize) -> f64 + Sync) -> Vec<f64> {
    let width = table.width.max(1);
    let block = |rows: &[f32]| {
        let mut sums = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            sums.iter_mut().zip(row).enumerate().for_each(|(at, (sum, &value))| *sum += of(f64::from(value), at));
        }
        sums
    };
    let parts: Vec<Vec<f64>> = table.values.par_chunks(BLOCK * width).map(block).collect();
    let mut all = vec![0.0; width];
    parts.iter().for_each(|part| all.iter_mut().zip(part).for_each(|(sum, value)| *sum += value));
    all
}
