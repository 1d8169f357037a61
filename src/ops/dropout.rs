//! Dropout: values are set to zero at random, and the others are scaled so that the expected value stays.

use super::cpu::{build, with_values};
use super::element::Element;
use candle_core::{Device, Result, Tensor, bail};

/// Sets a share `rate` of the values of `x` \[batch, …\] to zero and divides the others by `1 - rate`.
///
/// Which values stay is a function of the sample's seed, the index of the value within its sample, and the rate: the
/// same whatever else is in the batch, and on every device. Applied to the gradient of its result, with the same seeds,
/// it gives the gradient of its input.
///
/// # Errors
/// When there is not one seed for each sample, or the rate is not in `0..1`.
pub fn dropout(x: &Tensor, rate: f64, seeds: &[u64]) -> Result<Tensor> {
    let batch = x.dims().first().copied().unwrap_or(0);
    if seeds.len() != batch || x.rank() == 0 {
        bail!("dropout with {} seeds for {:?}", seeds.len(), x.shape())
    }
    if !(0.0..1.0).contains(&rate) {
        bail!("a dropout rate of {rate} is not in 0..1")
    }
    let mask = Mask { threshold: (rate * (1u64 << 32) as f64) as u32, scale: 1.0 / (1.0 - rate) };
    on_gpu!(x, crate::cuda::dropout(x, crate::cuda::Mask { threshold: mask.threshold, scale: mask.scale }, seeds));
    let sample = x.elem_count().checked_div(batch).unwrap_or(0);
    on_cpu!(x, E => {
        let values = with_values([x], |[x]: [&[E]; 1]| {
            build(x.len(), sample, |part, out: &mut [E]| {
                let scale = mask.scale as f32;
                for (at, (out, x)) in out.iter_mut().zip(&x[part * sample..]).enumerate() {
                    *out = if mask.keeps(seeds[part], at) { E::narrow(x.widen() * scale) } else { E::ZERO };
                }
            })
        })?;
        Tensor::from_vec(values, x.shape(), x.device())
    }, {
        let factor = |at: usize| f32::from(mask.keeps(seeds[at / sample], at % sample));
        let factors: Vec<f32> = (0..x.elem_count()).map(factor).collect();
        let kept = Tensor::from_vec(factors, x.shape(), &Device::Cpu)?.to_device(x.device())?.to_dtype(x.dtype())?;
        (x * kept)?.affine(mask.scale, 0.0)
    })
}

/// Which values stay, and what they are multiplied by.
struct Mask {
    /// Values whose random 32 bits are below it are dropped.
    threshold: u32,
    scale: f64,
}

impl Mask {
    /// Whether the value of an index stays in the sample of a seed.
    fn keeps(&self, seed: u64, at: usize) -> bool {
        bits(seed, at as u64) >= self.threshold
    }
}

/// 32 random bits: the upper half of what SplitMix64 (Steele, Lea & Flood 2014) gives at a place of its sequence.
fn bits(seed: u64, at: u64) -> u32 {
    let state = seed.wrapping_add(at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((state ^ (state >> 31)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_random_bits_are_those_of_the_published_generator() {
        assert_eq!(bits(0, 0), 0xe220_a839);
        assert_eq!(bits(0, 1), 0x6e78_9e6a);
    }
}
