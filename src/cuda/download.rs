//! Bytes on their way from a GPU while it computes what comes next.

use super::engine::engine;
use super::gpu::Pointer;
use super::memory::lock;
use super::pointers::{require, with_pointers};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use candle_core::{DType, Device, Result, Tensor};
use std::sync::{Arc, Mutex};

/// Carries bytes from a GPU.
pub(crate) struct Download {
    lane: Arc<Lane>,
}

/// The stream, and the memory that nothing is in.
struct Lane {
    computing: Arc<CudaStream>,
    idle: Mutex<Vec<PinnedHostSlice<u8>>>,
}

/// Bytes on their way from a GPU.
pub(crate) struct Downloaded {
    lane: Arc<Lane>,
    here: Option<PinnedHostSlice<u8>>,
    length: usize,
    copied: CudaEvent,
}

impl Download {
    /// From a GPU.
    ///
    /// # Errors
    /// When the device is none.
    pub fn new(device: &Device) -> Result<Self> {
        let computing = device.as_cuda_device()?.cuda_stream();
        Ok(Self { lane: Arc::new(Lane { computing, idle: Mutex::default() }) })
    }

    /// As [`ops::Downloads::begin`].
    pub fn begin(&self, bytes: &Tensor) -> Result<Downloaded> {
        require([bytes], DType::U8)?;
        let (engine, stream) = (engine(bytes.device())?, &self.lane.computing);
        let mut downloaded = Downloaded {
            lane: self.lane.clone(),
            length: bytes.elem_count(),
            here: Some(self.memory(bytes.elem_count())?),
            copied: stream.context().new_event(None).w()?,
        };
        if let Some(here) = &mut downloaded.here {
            let here = &mut here.as_mut_slice().w()?[..downloaded.length];
            with_pointers(&engine, [bytes], |[Pointer(from)]| {
                // SAFETY: there are as many bytes on both sides, and nobody looks at those here before `copied`.
                unsafe { result::memcpy_dtoh_async(here, from, stream.cu_stream()) }.w()
            })?;
        }
        downloaded.copied.record(stream).w()?;
        Ok(downloaded)
    }

    fn memory(&self, length: usize) -> Result<PinnedHostSlice<u8>> {
        let mut idle = lock(&self.lane.idle);
        if let Some(place) = idle.iter().position(|here| here.len() >= length) {
            return Ok(idle.swap_remove(place));
        }
        drop(idle.pop());
        // SAFETY: bytes are written before they are read.
        unsafe { self.lane.computing.context().alloc_pinned(length.max(1)) }.w()
    }
}

impl Downloaded {
    /// As [`ops::Downloaded::wait`].
    pub fn wait(&self) -> Result<&[u8]> {
        self.copied.synchronize().w()?;
        match &self.here {
            Some(here) => Ok(&here.as_slice().w()?[..self.length]),
            None => Ok(&[]),
        }
    }
}

impl Drop for Downloaded {
    fn drop(&mut self) {
        // The memory must outlive the copy; a driver that fails has none under way.
        let _ = self.copied.synchronize();
        if let Some(here) = self.here.take() {
            lock(&self.lane.idle).push(here);
        }
    }
}
