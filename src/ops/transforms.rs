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

/// A transform of `N` values to `M`.
///
/// It is a type and not a closure because only functions that are always inlined are compiled for the vectors of the
/// machine.
pub(super) trait Line<const N: usize, const M: usize> {
    fn apply<S: Simd>(simd: S, values: [S::f32s; N]) -> [S::f32s; M];
}

/// Applies a transform to the rows of a square and then to its columns.
#[inline(always)]
pub(super) fn on_both_sides<L: Line<N, M>, S: Simd, const N: usize, const M: usize>(
    simd: S,
    square: &Square<S::f32s, N>,
) -> Square<S::f32s, M> {
    let zero = simd.splat_f32s(0.0);
    let (mut rows, mut out) = ([[zero; M]; N], [[zero; M]; M]);
    for row in 0..N {
        rows[row] = L::apply(simd, square[row]);
    }
    for column in 0..M {
        let mut line = [zero; N];
        for row in 0..N {
            line[row] = rows[row][column];
        }
        let line = L::apply(simd, line);
        for row in 0..M {
            out[row][column] = line[row];
        }
    }
    out
}

/// factor * x + rest.
#[inline(always)]
fn scaled<S: Simd>(simd: S, factor: f32, x: S::f32s, rest: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(factor), x, rest)
}

/// factor * x.
#[inline(always)]
fn times<S: Simd>(simd: S, factor: f32, x: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), x)
}

/// Bᵀ d.
pub(super) struct Input;

impl Line<INPUTS, INPUTS> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, d: [S::f32s; INPUTS]) -> [S::f32s; INPUTS] {
        let (even, odd) = (scaled(simd, -4.0, d[2], d[4]), scaled(simd, -4.0, d[1], d[3]));
        let (near, far) = (simd.sub_f32s(d[4], d[2]), simd.sub_f32s(d[3], d[1]));
        [
            scaled(simd, 4.0, d[0], scaled(simd, -5.0, d[2], d[4])),
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            scaled(simd, 2.0, far, near),
            scaled(simd, -2.0, far, near),
            scaled(simd, 4.0, d[1], scaled(simd, -5.0, d[3], d[5])),
        ]
    }
}

/// Aᵀ m.
pub(super) struct Output;

impl Line<INPUTS, OUTPUTS> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, m: [S::f32s; INPUTS]) -> [S::f32s; OUTPUTS] {
        let (near_sum, near) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
        let (far_sum, far) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
        [
            simd.add_f32s(simd.add_f32s(m[0], near_sum), far_sum),
            scaled(simd, 2.0, far, near),
            scaled(simd, 4.0, far_sum, near_sum),
            simd.add_f32s(scaled(simd, 8.0, far, near), m[5]),
        ]
    }
}

/// A y.
pub(super) struct Gradient;

impl Line<OUTPUTS, INPUTS> for Gradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, y: [S::f32s; OUTPUTS]) -> [S::f32s; INPUTS] {
        let (even, odd) = (simd.add_f32s(y[0], y[2]), simd.add_f32s(y[1], y[3]));
        let (far_even, far_odd) = (scaled(simd, 4.0, y[2], y[0]), scaled(simd, 4.0, y[3], y[1]));
        [
            y[0],
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            scaled(simd, 2.0, far_odd, far_even),
            scaled(simd, -2.0, far_odd, far_even),
            y[3],
        ]
    }
}

/// G g.
pub(super) struct Kernel;

impl Line<3, INPUTS> for Kernel {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; INPUTS] {
        let ends = simd.add_f32s(g[0], g[2]);
        let far_ends = times(simd, 1.0 / 24.0, scaled(simd, 4.0, g[2], g[0]));
        [
            times(simd, 0.25, g[0]),
            times(simd, -1.0 / 6.0, simd.add_f32s(ends, g[1])),
            times(simd, -1.0 / 6.0, simd.sub_f32s(ends, g[1])),
            scaled(simd, 1.0 / 12.0, g[1], far_ends),
            scaled(simd, -1.0 / 12.0, g[1], far_ends),
            g[2],
        ]
    }
}

/// Gᵀ u.
pub(super) struct KernelGradient;

impl Line<INPUTS, 3> for KernelGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, u: [S::f32s; INPUTS]) -> [S::f32s; 3] {
        let near = times(simd, -1.0 / 6.0, simd.add_f32s(u[1], u[2]));
        let far = simd.add_f32s(u[3], u[4]);
        [
            scaled(simd, 0.25, u[0], scaled(simd, 1.0 / 24.0, far, near)),
            scaled(simd, 1.0 / 6.0, simd.sub_f32s(u[2], u[1]), times(simd, 1.0 / 12.0, simd.sub_f32s(u[3], u[4]))),
            simd.add_f32s(scaled(simd, 1.0 / 6.0, far, near), u[5]),
        ]
    }
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
        let found = Output::apply(Scalar, products(Input::apply(Scalar, D), Kernel::apply(Scalar, G)));
        for (at, found) in found.iter().enumerate() {
            let expected: f32 = (0..3).map(|tap| D[at + tap] * G[tap]).sum();
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }

    #[test]
    fn the_gradient_of_a_filter_is_the_transposed_map() {
        let found = KernelGradient::apply(Scalar, products(Input::apply(Scalar, D), Gradient::apply(Scalar, Y)));
        for (tap, found) in found.iter().enumerate() {
            let expected: f32 = (0..4).map(|at| D[at + tap] * Y[at]).sum();
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }

    struct SumAndFirst;

    impl Line<2, 2> for SumAndFirst {
        fn apply<S: Simd>(simd: S, [a, b]: [S::f32s; 2]) -> [S::f32s; 2] {
            [simd.add_f32s(a, b), a]
        }
    }

    #[test]
    fn a_square_is_transformed_on_both_sides() {
        let square = [[1.0, 2.0], [3.0, 4.0]];
        assert_eq!(on_both_sides::<SumAndFirst, _, 2, 2>(Scalar, &square), [[10.0, 4.0], [3.0, 1.0]]);
    }
}
