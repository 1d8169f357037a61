//! Weights of a whole network in one file, under the names that other programs know.

use crate::disk;
use crate::error::{Error, Result};
use crate::network::save_bytes;
use crate::pipeline::{Layer, Layers, Role};
use crate::run::{Parts, StageFolder};
use candle_core::Tensor;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The weights of a network up to a stage, or of one that was trained as a whole.
pub struct Exported {
    /// The blocks in it.
    pub blocks: usize,
    /// Whether a classifier of the last block is in it.
    pub classifies: bool,
    /// The architecture, where the names are those of torchvision's.
    pub torchvision: Option<&'static str>,
    tensors: Vec<(String, Tensor)>,
    /// The network in PyTorch's words, where no program has it under a name.
    description: Option<Value>,
}

impl Exported {
    /// Reads the weights of the network whose last stage lies in a folder, or of the whole network in it.
    ///
    /// # Errors
    /// When it holds no weights, or a stage is missing, not trained or damaged.
    pub fn read(folder: &StageFolder) -> Result<Self> {
        let parts = Parts::read(folder)?;
        let mut tensors = Vec::new();
        for (number, block) in (1..).zip(&parts.blocks) {
            tensors.extend(block.variables.clone().under(&format!("block{number}")).tensors());
        }
        tensors.extend(parts.head.iter().flat_map(|head| head.variables.clone().under("auxiliary").tensors()));
        let torchvision = torchvision(&parts);
        let description = torchvision.is_none().then(|| describe(&parts));
        if let Some((_, names)) = &torchvision {
            tensors = tensors.into_iter().map(|(own, tensor)| (renamed(&own, names), tensor)).collect();
        }
        Ok(Self {
            blocks: parts.blocks.len(),
            classifies: parts.head.is_some(),
            torchvision: torchvision.map(|(architecture, _)| architecture),
            tensors,
            description,
        })
    }

    /// How many tensors there are.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Writes them as a safetensors file, and gives its bytes. The same weights give the same bytes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<usize> {
        // The note by which other programs know that tensors lie in memory as PyTorch has them.
        let mut bytes = save_bytes(&self.tensors, Some(("format", "pt".into())))?;
        if let Some(description) = &self.description {
            bytes = with_note(&bytes, "network", description)?;
        }
        disk::write(path, &bytes)?;
        Ok(bytes.len())
    }
}

/// The bytes of a safetensors file with one note more in its header, behind those that are there.
fn with_note(bytes: &[u8], name: &str, note: &Value) -> Result<Vec<u8>> {
    let header = bytes.first_chunk().and_then(|length| bytes.get(8..8 + u64::from_le_bytes(*length) as usize));
    let header = header.ok_or_else(|| Error::failed("a safetensors file has no header"))?;
    let mut notes: Value = serde_json::from_slice(header).map_err(|e| Error::failed(e.to_string()))?;
    notes["__metadata__"][name] = note.to_string().into();
    let mut text = notes.to_string();
    // The tensors begin at a multiple of eight bytes.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    Ok([&(text.len() as u64).to_le_bytes(), text.as_bytes(), &bytes[8 + header.len()..]].concat())
}

/// The layers in PyTorch's words, what the network takes, and what it tells apart.
fn describe(parts: &Parts) -> Value {
    let classes = parts.record.classes.len();
    let mut modules = Map::new();
    for (number, block) in (1..).zip(&parts.blocks) {
        modules.insert(format!("block{number}"), modules_of(&block.layers, Role::Block, classes));
    }
    if let Some(head) = &parts.head {
        modules.insert("auxiliary".into(), modules_of(&head.layers, Role::Head, classes));
    }
    let (data, image) = (&parts.recipe.data, parts.recipe.image());
    json!({
        "modules": modules, "input": [image.channels, image.size, image.size], "mean": data.mean, "std": data.std,
        "classes": parts.record.classes,
    })
}

/// Name, class of `torch.nn` and arguments of each layer.
fn modules_of(layers: &Layers, role: Role, classes: usize) -> Value {
    let mut all = Vec::new();
    for (at, ((layer, input, output), name)) in layers.shapes(classes).zip(layers.names(role)).enumerate() {
        let flat = layers.iter().take(at).any(|layer| layer == Layer::Flatten);
        let (class, arguments) = match layer {
            Layer::SpaceToDepth => ("PixelUnshuffle", json!([2])),
            // Kymatio has it, PyTorch has not.
            Layer::Scattering { scales, angles, order } => ("Scattering2D", json!([scales, angles, order])),
            Layer::Conv { channels, kernel, stride, padding, bias } => {
                ("Conv2d", json!([input.channels, channels, kernel, stride, padding, 1, 1, bias]))
            }
            Layer::BatchNorm => (if flat { "BatchNorm1d" } else { "BatchNorm2d" }, json!([input.channels])),
            Layer::Relu => ("ReLU", json!([])),
            Layer::MaxPool { kernel, stride, padding } => ("MaxPool2d", json!([kernel, stride, padding])),
            Layer::AvgPool { size } => ("AdaptiveAvgPool2d", json!([size])),
            Layer::Dropout { rate } => ("Dropout", json!([rate])),
            Layer::Flatten => ("Flatten", json!([])),
            Layer::Linear { .. } => ("Linear", json!([input.values(), output.values()])),
        };
        all.push(json!([name.unwrap_or_else(|| at.to_string()), class, arguments]));
    }
    Value::Array(all)
}

/// The architecture and torchvision's names of its layers, where all of it is here: with fewer blocks, or with a
/// classifier that only trains a block, it is not that network.
fn torchvision(parts: &Parts) -> Option<(&'static str, Vec<(String, String)>)> {
    let recipe = &parts.recipe;
    let whole = parts.alike && parts.head.is_some() && parts.blocks.len() == recipe.stages.len();
    Some((recipe.architecture, recipe.torchvision_names().filter(|_| whole)?))
}

/// The other name of a tensor, where its layer has one.
fn renamed(own: &str, layers: &[(String, String)]) -> String {
    let found = own.rsplit_once('.').and_then(|(layer, value)| {
        let (_, theirs) = layers.iter().find(|(name, _)| name == layer)?;
        Some(format!("{theirs}.{value}"))
    });
    found.unwrap_or_else(|| own.to_string())
}
