//! Square crops of stored images and of feature maps.

use super::cpu::{build, with_values};
use super::element::Element;
use super::encoded::{below, refuse_elsewhere, require, with_bytes};
use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

/// Square crops of stored images.
#[derive(Clone, Copy, Debug)]
pub struct Crops<'a> {
    /// First row, first column, and whether it is mirrored (1): \[sample, 3\] (i32). Rows and columns beyond the image
    /// are black.
    pub offsets: &'a Tensor,
    /// Rows and columns of a crop.
    pub size: usize,
    /// The normalised value of each byte: \[channel, 256\] (f32).
    pub table: &'a Tensor,
}

impl Crops<'_> {
    /// The normalised pixels \[sample, y, x, channel\] of images in some slots, which are squares \[channel, y, x\].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn show(&self, images: &Tensor, slots: &Tensor, dtype: DType) -> Result<Tensor> {
        let (channels, _) = self.table.dims2()?;
        let bytes = images.dim(1)?;
        let side = (bytes / channels.max(1)).isqrt();
        let count = require(images, channels * side * side, slots)?;
        if self.table.dims() != [channels, 256] || self.offsets.dims() != [count, 3] {
            bail!("offsets of {:?} and a table of {:?}", self.offsets.shape(), self.table.shape())
        }
        on_gpu!(images, crate::cuda::show((images, slots), (self.offsets, self.table), (self.size, side), dtype));
        refuse_elsewhere(images, dtype)?;
        let slots = below(slots, images.dim(0)?)?;
        match dtype {
            DType::BF16 => self.own_show::<bf16>((images, side), &slots),
            _ => self.own_show::<f32>((images, side), &slots),
        }
    }

    fn own_show<E: Element>(&self, (images, side): (&Tensor, usize), slots: &[usize]) -> Result<Tensor> {
        let (offsets, table) = (self.offsets.to_vec2::<i32>()?, self.table.to_vec2::<f32>()?);
        let (channels, bytes, count) = (table.len(), images.dim(1)?, slots.len());
        let one = self.size * self.size * channels;
        let values = with_bytes(images, |images| {
            build(count * one, one, |sample, out: &mut [E]| {
                let image = &images[slots[sample] * bytes..][..bytes];
                for (at, out) in out.iter_mut().enumerate() {
                    let (y, x, channel) = (at / channels / self.size, at / channels % self.size, at % channels);
                    let pixel = self.pixel(&offsets[sample], (y, x), side);
                    let byte = pixel.map_or(0, |pixel| image[channel * side * side + pixel] as usize);
                    *out = E::narrow(table[channel][byte]);
                }
            })
        })?;
        Tensor::from_vec(values, (count, self.size, self.size, channels), images.device())
    }

    /// The pixel of an image that a crop shows at a row and column, where it is none beyond.
    fn pixel(&self, offset: &[i32], (y, x): (usize, usize), side: usize) -> Option<usize> {
        let x = if offset[2] == 0 { x } else { self.size - 1 - x };
        let [y, x] = [(offset[0], y), (offset[1], x)].map(|(first, at)| i64::from(first) + at as i64);
        let within = |at: i64| usize::try_from(at).ok().filter(|&at| at < side);
        Some(within(y)? * side + within(x)?)
    }
}

/// Cuts a square of so many rows and columns out of each feature map \[sample, y, x, channel\], from its own first row and
/// column \[sample, 2\] (u32) on.
///
/// # Errors
/// When the shapes do not fit.
pub fn cut(x: &Tensor, offsets: &Tensor, size: usize) -> Result<Tensor> {
    let (batch, height, width, _) = x.dims4()?;
    if offsets.dims() != [batch, 2] || size > height.min(width) {
        bail!("squares of {size} x {size} at {:?} offsets in {:?}", offsets.shape(), x.shape())
    }
    on_gpu!(x, crate::cuda::cut(x, offsets, size));
    refuse_elsewhere(x, x.dtype())?;
    let offsets = offsets.to_vec2::<u32>()?;
    if offsets.iter().any(|offset| offset[0] as usize + size > height || offset[1] as usize + size > width) {
        bail!("a square of {size} x {size} begins beyond {height} x {width}")
    }
    match x.dtype() {
        DType::BF16 => own_cut::<bf16>(x, &offsets, size),
        _ => own_cut::<f32>(x, &offsets, size),
    }
}

fn own_cut<E: Element>(x: &Tensor, offsets: &[Vec<u32>], size: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let values = with_values([x], |[x]: [&[E]; 1]| {
        build(batch * size * size * channels, size * size * channels, |sample, out: &mut [E]| {
            let [top, left] = [offsets[sample][0], offsets[sample][1]].map(|offset| offset as usize);
            for (y, out) in out.chunks_exact_mut((size * channels).max(1)).enumerate() {
                let first = ((sample * height + top + y) * width + left) * channels;
                out.copy_from_slice(&x[first..first + size * channels]);
            }
        })
    })?;
    Tensor::from_vec(values, (batch, size, size, channels), x.device())
}
