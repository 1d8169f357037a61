//! The samples that a loader reads, as feature maps where the network computes.
//!
//! On a CPU they are decoded on the way out of their shards. A GPU gets the encoded bytes and decodes, crops and
//! normalises them itself; where all of them fit into its memory each crosses the bus once. Every data path gives the
//! same bits.

use super::array::Layout;
use super::encoding::encode_sample;
use super::on_device::{OnDevice, crop_tensor};
use super::samples::Samples;
use super::schedule::{SampleView, View};
use super::view_cache::{DeviceCache, ViewCache};
use crate::error::{Error, Result};
use crate::ops::{Element, Uploaded, on_host};
use crate::pipeline::Shape;
use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Samples of one array, and their way to the device.
pub(super) struct Source {
    pub samples: Samples,
    device: Device,
    dtype: DType,
    /// Views that are cached: refreshed ones, and others.
    cache: Option<ViewCache>,
    /// Whether what was read is cached as well.
    caches_reads: bool,
    /// Present where encoded bytes go to the device.
    on_device: Option<OnDevice>,
}

/// All that is known of samples before they are read: it goes to the device at once.
pub(super) struct ReadPlan {
    shape: Shape,
    /// The slots of all samples \[sample\], where they are cached on the device; else those of the rows of a batch. Absent
    /// where the host decodes.
    slots: Option<Tensor>,
    /// The crops of images \[sample, 3\].
    crops: Option<Tensor>,
    /// Whether the host cuts the images first.
    cut: bool,
}

/// A range of the samples of a plan on their way to the device.
pub(super) enum Read {
    /// There, as feature maps.
    Decoded(Tensor),
    /// Encoded, or cut images.
    Encoded(Range<usize>, Uploaded),
    /// Cached on the device, but for those that are sent there, if there are any.
    Cached(Range<usize>, Option<(Vec<SampleView>, Uploaded)>),
}

