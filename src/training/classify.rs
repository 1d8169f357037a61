//! The logits of trained networks for whole sets of samples.

use crate::error::Result;
use crate::features::{Loader, View};
use crate::network::{Network, Sequence};
use crate::ops::{compute, concat};
use crate::progress::Progress;
use candle_core::Tensor;

/// The logits of all samples of a loader, `at_once` at a time: \[sample, class\].
///
/// # Errors
/// When samples are damaged or the user interrupts.
pub fn classify(network: &Network, samples: &Loader, at_once: usize, progress: &dyn Progress) -> Result<Vec<f32>> {
    let mut logits = classify_all(&[network], samples, at_once, progress)?;
    Ok(logits.pop().unwrap_or_default())
}

/// The same of each of several networks, of which all but the first read the features of the one before.
///
/// # Errors
/// When samples are damaged or the user interrupts.
pub fn classify_all(
    networks: &[&Network],
    samples: &Loader,
    at_once: usize,
    progress: &dyn Progress,
) -> Result<Vec<Vec<f32>>> {
    let mut frozen = Vec::with_capacity(networks.len());
    for network in networks {
        let blocks = network.blocks.iter().map(Sequence::frozen).collect::<candle_core::Result<Vec<_>>>()?;
        frozen.push((blocks, network.head.frozen()?));
    }
    let order: Vec<u32> = (0..samples.len() as u32).collect();
    // They are brought to the host at the end: a GPU is not to stand still after each batch.
    let mut logits: Vec<Vec<Tensor>> = vec![Vec::new(); networks.len()];
    samples.for_each_batch(&order, at_once, View::Centre, |batch| {
        progress.check()?;
        let mut x = batch.x;
        for ((blocks, head), logits) in frozen.iter().zip(&mut logits) {
            let (features, own) = compute(samples.device(), || {
                let features = blocks.iter().try_fold(x, |x, block| block.forward(&x))?;
                let own = head.logits(&features)?;
                candle_core::Result::Ok((features, own))
            })?;
            x = features;
            logits.push(own);
        }
        Ok(())
    })?;
    logits.iter().map(|logits| Ok(concat(logits)?.flatten_all()?.to_vec1()?)).collect()
}
