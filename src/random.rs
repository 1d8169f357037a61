//! A counter-based random generator: every draw is a function of named counters, never of what was drawn before.

/// What a stream of draws is for; keeps streams of the same counters apart.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights; the counters are (stage, 0).
    Weights = 1,
    /// The order of samples; the counters are (stage, epoch).
    Order = 2,
    /// Crops and flips while training; the counters are (stage and epoch, sample).
    Augmentation = 3,
    /// Crops and flips of cached views; the counters are (view, sample).
    View = 4,
    /// The split of a data set; the counters are (split, 0).
    Split = 5,
    /// Pictures of the built-in data set; the counters are (split, sample).
    Picture = 6,
    /// Crops of cached features; the counters are (stage and epoch, sample).
    Window = 8,
    /// What is only measured, never learned from; the counters are free.
    Bench = 7,
    /// Values that dropout sets to zero; the counters are (part and layer of the network, stage and epoch; sample).
    Dropout = 9,
    /// The order in which modules that are trained at once take their turns; the counters are (epoch, step).
    Turns = 14,
    /// Fixed weights that carry gradients back in the place of a network's own; the counters are (stage, 0).
    Feedback = 13,
    /// The samples that a probe learns from, where it takes but some; the counters are (0, 0).
    Probe = 12,
}

/// A stream of random numbers (SplitMix64; Steele, Lea & Flood 2014) that starts at a hash of its counters.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Stream {
    /// The stream for one purpose, seed and pair of counters.
    pub fn new(purpose: Purpose, seed: u64, counters: (u64, u64)) -> Self {
        let state = [purpose as u64, seed, counters.0, counters.1]
            .into_iter()
            .fold(0, |state, word| mix(state ^ mix(word.wrapping_add(GOLDEN))).wrapping_add(GOLDEN));
        Self { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A whole number in `0..bound`; 0 where `bound` is 0. The bias is below 2^-32 for bounds below 2^32.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A standard normal number (Box & Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A random order of `0..count` (Fisher & Yates).
    pub fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_as_the_published_generator_does() {
        let mut stream = Stream { state: 0 };
        assert_eq!(stream.bits(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(stream.bits(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn streams_of_neighbouring_counters_differ() {
        let draws: std::collections::HashSet<u64> =
            (0..100u64).flat_map(|a| (0..100u64).map(move |b| Stream::new(Purpose::View, 1, (a, b)).bits())).collect();
        assert_eq!(draws.len(), 10_000);
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Stream::new(Purpose::Order, 0, (1, 2)).permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(at, &index)| at == index as usize));
    }

    #[test]
    fn normal_draws_have_mean_zero_and_deviation_one() {
        let mut stream = Stream::new(Purpose::Weights, 7, (0, 0));
        let draws: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
