//! Values of features as bytes and back.

use crate::error::{Error, Result};
use crate::pipeline::Dtype;
use half::f16;
use half::slice::HalfFloatSliceExt;

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
        Dtype::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            if let Some(at) = halves.iter().position(|half| !half.is_finite()) {
                return Err(Error::failed(format!("feature value {} does not fit into f16", values[at]))
                    .hint("set `features.dtype = \"f32\"`"));
            }
            let bytes = out.chunks_exact_mut(2).zip(halves);
            bytes.for_each(|(out, half)| out.copy_from_slice(&half.to_le_bytes()));
        }
        Dtype::U8 => out.iter_mut().zip(values).for_each(|(out, &value)| *out = value.round().clamp(0.0, 255.0) as u8),
    }
    Ok(())
}

/// Reads values of a type from little-endian bytes.
pub fn decode_values(bytes: &[u8], dtype: Dtype, out: &mut [f32]) {
    match dtype {
        Dtype::U8 => out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = f32::from(byte)),
        Dtype::F16 => {
            let mut halves = [f16::ZERO; 512];
            for (out, bytes) in out.chunks_mut(halves.len()).zip(bytes.chunks(halves.len() * 2)) {
                let halves = &mut halves[..out.len()];
                let pairs = halves.iter_mut().zip(bytes.chunks_exact(2));
                pairs.for_each(|(half, pair)| *half = f16::from_le_bytes([pair[0], pair[1]]));
                halves.convert_to_f32_slice(out);
            }
        }
        Dtype::F32 => {
            let words = out.iter_mut().zip(bytes.chunks_exact(4));
            words.for_each(|(out, word)| *out = f32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
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
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error() {
        let mut out = [0; 4];
        assert!(encode_values(&[1e5], Dtype::F16, &mut out[..2]).unwrap_err().to_string().contains("f16"));
        assert!(encode_values(&[f32::NAN], Dtype::F32, &mut out).is_err());
    }
}
