//! Reads the values of tensors on the CPU, and makes new ones in parallel.

use super::element::Element;
use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Whether our own code can work on a tensor that is not of feature maps.
pub(super) fn is_ours(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu) && tensor.dtype() == DType::F32
}

/// Calls a function with the values of tensors of one type, copied first where they are not contiguous.
pub(super) fn with_values<E: Element, const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[E]; N]) -> T,
) -> Result<T> {
    let contiguous = tensors.map(|tensor| tensor.contiguous());
    let contiguous: Vec<Tensor> = contiguous.into_iter().collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let mut slices = [&[] as &[E]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { bail!("expected a tensor on the CPU") };
        *slice = &storage.as_slice::<E>()?[layout.start_offset()..][..layout.shape().elem_count()];
    }
    Ok(f(slices))
}

/// Makes values in parts of the given lengths, in parallel: `f` gets the index of each part and its place.
///
/// # Safety
/// `f` must write every value of the part.
pub(super) unsafe fn build_unset<E: Element>(
    lengths: &[usize],
    f: impl Fn(usize, &mut [MaybeUninit<E>]) + Sync,
) -> Vec<E> {
    let length = lengths.iter().sum();
    let mut values: Vec<E> = Vec::with_capacity(length);
    let mut rest = &mut values.spare_capacity_mut()[..length];
    let mut parts = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let (part, others) = rest.split_at_mut(length);
        parts.push(part);
        rest = others;
    }
    parts.into_par_iter().enumerate().for_each(|(at, part)| f(at, part));
    // SAFETY: the parts cover all `length` values, and `f` has written each.
    unsafe { values.set_len(length) };
    values
}

/// The same for a function that need not write every value: the others are zero.
///
/// Clearing each part just before it is written keeps it in the cache and spares a pass of one thread over them all.
pub(super) fn build_parts<E: Element>(lengths: &[usize], f: impl Fn(usize, &mut [E]) + Sync) -> Vec<E> {
    // SAFETY: all of a part is cleared.
    unsafe { build_unset(lengths, |at, part| f(at, cleared(part))) }
}

/// Lengths of parts that are all equal, but for the last.
pub(super) fn equal_parts(length: usize, part: usize) -> Vec<usize> {
    let part = part.max(1);
    (0..length).step_by(part).map(|first| part.min(length - first)).collect()
}

/// Makes values in parts of one length; the last may be shorter.
pub(super) fn build<E: Element>(length: usize, part: usize, f: impl Fn(usize, &mut [E]) + Sync) -> Vec<E> {
    build_parts(&equal_parts(length, part), f)
}

fn cleared<E: Element>(part: &mut [MaybeUninit<E>]) -> &mut [E] {
    for value in part.iter_mut() {
        value.write(E::ZERO);
    }
    // SAFETY: every value of the part was written in the loop above.
    unsafe { part.assume_init_mut() }
}
