//! The samples of one split as a stage has stored them: decoded images, or features in one or more views.

use super::array::{Layout, Split};
use super::draw::{Draw, Shown};
use super::encoding::decode_sample;
use super::order::chw_to_hwc;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::images::{Augmenter, Canvas, Part, Window};
use crate::pipeline::{Recipe, Shape};
use crate::random::{Purpose, Stream};
use rayon::prelude::*;
use std::cell::RefCell;
use std::path::Path;

/// Samples that can be read at random.
pub(super) struct Samples {
    reader: Reader,
    /// Present where the arrays hold images.
    images: Option<Images>,
}

/// How images become inputs of a network.
struct Images {
    augmenter: Augmenter,
    seed: u64,
    /// The shape of an input.
    shape: Shape,
    /// Where views are whole canvases: their shape, and how they are drawn.
    canvas: Option<(Shape, Canvases)>,
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
        let shape = pipeline.image();
        let canvas = pipeline.features.late_crops.then(|| (pipeline.canvas(shape), Canvases::new(pipeline)));
        let augmenter = Augmenter::new(&pipeline.augmentation, &pipeline.data);
        Ok(Self { reader, images: Some(Images { augmenter, seed: pipeline.seed, shape, canvas }) })
    }

    /// The layout of the array.
    pub fn layout(&self) -> &Layout {
        self.reader.layout()
    }

    /// Reads one sample of a view as it is stored.
    ///
    /// # Errors
    /// When the sample is missing or damaged.
    pub fn read(&self, view: usize, sample: usize, stored: &mut Vec<u8>) -> Result<()> {
        self.reader.read(view, sample, stored)
    }

    /// Whether the samples are images.
    pub fn are_images(&self) -> bool {
        self.images.is_some()
    }

    /// The shape of a sample that is drawn.
    pub fn shape(&self, draw: Draw) -> Shape {
        match &self.images {
            None => self.layout().shape,
            Some(Images { canvas: Some((shape, _)), .. }) if matches!(draw, Draw::View(_) | Draw::Whole) => *shape,
            Some(images) => images.shape,
        }
    }

    /// The stored view that a sample is shown by; of an image there is one. Views that are not stored may be kept
    /// elsewhere.
    pub fn view(&self, shown: Shown) -> usize {
        match shown {
            Shown::View(view) if self.images.is_none() => view,
            Shown::View(_) | Shown::Plain | Shown::Whole | Shown::Fresh { .. } => 0,
        }
    }

    /// Turns a stored sample into pixels \[y, x, channel\].
    pub fn show(&self, stored: &[u8], (sample, shown): (usize, Shown), out: &mut [f32]) {
        match &self.images {
            None => decode_sample(stored, self.layout(), out),
            Some(images) => images.show(stored, &images.part(sample, shown), out),
        }
    }

    /// For images, the normalised values of each channel.
    pub fn table(&self) -> Option<&[[f32; 256]]> {
        self.images.as_ref().map(|images| images.augmenter.table())
    }

    /// Whether they are images whose crops are scaled, but for those at the centre.
    pub fn are_scaled(&self) -> bool {
        self.images.as_ref().is_some_and(|images| images.augmenter.scales())
    }

    /// The windows that are shown of some samples, of stored images or of [scaled](Self::scale) ones, and whether they
    /// are of scaled ones; nothing where there are both.
    pub fn windows(&self, samples: &[(usize, Shown)]) -> Option<(Vec<Window>, bool)> {
        let images = self.images.as_ref()?;
        let window = |&(sample, shown): &(usize, Shown)| match images.part(sample, shown) {
            Part::Window(window) => (window, false),
            Part::Scaled { mirrored, .. } => (Window { top: 0, left: 0, size: images.shape.size, mirrored }, true),
        };
        let (windows, scaled): (Vec<Window>, Vec<bool>) = samples.par_iter().map(window).unzip();
        let first = scaled.first().copied().unwrap_or(false);
        scaled.iter().all(|&scaled| scaled == first).then_some((windows, first))
    }

    /// Scales what is shown of a stored image to \[channel, y, x\]; what is not scaled stays black.
    pub fn scale(&self, stored: &[u8], (sample, shown): (usize, Shown), out: &mut [u8]) {
        match self.images.as_ref().map(|images| (images, images.part(sample, shown))) {
            Some((images, Part::Scaled { rows, columns, .. })) => {
                out.copy_from_slice(&images.augmenter.scale(stored, rows, columns));
            }
            _ => out.fill(0),
        }
    }
}

impl Images {
    /// What is shown of an image.
    fn part(&self, sample: usize, shown: Shown) -> Part {
        let augmenter = &self.augmenter;
        match (shown, self.canvas) {
            (Shown::Plain, _) | (Shown::Whole, None) => augmenter.draw(None),
            (Shown::Whole, Some((_, canvases))) => augmenter.canvas(augmenter.centred_canvas(canvases.step).0),
            (Shown::View(view), Some((_, canvases))) => augmenter.canvas(canvases.draw(augmenter, view, sample)),
            (Shown::View(view), None) => {
                augmenter.draw(Some(&mut Stream::new(Purpose::View, self.seed, (view as u64, sample as u64))))
            }
            (Shown::Fresh { stage, epoch }, _) => {
                let counters = ((stage as u64) << 32 | epoch as u64, sample as u64);
                augmenter.draw(Some(&mut Stream::new(Purpose::Augmentation, self.seed, counters)))
            }
        }
    }

