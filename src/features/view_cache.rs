//! Views of samples that are cached while a stage is trained: refreshed ones, and, where there is memory for them, those
//! that were read.

use super::array::Layout;
use crate::disk;
use crate::error::{Error, Result};
use crate::temporary::unfinished;
use candle_core::{DType, Device, Tensor};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

/// The file that views are cached in where there is no memory for them; it loses its name as soon as it is there.
pub const NAME: &str = "views";

/// The newest view of each slot of each sample, as encoded bytes. A view's slot is its number modulo the slots.
pub(super) struct ViewCache {
    layout: Layout,
    /// The number of the view that a slot holds, plus one.
    views: Vec<AtomicU32>,
    backing: Backing,
}

enum Backing {
    Memory(Vec<RwLock<Vec<u8>>>),
    /// A file without a name: it goes with the process.
    File(File),
    Device(DeviceCache),
}

/// Samples in the memory of a device.
pub(super) struct DeviceCache {
    /// \[slot, byte\].
    pub encoded: Tensor,
    /// 1 once a refreshed view did not fit the type of the others.
    pub fault: Tensor,
}

impl ViewCache {
    /// Room in memory for as many slots as an array has views, taken as it is needed.
    ///
    /// # Errors
    /// When there is no memory for the list of them.
    pub fn in_memory(layout: &Layout) -> Result<Self> {
        Self::new(layout, Backing::Memory(filled(layout.views * layout.samples, RwLock::default)?))
    }

    /// Room in a file of a folder.
    ///
    /// # Errors
    /// When the file cannot be created there, or there is no memory for the list of views.
    pub fn in_folder(layout: &Layout, folder: &Path) -> Result<Self> {
        disk::create_folder(folder)?;
        let path = unfinished(&folder.join(NAME));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).custom_flags(disk::NO_LINK);
        let file = options.open(&path).map_err(|e| Error::io("create", &path, &e))?;
        disk::remove(&path)?;
        Self::new(layout, Backing::File(file))
    }

    /// Room in the memory of a device.
    ///
    /// # Errors
    /// When there is too little of it.
    pub fn on_device(layout: &Layout, device: &Device) -> Result<Self> {
        let encoded = Tensor::zeros((layout.views * layout.samples, layout.sample_bytes()), DType::U8, device)?;
        Self::new(layout, Backing::Device(DeviceCache { encoded, fault: Tensor::zeros(1, DType::U8, device)? }))
    }

    fn new(layout: &Layout, backing: Backing) -> Result<Self> {
        Ok(Self { layout: *layout, views: filled(layout.views * layout.samples, AtomicU32::default)?, backing })
    }

    /// The slot of a view of a sample among all.
    pub fn slot(&self, view: usize, sample: usize) -> usize {
        view % self.layout.views * self.layout.samples + sample
    }

    /// Whether a view of a sample is in its slot.
    pub fn holds(&self, view: usize, sample: usize) -> bool {
        self.views[self.slot(view, sample)].load(Ordering::Acquire) as usize == view + 1
    }

    /// Notes that a view of a sample is in its slot.
    pub fn note(&self, view: usize, sample: usize) {
        self.views[self.slot(view, sample)].store(view as u32 + 1, Ordering::Release);
    }

    /// The memory of the device, where that is what backs it.
    pub fn device(&self) -> Option<&DeviceCache> {
        match &self.backing {
            Backing::Device(cache) => Some(cache),
            Backing::Memory(_) | Backing::File(_) => None,
        }
    }

    /// Reads a view of a sample, if the host has it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn get(&self, view: usize, sample: usize, out: &mut Vec<u8>) -> Result<bool> {
        if !self.holds(view, sample) {
            return Ok(false);
        }
        let (slot, bytes) = (self.slot(view, sample), self.layout.sample_bytes());
        match &self.backing {
            Backing::Memory(slots) => {
                out.resize(bytes, 0);
                out.copy_from_slice(&slots[slot].read().unwrap_or_else(PoisonError::into_inner));
            }
            Backing::File(file) => {
                out.resize(bytes, 0);
                file.read_exact_at(out, (slot * bytes) as u64)
                    .map_err(|e| Error::failed(format!("cannot read a refreshed view: {e}")))?;
            }
            Backing::Device(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Caches a view of a sample on the host, in the place of the one that was in its slot. No two threads may do so at
    /// once for the same slot, or read it meanwhile: an epoch shows a sample once.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put(&self, view: usize, sample: usize, bytes: &[u8]) -> Result<()> {
        let slot = self.slot(view, sample);
        match &self.backing {
            Backing::Memory(slots) => {
                let mut cached = slots[slot].write().unwrap_or_else(PoisonError::into_inner);
                cached.clear();
                cached.extend_from_slice(bytes);
            }
            Backing::File(file) => {
                self.views[slot].store(0, Ordering::Release);
                file.write_all_at(bytes, (slot * self.layout.sample_bytes()) as u64).map_err(|e| {
                    Error::failed(format!("cannot cache a refreshed view: {e}"))
                        .hint("free some of the disk of the stages, or raise `features.memory`")
                })?;
            }
            Backing::Device(_) => return Err(Error::failed("a view on the host was to be cached on a device")),
        }
        self.note(view, sample);
        Ok(())
    }

    /// Fails where a refreshed view on a device did not fit the type of the others. This waits for the device.
    ///
    /// # Errors
    /// Then, or when the device fails.
    pub fn check(&self) -> Result<()> {
        let Some(cache) = self.device() else { return Ok(()) };
        if cache.fault.to_vec1::<u8>()? == [0] {
            return Ok(());
        }
        let dtype = self.layout.dtype.word();
        Err(Error::failed(format!("a value of a refreshed view is not finite or does not fit into {dtype}"))
            .hint("set `features.dtype = \"f32\"`, or `features.refresh = 0`"))
    }
}

/// So many values, where there is memory for them.
fn filled<T>(count: usize, value: impl FnMut() -> T) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(count).map_err(|_| {
        Error::failed(format!("not enough memory for a list of {count} views"))
            .hint("fewer `features.views`, or fewer images, take less")
    })?;
    all.resize_with(count, value);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::array::Order;
    use super::*;
    use crate::pipeline::{Codec, Dtype, Shape};

    #[test]
    fn a_slot_holds_the_newest_view_that_belongs_into_it() {
        let folder = tempfile::tempdir().unwrap();
        let (shape, dtype, codec) = (Shape { channels: 4, size: 1 }, Dtype::U8, Codec::None);
        let (order, scale) = (Order::Planes, None);
        let layout = &Layout { views: 2, samples: 3, shape, dtype, order, codec, scale, samples_in_shard: 3 };
        for cache in [ViewCache::in_memory(layout).unwrap(), ViewCache::in_folder(layout, folder.path()).unwrap()] {
            let mut out = Vec::new();
            assert!(!cache.get(0, 1, &mut out).unwrap());
            for (view, sample) in [(2, 1), (3, 1), (4, 1), (2, 2)] {
                cache.put(view, sample, &[view as u8, sample as u8, 7, 8]).unwrap();
            }
            let mut found = |view, sample| cache.get(view, sample, &mut out).unwrap().then(|| out.clone());
            assert_eq!(found(4, 1), Some(vec![4, 1, 7, 8]));
            assert_eq!(found(3, 1), Some(vec![3, 1, 7, 8]));
            assert_eq!(found(2, 2), Some(vec![2, 2, 7, 8]));
            assert_eq!([found(2, 1), found(0, 1), found(4, 2)], [None, None, None]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
