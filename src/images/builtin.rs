//! The built-in data set: ten classes of shapes in 32x32 colour, drawn anew from their numbers whenever they are read.

use super::shapes::{Point, SHAPES, stroke};
use super::{Content, Fault, Found, Store};
use crate::error::Result;
use crate::random::{Purpose, Stream};
use image::{DynamicImage, Rgb, RgbImage};
use std::f32::consts::TAU;

/// What the fingerprint of the data set is; changes with every change of a picture.
pub(super) const VERSION: &str = "10000 + 2000 pictures, version 1";

const TRAIN: usize = 10_000;
const VAL: usize = 2_000;
const SIDE: u32 = 32;

/// The data set; it needs no files.
pub(super) fn open() -> Found {
    let classes = SHAPES.iter().map(|(name, _)| (*name).to_string()).collect();
    let store = |split, count| Box::new(Pictures { split, count });
    Found::images(classes, store(0, TRAIN), store(1, VAL))
}

struct Pictures {
    split: u64,
    count: usize,
}

impl Store for Pictures {
    fn len(&self) -> usize {
        self.count
    }

    fn label(&self, index: usize) -> u32 {
        (index % SHAPES.len()) as u32
    }

    fn name(&self, index: usize) -> String {
        format!("built-in {} picture {index}", if self.split == 0 { "training" } else { "validation" })
    }

    fn place(&self, index: usize) -> String {
        self.name(index)
    }

    fn read(&self, index: usize, _most: u64) -> Result<Content, Fault> {
        let mut stream = Stream::new(Purpose::Picture, 0, (self.split, index as u64));
        Ok(Content::Pixels(DynamicImage::ImageRgb8(draw(self.label(index) as usize, &mut stream))))
    }
}

type Colour = [f32; 3];

/// Draws a picture: a background, strokes that mean nothing, the shape, and noise over all.
fn draw(label: usize, stream: &mut Stream) -> RgbImage {
    let background = Surface::random(between(stream, 0.2, 0.8), stream);
    // The shape may be brighter or darker than the background.
    let side = if stream.below(2) == 0 { -1.0 } else { 1.0 };
    let inside = Surface::random(background.level + side * between(stream, 0.2, 0.4), stream);
    let figure = Figure::random(label, stream);
    let strokes: Vec<Stroke> = (0..3).map(|_| Stroke::random(stream)).collect();
    let noise = between(stream, 0.04, 0.25);
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let point = Point { x: x as f32 + 0.5, y: y as f32 + 0.5 };
        let mut colour = background.at(point);
        for stroke in &strokes {
            colour = blend(colour, stroke.colour, stroke.distance(point));
        }
        colour = blend(colour, inside.at(point), figure.distance(point));
        let [a, b, c, d, e, f, ..] = stream.bits().to_le_bytes();
        let noise = [(a, b), (c, d), (e, f)].map(|(a, b)| noise * (f32::from(a) - f32::from(b)) / 256.0);
        Rgb(std::array::from_fn(|channel| to_byte(colour[channel] + noise[channel])))
    })
}

fn between(stream: &mut Stream, low: f64, high: f64) -> f32 {
    stream.uniform(low, high) as f32
}

/// A random colour around a brightness.
fn tint(level: f32, stream: &mut Stream) -> Colour {
    std::array::from_fn(|_| level + between(stream, -0.2, 0.2))
}

/// `over` where the distance from an edge is negative, `under` elsewhere, with a soft edge of one pixel.
fn blend(under: Colour, over: Colour, distance: f32) -> Colour {
    let cover = (0.5 - distance).clamp(0.0, 1.0);
    std::array::from_fn(|channel| under[channel] + cover * (over[channel] - under[channel]))
}

fn to_byte(value: f32) -> u8 {
    (value * 255.0).round().clamp(0.0, 255.0) as u8
}

/// A colour with a gradient and two plane waves over it.
struct Surface {
    level: f32,
    colour: Colour,
    slope: Wave,
    waves: [Wave; 2],
}

