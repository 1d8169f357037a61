//! The way of bytes from the host to the device and back, and how much the device has room for.

use candle_core::{Device, Result, Tensor};

/// Carries rows of bytes to a device.
pub struct Uploads {
    device: Device,
    #[cfg(feature = "cuda")]
    pinned: Option<crate::cuda::Upload>,
}

/// Rows of bytes on their way to a device. They are gone once this is dropped.
pub struct Uploaded(Way);

enum Way {
    /// \[row, byte\], where the host is the device.
    There(Tensor),
    /// On a way of their own.
    #[cfg(feature = "cuda")]
    Pinned(crate::cuda::Uploaded),
}

impl Uploads {
    /// To a device.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "cuda")]
            pinned: device.is_cuda().then(|| crate::cuda::Upload::new(device)).transpose()?,
            device: device.clone(),
        })
    }

    /// Lets `fill` write rows of bytes \[row, byte\] and sends them off.
    ///
    /// # Errors
    /// When that fails, or the device does.
    pub fn begin<E: From<candle_core::Error>>(
        &self,
        [rows, bytes]: [usize; 2],
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<Uploaded, E> {
        #[cfg(feature = "cuda")]
        if let Some(pinned) = &self.pinned {
            return Ok(Uploaded(Way::Pinned(pinned.begin([rows, bytes], fill)?)));
        }
        let mut all = vec![0; rows * bytes];
        fill(&mut all)?;
        Ok(Uploaded(Way::There(Tensor::from_vec(all, (rows, bytes), &self.device)?)))
    }
}

impl Uploaded {
    /// Lets `f` use the bytes \[row, byte\] on the device, which waits for them there. What `f` gives must not hold on to
    /// them.
    ///
    /// # Errors
    /// When it fails, or the device does.
    pub fn with<T, E: From<candle_core::Error>>(
        self,
        f: impl FnOnce(&Tensor) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        match self.0 {
            Way::There(rows) => f(&rows),
            #[cfg(feature = "cuda")]
            Way::Pinned(rows) => rows.with(f),
        }
    }
}

/// Carries bytes from a device to the host.
pub struct Downloads {
    #[cfg(feature = "cuda")]
    pinned: Option<crate::cuda::Download>,
}

/// Bytes on their way to the host.
pub struct Downloaded(Back);

enum Back {
    /// Where they are already.
    Here(Vec<u8>),
    /// On their way while the device goes on.
    #[cfg(feature = "cuda")]
    Pinned(crate::cuda::Downloaded),
}

impl Downloads {
    /// From a device.
    ///
    /// # Errors
    /// When the device refuses.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "cuda")]
            pinned: device.is_cuda().then(|| crate::cuda::Download::new(device)).transpose()?,
        })
    }

    /// Sends the bytes of a tensor off, once all that was asked of the device before is done.
    ///
    /// # Errors
    /// When the device fails.
    pub fn begin(&self, bytes: &Tensor) -> Result<Downloaded> {
        #[cfg(feature = "cuda")]
        if let Some(pinned) = &self.pinned {
            return Ok(Downloaded(Back::Pinned(pinned.begin(bytes)?)));
        }
        Ok(Downloaded(Back::Here(bytes.flatten_all()?.to_vec1()?)))
    }
}

impl Downloaded {
    /// Waits for the bytes.
    ///
    /// # Errors
    /// When the device fails.
    pub fn wait(&self) -> Result<&[u8]> {
        match &self.0 {
            Back::Here(bytes) => Ok(bytes),
            #[cfg(feature = "cuda")]
            Back::Pinned(bytes) => bytes.wait(),
        }
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
