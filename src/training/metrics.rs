//! Top-1 and top-5 accuracy, loss, and the weighted ensemble of all stages.

use crate::pipeline::Average;

/// How well logits agree with labels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Percentage of samples whose label has the largest logit.
    pub top1: f64,
    /// Percentage of samples whose label is among the five largest logits.
    pub top5: f64,
    /// Mean cross entropy, in nats.
    pub loss: f64,
}

/// Scores logits \[sample, class\] against labels \[sample\].
///
/// A class with an equal logit and a smaller number goes first, so that constant logits gain nothing.
pub fn score(logits: &[f32], labels: &[u32]) -> Score {
    let classes = logits.len().checked_div(labels.len()).unwrap_or(0);
    let (mut top1, mut top5, mut loss) = (0usize, 0usize, 0.0);
    for (row, &label) in logits.chunks_exact(classes.max(1)).zip(labels) {
        let label = label as usize;
        let Some(&own) = row.get(label) else { continue };
        let ahead = |(class, &other): (usize, &f32)| other > own || (other == own && class < label) || other.is_nan();
        let rank = row.iter().enumerate().filter(|&(class, value)| class != label && ahead((class, value))).count();
        top1 += usize::from(rank == 0 && !own.is_nan());
        top5 += usize::from(rank < 5 && !own.is_nan());
        loss += log_sum(row) - f64::from(own);
    }
    let count = labels.len().max(1) as f64;
    Score { top1: 100.0 * top1 as f64 / count, top5: 100.0 * top5 as f64 / count, loss: loss / count }
}

/// The logarithm of the sum of exponentials, without overflow.
fn log_sum(row: &[f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = f64::from(largest);
    largest + row.iter().map(|&value| (f64::from(value) - largest).exp()).sum::<f64>().ln()
}

/// What the ensemble of stages, first to last, says: logits \[sample, class\], with weights 2^j / Σ 2^j (section 4.1 of
/// the paper). Of probabilities the result is their logarithms, which are logits as well.
pub fn ensemble(stages: &[Vec<f32>], classes: usize, of: Average) -> Vec<f32> {
    let total: f64 = (0..stages.len()).map(|stage| (stage as f64).exp2()).sum();
    let weight = |stage: usize| (stage as f64).exp2() / total;
    let values = stages.first().map_or(0, Vec::len);
    let mut all = Vec::with_capacity(values);
    for row in (0..values).step_by(classes.max(1)).map(|first| first..values.min(first + classes.max(1))) {
        let own = |stage: &Vec<f32>| stage.get(row.clone()).unwrap_or_default().to_vec();
        let mut sums = vec![if of == Average::Logits { 0.0 } else { f64::NEG_INFINITY }; row.len()];
        for (stage, logits) in stages.iter().map(own).enumerate() {
            let (share, norm) = (weight(stage), log_sum(&logits));
            for (sum, logit) in sums.iter_mut().zip(logits.iter().map(|&logit| f64::from(logit))) {
                match of {
                    Average::Logits => *sum += share * logit,
                    // A probability may be smaller than any number: sums are taken of logarithms.
                    Average::Softmax => *sum = log_add(*sum, share.ln() + logit - norm),
                }
            }
        }
        all.extend(sums.into_iter().map(|sum| sum as f32));
    }
    all
}

/// ln(e^a + e^b)
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_label_among_the_largest_logits() {
        let logits = [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]].concat();
        assert_eq!(score(&logits, &[6, 1]).top1, 50.0);
        assert_eq!(score(&logits, &[2, 2]).top5, 50.0);
        assert!((score(&[0.0, 0.0], &[1]).loss - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn constant_or_undefined_logits_gain_nothing() {
        assert_eq!(score(&[0.0; 10], &[3]).top1, 0.0);
        assert_eq!(score(&[f32::NAN; 10], &[0]).top5, 0.0);
    }

    #[test]
    fn later_stages_weigh_twice_as_much() {
        let mean = ensemble(&[vec![3.0], vec![6.0], vec![9.0]], 1, Average::Logits);
        assert_eq!(mean, vec![(3.0 + 12.0 + 36.0) / 7.0]);
    }

    #[test]
    fn probabilities_are_averaged_as_they_are() {
        // Logarithms of 1/4 and 3/4, then of 1/2 each: (1/4 + 2 * 1/2) / 3 = 5/12.
        let stages = [vec![0.0, 3f32.ln(), 0.0, 0.0], vec![7.0, 7.0, 0.0, 900.0]];
        let found = ensemble(&stages, 2, Average::Softmax);
        assert!((found[0] - (5f32 / 12.0).ln()).abs() < 1e-6 && (found[1] - (7f32 / 12.0).ln()).abs() < 1e-6);
        // What one of them rules out altogether has what the others give it.
        assert!((found[2] - (1f32 / 6.0).ln()).abs() < 1e-6, "{found:?}");
        let ruled_out = ensemble(&[vec![0.0, 900.0]], 2, Average::Softmax);
        assert_eq!(ruled_out, vec![-900.0, 0.0]);
        assert_eq!(score(&ruled_out, &[0]).loss, 900.0);
    }
}