impl Surface {
    fn random(level: f32, stream: &mut Stream) -> Self {
        Self {
            level,
            colour: tint(level, stream),
            slope: Wave::random((60.0, 120.0), stream),
            waves: [Wave::random((4.0, 16.0), stream), Wave::random((4.0, 16.0), stream)],
        }
    }

    fn at(&self, point: Point) -> Colour {
        let mut colour = self.colour;
        for wave in self.waves.iter().chain([&self.slope]) {
            let height = wave.at(point);
            for (value, strength) in colour.iter_mut().zip(wave.colour) {
                *value += height * strength;
            }
        }
        colour
    }
}

/// A sine that runs over the picture.
struct Wave {
    /// Radians a pixel to the right and down.
    frequency: (f32, f32),
    phase: f32,
    colour: Colour,
}

impl Wave {
    fn random(length: (f64, f64), stream: &mut Stream) -> Self {
        let frequency = TAU / between(stream, length.0, length.1);
        let (sine, cosine) = between(stream, 0.0, std::f64::consts::TAU).sin_cos();
        let phase = between(stream, 0.0, std::f64::consts::TAU);
        let colour = tint(0.0, stream).map(|value| value * 0.4);
        Self { frequency: (frequency * cosine, frequency * sine), phase, colour }
    }

    fn at(&self, point: Point) -> f32 {
        (self.frequency.0 * point.x + self.frequency.1 * point.y + self.phase).sin()
    }
}

/// A shape with its place, size and direction.
struct Figure {
    shape: fn(Point) -> f32,
    middle: Point,
    radius: f32,
    /// Sine and cosine of its turn.
    turn: (f32, f32),
}

impl Figure {
    fn random(label: usize, stream: &mut Stream) -> Self {
        Self {
            shape: SHAPES[label].1,
            middle: Point { x: between(stream, 12.0, 20.0), y: between(stream, 12.0, 20.0) },
            radius: between(stream, 8.0, 15.0),
            turn: between(stream, -1.6, 1.6).sin_cos(),
        }
    }

    fn distance(&self, point: Point) -> f32 {
        let (x, y) = ((point.x - self.middle.x) / self.radius, (point.y - self.middle.y) / self.radius);
        (self.shape)(Point { x, y }.turned(self.turn)) * self.radius
    }
}

/// A straight stroke of one colour.
struct Stroke {
    ends: (Point, Point),
    half_width: f32,
    colour: Colour,
}

impl Stroke {
    fn random(stream: &mut Stream) -> Self {
        let side = f64::from(SIDE);
        let mut end = || Point { x: between(stream, 0.0, side), y: between(stream, 0.0, side) };
        let ends = (end(), end());
        let half_width = between(stream, 0.4, 1.5);
        let level = between(stream, 0.0, 1.0);
        Self { ends, half_width, colour: tint(level, stream) }
    }

    fn distance(&self, point: Point) -> f32 {
        stroke(point, self.ends.0, self.ends.1, self.half_width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(split: u64, index: usize) -> Vec<u8> {
        let Content::Pixels(image) = Pictures { split, count: 100 }.read(index, 0).unwrap() else {
            panic!("pictures are not encoded")
        };
        image.into_rgb8().into_raw()
    }

    #[test]
    fn a_picture_depends_on_its_split_and_number_only() {
        assert_eq!(picture(0, 7), picture(0, 7));
        assert_ne!(picture(0, 7), picture(0, 17));
        assert_ne!(picture(0, 7), picture(1, 7));
    }

    #[test]
    fn classes_are_balanced() {
        let found = open();
        let mut counts = [0; SHAPES.len()];
        (0..found.val.len()).for_each(|index| counts[found.val.label(index) as usize] += 1);
        assert_eq!(counts, [VAL / SHAPES.len(); SHAPES.len()]);
    }

    #[test]
    fn pictures_use_the_whole_range() {
        let values: Vec<u8> = (0..50).flat_map(|index| picture(0, index)).collect();
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
        assert!((100.0..155.0).contains(&mean), "{mean}");
        let clipped = values.iter().filter(|&&value| value == 0 || value == 255).count();
        assert!(clipped * 10 < values.len(), "{clipped}");
    }
}
