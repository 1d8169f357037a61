//! A decoded image becomes an input of the network: cropped, flipped, normalised.

use super::decode::centre;
use super::resample::{Axis, resample};
use crate::pipeline::{Augmentation, Crop, Data};
use crate::random::Stream;
use std::ops::Range;

/// Crops, flips and normalises images as one pipeline demands.
#[derive(Clone)]
pub struct Augmenter {
    augmentation: Augmentation,
    /// The side of a decoded image.
    side: usize,
    /// For each channel, the normalised value of each u8.
    normalised: Vec<[f32; 256]>,
}

/// A rectangle of an image or a feature map, and what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// Its first row. Rows and columns beyond an image are black.
    pub top: isize,
    /// Its first column.
    pub left: isize,
    /// Its rows.
    pub height: usize,
    /// Its columns.
    pub width: usize,
    /// Whether its rows are mirrored once they are cut out.
    pub flip: bool,
    /// The side of the square that it is scaled to; without, pixels stay as they are. It lies within the image then.
    pub resize: Option<usize>,
}

impl CropBox {
    /// So many rows and columns from a first row and column on, as they are.
    pub fn square(top: isize, left: isize, size: usize) -> Self {
        Self { top, left, height: size, width: size, flip: false, resize: None }
    }

    /// Its rows and columns, of a box within the image.
    fn ranges(&self) -> (Range<usize>, Range<usize>) {
        let range = |first: isize, length: usize| first.max(0) as usize..first.max(0) as usize + length;
        (range(self.top, self.height), range(self.left, self.width))
    }
}

impl Augmenter {
    /// Prepares for images that are decoded as `data` says.
    pub fn new(augmentation: &Augmentation, data: &Data) -> Self {
        let table = |(mean, std): (&f32, &f32)| std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std);
        let normalised = data.mean.iter().zip(&data.std).map(table).collect();
        Self { augmentation: *augmentation, side: data.size, normalised }
    }

    /// For each channel, the normalised value of each u8.
    pub fn table(&self) -> &[[f32; 256]] {
        &self.normalised
    }

    /// Whether random crops are scaled.
    pub fn resizes(&self) -> bool {
        matches!(self.augmentation.crop, Crop::Resized { .. })
    }

    /// The centre crop.
    pub fn centre_crop(&self) -> CropBox {
        let middle = centre(self.side - self.augmentation.size) as isize;
        CropBox::square(middle, middle, self.augmentation.size)
    }

    /// A random crop and flip as the pipeline says, always drawn in this order: what the crop needs (for a padded one
    /// down, then right), then the flip. Padding is black and added before normalisation, as in the paper's code.
    pub fn random_crop(&self, rng: &mut Stream) -> CropBox {
        let size = self.augmentation.size;
        let crop = match self.augmentation.crop {
            Crop::Centre => self.centre_crop(),
            Crop::Padded { padding } => {
                let room = (self.side + 2 * padding - size) as u64 + 1;
                let mut offset = || rng.below(room) as isize - padding as isize;
                let (top, left) = (offset(), offset());
                CropBox::square(top, left, size)
            }
            Crop::Resized { scale, ratio } => {
                CropBox { resize: Some(size), ..random_resized_crop(self.side, scale, ratio, rng) }
            }
        };
        CropBox { flip: self.augmentation.flip && rng.below(2) == 1, ..crop }
    }

    /// A canvas, which is a whole image with its padding, shifted at random by less than `step` pixels down and to the
    /// right: crops by whole steps of features reach other pixels then. Those of odd numbers are flipped.
    pub fn random_canvas(&self, number: usize, step: usize, rng: &mut Stream) -> CropBox {
        let room = self.side + 2 * self.padding() - self.augmentation.size;
        let mut shift = || rng.below(step.min(room + 1) as u64) as usize;
        self.canvas([shift(), shift()], self.augmentation.flip && number % 2 == 1)
    }

    /// The canvas of validation images, and the first row and column of the centre on it: a multiple of `step` pixels,
    /// so that the centre can be cropped from features as well.
    pub fn centre_canvas(&self, step: usize) -> (CropBox, usize) {
        let offset = self.padding() + centre(self.side - self.augmentation.size);
        let shift = offset.next_multiple_of(step.max(1)) - offset;
        (self.canvas([shift, shift], false), offset + shift)
    }

    fn canvas(&self, [down, right]: [usize; 2], flip: bool) -> CropBox {
        let (padding, right) = (self.padding() as isize, right as isize);
        // Rows are mirrored after they are cut out, so a flipped image moves to the right by a box further right.
        let left = if flip { right - padding } else { -padding - right };
        CropBox { flip, ..CropBox::square(-padding - down as isize, left, self.side + 2 * self.padding()) }
    }

    /// The pixels by which a canvas is shifted, down and to the right.
    pub fn shift(&self, canvas: &CropBox) -> [usize; 2] {
        let padding = self.padding() as isize;
        let right = if canvas.flip { canvas.left + padding } else { -canvas.left - padding };
        [-canvas.top - padding, right].map(|shift| shift.max(0) as usize)
    }

    fn padding(&self) -> usize {
        match self.augmentation.crop {
            Crop::Padded { padding } => padding,
            Crop::Centre | Crop::Resized { .. } => 0,
        }
    }

    /// Crops a decoded image [channels, side, side] to an input [channels, size, size] of the box's size, normalised.
    ///
    /// # Panics
    /// When `image` or `out` has not the length that the pipeline demands.
    pub fn apply(&self, image: &[u8], crop: &CropBox, out: &mut [f32]) {
        match crop.resize {
            None => self.normalise(image, self.side, crop, out),
            Some(size) => {
                let resized = CropBox { flip: crop.flip, ..CropBox::square(0, 0, size) };
                self.normalise(&self.resize(image, crop, size), size, &resized, out);
            }
        }
    }

    /// Scales a box of a decoded image to [channels, size, size], not flipped.
    pub fn resize(&self, image: &[u8], crop: &CropBox, size: usize) -> Vec<u8> {
        let (rows, columns) = crop.ranges();
        let (rows, columns) = (Axis::new(rows, size, 0..size), Axis::new(columns, size, 0..size));
        let planes = image.chunks_exact(self.side * self.side);
        planes.flat_map(|plane| resample::<1>(plane, self.side, &columns, &rows)).collect()
    }

    /// Normalises a box of an image [channels, side, side].
    fn normalise(&self, pixels: &[u8], side: usize, crop: &CropBox, out: &mut [f32]) {
        let (area, channels) = (crop.height * crop.width, self.normalised.len());
        assert_eq!((pixels.len(), out.len()), (channels * side * side, channels * area));
        let (first, before) = (crop.left.max(0) as usize, (-crop.left).max(0) as usize);
        let planes = pixels.chunks_exact(side * side).zip(&self.normalised).zip(out.chunks_exact_mut(area));
        for ((plane, table), out) in planes {
            for (y, out) in (crop.top..).zip(out.chunks_exact_mut(crop.width)) {
                out.fill(table[0]);
                if let Some(row) = usize::try_from(y).ok().and_then(|y| plane.chunks_exact(side).nth(y)) {
                    for (value, &pixel) in out.iter_mut().skip(before).zip(row.iter().skip(first)) {
                        *value = table[usize::from(pixel)];
                    }
                }
                if crop.flip {
                    out.reverse();
                }
            }
        }
    }
}

