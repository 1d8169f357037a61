//! Vectors of f32 loaded from bf16 and stored as such, by instructions that the compiler does not find by itself.

use half::bf16;
use pulp::Simd;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// The values of a slice that is no longer than a vector, and zeros beyond. Nothing where no instruction does it: on other
/// processors, and with AVX2 alone where the slice is shorter.
#[inline(always)]
pub(super) fn load<S: Simd>(_: S, values: &[bf16]) -> Option<S::f32s> {
    #[cfg(target_arch = "x86_64")]
    if is::<S, V4>() {
        // SAFETY: the processor has these instructions, as there is a `V4`; no more values are read than there are.
        return Some(unsafe { std::mem::transmute_copy(&load_512(values)) });
    } else if is::<S, V3>() && values.len() == S::F32_LANES {
        // SAFETY: likewise of a `V3`; there are as many values as are read.
        return Some(unsafe { std::mem::transmute_copy(&load_256(values)) });
    }
    _ = values;
    None
}

/// Writes the first values of a vector, rounded, into a slice that is no longer; `false` where no instruction does it.
#[inline(always)]
pub(super) fn store<S: Simd>(_: S, out: &mut [MaybeUninit<bf16>], values: S::f32s) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is::<S, V4>() {
        // SAFETY: the processor has these instructions, as there is a `V4`; no more values are written than have room.
        unsafe { store_512(out, std::mem::transmute_copy(&values)) };
        return true;
    } else if is::<S, V3>() && out.len() == S::F32_LANES {
        // SAFETY: likewise of a `V3`; there is room for as many values as are written.
        unsafe { store_256(out, std::mem::transmute_copy(&values)) };
        return true;
    }
    _ = (out, values);
    false
}

/// Whether vectors are those of a kind. It is known when the program is compiled.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn is<S: Simd, K: 'static>() -> bool {
    std::any::TypeId::of::<S>() == std::any::TypeId::of::<K>()
}

/// As many lanes as there are values, at most 16.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn lanes(many: usize) -> u16 {
    if many < 16 { (1 << many) - 1 } else { u16::MAX }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load_512(values: &[bf16]) -> __m512 {
    // SAFETY: by the caller's promise of instructions, and only lanes that have a value are read.
    unsafe {
        let halves = match values.len() {
            16 => _mm256_loadu_si256(values.as_ptr().cast()),
            many => _mm256_maskz_loadu_epi16(lanes(many), values.as_ptr().cast()),
        };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load_256(values: &[bf16]) -> __m256 {
    // SAFETY: by the caller's promise, there are eight values.
    unsafe {
        let halves = _mm_loadu_si128(values.as_ptr().cast());
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }
}

/// As `Element::narrow` rounds: to the nearest, of two the even one; what is not a number stays so.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn store_512(out: &mut [MaybeUninit<bf16>], values: __m512) {
    // SAFETY: by the caller's promise of instructions, and only lanes that have room are written.
    unsafe {
        let bits = _mm512_castps_si512(values);
        let upper = _mm512_srli_epi32::<16>(bits);
        let half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(upper, _mm512_set1_epi32(1)));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
        let unnumbered = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        let rounded = _mm512_mask_or_epi32(rounded, unnumbered, upper, _mm512_set1_epi32(0x40));
        let halves = _mm512_cvtepi32_epi16(rounded);
        match out.len() {
            16 => _mm256_storeu_si256(out.as_mut_ptr().cast(), halves),
            many => _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), lanes(many), halves),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn store_256(out: &mut [MaybeUninit<bf16>], values: __m256) {
    // SAFETY: by the caller's promise, there is room for eight values.
    unsafe {
        let bits = _mm256_castps_si256(values);
        let upper = _mm256_srli_epi32::<16>(bits);
        let half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(upper, _mm256_set1_epi32(1)));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
        let unnumbered = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
        let stays = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
        let rounded = _mm256_blendv_epi8(rounded, stays, unnumbered);
        // Each half of the vector is packed for itself.
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(rounded, rounded));
        _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::element::Element;
    use super::*;
    use pulp::WithSimd;

    struct Both<'a>(&'a [f32], &'a mut [MaybeUninit<bf16>]);

    impl WithSimd for Both<'_> {
        type Output = Option<Vec<f32>>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self(values, out) = self;
            store(simd, out, f32::load(simd, values)).then_some(())?;
            // SAFETY: as many values were written.
            let loaded = load(simd, unsafe { out.assume_init_ref() })?;
            let mut lanes = vec![MaybeUninit::new(f32::NAN); S::F32_LANES];
            f32::store(simd, &mut lanes, loaded);
            // SAFETY: all were values from the start.
            Some(lanes.iter().map(|lane| unsafe { lane.assume_init() }).collect())
        }
    }

    /// Values of all kinds: those that lie in the middle of two of bf16, infinite ones and none.
    fn values() -> Vec<f32> {
        let patterns = (0..1u32 << 16).map(|at| at.wrapping_mul(2_654_435_761));
        let odd = [0, 1, 0x7fff, 0x8000, 0x1_8000, 0x7f7f_8000, 0x7f80_0000, 0x7f80_0001, 0x7fff_ffff, 0xff80_0001];
        odd.into_iter().chain(patterns).map(f32::from_bits).collect()
    }

    fn stores_and_loads<S: Simd>(simd: S, shortest: usize) {
        for (at, values) in values().chunks_exact(S::F32_LANES).enumerate() {
            let values = &values[..S::F32_LANES - at % (S::F32_LANES - shortest + 1)];
            let mut out = [MaybeUninit::new(bf16::MAX); 17];
            let loaded = simd.vectorize(Both(values, &mut out[..values.len()])).expect("there are instructions");
            // SAFETY: all were values from the start.
            let out = out.map(|value| unsafe { value.assume_init() });
            for (lane, out) in out.iter().enumerate() {
                let expected = values.get(lane).map_or(bf16::MAX, |&value| bf16::narrow(value));
                assert_eq!(out.to_bits(), expected.to_bits(), "{values:?}");
            }
            for (lane, loaded) in loaded.iter().enumerate() {
                let expected = if lane < values.len() { out[lane].widen() } else { 0.0 };
                assert_eq!(loaded.to_bits(), expected.to_bits(), "{values:?}");
            }
        }
    }

    #[test]
    fn values_are_stored_rounded_and_loaded_among_zeros() {
        let (wide, narrow) = (V4::try_new(), V3::try_new());
        assert!(narrow.is_some() || wide.is_none());
        if let Some(simd) = wide {
            stores_and_loads(simd, 0);
        }
        if let Some(simd) = narrow {
            stores_and_loads(simd, 8);
        }
    }
}
