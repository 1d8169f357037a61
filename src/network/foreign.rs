//! Weights from files that other programs wrote, under whatever names they know them by.

use super::variables::tensor_of;
use crate::error::{Error, Result};
use crate::pipeline::{Weight, torchvision_network};
use candle_core::Tensor;
use safetensors::tensor::{SafeTensors, TensorView};
use std::collections::HashMap;

/// How many batches a batch norm has seen: PyTorch keeps it, and nothing of evaluation or of training here depends on it.
const COUNTERS: &str = "num_batches_tracked";
/// What PyTorch puts before all names where the network was trained on several devices.
const PARALLEL: &str = "module.";
/// Names that an error lists at most.
const LISTED: usize = 3;

/// What was read of a file for a network.
pub struct Foreign {
    /// The tensors of the network, under its own names.
    pub tensors: Vec<(String, Tensor)>,
    /// Tensors of the file that are no part of it, by their names in order; counters of batches are not among them.
    pub passed_over: Vec<String>,
}

impl Foreign {
    /// Finds the weights of a network in the bytes of a safetensors file; `origin` is what errors call it. Half and double
    /// precision become single. A dimension of 0 is any: the classes may not be known yet. With `all` the file must hold
    /// nothing else.
    ///
    /// # Errors
    /// When the bytes are no such file, or a tensor is missing, of another shape or type, or has no place in the network.
    pub fn read(bytes: &[u8], origin: &str, wanted: &[Weight], all: bool) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| not_safetensors(bytes, origin, &e))?;
        let views = file.tensors();
        let parallel = !views.is_empty() && views.iter().all(|(name, _)| name.starts_with(PARALLEL));
        let name_of = |name: &str| name.strip_prefix(PARALLEL).filter(|_| parallel).unwrap_or(name).to_string();
        let mut views: HashMap<String, TensorView<'_>> =
            views.into_iter().map(|(name, view)| (name_of(&name), view)).collect();
        let names: Vec<String> = views.keys().filter(|name| !name.ends_with(COUNTERS)).cloned().collect();
        let way_out = |error: Error| error.hint(hint_by(&names));

        let (mut tensors, mut missing, mut wrong) = (Vec::with_capacity(wanted.len()), Vec::new(), None);
        for (at, weight) in wanted.iter().enumerate() {
            let Some(known) = weight.known_as.iter().find(|known| views.contains_key(*known)) else {
                missing.push(weight.known_as.join(" or "));
                continue;
            };
            let Some(view) = views.remove(known) else { continue };
            if !fits(view.shape(), &weight.shape) {
                // Weight and bias of the layer that gives a logit for each class come last.
                let logits = all && at + 2 >= wanted.len();
                let fault = || misshapen((known, logits), view.shape(), (&weight.shape, &names), origin);
                wrong = wrong.or_else(|| Some(fault()));
                continue;
            }
            let dims = if weight.shape.contains(&0) { view.shape() } else { &weight.shape };
            tensors.push((weight.name.clone(), tensor_of(known, &view, dims, origin)?));
        }
        if !missing.is_empty() {
            let count = missing.len();
            let what =
                format!("`{origin}` lacks {count} of {} tensors of the network: {}", wanted.len(), few(&missing));
            return Err(way_out(Error::usage(what)));
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        let mut rest: Vec<String> = views.into_keys().filter(|name| !name.ends_with(COUNTERS)).collect();
        rest.sort();
        if all && !rest.is_empty() {
            let what =
                format!("`{origin}` holds {} tensors that the network has no place for: {}", rest.len(), few(&rest));
            return Err(way_out(Error::usage(what)));
        }
        Ok(Self { tensors, passed_over: rest })
    }
}

/// Names in a sentence, the first few of them.
fn few(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(LISTED);
    first.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// What may have been meant, by the names in the file.
fn hint_by(names: &[String]) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match torchvision_network(&names) {
        Some(network) => format!("its names are those of torchvision's {network}: `network.architecture = \"{network}\"`, and `network.imported = N` takes the first N blocks alone"),
        None => "names may be those of torchvision, of timm, or of `greedy export`; `network.imported = N` takes the first N blocks alone".into(),
    }
}

/// The same dimensions; or those of a linear layer that was written as a convolution over all of its input.
fn fits(found: &[usize], wanted: &[usize]) -> bool {
    let same = |found: usize, wanted: usize| wanted == 0 || found == wanted;
    match (found, wanted) {
        ([outputs, channels, height, width], [wanted, inputs]) => {
            let product = channels.checked_mul(*height).and_then(|product| product.checked_mul(*width));
            same(*outputs, *wanted) && product == Some(*inputs)
        }
        _ => found.len() == wanted.len() && found.iter().zip(wanted).all(|(&found, &wanted)| same(found, wanted)),
    }
}

fn misshapen(
    (name, logits): (&str, bool),
    found: &[usize],
    (wanted, names): (&[usize], &[String]),
    origin: &str,
) -> Error {
    let hint = match (logits, wanted) {
        (true, [classes, ..]) if found.get(1..) == wanted.get(1..) => format!(
            "the images are of {classes} classes; `network.imported = N`, with all blocks, leaves the classifier out"
        ),
        _ if ["classifier", "fc", "linear"].iter().any(|part| name.contains(part)) => {
            "`network.hidden` and `network.pooled` give the sizes of the classifier; `network.imported = N` leaves it out".into()
        }
        _ => format!("`network.width` gives the channels; {}", hint_by(names)),
    };
    Error::usage(format!("`{name}` in `{origin}` is {found:?}, but the network has {wanted:?}")).hint(hint)
}

