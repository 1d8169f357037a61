//! The instructions of AVX-512 BF16, which multiply a pair of values with 16 others: tiles of sums by parts that registers
//! hold.

use super::tiles::{Block, Line, Multiplier, ROWS, Tile, WIDE};
use std::arch::x86_64::*;

/// Rows of sums that registers hold, of two right tiles: enough that no product waits for the one before.
const AT_ONCE: usize = 8;

/// The pairs of values of a line, each as one number.
#[inline(always)]
fn pairs(line: &Line) -> &[i32; WIDE] {
    // SAFETY: a line is as many bytes, of which any are an integer, and begins a line of the cache.
    unsafe { &*std::ptr::from_ref(line).cast() }
}

/// Pairs in the type that products take.
#[inline(always)]
fn bits(pairs: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of any content.
    unsafe { std::mem::transmute(pairs) }
}

/// Proof that the processor has the instructions.
#[derive(Clone, Copy)]
pub struct Vectors(());

impl Vectors {
    /// # Safety
    /// The processor must have AVX-512 BF16.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

impl Multiplier for Vectors {
    #[inline(always)]
    fn add<'a, const M: usize, const N: usize>(
        &mut self,
        steps: impl ExactSizeIterator<Item = [[&'a Tile; 2]; 2]> + Clone,
        block: &mut Block,
        starts: bool,
        between: impl FnMut(usize),
    ) {
        (0..steps.len()).for_each(between);
        for (half, [one, other]) in block.iter_mut().enumerate().take(M) {
            for first in (0..ROWS).step_by(AT_ONCE) {
                let rows =
                    [&mut one.0, &mut other.0].map(|sums| sums[first..].first_chunk_mut().expect("so many rows"));
                let steps = steps
                    .clone()
                    .map(|[left, right]| (left[half][first..].first_chunk().expect("so many rows"), right));
                // SAFETY: the processor has the instructions, as `self` proves.
                unsafe { add_rows::<N>(steps, rows, starts) };
            }
        }
    }
}

/// Adds the products of some rows of left tiles with `N` right ones to the rows of their sums.
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_rows<'a, const N: usize>(
    steps: impl Iterator<Item = (&'a [Line; AT_ONCE], [&'a Tile; 2])>,
    rows: [&mut [[f32; WIDE]; AT_ONCE]; 2],
    starts: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); N]; AT_ONCE];
    if !starts {
        for row in 0..AT_ONCE {
            for column in 0..N {
                // SAFETY: a row has 16 values and begins a line of the cache.
                sums[row][column] = unsafe { _mm512_load_ps(rows[column][row].as_ptr()) };
            }
        }
    }
    for (left, right) in steps {
        let left = left.each_ref().map(pairs);
        for pair in 0..WIDE {
            // SAFETY: a line is a vector.
            let right: [__m512bh; N] = std::array::from_fn(|column| unsafe {
                bits(_mm512_load_si512(std::ptr::from_ref(&right[column][pair]).cast()))
            });
            for row in 0..AT_ONCE {
                let value = bits(_mm512_set1_epi32(left[row][pair]));
                for column in 0..N {
                    sums[row][column] = _mm512_dpbf16_ps(sums[row][column], value, right[column]);
                }
            }
        }
    }
    for row in 0..AT_ONCE {
        for column in 0..N {
            // SAFETY: as above.
            unsafe { _mm512_store_ps(rows[column][row].as_mut_ptr(), sums[row][column]) };
        }
    }
}
