//! The kernels of a block's first convolution: in colour where they read pixels, else as grids of grey.

use super::picture::{BACKGROUND, Picture, level};
use crate::error::{Error, Result};
use crate::pipeline::{Layer, Role};
use crate::run::Part;

/// Pixels between kernels.
const GAP: usize = 2;
/// Rows of a kernel in colour, about.
const KERNEL: usize = 48;
/// Kernels in colour at most.
const MOST_KERNELS: usize = 400;
/// Outputs and inputs of a grid of grey at most.
const MOST_CHANNELS: usize = 64;

/// Values \[channel, y, x\] of one output's kernel.
struct Kernel {
    values: Vec<f32>,
    channels: usize,
    side: usize,
}

impl Kernel {
    /// What each pixel of the input is multiplied with, where its channels are 2x2 squares of pixels: four channels become
    /// one of twice the side.
    fn spread_out(&self) -> Self {
        let (channels, side) = (self.channels / 4, 2 * self.side);
        let value = |at: usize| {
            let (c, y, x) = (at / (side * side), at / side % side, at % side);
            let channel = 4 * c + 2 * (y % 2) + x % 2;
            self.values[(channel * self.side + y / 2) * self.side + x / 2]
        };
        Self { values: (0..channels * side * side).map(value).collect(), channels, side }
    }

    fn at(&self, channel: usize, x: usize, y: usize) -> f32 {
        self.values[(channel * self.side + y) * self.side + x]
    }

    /// In colour, around a middle grey that stands for zero; its largest value is the brightest or darkest.
    fn in_colour(&self) -> Picture {
        let reach = largest(&self.values);
        let shade = |channel: usize, x, y| level(0.5 + 0.5 * self.at(channel, x, y) / reach);
        let colour = |x, y| std::array::from_fn(|c| shade(if self.channels == 3 { c } else { 0 }, x, y));
        Picture::from_fn(self.side, self.side, colour)
    }
}

/// A picture of the kernels of the first convolution of a block, one for each output; nothing where it has none.
///
/// Where the block reads images of one or three channels, also through space-to-depth, a kernel is a small image. Elsewhere
/// each row of the picture is an output and each column an input, of the first 64.
///
/// # Errors
/// When the weights are not those of the layers.
pub fn kernels(block: &Part) -> Result<Option<Picture>> {
    let layers: Vec<Layer> = block.layers.iter().collect();
    let Some(first) = layers.iter().position(|layer| matches!(layer, Layer::Conv { .. })) else { return Ok(None) };
    let name = block.layers.names(Role::Block).swap_remove(first).unwrap_or_default();
    let weight = block.variables.iter().find(|(own, _)| *own == format!("{name}.weight"));
    let (_, weight) = weight.ok_or_else(|| Error::failed(format!("the block has no weights `{name}`")))?;
    let (_, inputs, side, _) = weight.dims4()?;
    let values: Vec<f32> = weight.flatten_all()?.to_vec1()?;
    let each = values.chunks_exact((inputs * side * side).max(1));
    let kernels = each.map(|values| Kernel { values: values.to_vec(), channels: inputs, side });
    let before = &layers[..first];
    let reads_pixels = matches!(block.layers.input.channels, 1 | 3);
    if !reads_pixels || before.iter().any(|layer| *layer != Layer::SpaceToDepth) {
        return Ok(Some(matrix(&kernels.take(MOST_CHANNELS).collect::<Vec<_>>())));
    }
    let pixels = |kernel: Kernel| before.iter().fold(kernel, |kernel, _| kernel.spread_out()).in_colour();
    let tiles: Vec<Picture> = kernels.take(MOST_KERNELS).map(|kernel| pixels(kernel).resized(KERNEL)).collect();
    let columns = (tiles.len() as f64).sqrt().ceil() as usize;
    Ok(Some(Picture::grid(&tiles, columns, (GAP, BACKGROUND)).framed(BACKGROUND, 2 * GAP)))
}

/// All outputs and inputs on one scale of grey.
fn matrix(kernels: &[Kernel]) -> Picture {
    let inputs = kernels.first().map_or(1, |kernel| kernel.channels.min(MOST_CHANNELS));
    let reach = kernels.iter().map(|kernel| largest(&kernel.values)).fold(0.0, f32::max);
    let tile = |kernel: &Kernel, input: usize| {
        let value = |x, y| kernel.at(input, x, y) / reach;
        let tile = Picture::in_grey(kernel.side, |x, y| 0.5 + 0.5 * value(x, y));
        tile.resized(kernel.side.max(12))
    };
    let tiles: Vec<Picture> =
        kernels.iter().flat_map(|kernel| (0..inputs).map(move |input| tile(kernel, input))).collect();
    Picture::grid(&tiles, inputs, (GAP, BACKGROUND)).framed(BACKGROUND, 2 * GAP)
}

/// The size of the largest value; never zero.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{space_to_depth, to_nchw, to_nhwc};
    use candle_core::{Device, Tensor};

    /// A kernel over squares of pixels gives what its spread-out form gives on the pixels themselves.
    #[test]
    fn kernels_behind_space_to_depth_are_spread_out_as_the_operation_gathers_pixels() {
        let image: Vec<f32> = (0..3 * 4 * 4).map(|at| ((at * 37 + 11) % 17) as f32 - 8.0).collect();
        let planes = Tensor::from_vec(image.clone(), (1, 3, 4, 4), &Device::Cpu).unwrap();
        let gathered = to_nchw(&space_to_depth(&to_nhwc(&planes).unwrap()).unwrap()).unwrap();
        let gathered: Vec<f32> = gathered.flatten_all().unwrap().to_vec1().unwrap();
        let weights: Vec<f32> = (0..12 * 2 * 2).map(|at| ((at * 29 + 3) % 13) as f32 - 6.0).collect();
        let kernel = Kernel { values: weights.clone(), channels: 12, side: 2 };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        assert_eq!(dot(&gathered, &weights), dot(&image, &kernel.spread_out().values));
        assert_ne!(dot(&gathered, &weights), dot(&image, &weights));
    }

    #[test]
    fn zero_is_grey_and_the_largest_value_white() {
        let kernel = Kernel { values: vec![0.0, 2.0, -2.0, 1.0], channels: 1, side: 2 };
        let picture = kernel.in_colour();
        assert_eq!([picture.at(0, 0), picture.at(1, 0), picture.at(0, 1)], [[128; 3], [255; 3], [0; 3]]);
    }
}
