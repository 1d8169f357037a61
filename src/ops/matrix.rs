//! The product of two matrices on one thread.

/// A matrix of f32 values inside a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    /// Values between the starts of neighbouring rows.
    pub row_stride: usize,
    /// Values between neighbouring columns.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie one after the other, `stride` values apart.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The same values with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn fits(&self, length: usize) -> bool {
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        self.rows * self.columns == 0
            || last(self.rows, self.row_stride) + last(self.columns, self.column_stride) < length
    }
}

/// `out = a b`, or `out += a b` with `add`; the rows of `out` lie `stride` values apart.
///
/// # Panics
/// When the shapes do not fit each other or the slices.
pub(super) fn multiply(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], stride: usize, add: bool) {
    let shape = Matrix::new(&[], a.rows, b.columns, stride);
    assert!(a.columns == b.rows && stride >= b.columns, "matrix shapes do not fit");
    assert!(a.fits(a.values.len()) && b.fits(b.values.len()) && shape.fits(out.len()), "matrix exceeds its slice");
    // SAFETY: the asserts keep every index that the strides reach inside the three slices, and `out` is borrowed
    // mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            stride as isize,
            add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_for_strided_and_transposed_matrices() {
        let a: Vec<f32> = (0..24).map(|x| x as f32 * 0.5 - 3.0).collect();
        let b: Vec<f32> = (0..40).map(|x| (x % 7) as f32 - 2.0).collect();
        let (rows, inner, columns) = (3, 5, 4);
        let left = Matrix::new(&a, rows, inner, 8);
        let right = Matrix::new(&b, columns, inner, 10).transposed();
        let mut out = vec![1.0; 20];
        multiply(left, right, &mut out, 6, true);
        for row in 0..rows {
            for column in 0..columns {
                let expected: f32 = (0..inner).map(|at| a[row * 8 + at] * b[column * 10 + at]).sum();
                assert_eq!(out[row * 6 + column], expected + 1.0);
            }
            assert!(row == 2 || out[row * 6 + columns] == 1.0, "writes between rows");
        }
    }
}
