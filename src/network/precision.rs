//! The type of feature maps on a device.

use crate::error::{Error, Result};
use crate::pipeline::Precision;
use candle_core::{DType, Device};

/// The type that feature maps of a precision have on a device.
///
/// # Errors
/// When the device does not compute with it.
pub fn map_type(precision: Precision, device: &Device) -> Result<DType> {
    match precision {
        Precision::F32 => Ok(DType::F32),
        Precision::Bf16 if device.is_cuda() => Ok(DType::BF16),
        Precision::Bf16 => {
            Err(Error::usage("`training.precision` is \"bf16\", which needs a GPU, but the CPU computes")
                .hint("`--set training.precision=f32`, or name a GPU with `--device cuda`"))
        }
    }
}
