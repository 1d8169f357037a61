//! Views of samples that are not stored: made anew from their images.

use super::array::{Layout, Split};
use super::draw::{Draw, Shown};
use super::samples::Samples;
use super::source::{Begun, Course, Source};
use crate::error::{Error, Result};
use crate::network::Chain;
use crate::pipeline::Recipe;
use candle_core::Tensor;
use std::path::Path;

/// Makes views that are not stored: images, and the frozen blocks up to what is stored.
pub struct Refresh {
    images: Source,
    chain: Chain,
    /// The share of the samples that get a new view at each epoch.
    pub(super) share: f64,
}

impl Refresh {
    /// Takes the training images of a stage, and the blocks whose output is stored.
    ///
    /// # Errors
    /// When the images are missing or do not fit the pipeline.
    pub fn open(images: &Path, chain: Chain, pipeline: &Recipe) -> Result<Self> {
        let samples = Samples::open(images, Split::Train, pipeline)?;
        if !samples.are_images() {
            return Err(Error::failed(format!("`{}` does not hold images", images.display())));
        }
        let images = Source::new(samples, chain.device(), chain.dtype())?;
        Ok(Self { images, chain, share: pipeline.features.refresh })
    }

    /// Whether what it makes has the form of what is stored.
    pub fn makes(&self, layout: &Layout) -> bool {
        let images = &self.images.samples;
        let made = self.chain.output(images.shape(Draw::View(0)));
        images.layout().samples == layout.samples && made == layout.shape
    }

    /// Lets the images stay on the device once they got there, where they take at most so many bytes.
    ///
    /// # Errors
    /// When the device has no room for them after all.
    pub fn resident(self, most: u64) -> Result<Self> {
        Ok(Self { images: self.images.resident(most)?, ..self })
    }

    /// Reads the images of some samples, for the views that they are to be shown by.
    pub(super) fn begin(&self, shown: Vec<(usize, Shown)>) -> Result<Made> {
        let course = self.images.course(&shown, shown.len(), Draw::View(0))?;
        let begun = self.images.begin(&course, &shown)?;
        Ok(Made { shown, course, begun })
    }

    /// The views: \[sample, y, x, channel\].
    pub(super) fn end(&self, made: Made) -> Result<(Vec<(usize, Shown)>, Tensor)> {
        let Made { shown, course, begun } = made;
        let x = self.chain.run(self.images.end(&course, 0..shown.len(), begun)?)?;
        Ok((shown, x))
    }
}

/// Views that are being made.
pub(super) struct Made {
    shown: Vec<(usize, Shown)>,
    course: Course,
    begun: Begun,
}
