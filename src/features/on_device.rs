//! Stored bytes on the device of the network, where they become feature maps: brought batch by batch, or resident.

use super::array::{Layout, Order};
use super::samples::Samples;
use super::scale::Scale;
use super::view_cache::Slots;
use crate::error::{Error, Result};
use crate::images::Window;
use crate::ops::{Crops, Form, Uploaded, Uploads, Values, put};
use crate::pipeline::{Dtype, Shape};
use candle_core::{DType, Device, Tensor};

/// How stored bytes become feature maps on a device.
pub(super) struct OnDevice {
    pub uploads: Uploads,
    what: What,
    dtype: DType,
    pub resident: Option<Resident>,
}

/// What the bytes are.
enum What {
    Features(Form),
    /// Images, with the normalised value of each byte: \[channel, 256\].
    Images(Tensor),
}

/// Slots for all samples, which stay on the device once they got there.
pub(super) struct Resident {
    pub slots: Slots,
    /// \[slot, byte\].
    pub stored: Tensor,
    /// 1 once a view that was made anew did not fit the type of the others.
    fault: Tensor,
}

impl OnDevice {
    /// Stored samples that become feature maps of a type on a device.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn new(samples: &Samples, device: &Device, dtype: DType) -> Result<Self> {
        let what = match samples.table() {
            Some(table) => What::Images(Tensor::from_slice(table.as_flattened(), (table.len(), 256), device)?),
            None => What::Features(form(samples.layout())),
        };
        Ok(Self { uploads: Uploads::new(device)?, what, dtype, resident: None })
    }

    /// Stored samples in some slots → \[sample, y, x, channel\] of a shape, images as windows show them.
    pub fn decode(&self, stored: &Tensor, slots: &Tensor, windows: Option<&Tensor>, shape: Shape) -> Result<Tensor> {
        Ok(match (&self.what, windows) {
            (What::Features(form), _) => form.decode(stored, slots, self.dtype)?,
            (What::Images(table), Some(places)) => {
                Crops { places, size: shape.size, table }.show(stored, slots, self.dtype)?
            }
            (What::Images(_), None) => return Err(Error::failed("no windows of the images were drawn")),
        })
    }

    /// Puts stored samples into resident slots \[sample\].
    pub fn put(&self, resident: &Resident, sent: Uploaded, slots: &Tensor) -> Result<()> {
        sent.with(|rows| Ok(put(rows, (&resident.stored, slots))?))
    }

    /// Puts feature maps \[sample, y, x, channel\] into resident slots, rounded as if they were stored. Whether they fit
    /// the type is found [later](Resident::check).
    pub fn encode(&self, resident: &Resident, x: &Tensor, slots: &Tensor) -> Result<()> {
        match &self.what {
            What::Features(form) => Ok(form.encode(x, (&resident.stored, slots), &resident.fault)?),
            What::Images(_) => Err(Error::failed("feature maps cannot be stored as images")),
        }
    }
}

impl Resident {
    /// Empty slots for all views of all samples.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn new(layout: &Layout, device: &Device) -> Result<Self> {
        let slots = Slots::new(layout.views, layout.samples)?;
        let stored = Tensor::zeros((slots.len(), layout.sample_bytes()), DType::U8, device)?;
        Ok(Self { slots, stored, fault: Tensor::zeros(1, DType::U8, device)? })
    }

    /// Fails where a view that was made anew did not fit the type of the others. This waits for the device.
    ///
    /// # Errors
    /// Then, or when the device fails.
    pub fn check(&self, dtype: Dtype) -> Result<()> {
        if self.fault.to_vec1::<u8>()? == [0] {
            return Ok(());
        }
        let dtype = dtype.word();
        Err(Error::failed(format!("a value of a view that was made anew is not finite or does not fit into {dtype}"))
            .hint("set `features.dtype = \"f32\"`, or `features.refresh = 0`"))
    }
}

/// How features of a layout are stored.
pub(super) fn form(layout: &Layout) -> Form {
    let values = match layout.dtype {
        Dtype::U8 => Values::U8 { scale: layout.scale.map_or(1.0, Scale::factor) },
        Dtype::F16 => Values::F16,
        Dtype::Bf16 => Values::Bf16,
        Dtype::F32 => Values::F32,
    };
    let Shape { channels, size } = layout.shape;
    Form { values, planes: layout.order == Order::Planes, size, channels }
}

/// The places of windows \[window, 3\].
pub(super) fn places(windows: &[Window], device: &Device) -> Result<Tensor> {
    let place = |window: &Window| [window.top as i32, window.left as i32, window.mirrored.into()];
    let places: Vec<i32> = windows.iter().flat_map(place).collect();
    Ok(Tensor::from_vec(places, (windows.len(), 3), device)?)
}
