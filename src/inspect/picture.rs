//! Small pictures: pixels, grids of tiles, colours of values, and PNG files that say who wrote them.

use crate::error::{Error, Result};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

/// Red, green, blue.
pub type Colour = [u8; 3];

/// What lies behind tiles.
pub const BACKGROUND: Colour = [255, 255, 255];
/// What a PNG file of this program says of itself, behind its header.
const NOTE: &[u8] = b"Software\0greedy";
/// The quality of JPEG files, of 100.
const QUALITY: u8 = 80;
/// Bytes of a PNG's signature and of its first chunk.
const HEADER: usize = 8 + 4 + 4 + 13 + 4;

/// An RGB picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    pixels: Vec<Colour>,
}

impl Picture {
    /// A picture of one colour.
    pub fn new(width: usize, height: usize, colour: Colour) -> Self {
        Self { width, height, pixels: vec![colour; width * height] }
    }

    /// A picture whose pixels are made one by one, from column and row.
    pub fn from_fn(width: usize, height: usize, colour: impl Fn(usize, usize) -> Colour) -> Self {
        let pixels = (0..width * height).map(|at| colour(at % width, at / width)).collect();
        Self { width, height, pixels }
    }

    /// A square picture in shades of grey, from values between 0 and 1 at column and row.
    pub fn in_grey(side: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        Self::from_fn(side, side, |x, y| grey(value(x, y)))
    }

    /// An image \[channel, y, x\] of one or three channels and `side` rows.
    pub fn of_image(planes: &[u8], side: usize) -> Self {
        let plane = side * side;
        let channel = |number: usize| if planes.len() < 3 * plane { 0 } else { number * plane };
        Self::from_fn(side, side, |x, y| std::array::from_fn(|c| planes[channel(c) + y * side + x]))
    }

    /// The colour of a pixel.
    pub fn at(&self, x: usize, y: usize) -> Colour {
        self.pixels[y * self.width + x]
    }

    /// Puts another picture into this one, each of its pixels `scale` rows and columns large; what does not fit is left out.
    pub fn draw(&mut self, other: &Self, (left, top): (usize, usize), scale: usize) {
        for y in top..(top + other.height * scale).min(self.height) {
            for x in left..(left + other.width * scale).min(self.width) {
                self.pixels[y * self.width + x] = other.at((x - left) / scale, (y - top) / scale);
            }
        }
    }

    /// The picture reduced or enlarged to about so many rows: each pixel becomes a square of whole pixels, or each square
    /// of whole pixels its mean.
    pub fn resized(&self, rows: usize) -> Self {
        let factor = self.height.div_ceil(rows.max(1));
        let small = if factor > 1 { self.reduced(factor) } else { self.clone() };
        let scale = (rows / small.height.max(1)).max(1);
        let mut large = Self::new(small.width * scale, small.height * scale, BACKGROUND);
        large.draw(&small, (0, 0), scale);
        large
    }

    fn reduced(&self, factor: usize) -> Self {
        Self::from_fn(self.width.div_ceil(factor), self.height.div_ceil(factor), |x, y| {
            let rows = y * factor..((y + 1) * factor).min(self.height);
            let columns = x * factor..((x + 1) * factor).min(self.width);
            let count = (rows.len() * columns.len()) as u32;
            let mean = |c: usize| {
                let row = |y: usize| columns.clone().map(move |x| u32::from(self.at(x, y)[c])).sum::<u32>();
                ((rows.clone().map(row).sum::<u32>() + count / 2) / count) as u8
            };
            std::array::from_fn(mean)
        })
    }

    /// Pictures of one size side by side, in rows of so many, with gaps between them, so many pixels wide and of a colour.
    pub fn grid(tiles: &[Self], columns: usize, (gap, colour): (usize, Colour)) -> Self {
        let Some(first) = tiles.first() else { return Self::new(1, 1, colour) };
        let (width, height) = (first.width + gap, first.height + gap);
        let rows = tiles.len().div_ceil(columns.max(1));
        let columns = columns.clamp(1, tiles.len());
        let mut all = Self::new(columns * width - gap, rows * height - gap, colour);
        for (at, tile) in tiles.iter().enumerate() {
            all.draw(tile, (at % columns * width, at / columns * height), 1);
        }
        all
    }

    /// The picture above another, with a gap between them.
    pub fn above(&self, other: &Self, gap: usize) -> Self {
        let mut all = Self::new(self.width.max(other.width), self.height + gap + other.height, BACKGROUND);
        all.draw(self, (0, 0), 1);
        all.draw(other, (0, self.height + gap), 1);
        all
    }

    /// The picture with a frame around it.
    pub fn framed(&self, colour: Colour, thickness: usize) -> Self {
        let mut all = Self::new(self.width + 2 * thickness, self.height + 2 * thickness, colour);
        all.draw(self, (thickness, thickness), 1);
        all
    }

    /// Whether all pixels are shades of grey.
    pub fn is_grey(&self) -> bool {
        self.pixels.iter().all(|[red, green, blue]| red == green && green == blue)
    }

