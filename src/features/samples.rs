//! The samples of one split as a stage has stored them: decoded images, or features in one or more views.

use super::array::{Layout, Split};
use super::crops::Crops;
use super::encoding::decode_sample;
use super::order::chw_to_hwc;
use super::reader::Reader;
use super::schedule::{SampleView, View};
use crate::error::{Error, Result};
use crate::images::CropBox;
use crate::ops::Element;
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
        let (found, wanted) = (layout.keep(), pipeline.data.keep);
        if found != wanted {
            let array = array.display();
            let (found, wanted) = (found.word(), wanted.word());
            return Err(Error::failed(format!("`{array}` holds {found} images, the pipeline has {wanted} ones"))
                .hint(format!("`data.keep` is \"{found}\" for them")));
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
    ///
    /// # Errors
    /// When the bytes are no image, where there should be one.
    pub fn decode<E: Element>(&self, encoded: &[u8], sample: SampleView, out: &mut [E]) -> Result<()> {
        thread_local! {
            static CHW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        let Some(crops) = &self.images else {
            decode_sample(encoded, self.layout(), out);
            return Ok(());
        };
        CHW.with_borrow_mut(|chw| {
            chw.resize(out.len(), 0.0);
            crops.apply(encoded, sample, chw)?;
            chw_to_hwc(chw, self.layout().shape.channels, out);
            Ok(())
        })
    }

    /// The boxes of their images that some samples are shown by, where all images are square; of features there are none.
    pub fn crops(&self, samples: &[SampleView]) -> Option<Vec<CropBox>> {
        let crops = self.images.as_ref()?;
        Some(samples.par_iter().map(|&sample| crops.of(sample, crops.augmenter.square())).collect())
    }

    /// Whether they are images that have to be [cut](Self::cut) on the host to be shown in a view.
    pub fn are_cut(&self, view: View) -> bool {
        self.images.as_ref().is_some_and(|crops| crops.cuts(view))
    }

    /// Cuts what is shown of an encoded image, scaled and flipped: to \[channel, y, x\].
    ///
    /// # Errors
    /// When the bytes are no image.
    pub fn cut(&self, encoded: &[u8], sample: SampleView, out: &mut [u8]) -> Result<()> {
        let crops = self.images.as_ref().ok_or_else(|| Error::failed("features were to be cut as images"))?;
        crops.cut(encoded, sample, out)
    }
}
