//! Figures of features and labels.

use crate::error::Result;
use crate::features::{Reader, decode_sample, hwc_to_chw};
use rayon::prelude::*;

/// One channel over some samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Channel {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
    /// The share of values that are zero, in percent.
    pub zeros: f64,
}

/// Sums over the values of one channel.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: f64,
    plain: f64,
    squares: f64,
    zeros: f64,
}

impl Sums {
    fn of(values: &[f32]) -> Self {
        values.iter().fold(Self::default(), |sums, &value| Self {
            count: sums.count + 1.0,
            plain: sums.plain + f64::from(value),
            squares: sums.squares + f64::from(value).powi(2),
            zeros: sums.zeros + f64::from(u8::from(value == 0.0)),
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            plain: self.plain + other.plain,
            squares: self.squares + other.squares,
            zeros: self.zeros + other.zeros,
        }
    }

    fn channel(self) -> Channel {
        let mean = self.plain / self.count;
        let std = (self.squares / self.count - mean * mean).max(0.0).sqrt();
        Channel { mean, std, zeros: 100.0 * self.zeros / self.count }
    }
}

/// Measures each channel on at most `most` samples of the first view, spread evenly over the array; also gives how many
/// samples that were.
///
/// # Errors
/// When a sample is missing or damaged.
pub fn channels(reader: &Reader, most: usize) -> Result<(Vec<Channel>, usize)> {
    let layout = reader.layout();
    let step = layout.samples.div_ceil(most.max(1)).max(1);
    let chosen: Vec<usize> = (0..layout.samples).step_by(step).collect();
    let plane = layout.shape.size * layout.shape.size;
    let measure = |&sample: &usize| {
        let values = sample_values(reader, 0, sample)?;
        Ok(values.chunks_exact(plane).map(Sums::of).collect())
    };
    let samples: Vec<Vec<Sums>> = chosen.par_iter().map(measure).collect::<Result<_>>()?;
    let mut sums = vec![Sums::default(); layout.shape.channels];
    for sample in samples {
        sums.iter_mut().zip(sample).for_each(|(sum, more)| *sum = sum.plus(more));
    }
    Ok((sums.into_iter().map(Sums::channel).collect(), chosen.len()))
}

/// The values of a sample of a view, channel by channel.
///
/// # Errors
/// When it is missing or damaged.
pub fn sample_values(reader: &Reader, view: usize, sample: usize) -> Result<Vec<f32>> {
    let layout = reader.layout();
    let mut bytes = Vec::new();
    reader.read(view, sample, &mut bytes)?;
    let mut pixels = vec![0.0; layout.shape.values()];
    decode_sample(&bytes, layout, &mut pixels);
    let mut planes = vec![0.0; pixels.len()];
    hwc_to_chw(&pixels, layout.shape.channels, &mut planes);
    Ok(planes)
}

/// The first `count` values of some samples of the first view, and the sum of all values of the array: what other readers of the format
/// can be compared by.
///
/// # Errors
/// When a sample is missing or damaged.
pub fn values(reader: &Reader, samples: &[usize], count: usize) -> Result<(Vec<Vec<f32>>, f64)> {
    let first = |&sample: &usize| {
        let mut values = sample_values(reader, 0, sample)?;
        values.truncate(count);
        Ok(values)
    };
    let chosen = samples.iter().map(first).collect::<Result<_>>()?;
    let layout = reader.layout();
    let sum = |at: usize| {
        let values = sample_values(reader, at / layout.samples, at % layout.samples)?;
        Ok(values.iter().map(|&value| f64::from(value)).sum())
    };
    let sums: Vec<f64> = (0..layout.views * layout.samples).into_par_iter().map(sum).collect::<Result<_>>()?;
    Ok((chosen, sums.iter().sum()))
}

/// How many samples have each label, for labels below `classes`.
pub fn histogram(labels: &[u32], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for &label in labels {
        if let Some(count) = counts.get_mut(label as usize) {
            *count += 1;
        }
    }
    counts
}
