//! Values of features as bytes and back.

use super::array::{Layout, Order};
use super::order::{chw_to_hwc, hwc_to_chw};
use super::scale::{Scale, dequantise, diverged, quantise};
use crate::error::{Error, Result};
use crate::images::whole_image;
use crate::ops::{Element, Maps};
use crate::pipeline::{Dtype, Keep, Shape};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::borrow::Cow;
use std::cell::RefCell;

thread_local! {
    /// The values of a sample channel by channel.
    static PLANES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Those of a sample in 16 bits in single precision.
    static WIDENED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Writes the values \[y, x, channel\] of a sample as the bytes that a layout says, before any compression.
///
/// # Errors
/// When a value is not finite or does not fit into the type: an overflow of f16, or a network that diverged.
pub fn encode_sample(pixels: Maps<'_>, layout: &Layout, out: &mut [u8]) -> Result<()> {
    if pixels.len() != layout.shape.values() || out.len() != layout.sample_bytes() {
        return Err(Error::failed(format!("{} values do not fill {} bytes", pixels.len(), out.len())));
    }
    WIDENED.with_borrow_mut(|widened| {
        let pixels = pixels.widened(widened);
        match layout.order {
            Order::Pixels => encode_values(pixels, layout, out),
            Order::Planes => PLANES.with_borrow_mut(|planes| {
                planes.resize(pixels.len(), 0.0);
                hwc_to_chw(pixels, layout.shape.channels, planes);
                encode_values(planes, layout, out)
            }),
            Order::Ppm => Err(Error::failed("features cannot be stored as whole images")),
        }
    })
}

/// Reads the values \[y, x, channel\] of a sample from its bytes, as a reader gives them.
pub fn decode_sample<E: Element>(bytes: &[u8], layout: &Layout, out: &mut [E]) {
    match layout.order {
        Order::Pixels | Order::Ppm => decode_values(bytes, layout, out),
        Order::Planes => PLANES.with_borrow_mut(|planes| {
            planes.resize(out.len(), 0.0);
            decode_values(bytes, layout, planes);
            chw_to_hwc(planes, layout.shape.channels, out);
        }),
    }
}

/// The pixels \[channel, y, x\] of the centre square of a decoded image, whose short side is that of a shape.
///
/// # Errors
/// When the bytes are no such image.
pub fn centre_square(decoded: &[u8], keep: Keep, Shape { channels, size }: Shape) -> Result<Cow<'_, [u8]>> {
    if keep == Keep::Square {
        return Ok(decoded.into());
    }
    let (height, width, pixels) = whole_image(decoded, channels)?;
    let (Some(below), Some(beside)) = (height.checked_sub(size), width.checked_sub(size)) else {
        return Err(Error::failed(format!("an image of {width} x {height} pixels has no square of {size} x {size}")));
    };
    let value = |at: usize| {
        let (channel, y, x) = (at / (size * size), at / size % size, at % size);
        pixels[((y + below / 2) * width + x + beside / 2) * channels + channel]
    };
    Ok((0..channels * size * size).map(value).collect())
}

fn encode_values(values: &[f32], layout: &Layout, out: &mut [u8]) -> Result<()> {
    match (layout.dtype, layout.scale) {
        (Dtype::F32, _) => {
            // Every bit pattern of a finite number lies below that of infinity; this form is quick.
            let most = values.iter().fold(0, |most, value| (value.to_bits() & 0x7fff_ffff).max(most));
            if !f32::from_bits(most).is_finite() {
                return Err(diverged());
            }
            let bytes = out.chunks_exact_mut(4).zip(values);
            bytes.for_each(|(out, value)| out.copy_from_slice(&value.to_le_bytes()));
        }
        (Dtype::F16, _) => encode_halves::<f16>(values, out)?,
        (Dtype::Bf16, _) => encode_halves::<bf16>(values, out)?,
        (Dtype::U8, Some(scale)) => quantise(values, scale, out)?,
        (Dtype::U8, None) => return Err(Error::failed("features cannot be stored as u8 without a scale")),
    }
    Ok(())
}

fn decode_values<E: Element>(bytes: &[u8], layout: &Layout, out: &mut [E]) {
    match layout.dtype {
        Dtype::U8 => dequantise(bytes, layout.scale.map_or(1.0, Scale::factor), out),
        Dtype::F16 => decode_halves::<f16, E>(bytes, out),
        Dtype::Bf16 => decode_halves::<bf16, E>(bytes, out),
        Dtype::F32 => {
            let words = out.iter_mut().zip(bytes.chunks_exact(4));
            words.for_each(|(out, word)| *out = E::narrow(f32::from_le_bytes([word[0], word[1], word[2], word[3]])));
        }
    }
}

