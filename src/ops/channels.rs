//! Functions of each value \[pixel, channel\] with constants of its channel, as they are or summed over all pixels.

use super::cpu::{build_unset, equal_parts};
use super::element::Element;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Values of one part: 128 KiB, so that it stays in the cache while channel after channel is summed.
const PART: usize = 1 << 15;

/// Vectors that are summed side by side, because an addition must wait for the one before it.
const CHAINS: usize = 4;

/// `K` functions of the values of `N` arrays and `C` constants of their channel.
///
/// They are a type and not a closure because only functions that are always inlined are compiled for the vectors of the
/// machine.
pub(super) trait Terms<const N: usize, const C: usize, const K: usize>: Sync {
    /// The terms of one pixel, for a vector of channels.
    fn terms<S: Simd>(simd: S, values: [S::f32s; N], constants: [S::f32s; C]) -> [S::f32s; K];
}

/// A function of all values: an array like the others.
///
/// `constants` are lists of one value a channel.
pub(super) fn channel_map<T: Terms<N, C, 1>, E: Element, const N: usize, const C: usize>(
    _: T,
    arrays: [&[E]; N],
    channels: usize,
    constants: [&[f32]; C],
) -> Vec<E> {
    let length = part_length(channels);
    let map = |at: usize, out: &mut [MaybeUninit<E>]| {
        let arrays = arrays.map(|array| &array[at * length..][..out.len()]);
        Arch::new().dispatch(Mapped::<T, E, N, C> { arrays, channels, constants, out, terms: PhantomData });
    };
    // SAFETY: parts are whole pixels, and all channels of each are written.
    unsafe { build_unset(&equal_parts(arrays[0].len() / channels.max(1) * channels, length), map) }
}

/// The same for functions that know no channels, of arrays of any shape.
pub(super) fn value_map<T: Terms<N, 0, 1>, E: Element, const N: usize>(_: T, arrays: [&[E]; N]) -> Vec<E> {
    let map = |at: usize, out: &mut [MaybeUninit<E>]| {
        let arrays = arrays.map(|array| &array[at * PART..][..out.len()]);
        let channels = out.len();
        Arch::new().dispatch(Mapped::<T, E, N, 0> { arrays, channels, constants: [], out, terms: PhantomData });
    };
    // SAFETY: all values of a part are written.
    unsafe { build_unset(&equal_parts(arrays[0].len(), PART), map) }
}

/// Values of a part: whole pixels.
fn part_length(channels: usize) -> usize {
    (PART / channels.max(1)).max(1) * channels
}

struct Mapped<'a, T, E, const N: usize, const C: usize> {
    arrays: [&'a [E]; N],
    channels: usize,
    constants: [&'a [f32]; C],
    out: &'a mut [MaybeUninit<E>],
    terms: PhantomData<T>,
}

impl<T: Terms<N, C, 1>, E: Element, const N: usize, const C: usize> WithSimd for Mapped<'_, T, E, N, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.channels;
        for (pixel, out) in self.out.chunks_exact_mut(channels.max(1)).enumerate() {
            for first in (0..channels).step_by(S::F32_LANES) {
                let many = S::F32_LANES.min(channels - first);
                let (mut values, mut constants) = ([simd.splat_f32s(0.0); N], [simd.splat_f32s(0.0); C]);
                for at in 0..N {
                    values[at] = E::load(simd, &self.arrays[at][pixel * channels + first..][..many]);
                }
                for at in 0..C {
                    constants[at] = f32::load(simd, &self.constants[at][first..][..many]);
                }
                E::store(simd, &mut out[first..][..many], T::terms(simd, values, constants)[0]);
            }
        }
    }
}

/// Sums terms over all pixels: for each term, the sum of each channel.
///
/// `constants` are lists of one value a channel. Parts are summed in f32 and added in f64 in a fixed order, so that the
/// result does not depend on the number of threads.
pub(super) fn channel_sums<T: Terms<N, C, K>, E: Element, const N: usize, const C: usize, const K: usize>(
    _: T,
    arrays: [&[E]; N],
    channels: usize,
    constants: [&[f32]; C],
) -> [Vec<f64>; K] {
    let part = part_length(channels);
    let parts = arrays[0].len().div_ceil(part.max(1));
    let sum_part = |at: usize| {
        let arrays = arrays.map(|array| &array[at * part..((at + 1) * part).min(array.len())]);
        let mut sums = std::array::from_fn(|_| vec![0.0; channels]);
        Arch::new().dispatch(Part::<T, E, N, C, K> {
            arrays,
            channels,
            constants,
            sums: &mut sums,
            terms: PhantomData,
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

struct Part<'a, T, E, const N: usize, const C: usize, const K: usize> {
    arrays: [&'a [E]; N],
    channels: usize,
    constants: [&'a [f32]; C],
    sums: &'a mut [Vec<f32>; K],
    terms: PhantomData<T>,
}

impl<T: Terms<N, C, K>, E: Element, const N: usize, const C: usize, const K: usize> WithSimd
    for Part<'_, T, E, N, C, K>
{
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
                        values[at] = E::load(simd, &self.arrays[at][pixel * channels + first..][..many]);
                    }
                    let terms = T::terms(simd, values, constants);
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
