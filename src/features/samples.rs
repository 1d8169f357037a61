//! The samples of one split as a stage has stored them: decoded images, or features in one or more views.

use super::array::{Layout, Split};
use super::crops::Crops;
use super::encoding::decode_sample;
use super::order::chw_to_hwc;
use super::reader::Reader;
use super::schedule::{SampleView, View};
use crate::error::{Error, Result};
use crate::images::CropBox;
use crate::pipeline::{Recipe, Shape};
use rayon::prelude::*;
use std::cell::RefCell;
use std::path::Path;

/// Samples that can be read at random.
pub(super) struct Samples {
    reader: Reader,
    /// Present where the arrays hold images.
    pub images: Option<Crops>,
}

impl Samples {
    /// Opens a split of a stage.
    ///
    /// # Errors
    /// When its array is missing, or does not hold the images of the pipeline.
    pub fn open(stage: &Path, split: Split, pipeline: &Recipe) -> Result<Self> {
        let array = split.array(stage, "features");
        let reader = Reader::open(&array)?;
        let layout = reader.layout();
        if layout.samples == 0 {
            return Err(Error::failed(format!("`{}` holds no samples", array.display())));
        }
        if !layout.holds_images() {
            return Ok(Self { reader, images: None });
        }
        let stored = Shape { channels: pipeline.data.channels, size: pipeline.data.size };
        if layout.shape != stored {
            let (array, found, wanted) = (array.display(), layout.shape, stored);
            return Err(Error::failed(format!(
                "`{array}` holds images of {} x {} pixels in {} channels, the pipeline has {} x {} in {}",
                found.size, found.size, found.channels, wanted.size, wanted.size, wanted.channels
            ))
            .hint("`data.size` and `data.color` are those of the stored images"));
        }
        Ok(Self { reader, images: Some(Crops::new(pipeline)) })
    }

    /// The layout of the array.
    pub fn layout(&self) -> &Layout {
        self.reader.layout()
    }

    /// Reads one sample of a view as it is encoded.
    ///
    /// # Errors
    /// When the sample is missing or damaged.
    pub fn read(&self, view: usize, sample: usize, encoded: &mut Vec<u8>) -> Result<()> {
        self.reader.read(view, sample, encoded)
    }

    /// The shape of a sample in a view.
    pub fn shape(&self, view: View) -> Shape {
        self.images.as_ref().map_or(self.layout().shape, |crops| crops.shape(view))
    }

    /// The view of the array that a sample is shown by; of an image there is one. Those beyond are in a cache.
    pub fn view(&self, view: View) -> usize {
        match view {
            View::Cached(number) if self.images.is_none() => number,
            View::Cached(_) | View::Centre | View::CentreCanvas | View::Epoch { .. } => 0,
        }
    }

    /// Turns an encoded sample into values \[y, x, channel\].
    pub fn decode(&self, encoded: &[u8], sample: SampleView, out: &mut [f32]) {
        thread_local! {
            static CHW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        let Some(crops) = &self.images else { return decode_sample(encoded, self.layout(), out) };
        CHW.with_borrow_mut(|chw| {
            chw.resize(out.len(), 0.0);
            crops.augmenter.apply(encoded, &crops.of(sample), chw);
            chw_to_hwc(chw, self.layout().shape.channels, out);
        });
    }

    /// The boxes of their images that some samples are shown by; of features there are none.
    pub fn crops(&self, samples: &[SampleView]) -> Option<Vec<CropBox>> {
        let crops = self.images.as_ref()?;
        Some(samples.par_iter().map(|&sample| crops.of(sample)).collect())
    }

    /// Whether they are images whose random crops are scaled.
    pub fn are_resized(&self) -> bool {
        self.images.as_ref().is_some_and(|crops| crops.augmenter.resizes())
    }

    /// Scales what is shown of an encoded image to \[channel, y, x\]; what is not scaled stays black.
    pub fn resize(&self, encoded: &[u8], sample: SampleView, out: &mut [u8]) {
        let resized = self.images.as_ref().and_then(|crops| {
            let crop = crops.of(sample);
            Some(crops.augmenter.resize(encoded, &crop, crop.resize?))
        });
        match resized {
            Some(resized) => out.copy_from_slice(&resized),
            None => out.fill(0),
        }
    }
}