/// A 16-bit floating point type.
trait Half: Copy + Default {
    const NAME: &str;
    fn is_finite(self) -> bool;
    fn to_bytes(self) -> [u8; 2];
    fn from_bytes(bytes: [u8; 2]) -> Self;
    fn narrow(values: &[f32], out: &mut [Self]);
    fn widen(values: &[Self], out: &mut [f32]);
}

macro_rules! half {
    ($type:ty, $name:literal) => {
        impl Half for $type {
            const NAME: &str = $name;
            fn is_finite(self) -> bool {
                <$type>::is_finite(self)
            }
            fn to_bytes(self) -> [u8; 2] {
                self.to_le_bytes()
            }
            fn from_bytes(bytes: [u8; 2]) -> Self {
                Self::from_le_bytes(bytes)
            }
            fn narrow(values: &[f32], out: &mut [Self]) {
                out.convert_from_f32_slice(values);
            }
            fn widen(values: &[Self], out: &mut [f32]) {
                values.convert_to_f32_slice(out);
            }
        }
    };
}

half!(f16, "f16");
half!(bf16, "bf16");

/// Values that are converted at a time, on the stack.
const AT_ONCE: usize = 512;

fn encode_halves<H: Half>(values: &[f32], out: &mut [u8]) -> Result<()> {
    let mut halves = [H::default(); AT_ONCE];
    for (values, out) in values.chunks(AT_ONCE).zip(out.chunks_mut(2 * AT_ONCE)) {
        let halves = &mut halves[..values.len()];
        H::narrow(values, halves);
        if halves.iter().fold(false, |any, half| any | !half.is_finite()) {
            let fault = values.iter().zip(&*halves).find(|(value, half)| value.is_finite() && !half.is_finite());
            return Err(fault.map_or_else(diverged, |(value, _)| {
                Error::failed(format!("feature value {value} does not fit into {}", H::NAME))
                    .hint("set `features.dtype = \"f32\"`")
            }));
        }
        out.chunks_exact_mut(2).zip(halves).for_each(|(out, half)| out.copy_from_slice(&half.to_bytes()));
    }
    Ok(())
}

fn decode_halves<H: Half, E: Element>(bytes: &[u8], out: &mut [E]) {
    let (mut halves, mut values) = ([H::default(); AT_ONCE], [0.0; AT_ONCE]);
    for (out, bytes) in out.chunks_mut(AT_ONCE).zip(bytes.chunks(2 * AT_ONCE)) {
        let halves = &mut halves[..out.len()];
        let pairs = halves.iter_mut().zip(bytes.chunks_exact(2));
        pairs.for_each(|(half, pair)| *half = H::from_bytes([pair[0], pair[1]]));
        let values = &mut values[..out.len()];
        H::widen(halves, values);
        out.iter_mut().zip(values).for_each(|(out, value)| *out = E::narrow(*value));
    }
}

#[cfg(test)]
mod tests {
    use super::super::scale::quantised;
    use super::*;
    use crate::pipeline::Codec;

    fn layout(dtype: Dtype, order: Order, values: usize) -> Layout {
        let shape = Shape { channels: values / 4, size: 2 };
        let scale = Scale::new(0.5).filter(|_| dtype == Dtype::U8);
        Layout { views: 1, samples: 1, shape, dtype, order, codec: Codec::None, scale, samples_in_shard: 1 }
    }

    #[test]
    fn values_come_back_as_the_type_rounds_them_in_either_order() {
        let values: Vec<f32> = (0..1500).map(|at| at as f32 * 0.08).collect();
        for order in [Order::Planes, Order::Pixels] {
            let back = |dtype: Dtype| {
                let layout = layout(dtype, order, values.len());
                let mut bytes = vec![0; layout.sample_bytes()];
                encode_sample(Maps::F32(&values), &layout, &mut bytes).unwrap();
                let mut out = vec![0.0; values.len()];
                decode_sample(&bytes, &layout, &mut out);
                out
            };
            let rounded = |round: &dyn Fn(f32) -> f32| values.iter().map(|&value| round(value)).collect::<Vec<_>>();
            assert_eq!(back(Dtype::F32), values);
            assert_eq!(back(Dtype::F16), rounded(&|value| f16::from_f32(value).to_f32()));
            assert_eq!(back(Dtype::Bf16), rounded(&|value| bf16::from_f32(value).to_f32()));
            assert_eq!(back(Dtype::U8), rounded(&|value| (value * 2.0).round_ties_even().min(255.0) / 2.0));
        }
    }

