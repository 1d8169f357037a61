//! The way of bytes from the host to the device, and how much the device has room for.

use candle_core::{Device, Result, Tensor};
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

/// Carries rows of bytes to a device.
pub struct Uploads {
    device: Device,
    #[cfg(feature = "cuda")]
    pinned: Option<Mutex<crate::cuda::Upload>>,
}

impl Uploads {
    /// To a device.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "cuda")]
            pinned: device.is_cuda().then(|| crate::cuda::Upload::new(device)).transpose()?.map(Mutex::new),
            device: device.clone(),
        })
    }

    /// Lets `fill` write rows of bytes \[row, byte\] and `f` use them on the device. They are gone afterwards: what `f`
    /// gives must not hold on to them.
    ///
    /// # Errors
    /// When one of them fails, or the device does.
    pub fn through<T, E: From<candle_core::Error>>(
        &self,
        [rows, bytes]: [usize; 2],
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), E>,
        f: impl FnOnce(&Tensor) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        #[cfg(feature = "cuda")]
        if let Some(pinned) = &self.pinned {
            // A thread that ended in the middle has left bytes that the next one writes anew.
            return pinned.lock().unwrap_or_else(PoisonError::into_inner).through([rows, bytes], fill, f);
        }
        let mut all = vec![0; rows * bytes];
        fill(&mut all)?;
        f(&Tensor::from_vec(all, (rows, bytes), &self.device)?)
    }
}

/// Bytes that are free in the memory of a device that has one of its own. This waits for the device.
///
/// # Errors
/// When the device does not say.
pub fn free_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => crate::cuda::free_memory(device).map(Some),
        _ => Ok(None),
    }
}
