//! Two stages side by side: how far their features are apart, how alike what they represent is, where they predict the same.

use super::sampling::spread;
use super::similarity::cka;
use super::validation::{AT_ONCE, Features, Matrix, averages};
use crate::error::Result;
use crate::features::{Split, has_logits, read_labels, read_logits};
use crate::pipeline::Shape;
use crate::progress::Progress;
use crate::run::{Record, StageFolder};
use crate::training::score;

/// Rows and columns that a map is averaged to before it is compared as a whole.
const GRID: usize = 4;
/// Samples that are compared at most: similarity takes a matrix of all pairs.
const MOST_SAMPLES: usize = 2048;

/// What two stages have in common. All of it is of the validation samples.
pub struct Comparison {
    /// The shapes of their features.
    pub shapes: [Shape; 2],
    /// Validation samples of each.
    pub samples: [usize; 2],
    /// Whether classes and labels are the same: only then samples are compared one by one.
    pub same_labels: bool,
    /// Samples whose features were looked at, spread evenly.
    pub compared: usize,
    /// Value by value, where the shapes are the same.
    pub values: Option<Differences>,
    /// How alike what they represent is.
    pub similarity: Option<Similarity>,
    /// Their predictions, where both have logits.
    pub predictions: Option<Predictions>,
}

/// Differences of two stages of the same shape.
pub struct Differences {
    /// Of all values.
    pub all: Difference,
    /// Of each channel.
    pub channels: Vec<Difference>,
}

/// How far values of a second stage are from those of a first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The means of both.
    pub means: [f64; 2],
    /// The length of the difference, as a share of the length of the first; nothing where that is all zero.
    pub relative: Option<f64>,
    /// Pearson's correlation; nothing where one of them is constant.
    pub correlation: Option<f64>,
}

/// Linear CKA (centred kernel alignment): 1 where the features are the same but for rotation, shift and a common scale.
pub struct Similarity {
    /// Of features averaged over pixels.
    pub averaged: f64,
    /// Of maps averaged to a small grid, then flattened.
    pub spatial: f64,
    /// The sides of these grids.
    pub grids: [usize; 2],
}

/// What the classifiers of two stages say of the same samples, in percent.
pub struct Predictions {
    /// Where both name the same class.
    pub agreement: f64,
    /// How many samples each has right.
    pub accuracy: [f64; 2],
    /// Where both are right.
    pub both: f64,
    /// Where just one of them is.
    pub only: [f64; 2],
    /// Samples.
    pub samples: usize,
}

/// Compares two finished stages on at most so many samples.
///
/// # Errors
/// When features, labels or logits are missing or damaged, or the user interrupts.
pub fn compare(stages: [(&StageFolder, &Record); 2], most: usize, progress: &dyn Progress) -> Result<Comparison> {
    let features = [Features::open(stages[0].0, stages[0].1)?, Features::open(stages[1].0, stages[1].1)?];
    let labels = [read_labels(stages[0].0.path(), Split::Val)?, read_labels(stages[1].0.path(), Split::Val)?];
    let shapes = [features[0].shape(), features[1].shape()];
    let samples = [features[0].samples(), features[1].samples()];
    let same_labels = labels[0] == labels[1] && stages[0].1.classes == stages[1].1.classes && samples[0] == samples[1];
    let mut found =
        Comparison { shapes, samples, same_labels, compared: 0, values: None, similarity: None, predictions: None };
    if !same_labels {
        return Ok(found);
    }
    let chosen = spread(samples[0], most.min(MOST_SAMPLES));
    found.compared = chosen.len();
    let mut sums = vec![Sums::default(); if shapes[0] == shapes[1] { shapes[0].channels } else { 0 }];
    let mut averaged = shapes.map(|shape| Matrix { columns: shape.channels, values: Vec::new() });
    let grids = shapes.map(|shape| GRID.min(shape.size));
    let mut spatial =
        [0, 1].map(|at| Matrix { columns: shapes[at].channels * grids[at] * grids[at], values: Vec::new() });
    let task = progress.start("compare features", chosen.len() as u64);
    for block in chosen.chunks(AT_ONCE) {
        progress.check()?;
        let both = [features[0].read(block)?, features[1].read(block)?];
        for at in [0, 1] {
            for sample in both[at].chunks_exact(shapes[at].values()) {
                averaged[at].values.extend(averages(sample, shapes[at]));
                spatial[at].values.extend(pooled(sample, shapes[at].size, grids[at]));
            }
        }
        if shapes[0] == shapes[1] {
            let plane = shapes[0].size * shapes[0].size;
            for (at, (a, b)) in both[0].chunks_exact(plane).zip(both[1].chunks_exact(plane)).enumerate() {
                sums[at % shapes[0].channels].add(a, b);
            }
        }
        task.advance(block.len() as u64);
    }
    drop(task);
    if !sums.is_empty() {
        let all = sums.iter().fold(Sums::default(), |all, sum| all.plus(sum));
        found.values =
            Some(Differences { all: all.difference(), channels: sums.iter().map(Sums::difference).collect() });
    }
    let [a, b] = &averaged;
    let [whole_a, whole_b] = &spatial;
    found.similarity = Some(Similarity { averaged: cka(a, b), spatial: cka(whole_a, whole_b), grids });
    if stages.iter().all(|(folder, _)| has_logits(folder.path(), Split::Val)) {
        let logits = [read_logits(stages[0].0.path(), Split::Val)?.0, read_logits(stages[1].0.path(), Split::Val)?.0];
        found.predictions = predictions(&logits, &labels[0], stages[0].1.classes.len());
    }
    Ok(found)
}