    #[test]
    fn maps_in_16_bits_are_stored_as_those_that_they_stand_for() {
        let halves: Vec<bf16> = (0..1500).map(|at| bf16::from_f32(at as f32 * 0.08)).collect();
        let singles: Vec<f32> = halves.iter().map(|value| value.to_f32()).collect();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::U8] {
            for order in [Order::Planes, Order::Pixels] {
                let layout = layout(dtype, order, halves.len());
                let stored = [Maps::Bf16(&halves), Maps::F32(&singles)].map(|maps| {
                    let mut bytes = vec![0; layout.sample_bytes()];
                    encode_sample(maps, &layout, &mut bytes).unwrap();
                    bytes
                });
                assert!(stored[0] == stored[1], "{dtype:?}, {order:?}");
            }
        }
    }

    #[test]
    fn whole_numbers_of_a_scale_are_the_nearest() {
        let hard = [0.0, -0.0, 0.5, 1.5, 2.5, 0.499_999_97, 254.5, 254.999, 255.0, 255.49, 255.5, 300.0, 1e9, f32::MAX];
        let values = hard.into_iter().chain((0..4000).map(|at| at as f32 * 0.073));
        for (value, scale) in values.flat_map(|value| [1.0, 0.37, 1e-3].map(|scale| (value, scale))) {
            assert_eq!(quantised(value, scale), (value / scale).round_ties_even() as u8, "{value} / {scale}");
        }
    }

    #[test]
    fn bytes_lie_in_the_order_that_the_layout_says() {
        let pixels: Vec<f32> = (0..12).map(|at| at as f32).collect();
        let stored = |order| {
            let layout = layout(Dtype::F32, order, 12);
            let mut bytes = vec![0; layout.sample_bytes()];
            encode_sample(Maps::F32(&pixels), &layout, &mut bytes).unwrap();
            bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(stored(Order::Pixels), pixels);
        assert_eq!(stored(Order::Planes)[..5], [0.0, 3.0, 6.0, 9.0, 1.0]);
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error() {
        let encode = |dtype, value: f32| {
            let layout = layout(dtype, Order::Pixels, 4);
            encode_sample(Maps::F32(&[0.0, value, 0.0, 0.0]), &layout, &mut vec![0; layout.sample_bytes()])
        };
        assert!(encode(Dtype::F16, 1e5).unwrap_err().to_string().contains("f16"));
        assert!(encode(Dtype::U8, -1.0).unwrap_err().to_string().contains("u8"));
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::U8] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(encode(dtype, value).unwrap_err().to_string().contains("diverged"), "{dtype:?} {value}");
            }
            assert!(encode(dtype, 1.0).is_ok());
        }
    }

    #[test]
    fn a_scale_makes_the_error_small_and_does_not_follow_outliers() {
        let spread: Vec<f32> = (0..100_000).map(|at| at as f32 / 1000.0).collect();
        assert!((Scale::of(&spread).unwrap().factor() - 100.0 / 255.0).abs() < 0.02);
        // One large value: cutting a little off costs less than coarser steps for all others.
        let mut outlier: Vec<f32> = (0..200_000).map(|at| at as f32 / 200_000.0).collect();
        outlier[77] = 3.0;
        let (scale, plain) = (Scale::of(&outlier).unwrap().factor(), 3.0 / 255.0);
        let error = |scale: f32| {
            let back = |&value: &f32| (value - f32::from(quantised(value, scale)) * scale).powi(2);
            outlier.iter().map(back).sum::<f32>()
        };
        assert!(scale < 0.9 * plain && error(scale) < 0.9 * error(plain), "{scale}");
        assert_eq!(Scale::of(&[0.0; 9]).unwrap().factor(), 1.0);
        assert!(Scale::of(&[1.0, -1e-9]).is_err() && Scale::of(&[f32::NAN]).is_err());
        assert!([0.0, -1.0, f32::NAN, f32::INFINITY, 1e-45].iter().all(|&factor| Scale::new(factor).is_none()));
    }
}
