//! Reads the values of contiguous f32 tensors on the CPU.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// Whether our own code can work on a tensor.
pub(super) fn is_ours(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu) && tensor.dtype() == DType::F32
}

/// The values of a contiguous f32 storage.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(all) = storage else { bail!("expected f32 values") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("expected contiguous values"),
    }
}

/// Calls a function with the values of tensors, copied first where they are not contiguous.
pub(super) fn with_values<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let contiguous = tensors.map(|tensor| tensor.contiguous());
    let contiguous: Vec<Tensor> = contiguous.into_iter().collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let mut slices = [&[] as &[f32]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { bail!("expected a tensor on the CPU") };
        *slice = values(storage, layout)?;
    }
    Ok(f(slices))
}

/// Makes `length` values in chunks, in parallel: `f` gets the index of each chunk and the chunk itself, filled with zeros.
///
/// Clearing each chunk just before it is written keeps it in the cache and spares a pass of one thread over them all.
pub(super) fn build(length: usize, chunk: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut values = Vec::with_capacity(length);
    values.spare_capacity_mut()[..length].par_chunks_mut(chunk).enumerate().for_each(|(at, chunk)| {
        chunk.iter_mut().for_each(|value| {
            value.write(0.0);
        });
        // SAFETY: every value of the chunk was written in the line above.
        f(at, unsafe { chunk.assume_init_mut() });
    });
    // SAFETY: the chunks cover all `length` values, and each was written.
    unsafe { values.set_len(length) };
    values
}
