//! Products of the many small matrices of convolutions, in vector registers and without packing.
//!
//! A general matrix product copies its operands into an order that suits it, which costs as much as the product itself
//! where a matrix has a few dozen columns. Here they are already in that order.

use pulp::Simd;

/// Columns are worked on in blocks of this many, whatever the vectors of the machine.
pub(super) const BLOCK: usize = 16;

/// The least multiple of [`BLOCK`] that holds so many channels.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(BLOCK)
}

/// A matrix whose values are taken one at a time. Its columns lie in runs, each of as many columns.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    /// Values between neighbouring rows.
    pub row_stride: usize,
    pub runs: usize,
    /// Values between the starts of neighbouring runs.
    pub run_stride: usize,
    /// Columns of a run.
    pub columns: usize,
    /// Values between neighbouring columns of a run.
    pub column_stride: usize,
}

impl<'a> Left<'a> {
    /// A matrix of so many rows and columns, each with the number of values between neighbours.
    pub fn new(values: &'a [f32], (rows, row_stride): (usize, usize), columns: (usize, usize)) -> Self {
        let (columns, column_stride) = columns;
        Self { values, rows, row_stride, runs: 1, run_stride: 0, columns, column_stride }
    }

    /// The place of the last value, where there is one.
    fn last(&self) -> Option<usize> {
        let last = |count: usize, stride: usize| Some(count.checked_sub(1)? * stride);
        let row = last(self.rows, self.row_stride)? + last(self.runs, self.run_stride)?;
        Some(row + last(self.columns, self.column_stride)?)
    }
}

/// A matrix whose rows are taken a block of [`BLOCK`] columns at a time.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub values: &'a [f32],
    pub blocks: usize,
    /// Values between neighbouring rows of a block.
    pub row_stride: usize,
    /// Values between the starts of neighbouring blocks.
    pub block_stride: usize,
}

/// `out = a b`, or `out += a b` with `add`; the rows of `out` lie `stride` values apart and hold whole blocks.
///
/// # Panics
/// When a matrix exceeds its slice.
#[inline(always)]
pub(super) fn multiply<S: Simd>(simd: S, a: Left<'_>, b: Right<'_>, out: &mut [f32], stride: usize, add: bool) {
    if a.rows == 0 || b.blocks == 0 {
        return;
    }
    let depth = a.runs * a.columns;
    assert!(a.last().is_none_or(|last| last < a.values.len()), "the left matrix exceeds its slice");
    assert!(
        depth == 0 || (b.blocks - 1) * b.block_stride + (depth - 1) * b.row_stride + BLOCK <= b.values.len(),
        "the right matrix exceeds its slice"
    );
    assert!((a.rows - 1) * stride + b.blocks * BLOCK <= out.len(), "the product exceeds its slice");
    // SAFETY: the asserts keep inside the slices what rows below `a.rows` and blocks below `b.blocks` reach.
    unsafe {
        match S::F32_LANES {
            16 => over_blocks::<S, 2, 12, 2, 1>(simd, a, b, out.as_mut_ptr(), stride, add),
            8 => over_blocks::<S, 1, 6, 2, 2>(simd, a, b, out.as_mut_ptr(), stride, add),
            4 => over_blocks::<S, 1, 6, 4, 4>(simd, a, b, out.as_mut_ptr(), stride, add),
            1 => over_blocks::<S, 1, 2, 16, 16>(simd, a, b, out.as_mut_ptr(), stride, add),
            lanes => panic!("vectors of {lanes} values"),
        }
    }
}

/// Goes over the blocks, `AT_ONCE` and then one at a time; those take `VECTORS` and `LAST` vectors.
#[inline(always)]
unsafe fn over_blocks<S: Simd, const AT_ONCE: usize, const MOST: usize, const VECTORS: usize, const LAST: usize>(
    simd: S,
    a: Left<'_>,
    b: Right<'_>,
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let mut block = 0;
    while block < b.blocks {
        let at_once = if block + AT_ONCE <= b.blocks { AT_ONCE } else { 1 };
        // SAFETY: the caller vouches for all blocks of the matrix.
        unsafe {
            let right = b.values.as_ptr().wrapping_add(block * b.block_stride);
            let out = out.add(block * BLOCK);
            if at_once == AT_ONCE {
                over_rows::<S, MOST, VECTORS>(simd, a, (right, b), out, stride, add);
            } else {
                over_rows::<S, MOST, LAST>(simd, a, (right, b), out, stride, add);
            }
        }
        block += at_once;
    }
}

