//! A stored image becomes an input of the network: cropped, mirrored, normalised.

use super::decode::centre;
use super::resample::{Axis, resample};
use crate::pipeline::{Augmentation, Crop, Data};
use crate::random::Stream;
use std::ops::Range;

/// Crops, mirrors and normalises images as one pipeline demands.
pub struct Augmenter {
    augmentation: Augmentation,
    /// The side of a stored image.
    stored: usize,
    /// For each channel, the normalised value of each u8.
    normalised: Vec<[f32; 256]>,
}

/// A square that is cut out of a stored image, whose surroundings are taken to be black.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first row in the stored image.
    pub top: isize,
    /// Its first column there.
    pub left: isize,
    /// Rows and columns.
    pub size: usize,
    /// Whether its rows are mirrored once they are cut out.
    pub mirrored: bool,
}

/// What is shown of a stored image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A window, pixel by pixel.
    Window(Window),
    /// A region that is scaled to the size of an input.
    Scaled {
        /// Rows of the stored image.
        rows: Range<usize>,
        /// Columns of it.
        columns: Range<usize>,
        /// Whether the rows are mirrored.
        mirrored: bool,
    },
}

/// A whole image with its padding, from which crops are taken later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canvas {
    /// Pixels by which it is moved, down and right: crops by whole steps of features reach other pixels then.
    pub moved: (usize, usize),
    /// Whether it is mirrored (before it is moved).
    pub mirrored: bool,
}

impl Augmenter {
    /// Prepares for images that are stored as `data` says.
    pub fn new(augmentation: &Augmentation, data: &Data) -> Self {
        let table = |(mean, std): (&f32, &f32)| std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std);
        let normalised = data.mean.iter().zip(&data.std).map(table).collect();
        Self { augmentation: *augmentation, stored: data.size, normalised }
    }

    /// For each channel, the normalised value of each u8.
    pub fn table(&self) -> &[[f32; 256]] {
        &self.normalised
    }

    /// Whether random crops are scaled.
    pub fn scales(&self) -> bool {
        matches!(self.augmentation.crop, Crop::Resized { .. })
    }

    /// Draws what is shown of an image.
    ///
    /// With a stream of draws the crop and the flip are random as the pipeline says, always drawn in this order: what
    /// the crop needs (for a padded one down, then right), then the flip. Without, it is the centre, not mirrored.
    /// Padding is black and added before normalisation, as in the paper's code.
    pub fn draw(&self, draw: Option<&mut Stream>) -> Part {
        let size = self.augmentation.size;
        let middle = centre(self.stored - size) as isize;
        let centre = Window { top: middle, left: middle, size, mirrored: false };
        let Some(stream) = draw else { return Part::Window(centre) };
        let flip = |stream: &mut Stream| self.augmentation.flip && stream.below(2) == 1;
        match self.augmentation.crop {
            Crop::Centre => Part::Window(Window { mirrored: flip(stream), ..centre }),
            Crop::Padded { padding } => {
                let room = (self.stored + 2 * padding - size) as u64 + 1;
                let mut offset = || stream.below(room) as isize - padding as isize;
                let (top, left) = (offset(), offset());
                Part::Window(Window { top, left, size, mirrored: flip(stream) })
            }
            Crop::Resized { scale, ratio } => {
                let (rows, columns) = draw_region(self.stored, scale, ratio, stream);
                Part::Scaled { rows, columns, mirrored: flip(stream) }
            }
        }
    }

    /// Turns a part of a stored image [channels, stored, stored] into an input [channels, size, size] of the part's size.
    ///
    /// # Panics
    /// When `stored` or `out` has not the length that the pipeline demands.
    pub fn show(&self, stored: &[u8], part: &Part, out: &mut [f32]) {
        match part {
            Part::Window(window) => self.write(stored, self.stored, window, out),
            Part::Scaled { rows, columns, mirrored } => {
                let size = self.augmentation.size;
                let window = Window { top: 0, left: 0, size, mirrored: *mirrored };
                self.write(&self.scale(stored, rows.clone(), columns.clone()), size, &window, out);
            }
        }
    }

    /// Draws the canvas of a view: those of odd numbers are mirrored, and all are moved by less than `step` pixels.
    pub fn draw_canvas(&self, view: usize, step: usize, stream: &mut Stream) -> Canvas {
        let room = self.stored + 2 * self.padding() - self.augmentation.size;
        let mut moved = || stream.below(step.min(room + 1) as u64) as usize;
        Canvas { moved: (moved(), moved()), mirrored: self.augmentation.flip && view % 2 == 1 }
    }

    /// The canvas that validation images lie on, and the first row and column of the centre on it: a multiple of `step`
    /// pixels, so that the centre can be cut out of features as well.
    pub fn centred_canvas(&self, step: usize) -> (Canvas, usize) {
        let place = self.padding() + centre(self.stored - self.augmentation.size);
        let moved = place.next_multiple_of(step.max(1)) - place;
        (Canvas { moved: (moved, moved), mirrored: false }, place + moved)
    }

    /// The part of a stored image that is a canvas: all of it with its padding.
    pub fn canvas(&self, canvas: Canvas) -> Part {
        let (padding, (down, right)) = (self.padding() as isize, canvas.moved);
        // Rows are mirrored after they are cut out, so a mirrored canvas moves to the right by a window further right.
        let left = if canvas.mirrored { right as isize - padding } else { -padding - right as isize };
        let (top, size) = (-padding - down as isize, self.stored + 2 * self.padding());
        Part::Window(Window { top, left, size, mirrored: canvas.mirrored })
    }

    fn padding(&self) -> usize {
        match self.augmentation.crop {
            Crop::Padded { padding } => padding,
            Crop::Centre | Crop::Resized { .. } => 0,
        }
    }

    /// Scales a region of a stored image to [channels, size, size].
    pub fn scale(&self, stored: &[u8], rows: Range<usize>, columns: Range<usize>) -> Vec<u8> {
        let axis = |region| Axis::new(region, self.augmentation.size, 0..self.augmentation.size);
        let (rows, columns) = (axis(rows), axis(columns));
        let planes = stored.chunks_exact(self.stored * self.stored);
        planes.flat_map(|plane| resample::<1>(plane, self.stored, &columns, &rows)).collect()
    }

    /// Normalises a window of an image [channels, side, side].
    fn write(&self, pixels: &[u8], side: usize, window: &Window, out: &mut [f32]) {
        let (size, channels) = (window.size, self.normalised.len());
        assert_eq!((pixels.len(), out.len()), (channels * side * side, channels * size * size));
        let (first, before) = (window.left.max(0) as usize, (-window.left).max(0) as usize);
        let planes = pixels.chunks_exact(side * side).zip(&self.normalised).zip(out.chunks_exact_mut(size * size));
        for ((plane, table), out) in planes {
            for (y, out) in (window.top..).zip(out.chunks_exact_mut(size)) {
                out.fill(table[0]);
                if let Some(row) = usize::try_from(y).ok().and_then(|y| plane.chunks_exact(side).nth(y)) {
                    for (value, &pixel) in out.iter_mut().skip(before).zip(row.iter().skip(first)) {
                        *value = table[usize::from(pixel)];
                    }
                }
                if window.mirrored {
                    out.reverse();
                }
            }
        }
    }
}

