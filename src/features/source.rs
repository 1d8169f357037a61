//! The samples that a loader reads, as feature maps where the network computes.
//!
//! On a CPU they are decoded on the way out of their shards. A GPU gets the bytes as they are stored and decodes, crops
//! and normalises them itself; where all of them fit into its memory each crosses the bus once. Every road gives the
//! same bits.

use super::array::Layout;
use super::draw::{Draw, Shown};
use super::encoding::encode_sample;
use super::on_device::{OnDevice, Resident, places};
use super::samples::Samples;
use super::view_cache::{Slots, ViewCache};
use crate::error::{Error, Result};
use crate::ops::{Uploaded, cast, on_host};
use crate::pipeline::Shape;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Samples of one array, and the road that they take.
pub(super) struct Source {
    pub samples: Samples,
    device: Device,
    dtype: DType,
    /// What is kept on the host: views that were made anew, and others.
    kept: Option<ViewCache>,
    /// Whether what was read is kept as well.
    remembers: bool,
    /// Present where stored bytes go to the device.
    bytes: Option<OnDevice>,
}

/// What is to be read: numbers that are drawn before, so that they go to the device all at once.
pub(super) struct Course {
    shape: Shape,
    /// The slots of all samples \[sample\], where bytes are resident; else those of the rows of a batch.
    slots: Option<Tensor>,
    /// The places of the windows of images \[sample, 3\].
    windows: Option<Tensor>,
    /// Whether the host scales the images first.
    scaled: bool,
}

/// Samples on their way to the device.
pub(super) enum Begun {
    /// There, as feature maps.
    Decoded(Tensor),
    /// As they are stored, or scaled.
    Sent(Uploaded),
    /// Those that are not resident yet, if there are any.
    Resident(Vec<(usize, Shown)>, Option<Uploaded>),
}

