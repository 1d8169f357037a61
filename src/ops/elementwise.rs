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

/// sum ← sum + share · new.
///
/// # Errors
/// When the shapes do not fit.
pub fn accumulate(sum: &Var, new: &Tensor, share: f64) -> Result<()> {
    if sum.shape() != new.shape() || sum.id() == new.id() {
        bail!("{:?} cannot be added to {:?}", new.shape(), sum.shape())
    }
    on_gpu!(sum, crate::cuda::accumulate(sum, new, share));
    sum.set(&(sum.as_detached_tensor() + (new * share)?)?)
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
        let sum = Var::from_tensor(&tensor(&[1.0, 2.0], &[2])).unwrap();
        accumulate(&sum, &tensor(&[10.0, -4.0], &[2]), 0.5).unwrap();
        assert_eq!(sum.to_vec1::<f32>().unwrap(), [6.0, 0.0]);
        assert!(accumulate(&sum, &tensor(&[1.0], &[1]), 1.0).is_err());
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
