//! The scattering transform of images (Bruna & Mallat 2013): averages of what wavelets leave of an image, and of what
//! wavelets leave of that. Nothing of it is learned. It is computed on the CPU, whatever device the images are on.

use super::wavelets::{Filter, low_pass, wavelets};
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};
use std::sync::Arc;

/// Coefficients of one channel, pixels next to each other, or a map in the Fourier domain, column by column.
type Map = Vec<Complex<f32>>;

/// The transform of square images of one size.
pub struct Scattering {
    size: usize,
    /// The side with what is added on both sides: pixels that are mirrored at the border.
    padded: usize,
    scales: usize,
    order: usize,
    low: Filter,
    wavelets: Vec<Filter>,
    /// Of each resolution, from the full one.
    plans: Vec<[Arc<dyn Fft<f32>>; 2]>,
}

impl Scattering {
    /// The transform of images of a side, whose borders are mirrored as far as to a side of `padded`, over so many octaves
    /// and angles; its order is 1 or 2.
    ///
    /// # Errors
    /// When the borders are wider than the image, or not of two of the coarsest steps in all.
    pub fn new([size, padded]: [usize; 2], scales: usize, angles: usize, order: usize) -> Result<Self> {
        let fits = size > 0 && (padded - size.min(padded)).div_ceil(2) < size;
        if !(1..=16).contains(&scales) || angles == 0 || !fits || padded >> scales != (size >> scales) + 2 {
            bail!(
                "a scattering transform over {scales} octaves does not take images of {size} pixels with their borders to {padded}"
            )
        }
        let mut planner = FftPlanner::new();
        let mut plan =
            |level: usize| [planner.plan_fft_forward(padded >> level), planner.plan_fft_inverse(padded >> level)];
        Ok(Self {
            size,
            padded,
            scales,
            order,
            low: low_pass(padded, scales),
            wavelets: wavelets(padded, scales, angles),
            plans: (0..=scales).map(&mut plan).collect(),
        })
    }

    /// Coefficients of a channel: those of order 0, then 1, then 2, each by octave and angle.
    pub fn coefficients(&self) -> usize {
        let deeper = |first: &Filter| self.wavelets.iter().filter(|next| next.scale > first.scale).count();
        let second = if self.order > 1 { self.wavelets.iter().map(deeper).sum() } else { 0 };
        1 + self.wavelets.len() + second
    }

    /// \[batch, height, width, channels\] → \[batch, height', width', channels * coefficients\], channel by channel.
    ///
    /// # Errors
    /// When the size is not the one it was made for.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        if height != self.size || width != self.size {
            bail!("the scattering transform is of images of {} pixels, not {height} x {width}", self.size);
        }
        let (side, count) = (self.size >> self.scales, self.coefficients());
        let pixels: Vec<f32> = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let mut planes = vec![0.0; batch * channels * count * side * side];
        planes.par_chunks_mut((count * side * side).max(1)).enumerate().for_each(|(at, out)| {
            let (sample, channel) = (at / channels, at % channels);
            let image = &pixels[sample * height * width * channels..][..height * width * channels];
            let mut maps = out.chunks_exact_mut(side * side);
            self.transform(
                |y, x| image[(y * width + x) * channels + channel],
                |map| {
                    if let Some(out) = maps.next() {
                        out.copy_from_slice(map);
                    }
                },
            );
        });
        let planes = Tensor::from_vec(planes, (batch, channels * count, side, side), &Device::Cpu)?;
        planes.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(x.dtype())?.to_device(x.device())
    }

    /// Gives the coefficients of one channel, map by map.
    fn transform(&self, pixel: impl Fn(usize, usize) -> f32, mut give: impl FnMut(&[f32])) {
        let before = (self.padded - self.size) / 2;
        let mirrored = |at: usize| {
            let at = at.abs_diff(before);
            if at < self.size { at } else { 2 * (self.size - 1) - at }
        };
        let side = self.padded;
        let image = |at: usize| Complex::new(pixel(mirrored(at / side), mirrored(at % side)), 0.0);
        let image = self.forward_map((0..side * side).map(image).collect(), 0);
        give(&self.average(&image, 0));
        let mut second = Vec::new();
        for first in &self.wavelets {
            let left = self.modulus(&image, 0, first);
            give(&self.average(&left, first.scale));
            if self.order > 1 {
                for next in self.wavelets.iter().filter(|next| next.scale > first.scale) {
                    second.push(self.average(&self.modulus(&left, first.scale, next), next.scale));
                }
            }
        }
        second.iter().for_each(|map| give(map));
    }

    /// What a wavelet leaves of a map of a resolution, without its phase, at the wavelet's own resolution; both in the
    /// Fourier domain.
    fn modulus(&self, map: &[Complex<f32>], level: usize, wavelet: &Filter) -> Map {
        let filtered = self.filtered(map, level, (&wavelet.levels[level], wavelet.scale));
        let mut values = self.inverse_map(filtered, wavelet.scale);
        values.iter_mut().for_each(|value| *value = Complex::new(value.norm(), 0.0));
        self.forward_map(values, wavelet.scale)
    }

    /// The averages of a map in the Fourier domain, without the borders.
    fn average(&self, map: &[Complex<f32>], level: usize) -> Vec<f32> {
        let values = self.inverse_map(self.filtered(map, level, (&self.low.levels[level], self.scales)), self.scales);
        let side = self.padded >> self.scales;
        let rows = values.chunks_exact(side).take(side - 1).skip(1);
        rows.flat_map(|row| &row[1..side - 1]).map(|value| value.re).collect()
    }

    /// The product of a map and a filter in the Fourier domain, at the resolution of `target`.
    fn filtered(&self, map: &[Complex<f32>], level: usize, (filter, target): (&[f32], usize)) -> Map {
        let (side, kept) = (self.padded >> level, self.padded >> target);
        let share = 1.0 / ((side / kept) * (side / kept)) as f32;
        let mut sums = vec![Complex::new(0.0, 0.0); kept * kept];
        for (row, (values, filter)) in map.chunks_exact(side).zip(filter.chunks_exact(side)).enumerate() {
            let out = &mut sums[row % kept * kept..][..kept];
            for (values, filter) in values.chunks_exact(kept).zip(filter.chunks_exact(kept)) {
                for ((sum, value), filter) in out.iter_mut().zip(values).zip(filter) {
                    *sum += value * (filter * share);
                }
            }
        }
        sums
    }

    /// The Fourier transform of a map of a resolution, column by column.
    fn forward_map(&self, mut map: Map, level: usize) -> Map {
        let [forward, _] = &self.plans[level];
        forward.process(&mut map);
        let mut map = transposed(&map, self.padded >> level);
        forward.process(&mut map);
        map
    }

    /// The map of a Fourier transform, row by row.
    fn inverse_map(&self, mut map: Map, level: usize) -> Map {
        let [_, inverse] = &self.plans[level];
        let side = self.padded >> level;
        inverse.process(&mut map);
        let mut map = transposed(&map, side);
        inverse.process(&mut map);
        let share = 1.0 / (side * side) as f32;
        map.iter_mut().for_each(|value| *value *= share);
        map
    }
}

fn transposed(map: &[Complex<f32>], side: usize) -> Map {
    let mut out = Vec::with_capacity(map.len());
    for column in 0..side {
        out.extend(map.iter().skip(column).step_by(side));
    }
    out
}
