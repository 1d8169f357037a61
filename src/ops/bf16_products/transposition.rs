//! Turns pixels \[pixel, channel\] into left tiles \[channel, pixel\].

use super::tiles::{DEEP, Line, ROWS, Tile};
use half::bf16;

/// The tile of 16 channels of 32 pixels, from where these begin among the values.
#[inline(always)]
pub fn transpose(values: &[bf16], pixels: &[u32; DEEP], out: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        let mut last = 0;
        for &pixel in pixels {
            last = last.max(pixel);
        }
        assert!(last as usize + ROWS <= values.len());
        // SAFETY: the processor has what the function is compiled for, and all pixels are within the values.
        return unsafe { transpose_by_avx2(values, pixels, out) };
    }
    transpose_plainly(values, pixels, out);
}

fn transpose_plainly(values: &[bf16], pixels: &[u32; DEEP], out: &mut Tile) {
    for (at, &pixel) in pixels.iter().enumerate() {
        for (Line(out), &value) in out.iter_mut().zip(&values[pixel as usize..][..ROWS]) {
            out[at] = value;
        }
    }
}

/// Eight pixels at a time: each half of a vector, channels 0 to 7 and 8 to 15, is a square that three rounds of
/// interleaving transpose.
///
/// # Safety
/// There must be 16 values from each pixel on.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_by_avx2(values: &[bf16], pixels: &[u32; DEEP], out: &mut Tile) {
    use std::arch::x86_64::*;
    for part in 0..DEEP / 8 {
        let mut rows = [_mm256_setzero_si256(); 8];
        for at in 0..8 {
            // SAFETY: the caller's promise.
            rows[at] = unsafe { _mm256_loadu_si256(values.as_ptr().add(pixels[8 * part + at] as usize).cast()) };
        }
        // What two pixels, then four, have of some channels side by side.
        let (mut twos, mut fours) = ([[_mm256_setzero_si256(); 2]; 4], [[_mm256_setzero_si256(); 4]; 2]);
        for at in 0..4 {
            twos[at][0] = _mm256_unpacklo_epi16(rows[2 * at], rows[2 * at + 1]);
            twos[at][1] = _mm256_unpackhi_epi16(rows[2 * at], rows[2 * at + 1]);
        }
        for at in 0..2 {
            for half in 0..2 {
                let (first, second) = (twos[2 * at][half], twos[2 * at + 1][half]);
                fours[at][2 * half] = _mm256_unpacklo_epi32(first, second);
                fours[at][2 * half + 1] = _mm256_unpackhi_epi32(first, second);
            }
        }
        for at in 0..4 {
            let even = _mm256_unpacklo_epi64(fours[0][at], fours[1][at]);
            let odd = _mm256_unpackhi_epi64(fours[0][at], fours[1][at]);
            for (channel, both) in [(2 * at, even), (2 * at + 1, odd)] {
                let (low, high) = (_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
                // SAFETY: eight values of a line are written.
                unsafe {
                    _mm_storeu_si128(out[channel].0[8 * part..][..8].as_mut_ptr().cast(), low);
                    _mm_storeu_si128(out[channel + 8].0[8 * part..][..8].as_mut_ptr().cast(), high);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_transposing_move_every_value_to_its_place() {
        let values: Vec<bf16> = (0..40 * ROWS as u16).map(bf16::from_bits).collect();
        let pixels: [u32; DEEP] = std::array::from_fn(|at| (at * 7 % 40 * ROWS) as u32);
        for way in [transpose, transpose_plainly] {
            let mut tile = [Line::ZERO; ROWS];
            way(&values, &pixels, &mut tile);
            for (channel, Line(line)) in tile.iter().enumerate() {
                for (value, pixel) in line.iter().zip(pixels) {
                    assert_eq!(u32::from(value.to_bits()), pixel + channel as u32);
                }
            }
        }
    }
}