/// The error about a file in another form.
fn not_safetensors(bytes: &[u8], origin: &str, fault: &safetensors::SafeTensorError) -> Error {
    // A zip, or a pickle of the second protocol or later.
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") {
        return Error::usage(format!("`{origin}` is a pickled file of PyTorch, no safetensors file")).hint(format!(
            "in Python: `safetensors.torch.save_file(torch.load(\"{origin}\", weights_only=True), \"weights.safetensors\")`"
        ));
    }
    Error::usage(format!("`{origin}` is no whole safetensors file: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::super::save_bytes;
    use super::*;
    use candle_core::{DType, Device};
    use proptest::prelude::*;
    use safetensors::tensor::Dtype;

    fn wanted() -> Vec<Weight> {
        let weight = |name: &str, theirs: &str, shape: &[usize]| Weight {
            name: name.into(),
            known_as: vec![name.into(), theirs.into()],
            shape: shape.into(),
        };
        vec![
            weight("block1.conv.weight", "features.0.weight", &[2, 3, 3, 3]),
            weight("auxiliary.linear.weight", "classifier.0.weight", &[5, 8]),
        ]
    }

    fn file(tensors: &[(&str, &[usize])]) -> Vec<u8> {
        let tensor = |(name, shape): &(&str, &[usize])| {
            (name.to_string(), Tensor::ones(*shape, DType::F32, &Device::Cpu).unwrap())
        };
        save_bytes(&tensors.iter().map(tensor).collect::<Vec<_>>(), None).unwrap()
    }

    #[track_caller]
    fn refused(tensors: &[(&str, &[usize])], all: bool, word: &str, hint: &str) {
        let error = Foreign::read(&file(tensors), "w", &wanted(), all).err().unwrap();
        assert!(error.to_string().contains(word), "{error}");
        assert!(error.hint_text().unwrap().contains(hint), "{:?}", error.hint_text());
    }

    #[test]
    fn any_of_the_known_names_will_do() {
        let conv: &[usize] = &[2, 3, 3, 3];
        for names in [["block1.conv.weight", "classifier.0.weight"], ["features.0.weight", "auxiliary.linear.weight"]] {
            let found = Foreign::read(&file(&[(names[0], conv), (names[1], &[5, 8])]), "w", &wanted(), true).unwrap();
            assert_eq!(found.tensors[1].0, "auxiliary.linear.weight");
        }
        let parallel = file(&[("module.features.0.weight", conv), ("module.classifier.0.weight", &[5, 2, 2, 2])]);
        let found = Foreign::read(&parallel, "w", &wanted(), true).unwrap();
        assert_eq!(found.tensors[1].1.dims(), [5, 8]);
        let more = file(&[
            ("features.0.weight", conv),
            ("classifier.0.weight", &[5, 8]),
            ("head", &[1]),
            ("features.1.num_batches_tracked", &[1]),
        ]);
        assert_eq!(Foreign::read(&more, "w", &wanted(), false).unwrap().passed_over, ["head"]);
    }

    #[test]
    fn what_is_missing_misshapen_or_without_a_place_is_named() {
        let conv: (&str, &[usize]) = ("features.0.weight", &[2, 3, 3, 3]);
        refused(&[conv], true, "lacks 1 of 2 tensors", "names may be those of torchvision");
        refused(&[conv, ("classifier.0.weight", &[7, 8])], true, "is [7, 8], but the network has [5, 8]", "5 classes");
        refused(&[conv, ("classifier.0.weight", &[5, 9])], true, "is [5, 9]", "network.pooled");
        let whole: (&str, &[usize]) = ("classifier.0.weight", &[5, 8]);
        refused(&[("features.0.weight", &[2, 3, 5, 5]), whole], true, "is [2, 3, 5, 5]", "network.width");
        refused(&[conv, ("classifier.0.weight", &[5, 8]), ("head", &[1])], true, "no place for: `head`", "imported");
    }

    #[test]
    fn half_and_double_precision_become_single_and_integers_are_refused() {
        let wanted = &wanted()[1..];
        let of = |dtype, bytes: Vec<u8>| {
            let view = TensorView::new(dtype, vec![5, 8], &bytes).unwrap();
            let bytes = safetensors::serialize([("classifier.0.weight", view)], None).unwrap();
            let found = Foreign::read(&bytes, "w", wanted, true)?;
            Ok::<f32, Error>(found.tensors[0].1.flatten_all().unwrap().to_vec1::<f32>().unwrap()[39])
        };
        let half = half::f16::from_f32(0.5).to_le_bytes();
        let brain = half::bf16::from_f32(0.5).to_le_bytes();
        assert_eq!(of(Dtype::F16, half.repeat(40)).unwrap(), 0.5);
        assert_eq!(of(Dtype::BF16, brain.repeat(40)).unwrap(), 0.5);
        assert_eq!(of(Dtype::F64, 0.5f64.to_le_bytes().repeat(40)).unwrap(), 0.5);
        assert!(of(Dtype::I32, vec![0; 160]).unwrap_err().to_string().contains("is I32"));
    }

    #[test]
    fn a_file_of_pytorch_is_known_and_the_way_to_another_form_said() {
        for start in [&b"PK\x03\x04"[..], b"\x80\x02}q"] {
            let error = Foreign::read(&[start, &[0; 40]].concat(), "net.pth", &wanted(), true).err().unwrap();
            assert!(error.hint_text().unwrap().contains("save_file"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let mut bytes = file(&[("features.0.weight", &[2, 3, 3, 3]), ("classifier.0.weight", &[5, 8])]);
            let last = bytes.len() - 1;
            bytes[at.min(last)] = byte;
            bytes.truncate(bytes.len() - cut.min(last));
            let _ = Foreign::read(&bytes, "w", &wanted(), true);
        }
    }
}
