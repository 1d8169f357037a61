//! What `ops` does to tensors on a GPU value by value, or to whole ones.

use super::elementwise;
use super::engine::engine;
use super::gpu::{Gpu, Pointer};
use super::memory;
use super::normalise::{self, Line};
use super::pointers::{element, element_of, in_place, make, require, with_pointers};
use super::tiling::Maps;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::{DType, Device, Result, Tensor, Var, bail};

/// As [`ops::cast`].
pub(crate) fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let (engine, from) = (engine(x.device())?, element(x)?);
    if dtype == x.dtype() {
        return Ok(x.clone());
    }
    let to = element_of(dtype)?;
    make(&engine, x.shape(), to, |y| {
        // SAFETY: both have as many values.
        with_pointers(&engine, [x], |[x_at]| unsafe {
            elementwise::cast(&*engine, (x_at, from), (y, to), x.elem_count())
        })
    })
}

/// As [`ops::affine`].
pub(crate) fn affine(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let engine = engine(x.device())?;
    require([scale, shift], DType::F32)?;
    let channels = scale.elem_count();
    let maps = Maps { pixels: x.elem_count() / channels.max(1), channels, element: element(x)? };
    // Batch norm of what has mean 0 and variance 1.
    let mean = Tensor::zeros(channels, DType::F32, x.device())?;
    let variance = Tensor::from_vec(vec![1.0f32; channels], channels, x.device())?;
    make(&engine, x.shape(), maps.element, |y| {
        with_pointers(&engine, [x, &mean, &variance, scale, shift], |[x, mean, variance, gamma, beta]| {
            let line = Line { mean, variance, gamma, beta, epsilon: 0.0, relu: false };
            // SAFETY: as many values as the maps have, and one f32 a channel.
            unsafe { maps.normalise(&*engine, x, line, y) }
        })
    })
}

/// As [`ops::accumulate`].
pub(crate) fn accumulate(sums: [&Var; 2], new: [&Tensor; 2], shares: [f64; 2]) -> Result<()> {
    let engine = engine(new[0].device())?;
    require([sums[0], sums[1], new[0], new[1]], DType::F32)?;
    let values = new[0].elem_count();
    with_pointers(&engine, new, |new| {
        in_place(sums[0], "accumulate", |first| {
            in_place(sums[1], "accumulate", |second| {
                // SAFETY: all four have as many values.
                unsafe { normalise::blend(&*engine, [first, second], new, values, (1.0, shares)) }
            })
        })
    })
}

/// As [`ops::concat`].
pub(crate) fn concat(parts: &[Tensor]) -> Result<Tensor> {
    let [first, ..] = parts else { bail!("no tensors to be joined") };
    let (engine, element) = (engine(first.device())?, element(first)?);
    let mut dims = first.dims().to_vec();
    dims[0] = parts.iter().map(|part| part.dims()[0]).sum();
    let stream = engine.device.cuda_stream();
    make(&engine, dims, element, |to| {
        let mut offset = 0;
        for part in parts {
            let bytes = part.elem_count() * element.bytes();
            if bytes == 0 {
                continue;
            }
            with_pointers(&engine, [part], |[Pointer(from)]| {
                // SAFETY: as many bytes on both sides, on the one stream.
                unsafe { result::memcpy_dtod_async(to.0 + offset, from, bytes, stream.cu_stream()) }.w()
            })?;
            offset += bytes as u64;
        }
        Ok(())
    })
}

/// As [`ops::spoil`].
pub(crate) fn spoil(device: &Device, bytes: usize) -> Result<()> {
    let engine = engine(device)?;
    // Else what is reserved next would be what others gave back before.
    memory::give_back();
    let spoilt = engine.reserve(bytes)?;
    let stream = engine.device.cuda_stream();
    // SAFETY: as many bytes were reserved, on the same stream.
    unsafe { result::memset_d8_async(engine.pointer(&spoilt).0, 0xff, bytes, stream.cu_stream()) }.w()?;
    drop(spoilt);
    memory::give_back();
    Ok(())
}
