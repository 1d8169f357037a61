//! The linear transforms of Winograd's minimal filtering F(4x4, 3x3), on tiles whose elements are vectors of channels.
//!
//! With the matrices A, B and G of Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), a tile of
//! 4x4 outputs is Aᵀ \[(G g Gᵀ) ⊙ (Bᵀ d B)\] A of 6x6 inputs d and a 3x3 kernel g: 36 products instead of 144. That is
//! bilinear in d and g, so the kernel's gradient follows by transposing it: Gᵀ \[(A y Aᵀ) ⊙ (Bᵀ d B)\] G of the outputs'
//! gradient y.

use pulp::Simd;

/// Outputs along a side of a tile.
pub(super) const OUTPUTS: usize = 4;
/// Inputs along a side of a tile: two more, for a kernel of three.
pub(super) const INPUTS: usize = 6;
/// Values of a transformed tile or kernel.
pub(super) const POINTS: usize = INPUTS * INPUTS;

/// A square of vectors, row by row.
pub(super) type Square<V, const N: usize> = [[V; N]; N];

/// Applies a transform of `N` values to `M` to the rows of a square and then to its columns.
#[inline(always)]
pub(super) fn on_both_sides<V: Copy, const N: usize, const M: usize>(
    square: Square<V, N>,
    line: impl Fn([V; N]) -> [V; M],
) -> Square<V, M> {
    let rows = square.map(&line);
    let columns: [[V; M]; M] = std::array::from_fn(|column| line(std::array::from_fn(|row| rows[row][column])));
    std::array::from_fn(|row| std::array::from_fn(|column| columns[column][row]))
}

/// Bᵀ d.
#[inline(always)]
pub(super) fn input<S: Simd>(simd: S, d: [S::f32s; INPUTS]) -> [S::f32s; INPUTS] {
    let scaled = |factor: f32, x, rest| simd.mul_add_e_f32s(simd.splat_f32s(factor), x, rest);
    let (even, odd) = (scaled(-4.0, d[2], d[4]), scaled(-4.0, d[1], d[3]));
    let (near, far) = (simd.sub_f32s(d[4], d[2]), simd.sub_f32s(d[3], d[1]));
    [
        scaled(4.0, d[0], scaled(-5.0, d[2], d[4])),
        simd.add_f32s(even, odd),
        simd.sub_f32s(even, odd),
        scaled(2.0, far, near),
        scaled(-2.0, far, near),
        scaled(4.0, d[1], scaled(-5.0, d[3], d[5])),
    ]
}

/// Aᵀ m.
#[inline(always)]
pub(super) fn output<S: Simd>(simd: S, m: [S::f32s; INPUTS]) -> [S::f32s; OUTPUTS] {
    let scaled = |factor: f32, x, rest| simd.mul_add_e_f32s(simd.splat_f32s(factor), x, rest);
    let (near_sum, near) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (far_sum, far) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(simd.add_f32s(m[0], near_sum), far_sum),
        scaled(2.0, far, near),
        scaled(4.0, far_sum, near_sum),
        simd.add_f32s(scaled(8.0, far, near), m[5]),
    ]
}

/// A y.
#[inline(always)]
pub(super) fn gradient<S: Simd>(simd: S, y: [S::f32s; OUTPUTS]) -> [S::f32s; INPUTS] {
    let scaled = |factor: f32, x, rest| simd.mul_add_e_f32s(simd.splat_f32s(factor), x, rest);
    let (even, odd) = (simd.add_f32s(y[0], y[2]), simd.add_f32s(y[1], y[3]));
    let (far_even, far_odd) = (scaled(4.0, y[2], y[0]), scaled(4.0, y[3], y[1]));
    [
        y[0],
        simd.add_f32s(even, odd),
        simd.sub_f32s(even, odd),
        scaled(2.0, far_odd, far_even),
        scaled(-2.0, far_odd, far_even),
        y[3],
    ]
}

/// G g.
#[inline(always)]
pub(super) fn kernel<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; INPUTS] {
    let times = |factor: f32, x| simd.mul_f32s(simd.splat_f32s(factor), x);
    let scaled = |factor: f32, x, rest| simd.mul_add_e_f32s(simd.splat_f32s(factor), x, rest);
    let ends = simd.add_f32s(g[0], g[2]);
    let far_ends = times(1.0 / 24.0, scaled(4.0, g[2], g[0]));
    [
        times(0.25, g[0]),
        times(-1.0 / 6.0, simd.add_f32s(ends, g[1])),
        times(-1.0 / 6.0, simd.sub_f32s(ends, g[1])),
        scaled(1.0 / 12.0, g[1], far_ends),
        scaled(-1.0 / 12.0, g[1], far_ends),
        g[2],
    ]
}

/// Gᵀ u.
#[inline(always)]
pub(super) fn kernel_gradient<S: Simd>(simd: S, u: [S::f32s; INPUTS]) -> [S::f32s; 3] {
    let times = |factor: f32, x| simd.mul_f32s(simd.splat_f32s(factor), x);
    let scaled = |factor: f32, x, rest| simd.mul_add_e_f32s(simd.splat_f32s(factor), x, rest);
    let near = times(-1.0 / 6.0, simd.add_f32s(u[1], u[2]));
    let far = simd.add_f32s(u[3], u[4]);
    [
        scaled(0.25, u[0], scaled(1.0 / 24.0, far, near)),
        scaled(1.0 / 6.0, simd.sub_f32s(u[2], u[1]), times(1.0 / 12.0, simd.sub_f32s(u[3], u[4]))),
        simd.add_f32s(scaled(1.0 / 6.0, far, near), u[5]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::Scalar;

    const D: [f32; 6] = [0.5, -1.0, 2.0, 0.25, 3.0, -0.75];
    const G: [f32; 3] = [1.5, -0.5, 2.0];
    const Y: [f32; 4] = [1.0, -2.0, 0.5, 0.75];

    fn products(a: [f32; 6], b: [f32; 6]) -> [f32; 6] {
        std::array::from_fn(|at| a[at] * b[at])
    }

    #[test]
    fn a_line_is_filtered() {
        let found = output(Scalar, products(input(Scalar, D), kernel(Scalar, G)));
        for (at, found) in found.iter().enumerate() {
            let expected: f32 = (0..3).map(|tap| D[at + tap] * G[tap]).sum();
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }

    #[test]
    fn the_gradient_of_a_filter_is_the_transposed_map() {
        let found = kernel_gradient(Scalar, products(input(Scalar, D), gradient(Scalar, Y)));
        for (tap, found) in found.iter().enumerate() {
            let expected: f32 = (0..4).map(|at| D[at + tap] * Y[at]).sum();
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }

    #[test]
    fn a_square_is_transformed_on_both_sides() {
        let square = [[1.0, 2.0], [3.0, 4.0]];
        let sum_and_first = |[a, b]: [f32; 2]| [a + b, a];
        assert_eq!(on_both_sides(square, sum_and_first), [[10.0, 4.0], [3.0, 1.0]]);
    }
}
