//! The way of bytes from the host to the device.

use candle_core::{Device, Result, Tensor};

/// Carries rows of bytes to a device.
pub struct Uploads {
    device: Device,
}

impl Uploads {
    /// To a device.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self { device: device.clone() })
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
        f: impl FnOnce(&Tensor) -> Result<T>,
    ) -> std::result::Result<T, E> {
        let mut all = vec![0; rows * bytes];
        fill(&mut all)?;
        Ok(f(&Tensor::from_vec(all, (rows, bytes), &self.device)?)?)
    }
}

/// Bytes that are free in the memory of a device that has one of its own.
///
/// # Errors
/// When the device does not say.
pub fn free_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => match device.cuda_stream().context().mem_get_info() {
            Ok((free, _)) => Ok(Some(free as u64)),
            Err(e) => Err(candle_core::Error::wrap(e)),
        },
        _ => Ok(None),
    }
}