    /// A PNG file, with one channel where all is grey. The same picture gives the same bytes.
    ///
    /// # Errors
    /// When it is larger than a PNG can be.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        self.encode(PngEncoder::new_with_quality(&mut file, CompressionType::Best, FilterType::Adaptive))?;
        file.splice(HEADER..HEADER, note());
        Ok(file)
    }

    /// A JPEG file, with one channel where all is grey. The same picture gives the same bytes.
    ///
    /// # Errors
    /// When it is larger than a JPEG can be.
    pub fn jpeg(&self) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        self.encode(JpegEncoder::new_with_quality(&mut file, QUALITY))?;
        Ok(file)
    }

    fn encode(&self, encoder: impl ImageEncoder) -> Result<()> {
        let (width, height) = (self.width as u32, self.height as u32);
        let written = if self.is_grey() {
            let grey: Vec<u8> = self.pixels.iter().map(|pixel| pixel[0]).collect();
            encoder.write_image(&grey, width, height, ExtendedColorType::L8)
        } else {
            encoder.write_image(self.pixels.as_flattened(), width, height, ExtendedColorType::Rgb8)
        };
        written.map_err(|e| Error::failed(format!("cannot encode a picture of {width} x {height} pixels: {e}")))
    }
}

/// The chunk by which a PNG file of this program is known.
fn note() -> Vec<u8> {
    let body = [b"tEXt", NOTE].concat();
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &body) as u32;
    [&(NOTE.len() as u32).to_be_bytes()[..], &body, &sum.to_be_bytes()].concat()
}

/// Whether a file is a PNG that this program wrote.
pub(super) fn is_own_png(file: &[u8]) -> bool {
    file.get(HEADER..).is_some_and(|rest| rest.starts_with(&note()))
}

/// Colours from dark to light, for values from 0 to 1.
const RAMP: [Colour; 6] = [[8, 8, 24], [46, 32, 110], [132, 38, 129], [216, 76, 92], [250, 160, 70], [253, 246, 200]];
/// Colours of values from -1 over 0 to 1.
const SIGNED: [Colour; 5] = [[20, 60, 130], [110, 160, 215], [245, 245, 245], [230, 140, 90], [140, 30, 20]];

/// The colour of a value between 0 and 1.
pub(super) fn ramp(value: f32) -> Colour {
    between(&RAMP, value)
}

/// The colour of a value between -1 and 1; white stands for 0.
pub(super) fn signed(value: f32) -> Colour {
    between(&SIGNED, (value + 1.0) / 2.0)
}

/// The grey of a value between 0 and 1.
fn grey(value: f32) -> Colour {
    [level(value); 3]
}

/// A value between 0 and 1 as a byte.
pub(super) fn level(value: f32) -> u8 {
    (255.0 * value.clamp(0.0, 1.0)).round() as u8
}

fn between(colours: &[Colour], value: f32) -> Colour {
    let place = value.clamp(0.0, 1.0) * (colours.len() - 1) as f32;
    if place.is_nan() {
        return colours[0];
    }
    let at = (place as usize).min(colours.len() - 2);
    let part = place - at as f32;
    let mix = |c: usize| f32::from(colours[at][c]) * (1.0 - part) + f32::from(colours[at + 1][c]) * part;
    std::array::from_fn(|c| mix(c).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_is_read_back_by_the_decoder_with_its_pixels_and_known_as_ours() {
        let picture = Picture::from_fn(5, 3, |x, y| [x as u8 * 50, y as u8 * 80, 7]);
        let file = picture.png().unwrap();
        assert!(is_own_png(&file) && file == picture.png().unwrap());
        let read = image::load_from_memory(&file).unwrap().to_rgb8();
        assert_eq!(read.dimensions(), (5, 3));
        assert!((0..15).all(|at| read.get_pixel(at % 5, at / 5).0 == picture.at(at as usize % 5, at as usize / 5)));
        let grey = Picture::in_grey(3, |x, y| (x + y) as f32 / 4.0);
        assert!(grey.is_grey() && !picture.is_grey());
        let read = image::load_from_memory(&grey.png().unwrap()).unwrap();
        assert_eq!((read.color(), read.to_rgb8().get_pixel(2, 1).0), (image::ColorType::L8, [191; 3]));
        let others = std::fs::read("tests/fixtures/images/rgba.png").unwrap();
        assert!(!is_own_png(&others) && !is_own_png(&file[..20]));
    }

    #[test]
    fn tiles_stand_in_rows_with_gaps_between_them() {
        let tile = |value: u8| Picture::new(2, 2, [value; 3]);
        let grid = Picture::grid(&[tile(1), tile(2), tile(3)], 2, (1, BACKGROUND));
        assert_eq!((grid.width, grid.height), (5, 5));
        assert_eq!([grid.at(0, 0), grid.at(2, 0), grid.at(3, 1)], [[1; 3], BACKGROUND, [2; 3]]);
        assert_eq!([grid.at(0, 3), grid.at(4, 4)], [[3; 3], BACKGROUND]);
    }

    #[test]
    fn pictures_are_enlarged_by_whole_pixels_and_reduced_to_means() {
        let picture = Picture::from_fn(2, 2, |x, y| [(x * 100 + y * 40) as u8; 3]);
        let large = picture.resized(7);
        assert_eq!((large.width, large.height, large.at(2, 3), large.at(3, 5)), (6, 6, [40; 3], [140; 3]));
        assert_eq!(large.resized(2).pixels, picture.pixels);
        assert_eq!(picture.resized(1).at(0, 0), [70; 3]);
    }

    #[test]
    fn values_beyond_the_range_and_no_numbers_have_a_colour() {
        assert_eq!([ramp(-1.0), ramp(0.0), ramp(f32::NAN)], [RAMP[0]; 3]);
        assert_eq!([ramp(1.0), ramp(9.0)], [RAMP[5]; 2]);
        assert_eq!([signed(0.0), signed(-2.0), signed(1.0)], [SIGNED[2], SIGNED[0], SIGNED[4]]);
    }
}
