//! A decoded image becomes an input of the network: cropped, flipped, normalised.

use super::decode::centre;
use super::resample::{Axis, resample};
use super::whole;
use crate::error::Result;
use crate::pipeline::{Augmentation, Crop, Data, Keep};
use crate::random::Stream;
use std::ops::Range;

/// Crops, flips and normalises images as one pipeline demands.
#[derive(Clone)]
pub struct Augmenter {
    augmentation: Augmentation,
    /// The short side of a decoded image.
    side: usize,
    keep: Keep,
    /// For each channel, the normalised value of each u8.
    normalised: Vec<[f32; 256]>,
}

/// A decoded image.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Its pixels: of a square \[channel, y, x\], of a whole image \[y, x, channel\].
    pixels: &'a [u8],
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
        Self { augmentation: *augmentation, side: data.size, keep: data.keep, normalised }
    }

    /// For each channel, the normalised value of each u8.
    pub fn table(&self) -> &[[f32; 256]] {
        &self.normalised
    }

    /// Whether the crops of random views, or of all, have to be [cut](Self::cut) before they are of one size.
    pub fn cuts(&self, random: bool) -> bool {
        self.keep == Keep::Whole || random && matches!(self.augmentation.crop, Crop::Resized { .. })
    }

    /// The image that decoded bytes hold.
    ///
    /// # Errors
    /// When they are none.
    pub fn image<'a>(&self, bytes: &'a [u8]) -> Result<Image<'a>> {
        let (height, width, pixels) = match self.keep {
            Keep::Square => (self.side, self.side, bytes),
            Keep::Whole => whole::parse(bytes, self.normalised.len())?,
        };
        Ok(Image { height, width, pixels })
    }

    /// The size of a square image.
    pub fn square(&self) -> [usize; 2] {
        [self.side; 2]
    }

    /// The centre crop of an image of so many rows and columns.
    pub fn centre_crop(&self, image: [usize; 2]) -> CropBox {
        let [top, left] = image.map(|side| centre(side.saturating_sub(self.augmentation.size)) as isize);
        CropBox::square(top, left, self.augmentation.size)
    }

    /// A random crop and flip of such an image as the pipeline says, always drawn in this order: what the crop needs (for
    /// a padded one down, then right), then the flip. Padding is black and added before normalisation, as in the paper's
    /// code.
    pub fn random_crop(&self, image: [usize; 2], rng: &mut Stream) -> CropBox {
        let size = self.augmentation.size;
        let crop = match self.augmentation.crop {
            Crop::Centre => self.centre_crop(image),
            Crop::Padded { padding } => {
                let mut offset = |side| rng.below((side + 2 * padding - size) as u64 + 1) as isize - padding as isize;
                let [top, left] = image.map(&mut offset);
                CropBox::square(top, left, size)
            }
            Crop::Resized { scale, ratio } => {
                CropBox { resize: Some(size), ..random_resized_crop(image, scale, ratio, rng) }
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

    /// Crops an image to an input [channels, size, size] of the box's size, normalised.
    ///
    /// # Panics
    /// When the image or `out` has not the size that the pipeline demands.
    pub fn apply(&self, image: Image<'_>, crop: &CropBox, out: &mut [f32]) {
        if self.keep == Keep::Square && crop.resize.is_none() {
            return self.normalise(image.pixels, self.side, crop, out);
        }
        let size = self.augmentation.size;
        let mut pixels = vec![0; self.normalised.len() * size * size];
        self.cut(image, crop, &mut pixels);
        self.normalise(&pixels, size, &CropBox::square(0, 0, size), out);
    }

    /// Cuts a box out of an image, scales it where it says so, and flips it: to [channels, size, size].
    pub fn cut(&self, image: Image<'_>, crop: &CropBox, out: &mut [u8]) {
        let (rows, columns) = crop.ranges();
        let size = self.augmentation.size;
        let axis = |range: Range<usize>| Axis::new(range, size, 0..size);
        let (rows, columns) = (axis(rows), axis(columns));
        match (self.keep, self.normalised.len()) {
            (Keep::Square, _) => {
                let planes = image.pixels.chunks_exact(self.side * self.side);
                for (plane, out) in planes.zip(out.chunks_exact_mut(size * size)) {
                    out.copy_from_slice(&resample::<1>(plane, image.width, &columns, &rows));
                }
            }
            (Keep::Whole, 1) => out.copy_from_slice(&resample::<1>(image.pixels, image.width, &columns, &rows)),
            (Keep::Whole, _) => {
                let pixels = resample::<3>(image.pixels, image.width, &columns, &rows);
                let (pixels, _) = pixels.as_chunks::<3>();
                for (channel, plane) in out.chunks_exact_mut(size * size).enumerate() {
                    plane.iter_mut().zip(pixels).for_each(|(out, pixel)| *out = pixel[channel]);
                }
            }
        }
        if crop.flip {
            out.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
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

/// The box of a random resized crop of an image of so many rows and columns, as torchvision draws it: ten attempts, then
/// the centre.
fn random_resized_crop(
    image @ [rows, columns]: [usize; 2],
    scale: (f64, f64),
    ratio: (f64, f64),
    rng: &mut Stream,
) -> CropBox {
    let within = |[top, left]: [usize; 2], [height, width]: [usize; 2]| CropBox {
        height,
        width,
        ..CropBox::square(top as isize, left as isize, 0)
    };
    for _ in 0..10 {
        let area = rows as f64 * columns as f64 * rng.uniform(scale.0, scale.1);
        let ratio = rng.uniform(ratio.0.ln(), ratio.1.ln()).exp();
        let (width, height) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
        if (1..=columns).contains(&width) && (1..=rows).contains(&height) {
            let top = rng.below((rows - height) as u64 + 1) as usize;
            let left = rng.below((columns - width) as u64 + 1) as usize;
            return within([top, left], [height, width]);
        }
    }
    // The largest that is neither wider nor higher than the ratios allow.
    let width = ((rows as f64 * ratio.1).round() as usize).clamp(1, columns);
    let height = ((columns as f64 / ratio.0).round() as usize).clamp(1, rows);
    within([(image[0] - height) / 2, (image[1] - width) / 2], [height, width])
}

#[cfg(test)]
mod tests {
    use super::super::decode_file;
    use super::super::tests::data;
    use super::*;
    use crate::random::Purpose;
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;

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
        let random = |seed| augmenter.random_crop([SIDE; 2], &mut Stream::new(Purpose::Augmentation, seed, (0, 0)));
        let crop = seed.map_or_else(|| augmenter.centre_crop([SIDE; 2]), random);
        augmenter.apply(augmenter.image(&image()).unwrap(), &crop, &mut out);
        out.into_iter().map(|value| value.round() as u8).collect()
    }

    #[test]
    fn values_are_normalised_channel_by_channel() {
        let data = Data { size: 1, mean: vec![0.5, 0.25, 0.0], std: vec![0.25, 0.5, 1.0], ..data() };
        let augmenter = Augmenter::new(&Augmentation { size: 1, crop: Crop::Centre, flip: false }, &data);
        let mut out = [0.0; 3];
        augmenter.apply(augmenter.image(&[0, 255, 51]).unwrap(), &augmenter.centre_crop([1; 2]), &mut out);
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
            augmenter.apply(augmenter.image(&image()).unwrap(), &canvas, &mut out);
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
            let crop = random_resized_crop([200; 2], (0.1, 0.5), (0.5, 2.0), &mut rng);
            let (area, ratio) = (crop.height * crop.width, crop.width as f64 / crop.height as f64);
            assert!((3900..20_200).contains(&area) && (0.49..2.05).contains(&ratio), "{crop:?}");
            let (rows, columns) = crop.ranges();
            assert!(rows.end <= 200 && columns.end <= 200);
        }
        // No region of that ratio has that area, so the largest centred one is taken.
        let crop = random_resized_crop([90; 2], (1.0, 1.0), (3.0, 3.0), &mut rng);
        assert_eq!(crop.ranges(), (30..60, 0..90));
    }

    /// What torchvision makes of images with Pillow (`tests/fixtures/make_crops.py`).
    fn fixture() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/crops.safetensors")).unwrap()
    }

    #[test]
    fn whole_images_and_their_crops_are_torchvisions() {
        let bytes = fixture();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let (short, size) = (32, 24);
        let data = Data { size: short, keep: Keep::Whole, mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3], ..data() };
        let crop = Crop::Resized { scale: (0.08, 1.0), ratio: (0.75, 1.333) };
        let augmenter = Augmenter::new(&Augmentation { size, crop, flip: true }, &data);
        let [mut input, mut flipped] = [(); 2].map(|()| vec![0.0; 3 * size * size]);
        for name in ["wide", "high", "square", "small"] {
            let of = |part: &str| expected.tensor(&format!("{name}.{part}")).unwrap();
            let file = |image: &TensorView<'_>| {
                let header = format!("P6\n{} {}\n255\n", image.shape()[1], image.shape()[0]);
                [header.as_bytes(), image.data()].concat()
            };
            let mut decoded = Vec::new();
            decode_file(&file(&of("source")), &data, &mut decoded).unwrap();
            assert!(decoded == file(&of("whole")), "{name}");
            let image = augmenter.image(&decoded).unwrap();
            let mut check = |crop: &CropBox, expected: &[u8], case: &str| {
                augmenter.apply(image, crop, &mut input);
                augmenter.apply(image, &CropBox { flip: true, ..*crop }, &mut flipped);
                for (at, &value) in input.iter().enumerate() {
                    let (channel, pixel) = (at / (size * size), at % (size * size));
                    assert_eq!(value.round() as u8, expected[3 * pixel + channel], "{name}, {case}, value {at}");
                    assert_eq!(value, flipped[at / size * size + size - 1 - at % size], "{name}, {case}, flipped");
                }
            };
            check(&augmenter.centre_crop([image.height, image.width]), of("centre").data(), "centre");
            let (boxes, crops) = (of("boxes"), of("crops"));
            let numbers: Vec<usize> =
                boxes.data().as_chunks::<8>().0.iter().map(|&number| u64::from_le_bytes(number) as usize).collect();
            for (box_of, expected) in numbers.chunks_exact(4).zip(crops.data().chunks_exact(3 * size * size)) {
                let [top, left] = [box_of[0], box_of[1]].map(|first| first as isize);
                let (height, width) = (box_of[2], box_of[3]);
                let crop = CropBox { height, width, resize: Some(size), ..CropBox::square(top, left, size) };
                check(&crop, expected, &format!("{crop:?}"));
            }
        }
    }

    #[test]
    fn random_resized_crops_are_distributed_as_torchvisions() {
        let bytes = fixture();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let mut rng = Stream::new(Purpose::Augmentation, 5, (0, 0));
        const DRAWS: usize = 20_000;
        for image @ [height, width] in [[256, 341], [341, 256], [256, 256], [20, 400], [300, 12]] {
            let drawn: Vec<[f64; 4]> = (0..DRAWS)
                .map(|_| random_resized_crop(image, (0.08, 1.0), (3.0 / 4.0, 4.0 / 3.0), &mut rng))
                .map(|crop| [crop.top as f64, crop.left as f64, crop.height as f64, crop.width as f64])
                .collect();
            let tensor = expected.tensor(&format!("drawn.{height}x{width}")).unwrap();
            let theirs: Vec<f64> =
                tensor.data().as_chunks::<8>().0.iter().map(|&one| f64::from_le_bytes(one)).collect();
            for part in 0..4 {
                let mean = drawn.iter().map(|numbers| numbers[part]).sum::<f64>() / DRAWS as f64;
                let square = drawn.iter().map(|numbers| (numbers[part] - mean).powi(2)).sum::<f64>() / DRAWS as f64;
                let (std, error) = (square.sqrt(), theirs[4 + part] * (2.0 / DRAWS as f64).sqrt());
                assert!((mean - theirs[part]).abs() <= 4.5 * error + 1e-9, "{image:?}, {part}: {mean} {theirs:?}");
                assert!((std - theirs[4 + part]).abs() <= 0.03 * std + 1e-9, "{image:?}, {part}: {std} {theirs:?}");
            }
        }
    }
}
