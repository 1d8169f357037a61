//! The types of feature maps on the CPU: f32, and bf16, which is widened as it is loaded and rounded as it is stored.

use super::bf16_vectors;
use candle_core::WithDType;
use half::bf16;
use pulp::Simd;
use std::borrow::Cow;
use std::mem::MaybeUninit;

/// Values of a vector on any machine, at most.
const MOST_LANES: usize = 16;

/// A type in which feature maps lie in memory. All computing is in f32.
pub trait Element: WithDType {
    /// 0.
    const ZERO: Self;

    /// The value, exactly.
    fn widen(self) -> f32;

    /// The nearest value, of two the even one.
    fn narrow(value: f32) -> Self;

    /// The values as they lie there, where they need not be widened.
    fn plain(values: &[Self]) -> Option<&[f32]>;

    /// The values of a slice that is no longer than a vector; zeros beyond.
    fn load<S: Simd>(simd: S, values: &[Self]) -> S::f32s;

    /// Writes the first values of a vector into a slice that is no longer.
    fn store<S: Simd>(simd: S, out: &mut [MaybeUninit<Self>], values: S::f32s);

    /// The nearest values that this type has.
    fn rounded(values: &[f32]) -> Cow<'_, [f32]>;

    /// Writes sums that a function makes of zeros.
    fn sum(out: &mut [MaybeUninit<Self>], f: impl FnOnce(&mut [f32]));
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn plain(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    fn rounded(values: &[f32]) -> Cow<'_, [f32]> {
        values.into()
    }

    fn sum(out: &mut [MaybeUninit<Self>], f: impl FnOnce(&mut [f32])) {
        for value in out.iter_mut() {
            value.write(0.0);
        }
        // SAFETY: every value was written in the loop above.
        f(unsafe { out.assume_init_mut() });
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[Self]) -> S::f32s {
        if values.len() == S::F32_LANES {
            // SAFETY: the slice is as long as the vector.
            unsafe { values.as_ptr().cast::<S::f32s>().read_unaligned() }
        } else {
            simd.partial_load_f32s(values)
        }
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, out: &mut [MaybeUninit<Self>], values: S::f32s) {
        if out.len() == S::F32_LANES {
            // SAFETY: the slice is as long as the vector.
            unsafe { out.as_mut_ptr().cast::<S::f32s>().write_unaligned(values) }
        } else {
            let lanes = lanes(simd, values);
            for (out, value) in out.iter_mut().zip(lanes) {
                out.write(value);
            }
        }
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Without a branch, so that whole vectors are rounded at once.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // What is not a number must not become one: its highest digit stays.
        let unnumbered = (bits >> 16) | 0x40;
        bf16::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { unnumbered } else { rounded } as u16)
    }

    #[inline(always)]
    fn plain(_: &[Self]) -> Option<&[f32]> {
        None
    }

    fn rounded(values: &[f32]) -> Cow<'_, [f32]> {
        values.iter().map(|&value| Self::narrow(value).widen()).collect()
    }

    fn sum(out: &mut [MaybeUninit<Self>], f: impl FnOnce(&mut [f32])) {
        let mut sums = vec![0.0; out.len()];
        f(&mut sums);
        for (out, sum) in out.iter_mut().zip(sums) {
            out.write(Self::narrow(sum));
        }
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[Self]) -> S::f32s {
        if let Some(values) = bf16_vectors::load(simd, values) {
            return values;
        }
        const { assert!(size_of::<S::f32s>() == 4 * S::F32_LANES && S::F32_LANES <= MOST_LANES) };
        let mut lanes = [0.0; MOST_LANES];
        if values.len() == S::F32_LANES {
            for at in 0..S::F32_LANES {
                lanes[at] = values[at].widen();
            }
        } else {
            lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane = value.widen());
        }
        // SAFETY: there are at least as many lanes as the vector has.
        unsafe { lanes.as_ptr().cast::<S::f32s>().read_unaligned() }
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, out: &mut [MaybeUninit<Self>], values: S::f32s) {
        if bf16_vectors::store(simd, out, values) {
            return;
        }
        let lanes = lanes(simd, values);
        if out.len() == S::F32_LANES {
            for at in 0..S::F32_LANES {
                out[at].write(Self::narrow(lanes[at]));
            }
        } else {
            for (out, value) in out.iter_mut().zip(lanes) {
                out.write(Self::narrow(value));
            }
        }
    }
}

/// Writes a vector of sums over those that are there; the slice is no longer than the vector.
#[inline(always)]
pub(super) fn store_over<S: Simd>(simd: S, out: &mut [f32], values: S::f32s) {
    // SAFETY: what is written is a value.
    f32::store(simd, unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) }, values);
}

/// The values of a vector, and zeros.
#[inline(always)]
fn lanes<S: Simd>(_: S, values: S::f32s) -> [f32; MOST_LANES] {
    const { assert!(size_of::<S::f32s>() == 4 * S::F32_LANES && S::F32_LANES <= MOST_LANES) };
    let mut lanes = [0.0; MOST_LANES];
    // SAFETY: there are at least as many lanes as the vector has.
    unsafe { lanes.as_mut_ptr().cast::<S::f32s>().write_unaligned(values) };
    lanes
}
