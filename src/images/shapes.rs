//! The ten shapes of the built-in data set, each a function that is negative inside and grows by one a unit outside.

use std::f32::consts::{FRAC_PI_2, TAU};

/// A point on the plane of a shape, which fits into the unit circle around the origin.
#[derive(Clone, Copy)]
pub(super) struct Point {
    pub x: f32,
    pub y: f32,
}

impl Point {
    fn length(self) -> f32 {
        self.x.hypot(self.y)
    }

    /// The point turned about the origin.
    pub fn turned(self, (sine, cosine): (f32, f32)) -> Self {
        Self { x: cosine * self.x + sine * self.y, y: cosine * self.y - sine * self.x }
    }

    fn moved(self, x: f32, y: f32) -> Self {
        Self { x: self.x - x, y: self.y - y }
    }
}

/// A name and the distance of a point from the shape's edge.
pub(super) type Shape = (&'static str, fn(Point) -> f32);

/// The shapes; a label is an index into them.
pub(super) const SHAPES: [Shape; 10] = [
    ("disc", |p| disc(p, 0.8)),
    ("ring", |p| (disc(p, 0.7)).abs() - 0.2),
    ("square", |p| rectangle(p, 0.68, 0.68)),
    ("frame", |p| (rectangle(p, 0.62, 0.62)).abs() - 0.17),
    ("triangle", |p| polygon(p.moved(0.0, 0.1), 3, 0.5)),
    ("star", star),
    ("plus", |p| rectangle(p, 0.9, 0.27).min(rectangle(p, 0.27, 0.9))),
    ("crescent", |p| disc(p, 0.9).max(-disc(p.moved(0.45, 0.0), 0.75))),
    ("hourglass", |p| ((p.x.abs() - p.y.abs()) * 0.707).max(p.y.abs() - 0.75)),
    ("bars", |p| rectangle(Point { x: p.x, y: p.y.abs() - 0.5 }, 0.8, 0.23)),
];

fn disc(p: Point, radius: f32) -> f32 {
    p.length() - radius
}

/// Distance from a rectangle with the half sides `x` and `y`; from its corners it is taken along an axis.
fn rectangle(p: Point, x: f32, y: f32) -> f32 {
    (p.x.abs() - x).max(p.y.abs() - y)
}

/// A regular polygon whose sides are `inner` from the middle.
fn polygon(p: Point, sides: u8, inner: f32) -> f32 {
    let sector = TAU / f32::from(sides);
    let angle = (p.y.atan2(p.x) + FRAC_PI_2).rem_euclid(sector) - sector / 2.0;
    p.length() * angle.cos() - inner
}

/// A star of five points.
fn star(p: Point) -> f32 {
    let sector = TAU / 5.0;
    let angle = ((p.y.atan2(p.x) + FRAC_PI_2 + sector / 2.0).rem_euclid(sector) - sector / 2.0).abs();
    let (sine, cosine) = angle.sin_cos();
    // The edge runs from the tip at distance 1 to the notch half a sector on.
    let (notch_sine, notch_cosine) = (sector / 2.0).sin_cos();
    let (edge_x, edge_y) = (0.45 * notch_cosine - 1.0, 0.45 * notch_sine);
    let (x, y) = (p.length() * cosine - 1.0, p.length() * sine);
    (y * -edge_x + x * edge_y) / edge_x.hypot(edge_y)
}

/// Distance from the stroke between two points.
pub(super) fn stroke(p: Point, from: Point, to: Point, half_width: f32) -> f32 {
    let (along, here) = (to.moved(from.x, from.y), p.moved(from.x, from.y));
    let part = ((here.x * along.x + here.y * along.y) / along.length().powi(2).max(1e-6)).clamp(0.0, 1.0);
    here.moved(along.x * part, along.y * part).length() - half_width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_lie_in_the_unit_circle_and_cover_a_part_of_it() {
        for (name, distance) in SHAPES {
            let grid = (0..100).flat_map(|y| (0..100).map(move |x| (x as f32 / 49.5 - 1.0, y as f32 / 49.5 - 1.0)));
            let inside: Vec<_> = grid.filter(|&(x, y)| distance(Point { x, y }) < 0.0).collect();
            assert!(inside.iter().all(|(x, y)| x.hypot(*y) < 1.1), "{name}");
            assert!((1000..6000).contains(&inside.len()), "{name} covers {}", inside.len());
        }
    }
}