/// Goes over the rows, in groups of `MOST` at most that are as equal as can be: a small group would wait for its sums.
#[inline(always)]
unsafe fn over_rows<S: Simd, const MOST: usize, const VECTORS: usize>(
    simd: S,
    a: Left<'_>,
    b: (*const f32, Right<'_>),
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let groups = a.rows.div_ceil(MOST);
    let mut row = 0;
    for group in 1..=groups {
        let end = group * a.rows / groups;
        // SAFETY: the caller vouches for all rows of the matrix, and no more are taken than are left.
        unsafe {
            let left = a.values.as_ptr().wrapping_add(row * a.row_stride);
            let out = out.add(row * stride);
            match end - row {
                1 => in_registers::<S, 1, VECTORS>(simd, (left, a), b, out, stride, add),
                2 if MOST > 2 => in_registers::<S, 2, VECTORS>(simd, (left, a), b, out, stride, add),
                3 if MOST > 2 => in_registers::<S, 3, VECTORS>(simd, (left, a), b, out, stride, add),
                4 if MOST > 2 => in_registers::<S, 4, VECTORS>(simd, (left, a), b, out, stride, add),
                5 if MOST > 2 => in_registers::<S, 5, VECTORS>(simd, (left, a), b, out, stride, add),
                6 if MOST > 6 => in_registers::<S, 6, VECTORS>(simd, (left, a), b, out, stride, add),
                7 if MOST > 6 => in_registers::<S, 7, VECTORS>(simd, (left, a), b, out, stride, add),
                8 if MOST > 6 => in_registers::<S, 8, VECTORS>(simd, (left, a), b, out, stride, add),
                9 if MOST > 6 => in_registers::<S, 9, VECTORS>(simd, (left, a), b, out, stride, add),
                10 if MOST > 6 => in_registers::<S, 10, VECTORS>(simd, (left, a), b, out, stride, add),
                11 if MOST > 6 => in_registers::<S, 11, VECTORS>(simd, (left, a), b, out, stride, add),
                _ => in_registers::<S, MOST, VECTORS>(simd, (left, a), b, out, stride, add),
            }
        }
        row = end;
    }
}

/// `ROWS` rows of `VECTORS` vectors, summed in registers.
#[inline(always)]
unsafe fn in_registers<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    (left, a): (*const f32, Left<'_>),
    (right, b): (*const f32, Right<'_>),
    out: *mut f32,
    stride: usize,
    add: bool,
) {
    let in_block = BLOCK / S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    // SAFETY: the caller vouches for `ROWS` rows, all columns of `a`, and the blocks that `VECTORS` vectors fill.
    unsafe {
        for run in 0..a.runs {
            let left = left.wrapping_add(run * a.run_stride);
            let right = right.wrapping_add(run * a.columns * b.row_stride);
            for k in 0..a.columns {
                let mut row = [simd.splat_f32s(0.0); VECTORS];
                for at in 0..VECTORS {
                    let place = k * b.row_stride + at / in_block * b.block_stride + at % in_block * S::F32_LANES;
                    row[at] = right.add(place).cast::<S::f32s>().read_unaligned();
                }
                for at in 0..ROWS {
                    let factor = simd.splat_f32s(*left.add(at * a.row_stride + k * a.column_stride));
                    for vector in 0..VECTORS {
                        sums[at][vector] = simd.mul_add_e_f32s(factor, row[vector], sums[at][vector]);
                    }
                }
            }
        }
        for at in 0..ROWS {
            for vector in 0..VECTORS {
                let out = out.add(at * stride + vector * S::F32_LANES).cast::<S::f32s>();
                let sum = sums[at][vector];
                out.write_unaligned(if add { simd.add_f32s(out.read_unaligned(), sum) } else { sum });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::{Arch, Scalar, Scalar128b, Scalar256b, Scalar512b, WithSimd};

    struct Product<'a>(Left<'a>, Right<'a>, &'a mut [f32], usize, bool);

    impl WithSimd for Product<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self(a, b, out, stride, add) = self;
            multiply(simd, a, b, out, stride, add);
        }
    }

    #[test]
    fn agrees_with_the_definition_for_all_numbers_of_rows_runs_and_blocks() {
        let value = |at: usize| (at * 7 % 11) as f32 - 5.0;
        let shapes = [(1, 5, 1), (2, 3, 2), (1, 9, 2), (3, 1, 5), (1, 0, 2)];
        for (rows, (runs, columns, blocks)) in (1..40).flat_map(|rows| shapes.map(|shape| (rows, shape))) {
            let (depth, run_stride, out_stride) = (runs * columns, columns + 2, blocks * BLOCK + 4);
            let row_stride = runs * run_stride + 1;
            let a: Vec<f32> = (0..rows * row_stride).map(value).collect();
            let b: Vec<f32> = (0..blocks * (depth + 1) * BLOCK).map(value).collect();
            let left = Left { values: &a, rows, row_stride, runs, run_stride, columns, column_stride: 1 };
            let right = Right { values: &b, blocks, row_stride: BLOCK, block_stride: depth * BLOCK };
            let expected = |row: usize, column: usize| -> f32 {
                let of_a = |k: usize| row * row_stride + k / columns * run_stride + k % columns;
                let of_b = |k: usize| column / BLOCK * right.block_stride + k * BLOCK + column % BLOCK;
                (0..depth).map(|k| a[of_a(k)] * b[of_b(k)]).sum()
            };
            // The vectors of other machines are followed one value at a time.
            for (add, lanes) in [(false, 0), (true, 0), (true, 1), (false, 4), (true, 4), (false, 8), (true, 16)] {
                let mut out = vec![2.0; rows * out_stride];
                let product = Product(left, right, &mut out, out_stride, add);
                match lanes {
                    0 => Arch::new().dispatch(product),
                    1 => product.with_simd(Scalar),
                    4 => product.with_simd(Scalar128b),
                    8 => product.with_simd(Scalar256b),
                    _ => product.with_simd(Scalar512b),
                }
                for (at, &found) in out.iter().enumerate() {
                    let (row, column) = (at / out_stride, at % out_stride);
                    let inside = column < blocks * BLOCK;
                    let before = if !inside || add { 2.0 } else { 0.0 };
                    assert_eq!(found, before + if inside { expected(row, column) } else { 0.0 });
                }
            }
        }
    }
}
