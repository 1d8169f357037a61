//! Figures of features and labels.

use super::sampling::spread;
use crate::error::Result;
use crate::features::{Reader, centre_square, decode_sample, hwc_to_chw, whole_image};
use crate::pipeline::Keep;
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
    /// The smallest value.
    pub least: f32,
    /// The largest value.
    pub most: f32,
}

/// Sums over the values of one channel.
#[derive(Clone, Copy)]
struct Sums {
    count: f64,
    plain: f64,
    squares: f64,
    zeros: f64,
    least: f32,
    most: f32,
}

impl Sums {
    const NONE: Self =
        Self { count: 0.0, plain: 0.0, squares: 0.0, zeros: 0.0, least: f32::INFINITY, most: f32::NEG_INFINITY };

    fn of(values: &[f32]) -> Self {
        values.iter().fold(Self::NONE, |sums, &value| Self {
            count: sums.count + 1.0,
            plain: sums.plain + f64::from(value),
            squares: sums.squares + f64::from(value).powi(2),
            zeros: sums.zeros + f64::from(u8::from(value == 0.0)),
            least: sums.least.min(value),
            most: sums.most.max(value),
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            plain: self.plain + other.plain,
            squares: self.squares + other.squares,
            zeros: self.zeros + other.zeros,
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }

    fn channel(self) -> Channel {
        let mean = self.plain / self.count;
        let std = (self.squares / self.count - mean * mean).max(0.0).sqrt();
        Channel { mean, std, zeros: 100.0 * self.zeros / self.count, least: self.least, most: self.most }
    }
}

/// Measures each channel on at most `most` samples of the first view, spread evenly over the array; also gives how many
/// samples that were.
///
/// # Errors
/// When a sample is missing or damaged.
pub fn channels(reader: &Reader, most: usize) -> Result<(Vec<Channel>, usize)> {
    let layout = reader.layout();
    let chosen = spread(layout.samples, most);
    let measure = |&sample: &usize| {
        let values = all_values(reader, 0, sample)?;
        Ok(values.chunks_exact((values.len() / layout.shape.channels).max(1)).map(Sums::of).collect())
    };
    let samples: Vec<Vec<Sums>> = chosen.par_iter().map(measure).collect::<Result<_>>()?;
    let mut sums = vec![Sums::NONE; layout.shape.channels];
    for sample in samples {
        sums.iter_mut().zip(sample).for_each(|(sum, more)| *sum = sum.plus(more));
    }
    Ok((sums.into_iter().map(Sums::channel).collect(), chosen.len()))
}

/// Bins of the values of a channel.
pub const BINS: usize = 16;

/// How many values of each channel, of the same samples, lie in each of [`BINS`] equal parts between its smallest and its
/// largest. Zeros are left out: after a ReLU they would hide all else, and [`Channel::zeros`] counts them.
///
/// # Errors
/// When a sample is missing or damaged.
pub fn histograms(reader: &Reader, most: usize, channels: &[Channel]) -> Result<Vec<[u64; BINS]>> {
    let layout = reader.layout();
    let plane = layout.shape.size * layout.shape.size;
    let count = |sample: usize| {
        let values = sample_values(reader, 0, sample)?;
        let bins = |(values, channel): (&[f32], &Channel)| bins(values, channel);
        Ok(values.chunks_exact(plane).zip(channels).map(bins).collect::<Vec<_>>())
    };
    let none = || vec![[0; BINS]; channels.len()];
    let plus = |mut all: Vec<[u64; BINS]>, more: Vec<[u64; BINS]>| {
        let pairs = all.as_flattened_mut().iter_mut().zip(more.as_flattened());
        pairs.for_each(|(all, more)| *all += more);
        all
    };
    let counted = spread(layout.samples, most).into_par_iter().map(count);
    counted.try_reduce(none, |all, more| Ok(plus(all, more)))
}

fn bins(values: &[f32], channel: &Channel) -> [u64; BINS] {
    let mut bins = [0; BINS];
    let scale = BINS as f64 / f64::from(channel.most - channel.least).max(f64::MIN_POSITIVE);
    for &value in values.iter().filter(|&&value| value != 0.0) {
        let at = (f64::from(value - channel.least) * scale) as usize;
        bins[at.min(BINS - 1)] += 1;
    }
    bins
}

/// The values of a sample of a view, channel by channel; of a whole image those of its centre square.
///
/// # Errors
/// When it is missing or damaged.
pub fn sample_values(reader: &Reader, view: usize, sample: usize) -> Result<Vec<f32>> {
    let layout = reader.layout();
    let mut bytes = Vec::new();
    reader.read(view, sample, &mut bytes)?;
    if layout.holds_images() {
        return Ok(centre_square(&bytes, layout.keep(), layout.shape)?.iter().map(|&value| f32::from(value)).collect());
    }
    let mut pixels = vec![0.0; layout.shape.values()];
    decode_sample(&bytes, layout, &mut pixels);
    let mut planes = vec![0.0; pixels.len()];
    hwc_to_chw(&pixels, layout.shape.channels, &mut planes);
    Ok(planes)
}

/// All values of a sample of a view, channel by channel.
fn all_values(reader: &Reader, view: usize, sample: usize) -> Result<Vec<f32>> {
    if reader.layout().keep() == Keep::Square {
        return sample_values(reader, view, sample);
    }
    let (mut bytes, channels) = (Vec::new(), reader.layout().shape.channels);
    reader.read(view, sample, &mut bytes)?;
    let (_, _, pixels) = whole_image(&bytes, channels)?;
    Ok((0..channels).flat_map(|channel| pixels.iter().skip(channel).step_by(channels)).map(|&v| f32::from(v)).collect())
}

/// The first `count` values of some samples of the first view, and the sum of all values of the array: what other readers of the format
/// can be compared by.
///
/// # Errors
/// When a sample is missing or damaged.
pub fn values(reader: &Reader, samples: &[usize], count: usize) -> Result<(Vec<Vec<f32>>, f64)> {
    let first = |&sample: &usize| {
        let mut values = all_values(reader, 0, sample)?;
        values.truncate(count);
        Ok(values)
    };
    let chosen = samples.iter().map(first).collect::<Result<_>>()?;
    let layout = reader.layout();
    let sum = |at: usize| {
        let values = all_values(reader, at / layout.samples, at % layout.samples)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_all_values_but_zeros_and_the_largest_is_in_the_last() {
        let channel = Sums::of(&[-1.0, 0.0, 0.0, 0.5, 3.0]).channel();
        assert_eq!((channel.least, channel.most, channel.zeros), (-1.0, 3.0, 40.0));
        let found = bins(&[-1.0, 0.0, 0.0, 0.5, 3.0], &channel);
        assert_eq!((found[0], found[6], found[15], found.iter().sum::<u64>()), (1, 1, 1, 3));
        let still = Sums::of(&[2.0; 3]).channel();
        assert_eq!(bins(&[2.0; 3], &still)[0], 3);
    }
}
