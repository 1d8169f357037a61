//! Views of samples that are not in the array: made from their images.

use super::array::{Layout, Split};
use super::samples::Samples;
use super::schedule::{SampleView, View};
use super::source::{Read, ReadPlan, Source};
use crate::error::{Error, Result};
use crate::network::Chain;
use crate::pipeline::Recipe;
use candle_core::Tensor;
use std::path::Path;

/// Makes refreshed views: images, and the frozen blocks up to the features that are cached.
pub struct Refresh {
    images: Source,
    chain: Chain,
    /// The share of the samples that get a new view at each epoch.
    pub(super) share: f64,
}

impl Refresh {
    /// Takes the training images of a stage, and the blocks whose output is cached.
    ///
    /// # Errors
    /// When the images are missing or do not fit the pipeline.
    pub fn open(images: &Path, chain: Chain, pipeline: &Recipe) -> Result<Self> {
        let samples = Samples::open(images, Split::Train, pipeline)?;
        if samples.images.is_none() {
            return Err(Error::failed(format!("`{}` does not hold images", images.display())));
        }
        let images = Source::new(samples, chain.device(), chain.dtype())?;
        Ok(Self { images, chain, share: pipeline.features.refresh })
    }

    /// Whether what it makes has the shape of the features of an array.
    pub fn makes(&self, layout: &Layout) -> bool {
        let images = &self.images.samples;
        let made = self.chain.output(images.shape(View::Cached(0)));
        images.layout().samples == layout.samples && made == layout.shape
    }

    /// Caches the images on the device once they got there, where they take at most so many bytes.
    ///
    /// # Errors
    /// When the device has no room for them after all.
    pub fn resident(self, most: u64) -> Result<Self> {
        Ok(Self { images: self.images.resident(most)?, ..self })
    }

    /// Reads the images of some samples, for the views that they are to be shown by.
    pub(super) fn read(&self, views: Vec<SampleView>) -> Result<Refreshing> {
        let plan = self.images.plan(&views, views.len(), View::Cached(0))?;
        let read = self.images.read(&plan, 0..views.len(), &views)?;
        Ok(Refreshing { views, plan, read })
    }

    /// The views: \[sample, y, x, channel\].
    pub(super) fn make(&self, Refreshing { views, plan, read }: Refreshing) -> Result<(Vec<SampleView>, Tensor)> {
        let x = self.chain.run(self.images.collate(&plan, read)?)?;
        Ok((views, x))
    }
}

/// Views that are being made.
pub(super) struct Refreshing {
    views: Vec<SampleView>,
    plan: ReadPlan,
    read: Read,
}