/// Draws the region of a random resized crop, rows and columns, as torchvision does: ten attempts, then the centre.
fn draw_region(side: usize, scale: (f64, f64), ratio: (f64, f64), stream: &mut Stream) -> (Range<usize>, Range<usize>) {
    let full = side as f64;
    for _ in 0..10 {
        let area = full * full * stream.uniform(scale.0, scale.1);
        let ratio = stream.uniform(ratio.0.ln(), ratio.1.ln()).exp();
        let (width, height) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
        if (1..=side).contains(&width) && (1..=side).contains(&height) {
            let top = stream.below((side - height) as u64 + 1) as usize;
            let left = stream.below((side - width) as u64 + 1) as usize;
            return (top..top + height, left..left + width);
        }
    }
    // A square is wider than no ratio below one and higher than no ratio above one allows.
    let width = if ratio.1 < 1.0 { (full * ratio.1).round() as usize } else { side };
    let height = if ratio.0 > 1.0 { (full / ratio.0).round() as usize } else { side };
    let (width, height) = (width.max(1), height.max(1));
    let (top, left) = ((side - height) / 2, (side - width) / 2);
    (top..top + height, left..left + width)
}

#[cfg(test)]
mod tests {
    use super::super::tests::data;
    use super::*;
    use crate::random::Purpose;

    const SIDE: usize = 6;

    /// Every pixel of the three planes has a value of its own.
    fn stored() -> Vec<u8> {
        (1..=(3 * SIDE * SIDE) as u8).collect()
    }

    fn augmenter(size: usize, crop: Crop, flip: bool) -> Augmenter {
        let data = Data { size: SIDE, mean: vec![0.0; 3], std: vec![1.0 / 255.0; 3], ..data() };
        Augmenter::new(&Augmentation { size, crop, flip }, &data)
    }

