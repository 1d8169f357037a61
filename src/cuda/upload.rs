//! Bytes on their way to a GPU while it computes: through memory that the driver never moves, in two buffers in turn, and
//! on a stream of its own, since copies on the stream that computes would wait for all that was asked of it before.

use super::places::in_place;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Tensor};
use std::sync::Arc;

/// Carries rows of bytes to a GPU.
pub(crate) struct Upload {
    device: Device,
    computing: Arc<CudaStream>,
    copying: Arc<CudaStream>,
    turns: [Turn; 2],
}

/// A buffer here and one there.
struct Turn {
    buffers: Option<(PinnedHostSlice<u8>, Tensor)>,
    /// When the bytes are there: from then on they may be used there, and others be written here.
    copied: CudaEvent,
    /// When the bytes were used: from then on others may be copied.
    used: CudaEvent,
}

impl Turn {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let event = || stream.context().new_event(None).w();
        Ok(Self { buffers: None, copied: event()?, used: event()? })
    }
}

impl Upload {
    /// To a GPU.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(device: &Device) -> Result<Self> {
        let own = device.as_cuda_device()?;
        let computing = own.cuda_stream();
        let copying = computing.context().new_stream().w()?;
        Ok(Self { device: device.clone(), computing, copying, turns: [Turn::new(own)?, Turn::new(own)?] })
    }

    /// As [`ops::Uploads::through`].
    pub fn through<T, E: From<candle_core::Error>>(
        &mut self,
        [rows, bytes]: [usize; 2],
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), E>,
        f: impl FnOnce(&Tensor) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.turns.swap(0, 1);
        let length = rows * bytes;
        let turn = &mut self.turns[0];
        let large_enough = turn.buffers.as_ref().is_some_and(|(here, _)| here.len() >= length);
        turn.copied.synchronize().w()?;
        if !large_enough {
            let there = Tensor::zeros(length, DType::U8, &self.device)?;
            // SAFETY: bytes are written before they are read.
            let here = unsafe { self.computing.context().alloc_pinned(length) }.w()?;
            turn.buffers = Some((here, there));
            // The memory there is ours once the stream that computes got here.
            turn.used.record(&self.computing).w()?;
        }
        let Some((here, there)) = &mut turn.buffers else { return Err(candle_core::Error::msg("no buffer").into()) };
        let here = &mut here.as_mut_slice().w()?[..length];
        fill(here)?;
        self.copying.wait(&turn.used).w()?;
        in_place(there, "upload", |to| {
            // SAFETY: there are as many bytes on both sides. Those here stay as they are until `copied`, those there
            // are nobody else's until then.
            unsafe { result::memcpy_htod_async(to.0, here, self.copying.cu_stream()) }.w()
        })?;
        turn.copied.record(&self.copying).w()?;
        self.computing.wait(&turn.copied).w()?;
        let out = f(&there.narrow(0, 0, length)?.reshape((rows, bytes))?)?;
        turn.used.record(&self.computing).w()?;
        Ok(out)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Buffers here must outlive their copies; a driver that fails has none under way.
        let _ = self.copying.synchronize();
    }
}
