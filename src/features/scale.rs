//! The scale on which features are stored as whole numbers.

use crate::error::{Error, Result};
use crate::ops::Element;
use crate::pipeline::Dtype;
use pulp::{Arch, Simd, WithSimd};

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

/// A value that is not negative, as so many times the scale: the nearest whole number, of two the even one, and 255 at most.
///
/// Without a call or a branch, so that whole vectors are rounded at once.
#[inline(always)]
pub(super) fn quantised(value: f32, scale: f32) -> u8 {
    // Single precision has no digits behind the point from here on, so that adding it rounds to a whole number, which is what
    // the lowest digits then are.
    const WHOLE: f32 = (3 << 22) as f32;
    ((value / scale).min(255.0) + WHOLE).to_bits() as u8
}

/// Writes values on a scale.
///
/// # Errors
/// When a value is negative or not finite.
pub(super) fn quantise(values: &[f32], scale: Scale, out: &mut [u8]) -> Result<()> {
    struct Quantise<'a>(&'a [f32], f32, &'a mut [u8]);
    impl WithSimd for Quantise<'_> {
        type Output = bool;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> bool {
            let Self(values, scale, out) = self;
            out.iter_mut().zip(values).for_each(|(out, &value)| *out = quantised(value, scale));
            values.iter().fold(true, |all, &value| all & (0.0..=f32::MAX).contains(&value))
        }
    }
    if Arch::new().dispatch(Quantise(values, scale.factor(), out)) { Ok(()) } else { largest(values).map(drop) }
}

/// What bytes on a scale stand for, in the type of feature maps.
pub(super) fn dequantise<E: Element>(bytes: &[u8], scale: f32, out: &mut [E]) {
    struct Dequantise<'a, E>(&'a [u8], f32, &'a mut [E]);
    impl<E: Element> WithSimd for Dequantise<'_, E> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(bytes, scale, out) = self;
            out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = E::narrow(f32::from(byte) * scale));
        }
    }
    Arch::new().dispatch(Dequantise(bytes, scale, out));
}

/// The largest of values that can be stored on a scale.
fn largest(values: &[f32]) -> Result<f32> {
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
