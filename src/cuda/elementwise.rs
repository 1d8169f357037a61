//! Launches of what is done value by value.

use super::gpu::{Argument, Element, Gpu, Pointer};
use super::tiling::{at, count, launch_each, value};
use candle_core::Result;

/// The same values in the other type.
///
/// # Safety
/// Both pointers lead to as many values.
pub(crate) unsafe fn cast(
    gpu: &impl Gpu,
    (x, from): (Pointer, Element),
    (y, to): (Pointer, Element),
    values: usize,
) -> Result<()> {
    let kernel = format!("cast_{}_{}", from.name(), to.name());
    // SAFETY: the caller's promise.
    unsafe { launch_each(gpu, &kernel, values, &[at(x), at(y), count(values)?]) }
}

/// Values that are positive, and 0 for the others.
///
/// # Safety
/// Both pointers lead to as many values.
pub(crate) unsafe fn relu(gpu: &impl Gpu, element: Element, x: Pointer, y: Pointer, values: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { launch_each(gpu, &format!("relu_{}", element.name()), values, &[at(x), at(y), count(values)?]) }
}

/// Which values dropout keeps, and what they are multiplied by.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    /// Values whose random bits are below it are set to zero.
    pub threshold: u32,
    /// The factor of the others.
    pub scale: f32,
}

/// Dropout of samples of so many values, of which each has a seed: \[sample, 2\] (u32), the lower half first.
///
/// # Safety
/// The pointers lead to as many values.
pub(crate) unsafe fn dropout(
    gpu: &impl Gpu,
    element: Element,
    [x, seeds, y]: [Pointer; 3],
    (batch, values): (usize, usize),
    kept: Kept,
) -> Result<()> {
    let mut arguments = [x, seeds, y].map(at).to_vec();
    arguments.extend([count(batch * values)?, count(values)?, Argument::Count(kept.threshold)]);
    arguments.push(value(kept.scale.into()));
    // SAFETY: the caller's promise.
    unsafe { launch_each(gpu, &format!("dropout_{}", element.name()), batch * values, &arguments) }
}
