//! A whole network as an ONNX model: its blocks as they are when they are frozen, and the classifier of the last.

use super::onnx_graph::{FLOAT, Graph};
use super::protobuf::Message;
use crate::disk;
use crate::error::{Error, Result};
use crate::pipeline::{Role, Shape};
use crate::run::{Parts, Record, StageFolder, centre_of_canvas};
use crate::size;
use serde_json::json;
use std::path::Path;

/// The versions of the format and of the set of operators.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
/// What a message of Protocol Buffers holds at most; some of it is not weights.
const MOST_BYTES: u64 = (1 << 31) - (1 << 20);

/// The names of input and output.
const INPUT: &str = "input";
const LOGITS: &str = "logits";
const FEATURES: &str = "features";

/// A network in the form of ONNX.
pub struct OnnxModel {
    bytes: Vec<u8>,
    /// Blocks.
    pub blocks: usize,
    /// The shape of an input, but for the batch.
    pub input: Shape,
    /// Whether it classifies; else it gives features.
    pub classifies: bool,
    /// Means and standard deviations that inputs are normalised by, one a channel.
    pub normalisation: (Vec<f32>, Vec<f32>),
}

impl OnnxModel {
    /// The network whose last stage lies in a folder, or the whole network in it. The same network gives the same bytes.
    ///
    /// Its input is `input` \[batch, channel, y, x\] in single precision, normalised (see its notes), its output
    /// `logits` \[batch, class\], or `features` where the last block has no classifier.
    ///
    /// # Errors
    /// When a stage is missing, not trained or damaged, or the weights take more than such a file can hold.
    pub fn read(folder: &StageFolder) -> Result<Self> {
        let parts = Parts::read(folder)?;
        let (recipe, record) = (&parts.recipe, &parts.record);
        let classes = record.classes.len();
        let all = parts.blocks.iter().chain(&parts.head);
        refuse_large(all.map(|part| part.layers.weights(classes) as u64).sum())?;
        let image = recipe.image();
        let late = recipe.features.late_crops;
        let input = if late { recipe.canvas(image) } else { image };
        let mut graph = Graph::new(INPUT, input);
        for (number, block) in (1..).zip(&parts.blocks) {
            if late && number == parts.blocks.len() {
                // The classifier was trained on what its block makes of a crop of what the others made of the whole image.
                let (first, side) = centre_of_canvas(recipe, graph.shape());
                graph.crop(first, side);
            }
            graph.add(&format!("block{number}"), block, Role::Block, classes)?;
        }
        if let Some(head) = &parts.head {
            graph.add("auxiliary", head, Role::Head, classes)?;
            graph.flatten();
        }
        let model = Self {
            bytes: Vec::new(),
            blocks: parts.blocks.len(),
            input,
            classifies: parts.head.is_some(),
            normalisation: (recipe.data.mean.clone(), recipe.data.std.clone()),
        };
        Ok(Self { bytes: model.encode(graph, record), ..model })
    }

    fn encode(&self, graph: Graph, record: &Record) -> Vec<u8> {
        let output = if self.classifies { LOGITS } else { FEATURES };
        let shape = graph.shape();
        let sides = if self.classifies { vec![shape.channels] } else { vec![shape.channels, shape.size, shape.size] };
        let input = [self.input.channels, self.input.size, self.input.size];
        // The last result is given its public name by a node that does nothing else.
        let last = Message::new().text(1, &graph.value).text(2, output).text(3, output).text(4, "Identity");
        let name: String = record.pipeline.chars().filter(|c| !c.is_control()).collect();
        let whole = Message::new()
            .messages(1, graph.nodes.into_iter().chain([last]))
            .text(2, &name)
            .messages(5, graph.initializers)
            .message(11, value_info(INPUT, &input))
            .message(12, value_info(output, &sides));
        let notes = self.notes(record);
        Message::new()
            .integer(1, IR_VERSION)
            .text(2, "greedy")
            .text(3, env!("CARGO_PKG_VERSION"))
            .text(6, &self.description(record))
            .message(7, whole)
            .message(8, Message::new().text(1, "").integer(2, OPSET))
            .messages(14, notes.map(|(key, value)| Message::new().text(1, key).text(2, &value)))
            .into_bytes()
    }

    fn description(&self, record: &Record) -> String {
        let (mean, std) = &self.normalisation;
        let output = if self.classifies { "one logit a class, in the order of `classes`" } else { "features" };
        format!(
            "{} of pipeline {}: {} blocks. The input is [batch, {}]: pixels between 0 and 1, channel by channel minus {mean:?}, divided by {std:?}. The output is {output}.",
            record.title(),
            record.pipeline,
            self.blocks,
            self.input,
        )
    }

    fn notes(&self, record: &Record) -> [(&'static str, String); 5] {
        let (mean, std) = &self.normalisation;
        [
            ("classes", json!(record.classes).to_string()),
            ("mean", json!(mean).to_string()),
            ("std", json!(std).to_string()),
            ("pipeline", record.pipeline.clone()),
            ("output", record.output.clone().unwrap_or_default()),
        ]
    }

    /// Writes the file, and gives its bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<usize> {
        disk::write(path, &self.bytes)?;
        Ok(self.bytes.len())
    }
}

/// Fails where so many values are more than one file holds.
fn refuse_large(values: u64) -> Result<()> {
    let bytes = values.saturating_mul(4);
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    let found = size::words(bytes);
    Err(Error::failed(format!("the network has {found} of weights, and an ONNX file holds 2 GiB at most"))
        .hint("`greedy export` without `--format` writes weights of any size"))
}

/// `ValueInfoProto` of single-precision values with any number of samples.
fn value_info(name: &str, sides: &[usize]) -> Message {
    let batch = Message::new().text(2, "batch");
    let sides = sides.iter().map(|&side| Message::new().integer(1, side as i64));
    let shape = Message::new().messages(1, std::iter::once(batch).chain(sides));
    let tensor = Message::new().integer(1, FLOAT).message(2, shape);
    Message::new().text(1, name).message(2, Message::new().message(1, tensor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_no_file_holds_are_refused() {
        assert!(refuse_large(500_000_000).is_ok());
        let fault = refuse_large(600_000_000).unwrap_err();
        assert!(fault.to_string().contains("2 GiB at most") && fault.hint_text().is_some());
        assert!(refuse_large(u64::MAX).is_err());
    }
}