    fn show(&self, stored: &[u8], part: &Part, out: &mut [f32]) {
        thread_local! {
            static PLANES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        PLANES.with_borrow_mut(|planes| {
            planes.resize(out.len(), 0.0);
            self.augmenter.show(stored, part, planes);
            chw_to_hwc(planes, self.shape.channels, out);
        });
    }
}

/// How the views of samples lie on their canvases.
#[derive(Clone, Copy)]
struct Canvases {
    seed: u64,
    /// The views that are stored of each sample.
    views: usize,
    /// The pixels that canvases are moved by at most, plus one.
    step: usize,
}

impl Canvases {
    fn new(pipeline: &Recipe) -> Self {
        Self { seed: pipeline.seed, views: pipeline.features.views, step: pipeline.widest_step() }
    }

    /// Of the views of a sample every second one is mirrored, of half the samples the first; a view that takes the place
    /// of another is the mirror image of what was there.
    fn draw(&self, augmenter: &Augmenter, view: usize, sample: usize) -> Canvas {
        let first = Stream::new(Purpose::View, self.seed, (u64::MAX, sample as u64)).below(2) as usize;
        let renewals = if self.views.is_multiple_of(2) { view / self.views } else { 0 };
        let mut stream = Stream::new(Purpose::View, self.seed, (view as u64, sample as u64));
        augmenter.draw_canvas(first + view + renewals, self.step, &mut stream)
    }
}

/// Crops features of canvases afresh at every epoch, and at the centre for validation.
///
/// Inside, such a crop is what the blocks make of the cropped image; at its border it holds what they made of the
/// pixels beyond, where they would have met zeros. The border is one step wide for each block that was run. It is the
/// same in training and validation: with crops that were made early in one and late in the other, five points of
/// accuracy are lost.
pub(super) struct LateCrops {
    augmenter: Augmenter,
    canvases: Canvases,
    /// Rows and columns of a canvas.
    canvas: usize,
    crop: Shape,
    /// The pixels of the image that a step of these features spans.
    step: usize,
}

impl LateCrops {
    /// Crops of features of whole canvases of this shape.
    pub fn new(pipeline: &Recipe, canvas: Shape) -> Self {
        let crop = pipeline.crop(canvas);
        Self {
            augmenter: Augmenter::new(&pipeline.augmentation, &pipeline.data),
            canvases: Canvases::new(pipeline),
            canvas: canvas.size,
            crop,
            step: pipeline.augmentation.size / crop.size.max(1),
        }
    }

    /// The shape of a crop.
    pub fn shape(&self) -> Shape {
        self.crop
    }

    /// The first row and column of the crop of a sample whose view is shown at an epoch of a stage: any whole step that
    /// leaves it within the padded image.
    pub fn place(&self, view: usize, sample: usize, (stage, epoch): (usize, usize)) -> (usize, usize) {
        let (down, right) = self.canvases.draw(&self.augmenter, view, sample).moved;
        let counters = ((stage as u64) << 32 | epoch as u64, sample as u64);
        let mut stream = Stream::new(Purpose::Window, self.canvases.seed, counters);
        let mut place = |moved: usize| {
            let (first, last) = (moved.div_ceil(self.step), self.canvas - self.crop.size);
            first + stream.below((last + 1).saturating_sub(first) as u64) as usize
        };
        (place(down), place(right))
    }

    /// The first row and column of the centre.
    pub fn centre(&self) -> (usize, usize) {
        let place = self.augmenter.centred_canvas(self.canvases.step).1 / self.step;
        (place, place)
    }
}

#[cfg(test)]
mod tests {
    use super::super::draw::Rotation;
    use super::*;

    #[test]
    fn half_the_samples_of_an_epoch_are_mirrored_and_what_is_new_differs() {
        for views in 1..=4 {
            let text = "[data]\nsource = \"builtin\"\n[augmentation]\ncrop = \"padded\"\nflip = true\n";
            let set = [format!("features.views={views}"), "features.crop=late".into()];
            let pipeline = Recipe::parse("p", "p", text, &set).unwrap();
            let augmenter = Augmenter::new(&pipeline.augmentation, &pipeline.data);
            let canvases = Canvases::new(&pipeline);
            for refresh in [0.0, 0.25] {
                let rotation = Rotation { views, refresh, together: 1 };
                for epoch in 0..24 {
                    let mirrored =
                        |&sample: &usize| canvases.draw(&augmenter, rotation.view(sample, epoch), sample).mirrored;
                    let share = (0..2000).filter(mirrored).count() as f64 / 2000.0;
                    assert!((share - 0.5).abs() < 0.05, "{views} views, refresh {refresh}, epoch {epoch}: {share}");
                }
            }
            // Without downsampling canvases are not moved: a refreshed one is another only where it is the mirror image.
            let differ = |sample: usize, view: usize| {
                canvases.draw(&augmenter, view, sample) != canvases.draw(&augmenter, view + views, sample)
            };
            assert!((0..100).all(|sample| (0..3 * views).all(|view| differ(sample, view))), "{views} views");
        }
    }
}
