//! The user's own network: lists of layers in the pipeline file.
//!
//! A layer is a word (`"relu"`) or a small table whose one leading key names it (`{ conv = 64, kernel = 5, stride = 2 }`).

use super::Fault;
use super::layer::{Layer, Outputs, Shape};
use super::layers::Layers;
use super::network::{HeadStyle, Init, Keys, Network};
use super::section::Section;
use super::tree::{Node, Value};

/// Layers without settings.
const WORDS: [(&str, Layer); 4] = [
    ("space_to_depth", Layer::SpaceToDepth),
    ("batch_norm", Layer::BatchNorm),
    ("relu", Layer::Relu),
    ("flatten", Layer::Flatten),
];
/// Keys that name a layer with settings.
const KEYS: [&str; 6] = ["conv", "max_pool", "avg_pool", "dropout", "linear", "scattering"];

/// `blocks`, a list of lists of layers, and `head`, the classifier of the last of them.
pub(super) fn read(section: &mut Section<'_>, image: Shape, _k: usize) -> Result<Network, Fault> {
    let lists = section.list("blocks")?.unwrap_or_default();
    if lists.is_empty() {
        let fault = section.fault("blocks", "must list the blocks of the network, each a list of layers");
        return Err(fault.hint("such as `blocks = [[{ conv = 32 }, \"batch_norm\", \"relu\"], [{ max_pool = 2 }, { conv = 64 }, \"relu\"]]`"));
    }
    let mut blocks: Vec<(Vec<Layer>, Keys)> = Vec::with_capacity(lists.len());
    let mut input = image;
    for (number, node) in (1..).zip(lists) {
        let path = format!("network.blocks[{number}]");
        let Value::List(items) = &node.value else {
            let found = node.value.describe();
            return Err(Fault::new(node.place.clone(), format!("`{path}` must be a list of layers, not {found}")));
        };
        let layers = read_layers(&path, items)?;
        if let Some(at) = layers.iter().position(|layer| *layer == Layer::Linear { outputs: Outputs::Classes }) {
            return Err(Fault::new(items[at].place.clone(), format!("`{path}` classifies, which only heads do")));
        }
        let reads_images = |at: usize| number == 1 && at == 0;
        if let Some(at) = scattering(&layers).into_iter().find(|&at| !reads_images(at)) {
            let fault =
                Fault::new(items[at].place.clone(), format!("`{path}`: a scattering transform reads images only"));
            return Err(fault.hint("it can be the first layer of the first block"));
        }
        let fitted = fit(&path, input, layers.clone(), (items, node))?;
        input = fitted.output;
        blocks.push((layers, vec![("network.blocks", fitted.to_string())]));
    }
    let classifier = match section.list("head")? {
        None => None,
        Some(items) => {
            let layers = read_classifier("network.head", items, || section.fault("head", ENDS))?;
            let layers = fit_items("network.head", input, layers, items)?;
            let keys = vec![("network.head", layers.to_string())];
            Some((layers, keys))
        }
    };
    let (blocks, keys) =
        Network::chain(image, blocks).map_err(|(_, misfit)| section.fault("blocks", misfit.message))?;
    let (init, heads) = (Init::Uniform, HeadStyle::Simcnn);
    Ok(Network { architecture: "custom", blocks, classifier, init, torchvision_linears: None, keys, heads })
}

/// What a list of layers that classifies must end with.
const ENDS: &str = "must end with `{ linear = \"classes\" }`";

/// `layers` of `[auxiliary]`: the user's own head; it must end with one logit a class.
pub(super) fn read_head(section: &mut Section<'_>) -> Result<Option<Vec<Layer>>, Fault> {
    let Some(items) = section.list("layers")? else { return Ok(None) };
    read_classifier("auxiliary.layers", items, || section.fault("layers", ENDS)).map(Some)
}

fn read_classifier(path: &str, items: &[Node], no_end: impl Fn() -> Fault) -> Result<Vec<Layer>, Fault> {
    let layers = read_layers(path, items)?;
    if let Some(&at) = scattering(&layers).first() {
        return Err(Fault::new(items[at].place.clone(), format!("`{path}`: a scattering transform reads images only")));
    }
    let classifies = |layer: &Layer| *layer == Layer::Linear { outputs: Outputs::Classes };
    match layers.iter().position(classifies) {
        Some(at) if at + 1 == layers.len() => Ok(layers),
        _ => Err(no_end()),
    }
}

/// The indices of scattering transforms.
fn scattering(layers: &[Layer]) -> Vec<usize> {
    let found = layers.iter().enumerate().filter(|(_, layer)| matches!(layer, Layer::Scattering { .. }));
    found.map(|(at, _)| at).collect()
}

