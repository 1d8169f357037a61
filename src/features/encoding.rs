//! Values of features as bytes and back.

use super::array::Layout;
use super::order::{pixels_to_planes, planes_to_pixels};
use crate::error::{Error, Result};
use crate::pipeline::Dtype;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::cell::RefCell;

/// Writes features as little-endian bytes of a type.
///
/// # Errors
/// When a value is not finite in that type: an overflow of f16, or a network that diverged.
pub fn encode_values(values: &[f32], dtype: Dtype, out: &mut [u8]) -> Result<()> {
    if out.len() != values.len() * dtype.bytes() {
        return Err(Error::failed(format!("{} values do not fill {} bytes", values.len(), out.len())));
    }
    if !values.iter().all(|value| value.is_finite()) {
        return Err(Error::failed("features are not finite: the block has diverged")
            .hint("train the stage with a smaller `training.learning_rate`"));
    }
    match dtype {
        Dtype::F32 => {
            let bytes = out.chunks_exact_mut(4).zip(values);
            bytes.for_each(|(out, value)| out.copy_from_slice(&value.to_le_bytes()));
        }
        Dtype::F16 => encode_halves::<f16>(values, out)?,
        Dtype::Bf16 => encode_halves::<bf16>(values, out)?,
        Dtype::U8 => out.iter_mut().zip(values).for_each(|(out, &value)| *out = value.round().clamp(0.0, 255.0) as u8),
    }
    Ok(())
}

/// Reads values of a type from little-endian bytes.
pub fn decode_values(bytes: &[u8], dtype: Dtype, out: &mut [f32]) {
    match dtype {
        Dtype::U8 => out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = f32::from(byte)),
        Dtype::F16 => decode_halves::<f16>(bytes, out),
        Dtype::Bf16 => decode_halves::<bf16>(bytes, out),
        Dtype::F32 => {
            let words = out.iter_mut().zip(bytes.chunks_exact(4));
            words.for_each(|(out, word)| *out = f32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
}

/// Turns a sample's pixels \[y, x, channel\] into its bytes as an array has them.
///
/// # Errors
/// As [`encode_values`].
pub fn encode_sample(pixels: &[f32], layout: &Layout, out: &mut [u8]) -> Result<()> {
    with_planes(pixels.len(), |planes| {
        pixels_to_planes(pixels, layout.shape.channels, planes);
        encode_values(planes, layout.dtype, out)
    })
}

/// Turns a sample's bytes into pixels \[y, x, channel\].
pub fn decode_sample(bytes: &[u8], layout: &Layout, out: &mut [f32]) {
    with_planes(out.len(), |planes| {
        decode_values(bytes, layout.dtype, planes);
        planes_to_pixels(planes, layout.shape.channels, out);
    });
}

/// Memory for one sample that each thread uses again and again.
fn with_planes<T>(values: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static PLANES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    PLANES.with_borrow_mut(|planes| {
        planes.resize(values, 0.0);
        f(planes)
    })
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
        if let Some(at) = halves.iter().position(|half| !half.is_finite()) {
            return Err(Error::failed(format!("feature value {} does not fit into {}", values[at], H::NAME))
                .hint("set `features.dtype = \"f32\"`"));
        }
        out.chunks_exact_mut(2).zip(halves).for_each(|(out, half)| out.copy_from_slice(&half.to_bytes()));
    }
    Ok(())
}

fn decode_halves<H: Half>(bytes: &[u8], out: &mut [f32]) {
    let mut halves = [H::default(); AT_ONCE];
    for (out, bytes) in out.chunks_mut(AT_ONCE).zip(bytes.chunks(2 * AT_ONCE)) {
        let halves = &mut halves[..out.len()];
        let pairs = halves.iter_mut().zip(bytes.chunks_exact(2));
        pairs.for_each(|(half, pair)| *half = H::from_bytes([pair[0], pair[1]]));
        H::widen(halves, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_the_type_rounds_them() {
        let values: Vec<f32> = (0..1500).map(|at| at as f32 * 0.37 - 200.0).collect();
        let back = |dtype: Dtype| {
            let mut bytes = vec![0; values.len() * dtype.bytes()];
            encode_values(&values, dtype, &mut bytes).unwrap();
            let mut out = vec![0.0; values.len()];
            decode_values(&bytes, dtype, &mut out);
            out
        };
        assert_eq!(back(Dtype::F32), values);
        let rounded: Vec<f32> = values.iter().map(|&value| f16::from_f32(value).to_f32()).collect();
        assert_eq!(back(Dtype::F16), rounded);
        let rounded: Vec<f32> = values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect();
        assert_eq!(back(Dtype::Bf16), rounded);
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error() {
        let mut out = [0; 4];
        assert!(encode_values(&[1e5], Dtype::F16, &mut out[..2]).unwrap_err().to_string().contains("f16"));
        assert!(encode_values(&[f32::NAN], Dtype::F32, &mut out).is_err());
    }
}