/// The box of a random resized crop, as torchvision draws it: ten attempts, then the centre.
fn random_resized_crop(side: usize, scale: (f64, f64), ratio: (f64, f64), rng: &mut Stream) -> CropBox {
    let full = side as f64;
    let within = |top: usize, left: usize, height: usize, width: usize| CropBox {
        height,
        width,
        ..CropBox::square(top as isize, left as isize, side)
    };
    for _ in 0..10 {
        let area = full * full * rng.uniform(scale.0, scale.1);
        let ratio = rng.uniform(ratio.0.ln(), ratio.1.ln()).exp();
        let (width, height) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
        if (1..=side).contains(&width) && (1..=side).contains(&height) {
            let top = rng.below((side - height) as u64 + 1) as usize;
            let left = rng.below((side - width) as u64 + 1) as usize;
            return within(top, left, height, width);
        }
    }
    // A square is wider than no ratio below one and higher than no ratio above one allows.
    let width = if ratio.1 < 1.0 { (full * ratio.1).round() as usize } else { side };
    let height = if ratio.0 > 1.0 { (full / ratio.0).round() as usize } else { side };
    let (width, height) = (width.max(1), height.max(1));
    within((side - height) / 2, (side - width) / 2, height, width)
}

#[cfg(test)]
mod tests {
    use super::super::tests::data;
    use super::*;
    use crate::random::Purpose;

    const SIDE: usize = 6;

    /// Every pixel of the three planes has a value of its own.
    fn image() -> Vec<u8> {
        (1..=(3 * SIDE * SIDE) as u8).collect()
    }