fn fit(path: &str, input: Shape, layers: Vec<Layer>, (items, whole): (&[Node], &Node)) -> Result<Layers, Fault> {
    if layers.is_empty() {
        return Err(Fault::new(whole.place.clone(), format!("`{path}` has no layers")));
    }
    fit_items(path, input, layers, items)
}

fn fit_items(path: &str, input: Shape, layers: Vec<Layer>, items: &[Node]) -> Result<Layers, Fault> {
    Layers::new(input, layers).map_err(|misfit| {
        let fault = Fault::new(items[misfit.at].place.clone(), format!("`{path}`: {}", misfit.message));
        if misfit.message.contains("flattened") { fault.hint("put \"flatten\" before it") } else { fault }
    })
}

fn read_layers(path: &str, items: &[Node]) -> Result<Vec<Layer>, Fault> {
    let normed = |at: usize| matches!(items.get(at + 1).map(|node| &node.value), Some(Value::Text(word)) if word == "batch_norm");
    items.iter().enumerate().map(|(at, node)| read_layer(path, node, normed(at))).collect()
}

/// One layer; `normed` says whether a batch norm comes behind it, so that a bias would be of no use.
fn read_layer(path: &str, node: &Node, normed: bool) -> Result<Layer, Fault> {
    let fault = |message: String| Fault::new(node.place.clone(), format!("`{path}`: {message}"));
    let table = match &node.value {
        Value::Text(word) => {
            let found = WORDS.iter().find(|(name, _)| name == word);
            let known = || WORDS.iter().map(|(name, _)| *name).chain(KEYS);
            let needs = KEYS.contains(&word.as_str());
            return match found {
                Some((_, layer)) => Ok(*layer),
                None if needs => {
                    Err(fault(format!("\"{word}\" needs a value")).hint(format!("write `{{ {word} = … }}`")))
                }
                None => Err(fault(format!("\"{word}\" is no layer")).suggest(word, known())),
            };
        }
        Value::Table(table) => table,
        other => return Err(fault(format!("a layer is a word or a table, not {}", other.describe()))),
    };
    let mut section = Section::item(path.into(), table, node.place.clone());
    let named: Vec<&str> = KEYS.into_iter().filter(|key| section.has(key)).collect();
    let [name] = named[..] else {
        let written: Vec<&str> = section.keys().collect();
        let first = written.first().copied().unwrap_or_default();
        return Err(match named.len() {
            0 => fault(format!("`{first}` is no layer")).suggest(first, KEYS.into_iter()),
            _ => fault(format!("`{}` and `{}` are two layers", named[0], named[1])).hint("one table for each layer"),
        });
    };
    let layer = match name {
        "conv" => {
            let channels = section.within("conv", 1, 1..=65_536)?;
            let kernel = section.within("kernel", 3, 1..=31)?;
            Layer::Conv {
                channels,
                kernel,
                stride: section.within("stride", 1, 1..=31)?,
                padding: section.within("padding", kernel / 2, 0..=kernel - 1)?,
                bias: section.get("bias", !normed)?,
            }
        }
        "max_pool" => {
            let kernel = section.within("max_pool", 2, 1..=31)?;
            Layer::MaxPool {
                kernel,
                stride: section.within("stride", kernel, 1..=31)?,
                padding: section.within("padding", 0, 0..=kernel / 2)?,
            }
        }
        "avg_pool" => Layer::AvgPool { size: section.within("avg_pool", 1, 1..=64)? },
        "scattering" => read_scattering(&mut section, "scattering")?,
        "dropout" => Layer::Dropout { rate: section.within("dropout", 0.5, 0.0..=0.99)? },
        _ => Layer::Linear { outputs: read_outputs(&mut section)? },
    };
    section.finish()?;
    Ok(layer)
}

/// A scattering transform, whose octaves are under `key`.
pub(super) fn read_scattering(section: &mut Section<'_>, key: &str) -> Result<Layer, Fault> {
    Ok(Layer::Scattering {
        scales: section.within(key, 2, 1..=10)?,
        angles: section.within("angles", 8, 1..=64)?,
        order: section.within("order", 2, 1..=2)?,
    })
}

fn read_outputs(section: &mut Section<'_>) -> Result<Outputs, Fault> {
    match section.optional::<String>("linear") {
        Ok(Some(word)) if word == "classes" => Ok(Outputs::Classes),
        Ok(Some(word)) => {
            let fault = section.fault("linear", format!("is \"{word}\", but must be a number or \"classes\""));
            Err(fault.suggest(&word, ["classes"].into_iter()))
        }
        _ => Ok(Outputs::Values(section.within("linear", 1, 1..=1 << 20)?)),
    }
}
