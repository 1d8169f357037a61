//! Views of samples that are kept while a stage is trained: those that were made anew, and, where there is memory for
//! them, those that were read.

use crate::disk;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

/// The file that views are kept in where there is no memory for them; it loses its name as soon as it is there.
pub const NAME: &str = "views";

/// Which view each slot of each sample holds. A view's slot is its number modulo the slots.
pub(super) struct Slots {
    slots: usize,
    samples: usize,
    /// The number of the view that a slot holds, plus one.
    views: Vec<AtomicU32>,
}

/// The newest view of each slot of each sample, as stored bytes.
pub(super) struct ViewCache {
    slots: Slots,
    sample_bytes: usize,
    place: Place,
}

enum Place {
    Memory(Vec<RwLock<Vec<u8>>>),
    /// A file without a name: it goes with the process.
    File(File),
}

impl Slots {
    /// So many slots of so many samples, all empty.
    ///
    /// # Errors
    /// When there is no memory for the list of them.
    pub fn new(slots: usize, samples: usize) -> Result<Self> {
        Ok(Self { slots, samples, views: filled(slots * samples, AtomicU32::default)? })
    }

    /// Slots of all samples.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// The slot of a view of a sample among all.
    pub fn place(&self, view: usize, sample: usize) -> usize {
        view % self.slots * self.samples + sample
    }

    /// Whether a view of a sample is in its slot.
    pub fn hold(&self, view: usize, sample: usize) -> bool {
        self.views[self.place(view, sample)].load(Ordering::Acquire) as usize == view + 1
    }

    /// Notes that a view of a sample is in its slot.
    pub fn note(&self, view: usize, sample: usize) {
        self.views[self.place(view, sample)].store(view as u32 + 1, Ordering::Release);
    }

    fn empty(&self, slot: usize) {
        self.views[slot].store(0, Ordering::Release);
    }
}

impl ViewCache {
    /// Room in memory for so many slots of so many samples, taken as it is needed.
    ///
    /// # Errors
    /// When there is no memory for the list of them.
    pub fn in_memory(slots: usize, samples: usize, sample_bytes: usize) -> Result<Self> {
        let place = Place::Memory(filled(slots * samples, RwLock::default)?);
        Ok(Self { slots: Slots::new(slots, samples)?, sample_bytes, place })
    }

    /// Room in a file of a folder.
    ///
    /// # Errors
    /// When the file cannot be created there, or there is no memory for the list of views.
    pub fn in_folder(folder: &Path, slots: usize, samples: usize, sample_bytes: usize) -> Result<Self> {
        disk::create_folder(folder)?;
        let path = folder.join(format!("{NAME}.{}", disk::UNFINISHED));
        disk::remove(&path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).custom_flags(disk::NO_LINK);
        let file = options.open(&path).map_err(|e| Error::io("create", &path, &e))?;
        disk::remove(&path)?;
        Ok(Self { slots: Slots::new(slots, samples)?, sample_bytes, place: Place::File(file) })
    }

    /// Whether a view of a sample is kept.
    pub fn holds(&self, view: usize, sample: usize) -> bool {
        self.slots.hold(view, sample)
    }

    /// Reads a view of a sample, if it is kept.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn get(&self, view: usize, sample: usize, out: &mut Vec<u8>) -> Result<bool> {
        if !self.holds(view, sample) {
            return Ok(false);
        }
        let slot = self.slots.place(view, sample);
        out.resize(self.sample_bytes, 0);
        match &self.place {
            Place::Memory(slots) => out.copy_from_slice(&slots[slot].read().unwrap_or_else(PoisonError::into_inner)),
            Place::File(file) => file
                .read_exact_at(out, (slot * self.sample_bytes) as u64)
                .map_err(|e| Error::failed(format!("cannot read a view that was made anew: {e}")))?,
        }
        Ok(true)
    }

    /// Keeps a view of a sample in the place of the one that was in its slot. No two threads may do so at once for the
    /// same slot, or read it meanwhile: an epoch shows a sample once.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put(&self, view: usize, sample: usize, bytes: &[u8]) -> Result<()> {
        let slot = self.slots.place(view, sample);
        match &self.place {
            Place::Memory(slots) => {
                let mut place = slots[slot].write().unwrap_or_else(PoisonError::into_inner);
                place.clear();
                place.extend_from_slice(bytes);
            }
            Place::File(file) => {
                self.slots.empty(slot);
                file.write_all_at(bytes, (slot * self.sample_bytes) as u64).map_err(|e| {
                    Error::failed(format!("cannot keep a view that was made anew: {e}"))
                        .hint("free some of the disk of the stages, or raise `features.memory`")
                })?;
            }
        }
        self.slots.note(view, sample);
        Ok(())
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
    use super::*;

    #[test]
    fn a_slot_holds_the_newest_view_that_belongs_into_it() {
        let folder = tempfile::tempdir().unwrap();
        for kept in [ViewCache::in_memory(2, 3, 4).unwrap(), ViewCache::in_folder(folder.path(), 2, 3, 4).unwrap()] {
            let mut out = Vec::new();
            assert!(!kept.get(0, 1, &mut out).unwrap());
            for (view, sample) in [(2, 1), (3, 1), (4, 1), (2, 2)] {
                kept.put(view, sample, &[view as u8, sample as u8, 7, 8]).unwrap();
            }
            let mut found = |view, sample| kept.get(view, sample, &mut out).unwrap().then(|| out.clone());
            assert_eq!(found(4, 1), Some(vec![4, 1, 7, 8]));
            assert_eq!(found(3, 1), Some(vec![3, 1, 7, 8]));
            assert_eq!(found(2, 2), Some(vec![2, 2, 7, 8]));
            assert_eq!([found(2, 1), found(0, 1), found(4, 2)], [None, None, None]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
