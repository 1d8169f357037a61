//! What is done value by value, or to whole tensors.

use super::channels::{Terms, channel_map};
use super::cpu::{build_unset, equal_parts, with_values};
use super::element::Element;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use std::mem::MaybeUninit;

/// Values that one task changes the type of.
const PART: usize = 1 << 15;

/// The values of `x` in another type: to the nearest, of two to the even one.
///
/// # Errors
/// When the device does not compute with one of the types.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    on_gpu!(x, crate::cuda::cast(x, dtype));
    match (x.device(), x.dtype(), dtype) {
        (Device::Cpu, DType::F32, DType::BF16) => own_cast::<f32, bf16>(x),
        (Device::Cpu, DType::BF16, DType::F32) => own_cast::<bf16, f32>(x),
        _ => x.to_dtype(dtype),
    }
}

fn own_cast<From: Element, To: Element>(x: &Tensor) -> Result<Tensor> {
    let values = with_values([x], |[x]: [&[From]; 1]| {
        // SAFETY: all values of a part are written.
        unsafe {
            build_unset(&equal_parts(x.len(), PART), |part, out: &mut [MaybeUninit<To>]| {
                Arch::new().dispatch(Convert(&x[part * PART..], out));
            })
        }
    })?;
    Tensor::from_vec(values, x.shape(), x.device())
}

/// Writes values in another type, on this thread.
pub(super) fn convert<From: Element, To: Element>(x: &[From], out: &mut [To]) {
    // SAFETY: what is written is a value.
    let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<To>]) };
    Arch::new().dispatch(Convert(x, out));
}

/// Writes all of the places, of as many values or more.
struct Convert<'a, From, To>(&'a [From], &'a mut [MaybeUninit<To>]);

impl<From: Element, To: Element> WithSimd for Convert<'_, From, To> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(x, out) = self;
        let x = &x[..out.len()];
        for (out, x) in out.chunks_mut(S::F32_LANES).zip(x.chunks(S::F32_LANES)) {
            To::store(simd, out, From::load(simd, x));
        }
    }
}

/// `x` \[…, channels\] times `scale` \[channels\] plus `shift` \[channels\].
///
/// # Errors
/// When the shapes do not fit.
pub fn affine(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    if x.dims().last().is_none_or(|&channels| scale.dims() != [channels] || shift.dims() != [channels]) {
        bail!("a scale of {:?} and a shift of {:?} for {:?}", scale.shape(), shift.shape(), x.shape())
    }
    on_gpu!(x, crate::cuda::affine(x, scale, shift));
    on_cpu!(x, E => {
        let values = with_values([scale, shift], |[scale, shift]: [&[f32]; 2]| {
            with_values([x], |[x]: [&[E]; 1]| channel_map(Scaled, [x], scale.len(), [scale, shift]))
        })??;
        Tensor::from_vec(values, x.shape(), x.device())
    }, x.broadcast_mul(scale)?.broadcast_add(shift))
}

struct Scaled;

impl Terms<1, 2, 1> for Scaled {
    #[inline(always)]
    fn terms<S: Simd>(simd: S, [x]: [S::f32s; 1], [scale, shift]: [S::f32s; 2]) -> [S::f32s; 1] {
        [simd.add_f32s(simd.mul_f32s(x, scale), shift)]
    }
}

/// sum ← sum + share · new, for two sums, each with what is new of it and its share.
///
/// # Errors
/// When the shapes do not fit: all four are the same.
pub fn accumulate(sums: [&Var; 2], new: [&Tensor; 2], shares: [f64; 2]) -> Result<()> {
    let fits = |other: &Tensor| other.shape() == sums[0].shape() && sums.iter().all(|sum| sum.id() != other.id());
    if !new.into_iter().all(fits) || sums[0].shape() != sums[1].shape() || sums[0].id() == sums[1].id() {
        bail!("{:?} cannot be added to {:?}", new.map(Tensor::shape), sums.map(|sum| sum.shape()))
    }
    on_gpu!(sums[0], crate::cuda::accumulate(sums, new, shares));
    let mut all = sums.into_iter().zip(new).zip(shares);
    all.try_for_each(|((sum, new), share)| sum.set(&(sum.as_detached_tensor() + (new * share)?)?))
}

/// Joins tensors along their first dimension.
///
/// # Errors
/// When there are none, or their other dimensions differ.
pub fn concat(parts: &[Tensor]) -> Result<Tensor> {
    let [first, others @ ..] = parts else { bail!("no tensors to be joined") };
    let fits = |part: &Tensor| part.dtype() == first.dtype() && part.dims().get(1..) == first.dims().get(1..);
    if first.rank() == 0 || !others.iter().all(fits) {
        bail!("tensors of other shapes than {:?} cannot be joined with it", first.shape())
    }
    if others.is_empty() {
        return Ok(first.clone());
    }
    on_gpu!(first, crate::cuda::concat(parts));
    Tensor::cat(parts, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn sums_gather_shares_of_what_comes() {
        let [first, second] = [[1.0, 2.0], [0.0, 3.0]].map(|sum| Var::from_tensor(&tensor(&sum, &[2])).unwrap());
        let new = tensor(&[10.0, -4.0], &[2]);
        accumulate([&first, &second], [&new, &new], [0.5, 2.0]).unwrap();
        assert_eq!(first.to_vec1::<f32>().unwrap(), [6.0, 0.0]);
        assert_eq!(second.to_vec1::<f32>().unwrap(), [20.0, -5.0]);
        assert!(accumulate([&first, &second], [&new, &tensor(&[1.0], &[1])], [1.0; 2]).is_err());
        assert!(accumulate([&first, &first], [&new, &new], [1.0; 2]).is_err());
    }

    #[test]
    fn parts_are_joined_in_their_order_and_those_that_do_not_fit_are_refused() {
        let (a, b) = (tensor(&[1.0, 2.0], &[1, 2]), tensor(&[3.0, 4.0, 5.0, 6.0], &[2, 2]));
        assert_eq!(concat(&[a.clone(), b]).unwrap().to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        assert!(concat(&[]).is_err());
        assert!(concat(&[a.clone(), tensor(&[1.0], &[1, 1])]).is_err());
        assert!(concat(&[a.clone(), a.to_dtype(DType::F64).unwrap()]).is_err());
    }

    #[test]
    fn each_channel_is_scaled_and_shifted() {
        let (x, scale, shift) =
            (tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]), tensor(&[2.0, 0.5], &[2]), tensor(&[1.0, 0.0], &[2]));
        assert_eq!(affine(&x, &scale, &shift).unwrap().to_vec2::<f32>().unwrap(), [[3.0, 1.0], [7.0, 2.0]]);
        assert!(affine(&x, &scale, &tensor(&[1.0], &[1])).is_err());
    }
}