    fn augmenter(size: usize, crop: Crop, flip: bool) -> Augmenter {
        let data = Data { size: SIDE, mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3], ..data() };
        Augmenter::new(&Augmentation { size, crop, flip }, &data)
    }

    /// The random crop of a seed, or the centre crop, rounded back to u8.
    fn applied(augmenter: &Augmenter, seed: Option<u64>) -> Vec<u8> {
        let mut out = vec![-1.0; 3 * augmenter.augmentation.size.pow(2)];
        let random = |seed| augmenter.random_crop(&mut Stream::new(Purpose::Augmentation, seed, (0, 0)));
        augmenter.apply(&image(), &seed.map_or_else(|| augmenter.centre_crop(), random), &mut out);
        out.into_iter().map(|value| value.round() as u8).collect()
    }

    #[test]
    fn values_are_normalised_channel_by_channel() {
        let data = Data { size: 1, mean: vec![0.5, 0.25, 0.0], std: vec![0.25, 0.5, 1.0], ..data() };
        let augmenter = Augmenter::new(&Augmentation { size: 1, crop: Crop::Centre, flip: false }, &data);
        let mut out = [0.0; 3];
        augmenter.apply(&[0, 255, 51], &augmenter.centre_crop(), &mut out);
        assert_eq!(out, [-2.0, 1.5, 0.2]);
    }

    #[test]
    fn a_centre_crop_is_the_centre_and_not_flipped() {
        let cropped = applied(&augmenter(2, Crop::Padded { padding: 1 }, true), None);
        assert_eq!(cropped[..4], [15, 16, 21, 22]);
        assert_eq!(applied(&augmenter(SIDE, Crop::Centre, true), None), image());
    }

    #[test]
    fn a_padded_crop_is_the_box_of_the_padded_image_that_was_drawn() {
        let (size, padding) = (5, 2);
        let augmenter = augmenter(size, Crop::Padded { padding }, true);
        let room = (SIDE + 2 * padding - size) as u64 + 1;
        for seed in 0..200 {
            let mut rng = Stream::new(Purpose::Augmentation, seed, (0, 0));
            let (top, left, flip) = (rng.below(room), rng.below(room), rng.below(2) == 1);
            let pixel = |channel: usize, y: usize, x: usize| {
                let x = if flip { size - 1 - x } else { x };
                let (y, x) = ((y + top as usize).checked_sub(padding), (x + left as usize).checked_sub(padding));
                let (y, x) = (y.filter(|&y| y < SIDE), x.filter(|&x| x < SIDE));
                y.zip(x).map_or(0, |(y, x)| image()[(channel * SIDE + y) * SIDE + x])
            };
            let expected: Vec<u8> =
                (0..3 * size * size).map(|at| pixel(at / (size * size), at / size % size, at % size)).collect();
            assert_eq!(applied(&augmenter, Some(seed)), expected, "seed {seed}");
        }
    }

    #[test]
    fn a_crop_of_a_canvas_is_a_padded_crop() {
        let (size, padding, step) = (4, 3, 2);
        let augmenter = augmenter(size, Crop::Padded { padding }, true);
        let side = SIDE + 2 * padding;
        for seed in 0..200 {
            let canvas = augmenter.random_canvas(seed, step, &mut Stream::new(Purpose::View, 0, (seed as u64, 0)));
            let [down, right] = augmenter.shift(&canvas);
            assert!(down < step && right < step && canvas.flip == (seed % 2 == 1));
            let mut out = vec![-1.0; 3 * side * side];
            augmenter.apply(&image(), &canvas, &mut out);
            for (channel, y, x) in (0..3 * side * side).map(|at| (at / (side * side), at / side % side, at % side)) {
                let (row, column) = (y.checked_sub(padding + down), x.checked_sub(padding + right));
                let inside = row.zip(column).filter(|&(row, column)| row < SIDE && column < SIDE);
                let expected = inside.map_or(0, |(row, column)| {
                    let column = if canvas.flip { SIDE - 1 - column } else { column };
                    image()[(channel * SIDE + row) * SIDE + column]
                });
                let found = out[(channel * side + y) * side + x].round() as u8;
                assert_eq!(found, expected, "seed {seed}, {canvas:?}, {channel} {y} {x}");
            }
        }
    }

    #[test]
    fn half_the_images_are_flipped() {
        let augmenter = augmenter(SIDE, Crop::Centre, true);
        let flipped = (0..1000).filter(|&seed| applied(&augmenter, Some(seed)) != image()).count();
        assert!((450..550).contains(&flipped), "{flipped}");
    }

    #[test]
    fn a_resized_crop_of_the_whole_image_changes_nothing() {
        let augmenter = augmenter(SIDE, Crop::Resized { scale: (1.0, 1.0), ratio: (1.0, 1.0) }, false);
        assert_eq!(applied(&augmenter, Some(1)), image());
    }

    #[test]
    fn random_resized_crops_have_the_area_and_the_ratio_asked_for() {
        let mut rng = Stream::new(Purpose::Augmentation, 0, (0, 0));
        for _ in 0..1000 {
            let crop = random_resized_crop(200, (0.1, 0.5), (0.5, 2.0), &mut rng);
            let (area, ratio) = (crop.height * crop.width, crop.width as f64 / crop.height as f64);
            assert!((3900..20_200).contains(&area) && (0.49..2.05).contains(&ratio), "{crop:?}");
            let (rows, columns) = crop.ranges();
            assert!(rows.end <= 200 && columns.end <= 200);
        }
        // No region of that ratio has that area, so the largest centred one is taken.
        let crop = random_resized_crop(90, (1.0, 1.0), (3.0, 3.0), &mut rng);
        assert_eq!(crop.ranges(), (30..60, 0..90));
    }
}
