//! Bytes on their way to a GPU while it computes: through memory that the driver never moves, and on a stream of its own,
//! since copies on the stream that computes would wait for all that was asked of it before.

use super::memory::lock;
use super::pointers::in_place;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use candle_core::{DType, Device, Result, Tensor};
use std::sync::{Arc, Mutex};

/// Carries rows of bytes to a GPU.
pub(crate) struct Upload {
    device: Device,
    lane: Arc<Lane>,
}

/// The streams, and the buffers that nothing is in.
struct Lane {
    computing: Arc<CudaStream>,
    copying: Arc<CudaStream>,
    idle: Mutex<Vec<Buffers>>,
}

/// A buffer here and one there.
struct Buffers {
    here: PinnedHostSlice<u8>,
    there: Tensor,
    /// When the bytes are there: from then on they may be used there, and others be written here.
    copied: CudaEvent,
    /// When the bytes were used: from then on others may be copied.
    used: CudaEvent,
}

/// Rows of bytes on their way to a GPU. They are gone once this is dropped.
pub(crate) struct Uploaded {
    lane: Arc<Lane>,
    buffers: Option<Buffers>,
    size: [usize; 2],
}

impl Upload {
    /// To a GPU.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(device: &Device) -> Result<Self> {
        let computing = device.as_cuda_device()?.cuda_stream();
        let copying = computing.context().new_stream().w()?;
        Ok(Self { device: device.clone(), lane: Arc::new(Lane { computing, copying, idle: Mutex::default() }) })
    }

    /// As [`ops::Uploads::begin`].
    pub fn begin<E: From<candle_core::Error>>(
        &self,
        size: [usize; 2],
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<Uploaded, E> {
        let (length, copying) = (size[0] * size[1], &self.lane.copying);
        let mut buffers = self.buffers(length)?;
        let Buffers { here, there, copied, used } = &mut buffers;
        copied.synchronize().w()?;
        let here = &mut here.as_mut_slice().w()?[..length];
        fill(here)?;
        copying.wait(used).w()?;
        in_place(there, "upload", |to| {
            // SAFETY: there are as many bytes on both sides. Those here stay as they are until `copied`, those there
            // are nobody else's until then.
            unsafe { result::memcpy_htod_async(to.0, here, copying.cu_stream()) }.w()
        })?;
        copied.record(copying).w()?;
        Ok(Uploaded { lane: self.lane.clone(), buffers: Some(buffers), size })
    }

    /// Buffers for so many bytes. Where there are none, those that are too small make room for them.
    fn buffers(&self, length: usize) -> Result<Buffers> {
        let too_small = {
            let mut idle = lock(&self.lane.idle);
            match idle.iter().position(|buffers| buffers.here.len() >= length) {
                Some(place) => return Ok(idle.swap_remove(place)),
                None => idle.pop(),
            }
        };
        drop(too_small);
        let context = self.lane.computing.context();
        let event = || context.new_event(None).w();
        // SAFETY: bytes are written before they are read.
        let here = unsafe { context.alloc_pinned(length.max(1)) }.w()?;
        let there = Tensor::zeros(length.max(1), DType::U8, &self.device)?;
        let (copied, used) = (event()?, event()?);
        // The memory there is ours once the stream that computes got here.
        used.record(&self.lane.computing).w()?;
        Ok(Buffers { here, there, copied, used })
    }
}

impl Uploaded {
    /// As [`ops::Uploaded::with`].
    pub fn with<T, E: From<candle_core::Error>>(
        self,
        f: impl FnOnce(&Tensor) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let Some(Buffers { there, copied, used, .. }) = &self.buffers else {
            return Err(candle_core::Error::msg("the bytes are gone").into());
        };
        self.lane.computing.wait(copied).w()?;
        let [rows, bytes] = self.size;
        let out = f(&there.narrow(0, 0, rows * bytes)?.reshape((rows, bytes))?);
        // Also where it failed, some of it may have been asked for.
        used.record(&self.lane.computing).w()?;
        out
    }
}

impl Drop for Uploaded {
    fn drop(&mut self) {
        if let Some(buffers) = self.buffers.take() {
            lock(&self.lane.idle).push(buffers);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // They must outlive the copy; a driver that fails has none under way.
        let _ = self.copied.synchronize();
    }
}