thread_local! {
    /// A sample as it is stored.
    static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Source {
    /// Samples that become feature maps of a type on a device.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn new(samples: Samples, device: &Device, dtype: DType) -> Result<Self> {
        let device = device.clone();
        let source = Self { samples, device, dtype, kept: None, remembers: false, bytes: None };
        if source.device.is_cpu() { Ok(source) } else { source.decoded_on_device() }
    }

    /// Lets stored bytes go to the device, whatever it is.
    pub fn decoded_on_device(self) -> Result<Self> {
        Ok(Self { bytes: Some(OnDevice::new(&self.samples, &self.device, self.dtype)?), ..self })
    }

    /// Lets all samples stay on the device once they got there, where they take at most so many bytes. Images that are
    /// scaled are scaled on the host.
    ///
    /// # Errors
    /// When the device has no room for them after all.
    pub fn resident(self, most: u64) -> Result<Self> {
        if self.samples.layout().logical_bytes() > most || self.samples.are_scaled() {
            return Ok(self);
        }
        let mut source = self.decoded_on_device()?;
        if let Some(bytes) = &mut source.bytes {
            bytes.resident = Some(Resident::new(source.samples.layout(), &source.device)?);
        }
        Ok(source)
    }

    /// The device's own memory of the samples, where there is one.
    fn on_device(&self) -> Option<(&OnDevice, &Resident)> {
        let bytes = self.bytes.as_ref()?;
        Some((bytes, bytes.resident.as_ref()?))
    }

    /// Whether all samples stay on the device.
    pub fn is_resident(&self) -> bool {
        self.on_device().is_some()
    }

    /// Keeps views that are made anew, and with `remembers` those that are read as well, where they do not stay on the
    /// device anyway.
    ///
    /// # Errors
    /// Those of `kept`.
    pub fn keep_in(&mut self, kept: impl FnOnce(&Layout) -> Result<ViewCache>, remembers: bool) -> Result<()> {
        if !self.is_resident() {
            self.remembers |= remembers;
            if self.kept.is_none() {
                self.kept = Some(kept(self.samples.layout())?);
            }
        }
        Ok(())
    }

    /// Whether what is read is kept in memory.
    pub fn remembers(&self) -> bool {
        self.remembers
    }

    /// Whether a view is neither stored nor kept.
    pub fn lacks(&self, &(sample, shown): &(usize, Shown)) -> bool {
        let view = self.samples.view(shown);
        let kept = match (self.on_device(), &self.kept) {
            (Some((_, resident)), _) => resident.slots.hold(view, sample),
            (None, Some(kept)) => kept.holds(view, sample),
            (None, None) => false,
        };
        view >= self.samples.layout().views && !kept
    }

    /// Takes feature maps \[sample, y, x, channel\] as the views that some samples are shown by, rounded as if they were
    /// stored.
    ///
    /// # Errors
    /// When a value does not fit the type, or there is no place for them. On the device that is found [later](Self::check).
    pub fn keep(&self, shown: &[(usize, Shown)], x: &Tensor) -> Result<()> {
        if let Some((bytes, resident)) = self.on_device() {
            bytes.encode(resident, x, &self.slots(&resident.slots, shown)?)?;
            self.note(&resident.slots, shown);
            return Ok(());
        }
        let layout = self.samples.layout();
        let Some(kept) = &self.kept else {
            return Err(Error::failed("there is no place for views that are made anew"));
        };
        on_host(x, |values| {
            let samples = values.par_chunks_exact(layout.shape.values()).zip(shown);
            samples.try_for_each(|(values, &(sample, shown))| {
                STORED.with_borrow_mut(|stored| {
                    stored.resize(layout.sample_bytes(), 0);
                    encode_sample(values, layout, stored)?;
                    kept.put(self.samples.view(shown), sample, stored)
                })
            })
        })?
    }

    /// Draws what is to be read of some samples, of which at most so many come at once.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn course(&self, shown: &[(usize, Shown)], at_once: usize, draw: Draw) -> Result<Course> {
        let shape = self.samples.shape(draw);
        let windows = if self.bytes.is_some() { self.samples.windows(shown) } else { None };
        if self.bytes.is_none() || (windows.is_none() && self.samples.are_images()) {
            return Ok(Course { shape, slots: None, windows: None, scaled: false });
        }
        let (windows, scaled) = windows.unzip();
        let slots = match self.on_device() {
            Some((_, resident)) => self.slots(&resident.slots, shown)?,
            None => Tensor::arange(0, at_once.min(shown.len()) as u32, &self.device)?,
        };
        let windows = windows.map(|windows| places(&windows, &self.device)).transpose()?;
        Ok(Course { shape, slots: Some(slots), windows, scaled: scaled.unwrap_or(false) })
    }

    /// Reads a range of the samples of a course, which are shown so, and sends them to the device, which need not have come
    /// so far.
    ///
    /// # Errors
    /// When a sample is missing or damaged.
    pub fn begin(&self, course: &Course, shown: &[(usize, Shown)]) -> Result<Begun> {
        let (Some(bytes), Some(_)) = (&self.bytes, &course.slots) else {
            return Ok(Begun::Decoded(self.on_host(course.shape, shown)?));
        };
        let stored = self.samples.layout().sample_bytes();
        if let Some(resident) = &bytes.resident {
            // Views that are not stored are made, not read.
            let absent = |&(sample, shown): &(usize, Shown)| {
                let view = self.samples.view(shown);
                view < self.samples.layout().views && !resident.slots.hold(view, sample)
            };
            let absent: Vec<(usize, Shown)> = shown.iter().copied().filter(absent).collect();
            let send = || bytes.uploads.begin([absent.len(), stored], |out| self.fill(&absent, out));
            let sent = (!absent.is_empty()).then(send).transpose()?;
            return Ok(Begun::Resident(absent, sent));
        }
        let row = if course.scaled { course.shape.values() } else { stored };
        let fill = |out: &mut [u8]| if course.scaled { self.scale(shown, out) } else { self.fill(shown, out) };
        Ok(Begun::Sent(bytes.uploads.begin([shown.len(), row], fill)?))
    }

    /// The feature maps of a range of the samples of a course that was begun: \[sample, y, x, channel\].
    ///
    /// # Errors
    /// When the device fails.
    pub fn end(&self, course: &Course, range: Range<usize>, begun: Begun) -> Result<Tensor> {
        let (Some(bytes), Some(slots)) = (&self.bytes, &course.slots) else {
            return match begun {
                Begun::Decoded(x) => Ok(x),
                _ => Err(Error::failed("samples were read that nothing decodes")),
            };
        };
        let windows = course.windows.as_ref().map(|windows| windows.narrow(0, range.start, range.len())).transpose()?;
        match (begun, &bytes.resident) {
            (Begun::Resident(absent, sent), Some(resident)) => {
                if let Some(sent) = sent {
                    bytes.put(resident, sent, &self.slots(&resident.slots, &absent)?)?;
                    self.note(&resident.slots, &absent);
                }
                let slots = slots.narrow(0, range.start, range.len())?;
                bytes.decode(&resident.stored, &slots, windows.as_ref(), course.shape)
            }
            (Begun::Sent(sent), _) => {
                let slots = slots.narrow(0, 0, range.len())?;
                sent.with(|stored| bytes.decode(stored, &slots, windows.as_ref(), course.shape))
            }
            (Begun::Decoded(x), _) => Ok(x),
            (Begun::Resident(..), None) => Err(Error::failed("samples were read for memory that is gone")),
        }
    }

    /// Fails where a view that was made anew did not fit the type of the others. This waits for the device, if it has
    /// samples of its own.
    ///
    /// # Errors
    /// Then, or when the device fails.
    pub fn check(&self) -> Result<()> {
        self.on_device().map_or(Ok(()), |(_, resident)| resident.check(self.samples.layout().dtype))
    }

    /// Where samples lie among all slots \[sample\].
    fn slots(&self, slots: &Slots, shown: &[(usize, Shown)]) -> Result<Tensor> {
        let place = |&(sample, shown): &(usize, Shown)| slots.place(self.samples.view(shown), sample) as u32;
        Ok(Tensor::from_vec(shown.iter().map(place).collect::<Vec<u32>>(), shown.len(), &self.device)?)
    }

    fn note(&self, slots: &Slots, shown: &[(usize, Shown)]) {
        shown.iter().for_each(|&(sample, shown)| slots.note(self.samples.view(shown), sample));
    }

    /// Decodes samples on the host, in parallel.
    fn on_host(&self, shape: Shape, shown: &[(usize, Shown)]) -> Result<Tensor> {
        let one = shape.values();
        let mut values = vec![0.0; shown.len() * one];
        values
            .par_chunks_exact_mut(one)
            .zip(shown)
            .try_for_each(|(out, &shown)| self.with_stored(shown, |stored| self.samples.show(stored, shown, out)))?;
        let x = Tensor::from_vec(values, (shown.len(), shape.size, shape.size, shape.channels), &self.device)?;
        Ok(cast(&x, self.dtype)?)
    }

    /// Reads samples as they are stored, in parallel.
    fn fill(&self, shown: &[(usize, Shown)], out: &mut [u8]) -> Result<()> {
        let rows = out.par_chunks_exact_mut(self.samples.layout().sample_bytes()).zip(shown);
        rows.try_for_each(|(out, &shown)| self.with_stored(shown, |stored| out.copy_from_slice(stored)))
    }

    /// Reads images and scales what is shown of them, in parallel.
    fn scale(&self, shown: &[(usize, Shown)], out: &mut [u8]) -> Result<()> {
        let row = (out.len() / shown.len().max(1)).max(1);
        let rows = out.par_chunks_exact_mut(row).zip(shown);
        rows.try_for_each(|(out, &shown)| self.with_stored(shown, |stored| self.samples.scale(stored, shown, out)))
    }

    /// Calls a function with a sample as it is stored, or kept.
    fn with_stored(&self, (sample, shown): (usize, Shown), f: impl FnOnce(&[u8])) -> Result<()> {
        let view = self.samples.view(shown);
        STORED.with_borrow_mut(|stored| {
            let there = self.kept.as_ref().map_or(Ok(false), |kept| kept.get(view, sample, stored))?;
            if !there {
                self.samples.read(view, sample, stored)?;
                if let (true, Some(kept)) = (self.remembers, &self.kept) {
                    kept.put(view, sample, stored)?;
                }
            }
            f(stored);
            Ok(())
        })
    }
}