/// Each map \[y, x\] of a sample averaged to a grid.
fn pooled(sample: &[f32], size: usize, grid: usize) -> Vec<f32> {
    let cells = |cell: usize| cell * size / grid..((cell + 1) * size).div_ceil(grid);
    let mut out = Vec::with_capacity(sample.len() / (size * size).max(1) * grid * grid);
    for plane in sample.chunks_exact((size * size).max(1)) {
        for (y, x) in (0..grid).flat_map(|y| (0..grid).map(move |x| (y, x))) {
            let (rows, columns) = (cells(y), cells(x));
            let count = (rows.len() * columns.len()) as f32;
            let sum: f32 = rows.map(|row| plane[row * size..][columns.clone()].iter().sum::<f32>()).sum();
            out.push(sum / count);
        }
    }
    out
}

/// Sums over pairs of values.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: f64,
    a: f64,
    b: f64,
    aa: f64,
    bb: f64,
    ab: f64,
    apart: f64,
}

impl Sums {
    fn add(&mut self, a: &[f32], b: &[f32]) {
        for (&a, &b) in a.iter().zip(b) {
            let (a, b) = (f64::from(a), f64::from(b));
            self.count += 1.0;
            self.a += a;
            self.b += b;
            self.aa += a * a;
            self.bb += b * b;
            self.ab += a * b;
            self.apart += (b - a) * (b - a);
        }
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            a: self.a + other.a,
            b: self.b + other.b,
            aa: self.aa + other.aa,
            bb: self.bb + other.bb,
            ab: self.ab + other.ab,
            apart: self.apart + other.apart,
        }
    }

    fn difference(&self) -> Difference {
        let count = self.count.max(1.0);
        let covariance = |product: f64, a: f64, b: f64| product / count - a / count * (b / count);
        let (va, vb) = (covariance(self.aa, self.a, self.a), covariance(self.bb, self.b, self.b));
        // Rounding leaves a trace of a variance where there is none.
        let varies = |variance: f64, squares: f64| variance > 1e-12 * squares / count;
        let both = varies(va, self.aa) && varies(vb, self.bb);
        Difference {
            means: [self.a / count, self.b / count],
            relative: (self.aa > 0.0).then(|| (self.apart / self.aa).sqrt()),
            correlation: both.then(|| covariance(self.ab, self.a, self.b) / (va * vb).sqrt()),
        }
    }
}

/// Nothing where the logits are not those of the labels' samples.
fn predictions(logits: &[Vec<f32>; 2], labels: &[u32], classes: usize) -> Option<Predictions> {
    if classes == 0 || labels.is_empty() || logits.iter().any(|all| all.len() != labels.len() * classes) {
        return None;
    }
    // The first of equal logits, as in every other figure.
    let first = |row: &[f32]| (0..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best });
    let named = logits.each_ref().map(|all| all.chunks_exact(classes).map(first).collect::<Vec<usize>>());
    let share = |is: &dyn Fn(usize) -> bool| {
        100.0 * (0..labels.len()).filter(|&at| is(at)).count() as f64 / labels.len() as f64
    };
    let right = |which: usize, at: usize| named[which][at] == labels[at] as usize;
    Some(Predictions {
        agreement: share(&|at| named[0][at] == named[1][at]),
        accuracy: logits.each_ref().map(|all| score(all, labels).top1),
        both: share(&|at| right(0, at) && right(1, at)),
        only: [share(&|at| right(0, at) && !right(1, at)), share(&|at| !right(0, at) && right(1, at))],
        samples: labels.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_of_the_definitions() {
        let (a, b) = ([1.0f32, 2.0, 3.0, 6.0], [1.5f32, 2.0, 2.0, 7.0]);
        let mut sums = Sums::default();
        sums.add(&a, &b);
        let found = sums.difference();
        assert_eq!(found.means, [3.0, 3.125]);
        assert!((found.relative.unwrap() - (2.25f64 / 50.0).sqrt()).abs() < 1e-12);
        // By hand: centred a = -2 -1 0 3, b = -1.625 -1.125 -1.125 3.875.
        let (va, vb, ab): (f64, f64, f64) = (14.0, 20.1875, 16.0);
        assert!((found.correlation.unwrap() - ab / (va * vb).sqrt()).abs() < 1e-12, "{:?}", found.correlation);
        let mut dead = Sums::default();
        dead.add(&[0.0; 4], &[0.1; 4]);
        assert_eq!((dead.difference().relative, dead.difference().correlation), (None, None));
    }

    #[test]
    fn maps_are_averaged_to_cells_that_cover_all_pixels() {
        let plane: Vec<f32> = (0..25).map(|at| at as f32).collect();
        // Two cells of three rows and columns each, which share the middle.
        assert_eq!(pooled(&plane, 5, 2), [6.0, 8.0, 16.0, 18.0]);
        assert_eq!(pooled(&plane, 5, 1), [12.0]);
        assert_eq!(pooled(&plane, 5, 5), plane);
    }

    #[test]
    fn predictions_are_counted_by_who_is_right() {
        let logits = [vec![1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0], vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]];
        let found = predictions(&logits, &[0, 1, 0, 1], 2).unwrap();
        assert_eq!((found.agreement, found.both, found.only), (50.0, 25.0, [25.0, 25.0]));
        assert_eq!(found.accuracy, [50.0, 50.0]);
        assert!(predictions(&logits, &[0, 1, 0], 2).is_none());
    }
}
