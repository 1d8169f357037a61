//! The type of feature maps.

use crate::pipeline::Precision;
use candle_core::DType;

/// The type that feature maps of a precision have, on every device.
pub fn map_type(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}
