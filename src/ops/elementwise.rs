//! What is done value by value, or to whole tensors: on a GPU by our own kernels, elsewhere by candle.

use candle_core::{DType, Result, Tensor, Var, bail};

/// The values of `x` in another type: to the nearest, of two to the even one.
///
/// # Errors
/// When the device does not compute with one of the types.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    on_gpu!(x, crate::cuda::cast(x, dtype));
    x.to_dtype(dtype)
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
    x.to_dtype(scale.dtype())?.broadcast_mul(scale)?.broadcast_add(shift)?.to_dtype(x.dtype())
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
