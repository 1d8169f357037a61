//! L-BFGS (Liu & Nocedal 1989) with a line search for the weak Wolfe conditions, in double precision.

use crate::error::Result;
use std::collections::VecDeque;

/// Where a search for a minimum has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Minimum {
    /// The place.
    pub at: Vec<f64>,
    /// The value there.
    pub value: f64,
    /// The largest value of the gradient there, in size.
    pub gradient: f64,
    /// Iterations.
    pub iterations: usize,
}

/// Pairs of steps and changes of the gradient that are remembered.
const MEMORY: usize = 10;
/// A step has to gain this share of what the slope promises, and to leave no more than that of the slope.
const GAIN: f64 = 1e-4;
const SLOPE: f64 = 0.9;
/// A value may be so much larger, relatively, by rounding alone.
const NOISE: f64 = 1e-7;
/// Tries of a line search at most.
const TRIES: usize = 40;

/// Looks for a minimum of a function from a start; `f` gives value and gradient. It ends where no value of the gradient is
/// larger than the tolerance, after so many iterations, or where rounding hides what is still to be gained.
///
/// # Errors
/// With the first error of `f`.
pub fn minimise(
    start: Vec<f64>,
    (iterations, tolerance): (usize, f64),
    mut f: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>)>,
) -> Result<Minimum> {
    let (mut at, (mut value, mut gradient)) = (start.clone(), f(&start)?);
    let mut pairs: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::new();
    let mut done = 0;
    while done < iterations && largest(&gradient) > tolerance {
        let direction = descent(&gradient, &pairs);
        let slope = dot(&gradient, &direction);
        // The first step knows nothing of the curvature.
        let mut length = if pairs.is_empty() { 1.0 / largest(&gradient).max(1.0) } else { 1.0 };
        let (mut low, mut high) = (0.0, f64::INFINITY);
        let mut found = None;
        for _ in 0..TRIES {
            let next: Vec<f64> = at.iter().zip(&direction).map(|(at, step)| at + length * step).collect();
            let (next_value, next_gradient) = f(&next)?;
            let enough = next_value <= value + GAIN * length * slope + NOISE * value.abs();
            if !enough {
                high = length;
            } else if dot(&next_gradient, &direction) < SLOPE * slope {
                low = length;
            } else {
                found = Some((next, next_value, next_gradient));
                break;
            }
            length = if high.is_finite() { (low + high) / 2.0 } else { 2.0 * low };
        }
        let Some((next, next_value, next_gradient)) = found else { break };
        let step: Vec<f64> = next.iter().zip(&at).map(|(new, old)| new - old).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        if dot(&step, &change) > f64::EPSILON * dot(&change, &change) {
            pairs.push_back((step, change));
        }
        if pairs.len() > MEMORY {
            pairs.pop_front();
        }
        (at, value, gradient) = (next, next_value, next_gradient);
        done += 1;
    }
    Ok(Minimum { gradient: largest(&gradient), at, value, iterations: done })
}

/// The direction of the next step: minus the gradient, times an estimate of the inverse second derivatives.
fn descent(gradient: &[f64], pairs: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|value| -value).collect();
    let mut shares = Vec::with_capacity(pairs.len());
    for (step, change) in pairs.iter().rev() {
        let share = dot(step, &direction) / dot(step, change);
        add(&mut direction, -share, change);
        shares.push(share);
    }
    if let Some((step, change)) = pairs.back() {
        let scale = dot(step, change) / dot(change, change);
        direction.iter_mut().for_each(|value| *value *= scale);
    }
    for ((step, change), share) in pairs.iter().zip(shares.into_iter().rev()) {
        let other = dot(change, &direction) / dot(step, change);
        add(&mut direction, share - other, step);
    }
    direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], times: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += times * what);
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most: f64, value| most.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_valley_of_rosenbrock_is_followed_to_its_end() {
        let f = |x: &[f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            Ok((a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b]))
        };
        let found = minimise(vec![-1.2, 1.0], (200, 1e-9), f).unwrap();
        assert!((found.at[0] - 1.0).abs() < 1e-8 && (found.at[1] - 1.0).abs() < 1e-8, "{found:?}");
        assert!(found.iterations < 60, "{found:?}");
    }

    #[test]
    fn it_ends_at_a_minimum_and_after_its_iterations() {
        let f = |x: &[f64]| {
            let value = x.iter().enumerate().map(|(at, x)| (at + 1) as f64 * x * x).sum();
            Ok((value, x.iter().enumerate().map(|(at, x)| 2.0 * (at + 1) as f64 * x).collect()))
        };
        assert_eq!(minimise(vec![0.0; 3], (10, 1e-6), f).unwrap().iterations, 0);
        assert_eq!(minimise(vec![1.0; 50], (3, 0.0), f).unwrap().iterations, 3);
        assert!(minimise(vec![1.0; 50], (100, 1e-6), f).unwrap().gradient <= 1e-6);
    }
}
