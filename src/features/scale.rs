//! The scale on which features are stored as whole numbers.

use crate::error::{Error, Result};
use crate::pipeline::Dtype;

/// What a stored 1 stands for, where features are stored as whole numbers from 0 to 255: positive and finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale(f32);

// A scale is never NaN.
impl Eq for Scale {}

/// Values that a scale is chosen by at most.
const SCALED: usize = 1 << 18;
/// Largest values that are tried, each a little smaller than the one before.
const CANDIDATES: usize = 64;

impl Scale {
    /// A scale, where the number can be one.
    pub fn new(factor: f32) -> Option<Self> {
        (factor.is_normal() && factor > 0.0).then_some(Self(factor))
    }

    /// The number.
    pub fn factor(self) -> f32 {
        self.0
    }

    /// The scale that stores values with the least squared error: values above 255 times the scale are cut off where
    /// that makes the others finer. A function of the values and their order alone.
    ///
    /// # Errors
    /// When a value is negative or not finite.
    pub fn of(values: &[f32]) -> Result<Self> {
        let largest = largest(values)?;
        let some: Vec<f32> = values.iter().copied().step_by(values.len().div_ceil(SCALED).max(1)).collect();
        let error = |scale: f32| -> f64 {
            let of = |&value: &f32| f64::from(value - f32::from(quantised(value, scale)) * scale).powi(2);
            some.iter().map(of).sum()
        };
        let tried =
            (0..CANDIDATES).map(|less| largest / 255.0 * 0.96f32.powi(less as i32)).map(|scale| (error(scale), scale));
        let best = tried.min_by(|a, b| a.0.total_cmp(&b.0)).and_then(|(_, scale)| Self::new(scale));
        // Where every value is zero, any scale will do.
        Ok(best.unwrap_or(Self(1.0)))
    }
}

pub(super) fn quantised(value: f32, scale: f32) -> u8 {
    (value / scale).round_ties_even() as u8
}

/// The largest of values that can be stored on a scale.
pub(super) fn largest(values: &[f32]) -> Result<f32> {
    match values.iter().find(|value| !value.is_finite() || **value < 0.0) {
        Some(value) if value.is_finite() => {
            Err(Error::failed(format!("feature value {value} does not fit into u8"))
                .hint("set `features.dtype = \"f16\"`"))
        }
        Some(_) => Err(diverged()),
        None => Ok(values.iter().fold(0.0, |most, &value| value.max(most))),
    }
}

pub(super) fn diverged() -> Error {
    Error::failed("features are not finite: the block has diverged")
        .hint("train the stage with a smaller `training.learning_rate`")
}

/// What is found by a device that does not say which value it was.
pub(super) fn unfit(dtype: Dtype) -> Error {
    Error::failed(format!("a feature is not finite or does not fit into {}", dtype.word()))
        .hint("set `features.dtype = \"f32\"`, or train the stage with a smaller `training.learning_rate`")
}
