//! Encoded samples become feature maps on the device of the network.

use super::array::{Layout, Order};
use super::samples::Samples;
use super::scale::Scale;
use super::view_cache::DeviceCache;
use crate::error::{Error, Result};
use crate::images::CropBox;
use crate::ops::{Crops, Form, Uploaded, Uploads, Values, put};
use crate::pipeline::{Dtype, Shape};
use candle_core::{DType, Device, Tensor};

/// How encoded samples become feature maps on a device.
pub(super) struct OnDevice {
    pub uploads: Uploads,
    what: What,
    dtype: DType,
}

/// What the bytes are.
enum What {
    Features(Form),
    /// Images, with the normalised value of each byte: \[channel, 256\].
    Images(Tensor),
}

impl OnDevice {
    /// Samples that become feature maps of a type on a device.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn new(samples: &Samples, device: &Device, dtype: DType) -> Result<Self> {
        let what = match samples.images.as_ref().map(|crops| crops.augmenter.table()) {
            Some(table) => What::Images(Tensor::from_slice(table.as_flattened(), (table.len(), 256), device)?),
            None => What::Features(form(samples.layout())),
        };
        Ok(Self { uploads: Uploads::new(device)?, what, dtype })
    }

    /// Encoded samples in some slots → \[sample, y, x, channel\] of a shape, images cropped to boxes.
    pub fn decode(&self, encoded: &Tensor, slots: &Tensor, crops: Option<&Tensor>, shape: Shape) -> Result<Tensor> {
        Ok(match (&self.what, crops) {
            (What::Features(form), _) => form.decode(encoded, slots, self.dtype)?,
            (What::Images(table), Some(offsets)) => {
                Crops { offsets, size: shape.size, table }.show(encoded, slots, self.dtype)?
            }
            (What::Images(_), None) => return Err(Error::failed("no crops of the images were drawn")),
        })
    }

    /// Puts encoded samples into the slots \[sample\] of a cache.
    pub fn put(&self, cache: &DeviceCache, sent: Uploaded, slots: &Tensor) -> Result<()> {
        sent.with(|rows| Ok(put(rows, (&cache.encoded, slots))?))
    }

    /// Puts feature maps \[sample, y, x, channel\] into the slots of a cache, rounded as if they were written. Whether they
    /// fit the type is found [later](super::view_cache::ViewCache::check).
    pub fn encode(&self, cache: &DeviceCache, x: &Tensor, slots: &Tensor) -> Result<()> {
        match &self.what {
            What::Features(form) => Ok(form.encode(x, (&cache.encoded, slots), &cache.fault)?),
            What::Images(_) => Err(Error::failed("feature maps cannot be encoded as images")),
        }
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

/// First row, first column and flip of crops \[crop, 3\].
pub(super) fn crop_tensor(crops: &[CropBox], device: &Device) -> Result<Tensor> {
    let numbers = |crop: &CropBox| [crop.top as i32, crop.left as i32, crop.flip.into()];
    let numbers: Vec<i32> = crops.iter().flat_map(numbers).collect();
    Ok(Tensor::from_vec(numbers, (crops.len(), 3), device)?)
}
