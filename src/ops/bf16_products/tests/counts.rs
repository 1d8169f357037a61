//! How well tiles are filled, and how often they are loaded: counted by the test double, since no machine need be fast.

use super::super::super::geometry::Finish;
use super::super::double::{self, Counts};
use super::*;

/// Multiply-adds of a product of whole tiles.
const WHOLE: u64 = 16 * 32 * 16;

/// The instructions of the three operations of a convolution of 3 x 3 pixels on one thread.
fn counted(sizes: &Sizes) -> Option<[(&'static str, Counts); 3]> {
    let (instructions, is_real) = matrix_units();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let Images { batch, height, width } = sizes.images;
    let x = rounded(&noise(batch * height * width * sizes.inputs, 1));
    let grad = rounded(&noise(batch * sizes.rows * sizes.columns * sizes.outputs, 2));
    let weight = noise(sizes.inputs * sizes.outputs * 9, 3);
    let counts = pool.install(|| {
        double::counts();
        let _: Vec<bf16> = instructions.convolve(sizes, &x, &weight, Finish { bias: None, relu: true });
        let forward = double::counts();
        instructions.weight_gradient(sizes, &x, &grad);
        let of_weights = double::counts();
        let _: Vec<bf16> = instructions.input_gradient(sizes, &weight, &grad);
        assert!(!double::is_configured(), "tiles are given back");
        [("convolution", forward), ("weight gradient", of_weights), ("input gradient", double::counts())]
    });
    (!is_real).then_some(counts)
}

/// Multiply-adds of use for each that tiles had room for, and loads for each product.
fn ratios(sizes: &Sizes, counts: Counts) -> (f64, f64) {
    let useful = sizes.images.batch * sizes.rows * sizes.columns * 9 * sizes.inputs * sizes.outputs;
    let products = counts.products as f64;
    (useful as f64 / (products * WHOLE as f64), counts.loaded as f64 / products)
}

fn square(batch: usize, side: usize, channels: usize) -> Sizes {
    sizes((batch, side, side), (channels, channels), Window::new(3, 1, 1))
}

#[test]
fn tiles_are_full_and_each_is_used_twice_where_channels_fill_them() {
    for sizes in [square(2, 16, 32), square(4, 8, 64), square(16, 4, 32), square(32, 1, 96), square(32, 7, 32)] {
        let Some(counts) = counted(&sizes) else { return };
        for (name, counts) in counts {
            let (filled, loads) = ratios(&sizes, counts);
            assert!(
                filled >= 0.99 && loads <= 1.13,
                "{name} at {side}: {filled} filled, {loads} loads",
                side = sizes.rows
            );
            assert_eq!(counts.configured, counts.released);
            assert!(counts.configured > 0);
        }
    }
}

#[test]
#[ignore = "prints a table, which takes a while"]
fn table_of_tile_instructions() {
    for (batch, side, channels) in
        [(2, 16, 32), (2, 16, 64), (2, 16, 128), (2, 32, 128), (2, 16, 256), (4, 8, 64), (16, 4, 128), (32, 7, 64)]
    {
        let sizes = square(batch, side, channels);
        for (name, counts) in counted(&sizes).into_iter().flatten() {
            let (filled, loads) = ratios(&sizes, counts);
            let stores = counts.stored as f64 / counts.products as f64;
            println!(
                "{channels:3} at {side:2} x {side:2}, batch {batch:2}, {name:15}: {:7} products, {filled:.3} filled, {loads:.3} loads and {stores:.3} stores a product",
                counts.products
            );
        }
    }
}
