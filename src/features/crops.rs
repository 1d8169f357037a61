//! Which crop of a sample a view shows: a function of seed, sample and view.

use super::schedule::{SampleView, View};
use crate::error::Result;
use crate::images::{Augmenter, CropBox};
use crate::pipeline::{Recipe, Shape};
use crate::random::{Purpose, Stream};

/// The crops of one pipeline's images.
pub(super) struct Crops {
    pub augmenter: Augmenter,
    seed: u64,
    /// The cached views of each sample.
    views: usize,
    /// The shape of an input.
    shape: Shape,
    /// With late crops views are canvases: their shape, and the pixels that they are shifted by at most, plus one.
    canvas: Option<(Shape, usize)>,
}

impl Crops {
    pub fn new(pipeline: &Recipe) -> Self {
        let shape = pipeline.image();
        let features = &pipeline.features;
        Self {
            augmenter: Augmenter::new(&pipeline.augmentation, &pipeline.data),
            seed: pipeline.seed,
            views: features.views,
            shape,
            canvas: features.late_crops.then(|| (pipeline.canvas(shape), pipeline.widest_step())),
        }
    }

    /// The shape of a view.
    pub fn shape(&self, view: View) -> Shape {
        match (self.canvas, view) {
            (Some((shape, _)), View::Cached(_) | View::CentreCanvas) => shape,
            _ => self.shape,
        }
    }

    /// Whether the images of a view have to be [cut](Self::cut) on the host.
    pub fn cuts(&self, view: View) -> bool {
        self.augmenter.cuts(matches!(view, View::Cached(_) | View::Epoch { .. }))
    }

    /// Cuts what is shown of a decoded image, scaled and flipped: to \[channel, y, x\].
    ///
    /// # Errors
    /// When the bytes are no image.
    pub fn cut(&self, decoded: &[u8], sample: SampleView, out: &mut [u8]) -> Result<()> {
        let image = self.augmenter.image(decoded)?;
        self.augmenter.cut(image, &self.of(sample, [image.height, image.width]), out);
        Ok(())
    }

    /// Turns a decoded image into an input \[channel, y, x\].
    ///
    /// # Errors
    /// When the bytes are no image.
    pub fn apply(&self, decoded: &[u8], sample: SampleView, out: &mut [f32]) -> Result<()> {
        let image = self.augmenter.image(decoded)?;
        self.augmenter.apply(image, &self.of(sample, [image.height, image.width]), out);
        Ok(())
    }

    /// The box that a sample is shown by of its image, which has so many rows and columns.
    pub fn of(&self, (sample, view): SampleView, image: [usize; 2]) -> CropBox {
        let augmenter = &self.augmenter;
        match (view, self.canvas) {
            (View::Centre, _) | (View::CentreCanvas, None) => augmenter.centre_crop(image),
            (View::CentreCanvas, Some((_, step))) => augmenter.centre_canvas(step).0,
            (View::Cached(number), Some((_, step))) => self.canvas(number, sample, step),
            (View::Cached(number), None) => augmenter.random_crop(image, &mut self.view_rng(number, sample)),
            (View::Epoch { stage, epoch }, _) => {
                augmenter.random_crop(image, &mut self.epoch_rng(Purpose::Augmentation, (stage, epoch), sample))
            }
        }
    }

    /// Of the views of a sample every second one is flipped, of half the samples the first; a view that takes the slot
    /// of another is the mirror image of what was there.
    fn canvas(&self, view: usize, sample: usize, step: usize) -> CropBox {
        let first = Stream::new(Purpose::View, self.seed, (u64::MAX, sample as u64)).below(2) as usize;
        let refreshes = if self.views.is_multiple_of(2) { view / self.views } else { 0 };
        self.augmenter.random_canvas(first + view + refreshes, step, &mut self.view_rng(view, sample))
    }

