//! Morlet wavelets and a Gaussian in the Fourier domain, at the resolutions that a scattering transform meets them at.
//!
//! Bandwidths and frequencies are those of Kymatio (Andreux et al. 2020), so that coefficients can be compared.

use rustfft::{FftPlanner, num_complex::Complex};
use std::f64::consts::PI;

/// A filter at full resolution and at each coarser one that it is used at: real values in the Fourier domain, columns
/// first, as the transform leaves its results.
pub(super) struct Filter {
    /// The binary logarithm of its scale.
    pub scale: usize,
    /// \[resolution\]\[column, row\]
    pub levels: Vec<Vec<f32>>,
}

/// An oscillation under a Gaussian.
#[derive(Clone, Copy)]
struct Gabor {
    /// The deviation of the Gaussian, in pixels.
    sigma: f64,
    /// The angle of the oscillation, from the rows.
    angle: f64,
    /// Its frequency, in radians a pixel.
    frequency: f64,
    /// The aspect of the Gaussian.
    slant: f64,
}

/// How often an image repeats on either side, as the Fourier transform sees it.
const REPEATS: i64 = 2;

/// The low pass of `scales` octaves for images of a side.
pub(super) fn low_pass(side: usize, scales: usize) -> Filter {
    let sigma = 0.8 * f64::from(1u32 << (scales - 1));
    let gaussian = Gabor { sigma, angle: 0.0, frequency: 0.0, slant: 1.0 }.sampled(side);
    Filter { scale: scales, levels: levels(&gaussian, side, scales) }
}

/// The wavelets of so many octaves and angles, octave by octave.
pub(super) fn wavelets(side: usize, scales: usize, angles: usize) -> Vec<Filter> {
    let all = (0..scales).flat_map(|scale| (0..angles).map(move |turn| (scale, turn)));
    let wavelet = |(scale, turn): (usize, usize)| {
        let octave = f64::from(1u32 << scale);
        // The first angle is the last before half a turn, counted from the rows.
        let first = (angles as f64 / 2.0 - 1.0).trunc();
        let angle = (first - turn as f64) * PI / angles as f64;
        let gabor = Gabor { sigma: 0.8 * octave, angle, frequency: 0.75 * PI / octave, slant: 4.0 / angles as f64 };
        let count = (scale + 1).min(scales.max(2) - 1);
        Filter { scale, levels: levels(&gabor.morlet(side), side, count) }
    };
    all.map(wavelet).collect()
}

impl Gabor {
    /// Its values on a periodic square, row by row; their sum over all pixels of one period of the Gaussian is about 1.
    fn sampled(self, side: usize) -> Vec<Complex<f64>> {
        let (sin, cos) = self.angle.sin_cos();
        let (along, across) = (1.0, self.slant * self.slant);
        // The quadratic form of the exponent, turned by the angle.
        let scale = 1.0 / (2.0 * self.sigma * self.sigma);
        let rows = scale * (along * cos * cos + across * sin * sin);
        let mixed = scale * 2.0 * (along - across) * sin * cos;
        let columns = scale * (along * sin * sin + across * cos * cos);
        let side = side as i64;
        let value = |y: i64, x: i64| {
            let mut sum = Complex::new(0.0, 0.0);
            for (up, right) in (-REPEATS..=REPEATS).flat_map(|up| (-REPEATS..=REPEATS).map(move |right| (up, right))) {
                let (y, x) = ((y + up * side) as f64, (x + right * side) as f64);
                let size = -(rows * y * y + mixed * y * x + columns * x * x);
                // What is smaller is nothing beside the rest in single precision.
                if size > -60.0 {
                    sum += Complex::from_polar(size.exp(), self.frequency * (y * cos + x * sin));
                }
            }
            sum * self.slant / (2.0 * PI * self.sigma * self.sigma)
        };
        (0..side * side).map(|at| value(at / side, at % side)).collect()
    }

    /// The same less its envelope, so that its sum is zero.
    fn morlet(self, side: usize) -> Vec<Complex<f64>> {
        let (mut wave, envelope) = (self.sampled(side), Self { frequency: 0.0, ..self }.sampled(side));
        let share = wave.iter().sum::<Complex<f64>>() / envelope.iter().sum::<Complex<f64>>();
        wave.iter_mut().zip(envelope).for_each(|(value, envelope)| *value -= share * envelope);
        wave
    }
}

/// The Fourier transform of a filter, which is real, at `count` resolutions, each half of the one before: what lies above
/// the highest frequency that is left is cut off.
fn levels(filter: &[Complex<f64>], side: usize, count: usize) -> Vec<Vec<f32>> {
    let fft = FftPlanner::new().plan_fft_forward(side);
    let mut values = filter.to_vec();
    fft.process(&mut values);
    let mut columns = transposed(&values, side);
    fft.process(&mut columns);
    let coarser = |level: usize| {
        let kept = side >> level;
        // The lower half of the frequencies that are kept is at the start, the upper half at the end.
        let (low, high) = (side.div_ceil(2 << level), side - side / (2 << level));
        let keeps = |at: usize| level == 0 || at < low || at >= high;
        let mut sums = vec![0.0; kept * kept];
        for (at, value) in columns.iter().enumerate() {
            let (column, row) = (at / side, at % side);
            if keeps(column) && keeps(row) {
                sums[column % kept * kept + row % kept] += value.re as f32;
            }
        }
        sums
    };
    (0..count).map(coarser).collect()
}

fn transposed(values: &[Complex<f64>], side: usize) -> Vec<Complex<f64>> {
    (0..side * side).map(|at| values[at % side * side + at / side]).collect()
}
