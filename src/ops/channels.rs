//! Sums over all pixels of each channel, of values \[pixel, channel\].

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Values of one part: 128 KiB, so that it stays in the cache while channel after channel is summed.
const PART: usize = 1 << 15;

/// Vectors that are summed side by side, because an addition must wait for the one before it.
const CHAINS: usize = 4;

/// Terms whose sums over all pixels are wanted: `K` of them, made of the values of `N` arrays.
pub(super) trait Terms<const N: usize, const K: usize>: Sync {
    /// The terms of one pixel, for a vector of channels whose constants `constants` holds.
    fn terms<S: Simd>(simd: S, values: [S::f32s; N], constants: &[S::f32s]) -> [S::f32s; K];
}

/// Sums terms over all pixels: for each term, the sum of each channel.
///
/// `constants` are lists of one value a channel. Parts are summed in f32 and added in f64 in a fixed order, so that the
/// result does not depend on the number of threads.
pub(super) fn channel_sums<T: Terms<N, K>, const N: usize, const K: usize, const C: usize>(
    _: T,
    arrays: [&[f32]; N],
    channels: usize,
    constants: [&[f32]; C],
) -> [Vec<f64>; K] {
    let part = (PART / channels.max(1)).max(1) * channels;
    let parts = arrays[0].len().div_ceil(part.max(1));
    let sum_part = |at: usize| {
        let arrays = arrays.map(|array| &array[at * part..((at + 1) * part).min(array.len())]);
        let mut sums = std::array::from_fn(|_| vec![0.0; channels]);
        Arch::new().dispatch(Part::<T, N, K, C> {
            arrays,
            channels,
            constants,
            sums: &mut sums,
            terms: Default::default(),
        });
        sums
    };
    let parts: Vec<[Vec<f32>; K]> = (0..parts).into_par_iter().map(sum_part).collect();
    std::array::from_fn(|term| {
        let mut total = vec![0.0f64; channels];
        for part in &parts {
            total.iter_mut().zip(&part[term]).for_each(|(total, &sum)| *total += f64::from(sum));
        }
        total
    })
}

struct Part<'a, T, const N: usize, const K: usize, const C: usize> {
    arrays: [&'a [f32]; N],
    channels: usize,
    constants: [&'a [f32]; C],
    sums: &'a mut [Vec<f32>; K],
    terms: std::marker::PhantomData<T>,
}

impl<T: Terms<N, K>, const N: usize, const K: usize, const C: usize> WithSimd for Part<'_, T, N, K, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.channels;
        let pixels = self.arrays[0].len() / channels;
        for first in (0..channels).step_by(S::F32_LANES) {
            let many = S::F32_LANES.min(channels - first);
            let mut constants = [simd.splat_f32s(0.0); C];
            for at in 0..C {
                constants[at] = simd.partial_load_f32s(&self.constants[at][first..first + many]);
            }
            let mut chains = [[simd.splat_f32s(0.0); K]; CHAINS];
            for pixel in (0..pixels).step_by(CHAINS) {
                for (sums, pixel) in chains.iter_mut().zip(pixel..pixels) {
                    let mut values = [simd.splat_f32s(0.0); N];
                    for at in 0..N {
                        values[at] = load(simd, &self.arrays[at][pixel * channels + first..][..many]);
                    }
                    let terms = T::terms(simd, values, &constants);
                    for at in 0..K {
                        sums[at] = simd.add_f32s(sums[at], terms[at]);
                    }
                }
            }
            for at in 0..K {
                let mut total = simd.splat_f32s(0.0);
                for sums in &chains {
                    total = simd.add_f32s(total, sums[at]);
                }
                simd.partial_store_f32s(&mut self.sums[at][first..first + many], total);
            }
        }
    }
}

/// The values of a slice that is no longer than a vector; zeros beyond.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    if values.len() == S::F32_LANES {
        // SAFETY: the slice is as long as the vector.
        unsafe { values.as_ptr().cast::<S::f32s>().read_unaligned() }
    } else {
        simd.partial_load_f32s(values)
    }
}

/// Stores the first values of a vector into a slice that is no longer.
#[inline(always)]
pub(super) fn store<S: Simd>(simd: S, out: &mut [f32], values: S::f32s) {
    if out.len() == S::F32_LANES {
        // SAFETY: the slice is as long as the vector.
        unsafe { out.as_mut_ptr().cast::<S::f32s>().write_unaligned(values) }
    } else {
        simd.partial_store_f32s(out, values);
    }
}
