//! The operations on tiles against sums in f64, by each kind of instructions: matrix units, the processor's own or the test
//! double, and vectors where the processor has them.

use super::super::direct::Sizes;
use super::super::geometry::Images;
use super::super::window::Window;
use super::{Instructions, Kind, detection, double};
use half::bf16;
use std::cell::Cell;

mod convolutions;
mod counts;
mod exactness;
mod instructions;
mod linear;
mod roads;

thread_local! {
    static WANTED: Cell<Option<Option<Instructions>>> = const { Cell::new(None) };
}

/// What operations of this thread are to use, or that they use none; nothing where a test does not care.
pub fn wanted() -> Option<Option<Instructions>> {
    WANTED.get()
}

/// Calls a function whose operations use some instructions, or none.
fn with_instructions<T>(wanted: Option<Instructions>, f: impl FnOnce() -> T) -> T {
    WANTED.set(Some(wanted));
    let result = f();
    WANTED.set(None);
    result
}

/// The matrix units of the processor, or else the test double; `true` for the first.
fn matrix_units() -> (Instructions, bool) {
    let is_real = detection::matrix_units().is_ok();
    if !is_real {
        double::install();
    }
    (Instructions(Kind::MatrixUnits), is_real)
}

/// All kinds of instructions that can be tested here.
fn kinds() -> Vec<Instructions> {
    let vectors = detection::vectors().is_ok().then_some(Instructions(Kind::Vectors));
    [matrix_units().0].into_iter().chain(vectors).collect()
}

/// Values between -1 and 1 that look random.
fn noise(length: usize, seed: u32) -> Vec<f32> {
    let value =
        |at: u32| (at.wrapping_add(seed * 7919).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    (0..length as u32).map(value).collect()
}

fn rounded(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

fn sizes((batch, height, width): (usize, usize, usize), (inputs, outputs): (usize, usize), window: Window) -> Sizes {
    let (rows, columns) = window.outputs(height, width).unwrap();
    Sizes { images: Images { batch, height, width }, inputs, outputs, window, rows, columns }
}

/// Calls with indices in x, in the weights and in the result, and the tap, of every product of a convolution.
fn products(sizes: &Sizes, mut f: impl FnMut(usize, usize, usize)) {
    let Sizes { images: Images { batch, height, width }, inputs, outputs, window, rows, columns } = *sizes;
    let Window { kernel, stride, padding } = window;
    for (image, row, column) in
        (0..batch).flat_map(|image| (0..rows).flat_map(move |row| (0..columns).map(move |column| (image, row, column))))
    {
        for (down, right) in (0..kernel).flat_map(|down| (0..kernel).map(move |right| (down, right))) {
            let (y, x) = ((row * stride + down).wrapping_sub(padding), (column * stride + right).wrapping_sub(padding));
            if y >= height || x >= width {
                continue;
            }
            for (output, input) in (0..outputs).flat_map(|output| (0..inputs).map(move |input| (output, input))) {
                f(
                    ((image * height + y) * width + x) * inputs + input,
                    ((output * inputs + input) * kernel + down) * kernel + right,
                    ((image * rows + row) * columns + column) * outputs + output,
                );
            }
        }
    }
}

/// Sums in f64, and the sums of the magnitudes that errors are measured by.
fn summed(length: usize, terms: impl FnOnce(&mut dyn FnMut(usize, f64))) -> (Vec<f64>, Vec<f64>) {
    let (mut sums, mut sizes) = (vec![0.0; length], vec![0.0; length]);
    terms(&mut |at, term| {
        sums[at] += term;
        sizes[at] += term.abs();
    });
    (sums, sizes)
}

/// Whether all values are right but for the rounding of `terms` additions in f32, and of the result to bf16.
fn assert_near(found: &[f32], (sums, sizes): &(Vec<f64>, Vec<f64>), terms: usize, is_bf16: bool, what: &str) {
    assert_eq!(found.len(), sums.len(), "{what}");
    for (at, (&found, (&sum, &size))) in found.iter().zip(sums.iter().zip(sizes)).enumerate() {
        let stored = if is_bf16 { sum.abs() / 256.0 } else { 0.0 };
        let bound = stored + size * (terms as f64 + 8.0) * f64::from(f32::EPSILON) + 1e-30;
        assert!((f64::from(found) - sum).abs() <= bound, "{what}: {found} for {sum} at {at}, {bound} allowed");
    }
}

#[test]
fn instructions_are_there_where_the_system_says_so() {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let amx = flags.contains("amx_tile") && flags.contains("amx_bf16");
    // Where they are listed the system may still refuse them.
    assert!(amx || detection::matrix_units().is_err());
    assert_eq!(detection::vectors().is_ok(), flags.contains("avx512_bf16"));
    let fastest = Instructions::get();
    assert_eq!(fastest.is_some(), detection::matrix_units().is_ok() || detection::vectors().is_ok());
    assert_eq!(fastest.is_some_and(Instructions::are_matrix_units), detection::matrix_units().is_ok());
    assert_eq!(fastest.is_some(), Instructions::why_not().is_none());
    println!("tested: matrix units, {}", if matrix_units().1 { "the processor's" } else { "the test double" });
    println!("tested: vectors of bf16, {}", if kinds().len() > 1 { "the processor's" } else { "not: it has none" });
}

#[test]
fn the_check_at_first_use_passes() {
    for instructions in kinds() {
        assert!(detection::is_right(instructions), "{instructions:?}");
    }
}
