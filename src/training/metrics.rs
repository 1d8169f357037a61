//! Top-1 and top-5 accuracy, loss, and the weighted ensemble of all stages.

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

/// The logits of the ensemble of stages, first to last: weights 2^j / Σ 2^j (section 4.1 of the paper; as in its code
/// for CIFAR-10, of logits).
pub fn ensemble(stages: &[Vec<f32>]) -> Vec<f32> {
    let total: f64 = (0..stages.len()).map(|stage| (stage as f64).exp2()).sum();
    let mut sum = vec![0.0f64; stages.first().map_or(0, Vec::len)];
    for (stage, logits) in stages.iter().enumerate() {
        let weight = (stage as f64).exp2() / total;
        sum.iter_mut().zip(logits).for_each(|(sum, &value)| *sum += weight * f64::from(value));
    }
    sum.into_iter().map(|value| value as f32).collect()
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
        assert_eq!(ensemble(&[vec![3.0], vec![6.0], vec![9.0]]), vec![(3.0 + 12.0 + 36.0) / 7.0]);
    }
}
