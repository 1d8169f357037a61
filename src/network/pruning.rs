//! Weights of a block and its classifier, of which some channels of the block are left.

use crate::pipeline::{Layers, Role};
use candle_core::{Result, Tensor, bail};
use std::collections::HashMap;

/// The channels of a block's features that stay: those that the classifier reads with the largest weights, by the sum of
/// their sizes; of channels that are alike the first. In order.
///
/// # Errors
/// When the weights are not those of the classifier.
fn kept_channels(weights: &HashMap<String, Tensor>, head: &Layers, count: usize) -> Result<Vec<u32>> {
    let reading = head.tensors(Role::Head, 1).into_iter().find(|(_, kind, shape)| *kind == "weight" && shape.len() > 1);
    let Some((layer, ..)) = reading else { bail!("nothing of the classifier reads the block") };
    let Some(weight) = weights.get(&format!("auxiliary.{layer}.weight")) else {
        bail!("the classifier has no `{layer}`")
    };
    // [outputs, channels, values of a channel]
    let channels = head.input.channels;
    let grouped =
        weight.reshape((weight.dim(0)?, channels, weight.elem_count() / (weight.dim(0)? * channels).max(1)))?;
    let sizes: Vec<f32> = grouped.abs()?.sum(2)?.sum(0)?.to_vec1()?;
    let mut order: Vec<u32> = (0..channels as u32).collect();
    order.sort_by(|&a, &b| sizes[b as usize].total_cmp(&sizes[a as usize]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    Ok(order)
}

/// The weights that are left of a block and its classifier, under the same names (`block.…`, `auxiliary.…`), and the
/// channels that stay. Both lists of layers are as before, but for the channels of the block's features.
///
/// # Errors
/// When the weights are not those of these layers.
pub fn prune(
    weights: &HashMap<String, Tensor>,
    (block, head): (&Layers, &Layers),
    (narrow_block, narrow_head): (&Layers, &Layers),
) -> Result<(HashMap<String, Tensor>, Vec<u32>)> {
    let channels = block.output.channels;
    let kept = kept_channels(weights, head, narrow_block.output.channels)?;
    let mut left = HashMap::new();
    let parts = [("block", Role::Block, block, narrow_block), ("auxiliary", Role::Head, head, narrow_head)];
    for (part, role, before, after) in parts {
        for ((layer, kind, wide), (_, _, narrow)) in before.tensors(role, 1).into_iter().zip(after.tensors(role, 1)) {
            let name = format!("{part}.{layer}.{kind}");
            let Some(tensor) = weights.get(&name) else { bail!("there is no tensor `{name}`") };
            let mut tensor = tensor.clone();
            for (dim, (&wide, &narrow)) in wide.iter().zip(&narrow).enumerate() {
                if wide != narrow {
                    // Of a flattened map a channel has several values, side by side.
                    let values = (wide / channels) as u32;
                    let all =
                        kept.iter().flat_map(|&channel| channel * values..(channel + 1) * values).collect::<Vec<_>>();
                    let all = Tensor::new(all, tensor.device())?;
                    tensor = tensor.index_select(&all, dim)?;
                }
            }
            left.insert(name, tensor.contiguous()?);
        }
    }
    Ok((left, kept))
}

#[cfg(test)]
mod tests {
    use super::super::{Network, Noise};
    use super::*;
    use crate::pipeline::Recipe;
    use crate::random::{Purpose, Stream};
    use candle_core::{Device, Var};

    /// A classifier of convolutions, one that flattens at once, and one with a batch norm before.
    const HEADS: [&str; 3] = [
        "k = 2\nwidth = 5\n",
        "layers = [{ avg_pool = 2 }, \"flatten\", { linear = 7 }, \"relu\", { linear = \"classes\" }]\n",
        "k = 1\nbatch_norm = true\n",
    ];

    #[test]
    fn what_is_left_computes_what_the_whole_would_with_the_other_channels_unread() {
        for head in HEADS {
            let text = format!(
                "[data]\nsource = \"builtin\"\n[network]\nblocks = 1\nwidth = 9\nspace_to_depth = [1]\nbatch_norm = true\n\
                 [auxiliary]\n{head}[compression]\nwidth = 0.4\n"
            );
            let recipe = Recipe::parse("p", "p", &text, &[]).unwrap();
            let (stage, wide) = (&recipe.stages[0], recipe.stages[0].wide().unwrap());
            let network = |stage| {
                let mut rng = Stream::new(Purpose::Weights, 3, (1, 0));
                Network::of_stage(stage, 4, (recipe.init, &mut rng, &Device::Cpu)).unwrap()
            };
            let (whole, left) = (network(&wide), network(stage));
            // Statistics that are not those of the beginning.
            let mut rng = Stream::new(Purpose::Bench, 5, (0, 0));
            let draw =
                |count: usize, rng: &mut Stream| (0..count).map(|_| rng.uniform(0.2, 1.0) as f32).collect::<Vec<_>>();
            for (name, variable) in whole.variables().iter().filter(|(name, _)| name.contains("bn")) {
                let values = draw(variable.elem_count(), &mut rng);
                variable.set(&Tensor::from_vec(values, variable.shape(), &Device::Cpu).unwrap()).unwrap();
                assert!(!name.is_empty());
            }
            let weights: HashMap<String, Tensor> = whole.variables().tensors().into_iter().collect();
            let layers = ((&wide.block, wide.head.as_ref().unwrap()), (&stage.block, stage.head.as_ref().unwrap()));
            let (narrow, kept) = prune(&weights, layers.0, layers.1).unwrap();
            left.variables().set(&narrow, "narrow").unwrap();

            // Chosen again by hand, one weight after the other.
            let reading = ["auxiliary.conv1.weight", "auxiliary.linear1.weight", "auxiliary.linear.weight"];
            let reading = reading.iter().find(|name| weights.contains_key(**name)).unwrap();
            let values: Vec<f32> = weights[*reading].flatten_all().unwrap().to_vec1().unwrap();
            let (outputs, of_channel) =
                (weights[*reading].dim(0).unwrap(), values.len() / weights[*reading].dim(0).unwrap() / 9);
            let mut sizes = [(0.0f64, 0u32); 9];
            for (at, value) in values.iter().enumerate() {
                let channel = at % (9 * of_channel) / of_channel;
                sizes[channel] = (sizes[channel].0 + f64::from(value.abs()), channel as u32);
            }
            assert_eq!(outputs * 9 * of_channel, values.len());
            sizes.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut expected: Vec<u32> = sizes[..4].iter().map(|(_, channel)| *channel).collect();
            expected.sort_unstable();
            assert_eq!(kept, expected, "{head}");

            // The whole network, in which nothing reads the others.
            let unread: Vec<f32> = values
                .iter()
                .enumerate()
                .map(
                    |(at, &value)| {
                        if kept.contains(&((at % (9 * of_channel) / of_channel) as u32)) { value } else { 0.0 }
                    },
                )
                .collect();
            let variable: Var = whole.variables().iter().find(|(name, _)| name == reading).unwrap().1.clone();
            variable.set(&Tensor::from_vec(unread, variable.shape(), &Device::Cpu).unwrap()).unwrap();
            let x = Tensor::from_vec(draw(2 * 32 * 32 * 3, &mut rng), (2, 32, 32, 3), &Device::Cpu).unwrap();
            let logits = |network: &Network| {
                let features = network.blocks[0].frozen().unwrap().forward(&x).unwrap();
                network
                    .head
                    .frozen()
                    .unwrap()
                    .logits(&features)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
            };
            for (found, expected) in logits(&left).into_iter().zip(logits(&whole)) {
                assert!((found - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{head}: {found} {expected}");
            }
            // And it learns.
            let noise = Noise::new(0, (1, 0), &[0, 1]);
            left.train(&x, &noise).unwrap();
        }
    }
}