    /// Applies with draw number `seed`, rounded back to u8.
    fn applied(augmenter: &Augmenter, seed: Option<u64>) -> Vec<u8> {
        let mut out = vec![-1.0; 3 * augmenter.augmentation.size.pow(2)];
        let mut stream = seed.map(|seed| Stream::new(Purpose::Augmentation, seed, (0, 0)));
        augmenter.show(&stored(), &augmenter.draw(stream.as_mut()), &mut out);
        out.into_iter().map(|value| value.round() as u8).collect()
    }

    #[test]
    fn values_are_normalised_channel_by_channel() {
        let data = Data { size: 1, mean: vec![0.5, 0.25, 0.0], std: vec![0.25, 0.5, 1.0], ..data() };
        let augmenter = Augmenter::new(&Augmentation { size: 1, crop: Crop::Centre, flip: false }, &data);
        let mut out = [0.0; 3];
        augmenter.show(&[0, 255, 51], &augmenter.draw(None), &mut out);
        assert_eq!(out, [-2.0, 1.5, 0.2]);
    }

    #[test]
    fn without_draws_the_centre_is_taken_and_not_mirrored() {
        let cropped = applied(&augmenter(2, Crop::Padded { padding: 1 }, true), None);
        assert_eq!(cropped[..4], [15, 16, 21, 22]);
        assert_eq!(applied(&augmenter(SIDE, Crop::Centre, true), None), stored());
    }

    #[test]
    fn a_padded_crop_is_the_part_of_the_padded_image_that_was_drawn() {
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
                y.zip(x).map_or(0, |(y, x)| stored()[(channel * SIDE + y) * SIDE + x])
            };
            let expected: Vec<u8> =
                (0..3 * size * size).map(|at| pixel(at / (size * size), at / size % size, at % size)).collect();
            assert_eq!(applied(&augmenter, Some(seed)), expected, "draw {seed}");
        }
    }

    #[test]
    fn a_crop_of_a_canvas_is_a_padded_crop() {
        let (size, padding, step) = (4, 3, 2);
        let augmenter = augmenter(size, Crop::Padded { padding }, true);
        let side = SIDE + 2 * padding;
        for seed in 0..200 {
            let canvas = augmenter.draw_canvas(seed, step, &mut Stream::new(Purpose::View, 0, (seed as u64, 0)));
            assert!(canvas.moved.0 < step && canvas.moved.1 < step && canvas.mirrored == (seed % 2 == 1));
            let mut out = vec![-1.0; 3 * side * side];
            augmenter.show(&stored(), &augmenter.canvas(canvas), &mut out);
            for (channel, y, x) in (0..3 * side * side).map(|at| (at / (side * side), at / side % side, at % side)) {
                let (row, column) = (y.checked_sub(padding + canvas.moved.0), x.checked_sub(padding + canvas.moved.1));
                let inside = row.zip(column).filter(|&(row, column)| row < SIDE && column < SIDE);
                let expected = inside.map_or(0, |(row, column)| {
                    let column = if canvas.mirrored { SIDE - 1 - column } else { column };
                    stored()[(channel * SIDE + row) * SIDE + column]
                });
                let found = out[(channel * side + y) * side + x].round() as u8;
                assert_eq!(found, expected, "draw {seed}, {canvas:?}, {channel} {y} {x}");
            }
        }
    }

    #[test]
    fn half_the_images_are_mirrored() {
        let augmenter = augmenter(SIDE, Crop::Centre, true);
        let mirrored = (0..1000).filter(|&seed| applied(&augmenter, Some(seed)) != stored()).count();
        assert!((450..550).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn a_resized_crop_of_the_whole_image_changes_nothing() {
        let augmenter = augmenter(SIDE, Crop::Resized { scale: (1.0, 1.0), ratio: (1.0, 1.0) }, false);
        assert_eq!(applied(&augmenter, Some(1)), stored());
    }

    #[test]
    fn regions_have_the_area_and_the_ratio_asked_for() {
        let mut stream = Stream::new(Purpose::Augmentation, 0, (0, 0));
        for _ in 0..1000 {
            let (rows, columns) = draw_region(200, (0.1, 0.5), (0.5, 2.0), &mut stream);
            let (area, ratio) = (rows.len() * columns.len(), columns.len() as f64 / rows.len() as f64);
            assert!((3900..20_200).contains(&area) && (0.49..2.05).contains(&ratio), "{rows:?} {columns:?}");
            assert!(rows.end <= 200 && columns.end <= 200);
        }
        // No region of that ratio has that area, so the largest centred one is taken.
        assert_eq!(draw_region(90, (1.0, 1.0), (3.0, 3.0), &mut stream), (30..60, 0..90));
    }
}
