//! Launches of what is done value by value.

use super::gpu::{Element, Gpu, Pointer};
use super::tiling::{at, count, launch_each};
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