    fn view_rng(&self, view: usize, sample: usize) -> Stream {
        Stream::new(Purpose::View, self.seed, (view as u64, sample as u64))
    }

    fn epoch_rng(&self, purpose: Purpose, (stage, epoch): (usize, usize), sample: usize) -> Stream {
        Stream::new(purpose, self.seed, ((stage as u64) << 32 | epoch as u64, sample as u64))
    }
}

/// Random crops of the features of canvases at every epoch, and centre crops for validation.
///
/// Inside, such a crop is what the blocks make of the cropped image; at its border it holds what they made of the
/// pixels beyond, where they would have met zeros. The border is one step wide for each block that was run. It is the
/// same in training and validation: with crops that were made early in one and late in the other, five points of
/// accuracy are lost.
pub(super) struct LateCrops {
    images: Crops,
    /// The pixels that canvases are shifted by at most, plus one.
    shifts: usize,
    /// Rows and columns of the features of a canvas.
    canvas: usize,
    crop: Shape,
    /// The pixels of the image that a step of these features spans.
    step: usize,
}

impl LateCrops {
    /// Crops of features of whole canvases of this shape.
    pub fn new(pipeline: &Recipe, canvas: Shape) -> Self {
        let crop = pipeline.crop(canvas);
        let step = pipeline.augmentation.size / crop.size.max(1);
        Self { images: Crops::new(pipeline), shifts: pipeline.widest_step(), canvas: canvas.size, crop, step }
    }

    /// The shape of a crop.
    pub fn shape(&self) -> Shape {
        self.crop
    }

    /// The box of its features that a sample is shown by: for validation the centre; at an epoch any that begins a whole
    /// number of steps within the padded image, which lies on the canvas of the cached view as that was drawn.
    pub fn of(&self, (sample, cached): SampleView, view: View) -> CropBox {
        let (View::Cached(cached), View::Epoch { stage, epoch }) = (cached, view) else {
            let offset = (self.images.augmenter.centre_canvas(self.shifts).1 / self.step) as isize;
            return CropBox::square(offset, offset, self.crop.size);
        };
        let shift = self.images.augmenter.shift(&self.images.canvas(cached, sample, self.shifts));
        let mut rng = self.images.epoch_rng(Purpose::Window, (stage, epoch), sample);
        let [top, left] = shift.map(|shift| {
            let (first, last) = (shift.div_ceil(self.step), self.canvas - self.crop.size);
            (first + rng.below((last + 1).saturating_sub(first) as u64) as usize) as isize
        });
        CropBox::square(top, left, self.crop.size)
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::Schedule;
    use super::*;

    #[test]
    fn half_the_samples_of_an_epoch_are_flipped_and_what_is_refreshed_differs() {
        for views in 1..=4 {
            let text = "[data]\nsource = \"builtin\"\n[augmentation]\ncrop = \"padded\"\nflip = true\n";
            let set = [format!("features.views={views}"), "features.crop=late".into()];
            let pipeline = Recipe::parse("p", "p", text, &set).unwrap();
            let crops = Crops::new(&pipeline);
            let of = |sample: usize, view: usize| crops.of((sample, View::Cached(view)), crops.augmenter.square());
            for refresh in [0.0, 0.25] {
                let schedule = Schedule::in_any_order(views, refresh);
                for epoch in 0..24 {
                    let flipped = |&sample: &usize| of(sample, schedule.view(sample, epoch)).flip;
                    let share = (0..2000).filter(flipped).count() as f64 / 2000.0;
                    assert!((share - 0.5).abs() < 0.05, "{views} views, refresh {refresh}, epoch {epoch}: {share}");
                }
            }
            // Without downsampling canvases are not shifted: a refreshed one differs only where it is the mirror image.
            let differ = |sample: usize, view: usize| of(sample, view) != of(sample, view + views);
            assert!((0..100).all(|sample| (0..3 * views).all(|view| differ(sample, view))), "{views} views");
        }
    }
}