thread_local! {
    /// An encoded sample.
    static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Source {
    /// Samples that become feature maps of a type on a device.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn new(samples: Samples, device: &Device, dtype: DType) -> Result<Self> {
        let device = device.clone();
        let source = Self { samples, device, dtype, cache: None, caches_reads: false, on_device: None };
        if source.device.is_cpu() { Ok(source) } else { source.decoded_on_device() }
    }

    /// Lets encoded bytes go to the device, whatever it is.
    pub fn decoded_on_device(self) -> Result<Self> {
        Ok(Self { on_device: Some(OnDevice::new(&self.samples, &self.device, self.dtype)?), ..self })
    }

    /// Caches all samples on the device once they got there, where they take at most so many bytes. Images that are
    /// cut are cut on the host.
    ///
    /// # Errors
    /// When the device has no room for them after all.
    pub fn resident(self, most: u64) -> Result<Self> {
        if self.samples.layout().logical_bytes() > most || self.samples.are_cut(View::Cached(0)) {
            return Ok(self);
        }
        let cache = Some(ViewCache::on_device(self.samples.layout(), &self.device)?);
        Ok(Self { cache, ..self.decoded_on_device()? })
    }

    /// What decodes samples that are cached on the device, and where they lie.
    fn device_cache(&self) -> Option<(&OnDevice, &ViewCache, &DeviceCache)> {
        let cache = self.cache.as_ref()?;
        Some((self.on_device.as_ref()?, cache, cache.device()?))
    }

    /// Whether all samples stay on the device.
    pub fn is_resident(&self) -> bool {
        self.device_cache().is_some()
    }

    /// Caches refreshed views on the host, and with `reads` those that are read as well, where they do not stay on the
    /// device anyway.
    ///
    /// # Errors
    /// Those of `cache`.
    pub fn cached(mut self, cache: impl FnOnce(&Layout) -> Result<ViewCache>, reads: bool) -> Result<Self> {
        if !self.is_resident() {
            self.caches_reads |= reads;
            if self.cache.is_none() {
                self.cache = Some(cache(self.samples.layout())?);
            }
        }
        Ok(self)
    }

    /// Whether what is read is cached in memory.
    pub fn caches_reads(&self) -> bool {
        self.caches_reads
    }

    /// Whether a view is neither in the array nor cached.
    pub fn lacks(&self, &(sample, view): &SampleView) -> bool {
        let view = self.samples.view(view);
        view >= self.samples.layout().views && !self.cache.as_ref().is_some_and(|cache| cache.holds(view, sample))
    }

    /// Caches feature maps \[sample, y, x, channel\] as views of some samples, rounded as if they were written.
    ///
    /// # Errors
    /// When a value does not fit the type, or there is no cache. On the device that is found [later](Self::check).
    pub fn put(&self, views: &[SampleView], x: &Tensor) -> Result<()> {
        if let Some((on_device, cache, on)) = self.device_cache() {
            on_device.encode(on, x, &self.slots(cache, views)?)?;
            self.note(cache, views);
            return Ok(());
        }
        let layout = self.samples.layout();
        let Some(cache) = &self.cache else {
            return Err(Error::failed("there is no cache for refreshed views"));
        };
        let one = layout.shape.values();
        on_host(x, |values| {
            views.par_iter().enumerate().try_for_each(|(at, &(sample, view))| {
                let values = values.sample(at, one);
                ENCODED.with_borrow_mut(|encoded| {
                    encoded.resize(layout.sample_bytes(), 0);
                    encode_sample(values, layout, encoded)?;
                    cache.put(self.samples.view(view), sample, encoded)
                })
            })
        })?
    }

    /// Plans the reading of some samples, of which at most so many are read at once, all in one kind of view.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn plan(&self, views: &[SampleView], at_once: usize, kind: View) -> Result<ReadPlan> {
        let shape = self.samples.shape(kind);
        if self.on_device.is_none() {
            return Ok(ReadPlan { shape, slots: None, crops: None, cut: false });
        }
        let cut = self.samples.are_cut(kind);
        let crops = match (cut, self.samples.crops(views)) {
            // What the host cuts is shown from its first row and column on.
            (true, _) => Some(Tensor::from_vec(vec![0i32; 3 * views.len()], (views.len(), 3), &self.device)?),
            (false, crops) => crops.map(|crops| crop_tensor(&crops, &self.device)).transpose()?,
        };
        let slots = match self.device_cache() {
            Some((_, cache, _)) => self.slots(cache, views)?,
            None => Tensor::arange(0, at_once.min(views.len()) as u32, &self.device)?,
        };
        Ok(ReadPlan { shape, slots: Some(slots), crops, cut })
    }

    /// Reads a range of the samples of a plan, which are shown so, and sends them to the device, which need not have come
    /// so far.
    ///
    /// # Errors
    /// When a sample is missing or damaged.
    pub fn read(&self, plan: &ReadPlan, range: Range<usize>, views: &[SampleView]) -> Result<Read> {
        let Some(on_device) = &self.on_device else {
            return Ok(Read::Decoded(self.decode(plan.shape, views)?));
        };
        let layout = self.samples.layout();
        let encoded = layout.sample_bytes();
        if let Some((_, cache, _)) = self.device_cache() {
            // Views that are not in the array are refreshed, not read.
            let absent = |&(sample, view): &SampleView| {
                let view = self.samples.view(view);
                view < layout.views && !cache.holds(view, sample)
            };
            let absent: Vec<SampleView> = views.iter().copied().filter(absent).collect();
            if absent.is_empty() {
                return Ok(Read::Cached(range, None));
            }
            let sent = on_device.uploads.begin([absent.len(), encoded], |out| self.fill(&absent, out))?;
            return Ok(Read::Cached(range, Some((absent, sent))));
        }
        let row = if plan.cut { plan.shape.values() } else { encoded };
        let fill = |out: &mut [u8]| if plan.cut { self.cut(views, out) } else { self.fill(views, out) };
        Ok(Read::Encoded(range, on_device.uploads.begin([views.len(), row], fill)?))
    }

    /// The feature maps of samples that were read: \[sample, y, x, channel\].
    ///
    /// # Errors
    /// When the device fails.
    pub fn collate(&self, plan: &ReadPlan, read: Read) -> Result<Tensor> {
        let decode = |encoded: &Tensor, range: &Range<usize>, slots: usize| {
            let (Some(on_device), Some(all)) = (&self.on_device, &plan.slots) else {
                return Err(Error::failed("samples were sent to a device that does not decode them"));
            };
            let crops = plan.crops.as_ref().map(|crops| crops.narrow(0, range.start, range.len())).transpose()?;
            on_device.decode(encoded, &all.narrow(0, slots, range.len())?, crops.as_ref(), plan.shape)
        };
        match (read, self.device_cache()) {
            (Read::Decoded(x), _) => Ok(x),
            (Read::Encoded(range, sent), _) => sent.with(|encoded| decode(encoded, &range, 0)),
            (Read::Cached(range, sent), Some((on_device, cache, on))) => {
                if let Some((absent, sent)) = sent {
                    on_device.put(on, sent, &self.slots(cache, &absent)?)?;
                    self.note(cache, &absent);
                }
                decode(&on.encoded, &range, range.start)
            }
            (Read::Cached(..), None) => Err(Error::failed("samples were read for a cache that is gone")),
        }
    }

    /// Fails where a refreshed view did not fit the type of the others. This waits for the device, if samples are cached
    /// there.
    ///
    /// # Errors
    /// Then, or when the device fails.
    pub fn check(&self) -> Result<()> {
        self.cache.as_ref().map_or(Ok(()), ViewCache::check)
    }

    /// The slots of samples in a cache \[sample\].
    fn slots(&self, cache: &ViewCache, views: &[SampleView]) -> Result<Tensor> {
        let slot = |&(sample, view): &SampleView| cache.slot(self.samples.view(view), sample) as u32;
        Ok(Tensor::from_vec(views.iter().map(slot).collect::<Vec<u32>>(), views.len(), &self.device)?)
    }

    fn note(&self, cache: &ViewCache, views: &[SampleView]) {
        views.iter().for_each(|&(sample, view)| cache.note(self.samples.view(view), sample));
    }

    /// Decodes samples on the host, in parallel, in the type of the feature maps.
    fn decode(&self, shape: Shape, views: &[SampleView]) -> Result<Tensor> {
        match self.dtype {
            DType::BF16 => self.decode_as::<bf16>(shape, views),
            _ => self.decode_as::<f32>(shape, views),
        }
    }

    fn decode_as<E: Element>(&self, shape: Shape, views: &[SampleView]) -> Result<Tensor> {
        let mut values = vec![E::ZERO; views.len() * shape.values()];
        self.for_each(views, &mut values, |encoded, sample, out| self.samples.decode(encoded, sample, out))?;
        Ok(Tensor::from_vec(values, (views.len(), shape.size, shape.size, shape.channels), &self.device)?)
    }

    /// Reads encoded samples, in parallel.
    fn fill(&self, views: &[SampleView], out: &mut [u8]) -> Result<()> {
        self.for_each(views, out, |encoded, _, out| {
            out.copy_from_slice(encoded);
            Ok(())
        })
    }

    /// Reads images and cuts what is shown of them, in parallel.
    fn cut(&self, views: &[SampleView], out: &mut [u8]) -> Result<()> {
        self.for_each(views, out, |encoded, sample, out| self.samples.cut(encoded, sample, out))
    }

    /// Reads samples in parallel, and calls a function with each, encoded, and its equal share of some values.
    fn for_each<T: Send>(
        &self,
        views: &[SampleView],
        values: &mut [T],
        f: impl Fn(&[u8], SampleView, &mut [T]) -> Result<()> + Sync,
    ) -> Result<()> {
        let one = (values.len() / views.len().max(1)).max(1);
        let rows = values.par_chunks_exact_mut(one).zip(views);
        rows.try_for_each(|(out, &(sample, kind))| {
            let view = self.samples.view(kind);
            ENCODED.with_borrow_mut(|encoded| {
                let cached = self.cache.as_ref().map_or(Ok(false), |cache| cache.get(view, sample, encoded))?;
                if !cached {
                    self.samples.read(view, sample, encoded)?;
                    if let (true, Some(cache)) = (self.caches_reads, &self.cache) {
                        cache.put(view, sample, encoded)?;
                    }
                }
                f(encoded, (sample, kind), out)
            })
        })
    }
}
