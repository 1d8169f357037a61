//! Layers as nodes of an ONNX graph.

use super::protobuf::Message;
use crate::error::{Error, Result};
use crate::pipeline::{Layer, Role, Shape};
use crate::run::Part;

/// Added to variances, as in training.
const EPSILON: f32 = 1e-5;

/// Types of elements.
pub(super) const FLOAT: i64 = 1;
const INT64: i64 = 7;

/// The value of an attribute.
enum Value<'a> {
    Integer(i64),
    Integers(&'a [usize]),
    Float(f32),
}

/// Nodes that are added one behind the other, each of them reading what the one before it gives.
pub(super) struct Graph {
    pub nodes: Vec<Message>,
    pub initializers: Vec<Message>,
    /// The name of the last result.
    pub value: String,
    shape: Shape,
    /// Whether it is \[batch, values\] and no longer \[batch, channel, y, x\].
    flat: bool,
    /// The names of weights begin with this.
    prefix: String,
}

impl Graph {
    /// A graph whose input has a name and a shape.
    pub fn new(input: &str, shape: Shape) -> Self {
        Self {
            nodes: Vec::new(),
            initializers: Vec::new(),
            value: input.into(),
            shape,
            flat: false,
            prefix: String::new(),
        }
    }

    /// The shape of the last result.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Adds all layers of a block or a classifier, with their weights under its name.
    ///
    /// # Errors
    /// When the layers do not fit what was there, or a weight is missing.
    pub fn add(&mut self, name: &str, part: &Part, role: Role, classes: usize) -> Result<()> {
        self.prefix = name.into();
        let names = part.layers.names(role);
        for (layer, name) in part.layers.iter().zip(names) {
            self.layer(layer, name.as_deref().unwrap_or_default(), part)?;
            let misfit = |fault| Error::failed(format!("{layer} of {} {fault}", self.prefix));
            self.shape = layer.output(self.shape, classes).map_err(misfit)?;
        }
        Ok(())
    }

    fn layer(&mut self, layer: Layer, name: &str, part: &Part) -> Result<()> {
        if matches!(layer, Layer::Conv { .. } | Layer::MaxPool { .. } | Layer::AvgPool { .. }) {
            self.unflatten();
        }
        let window = |kernel: usize, stride: usize, padding: usize| ([kernel; 2], [stride; 2], [padding; 4]);
        match layer {
            Layer::SpaceToDepth => self.space_to_depth(),
            Layer::Conv { kernel, stride, padding, bias, .. } => {
                let mut inputs = vec![self.weight(part, name, "weight")?];
                if bias {
                    inputs.push(self.weight(part, name, "bias")?);
                }
                let (kernel, strides, pads) = window(kernel, stride, padding);
                let attributes = [
                    ("kernel_shape", Value::Integers(&kernel)),
                    ("strides", Value::Integers(&strides)),
                    ("pads", Value::Integers(&pads)),
                ];
                self.node("Conv", &inputs, &attributes);
            }
            Layer::BatchNorm => {
                let all = ["weight", "bias", "running_mean", "running_var"];
                let inputs = all.into_iter().map(|one| self.weight(part, name, one)).collect::<Result<Vec<_>>>()?;
                self.node("BatchNormalization", &inputs, &[("epsilon", Value::Float(EPSILON))]);
            }
            Layer::Relu => self.node("Relu", &[], &[]),
            Layer::MaxPool { kernel, stride, padding } => {
                let (kernel, strides, pads) = window(kernel, stride, padding);
                let attributes = [
                    ("kernel_shape", Value::Integers(&kernel)),
                    ("strides", Value::Integers(&strides)),
                    ("pads", Value::Integers(&pads)),
                ];
                self.node("MaxPool", &[], &attributes);
            }
            Layer::AvgPool { size } => self.average(size),
            // Does nothing but in training.
            Layer::Dropout { .. } => {}
            Layer::Flatten => self.flatten(),
            Layer::Scattering { .. } => {
                return Err(Error::usage("ONNX has no operator for a scattering transform").hint(
                    "Kymatio computes the same coefficients; `--format weights` writes the weights of what reads them",
                ));
            }
            Layer::Linear { .. } => {
                self.flatten();
                let inputs = [self.weight(part, name, "weight")?, self.weight(part, name, "bias")?];
                self.node("Gemm", &inputs, &[("transB", Value::Integer(1))]);
            }
        }
        Ok(())
    }

    /// Takes a square out of the middle of a canvas.
    pub fn crop(&mut self, first: usize, size: usize) {
        let ends = [first + size; 2];
        let inputs = [("starts", vec![first; 2]), ("ends", ends.to_vec()), ("axes", vec![2, 3])]
            .map(|(what, values)| self.integers(what, &values.iter().map(|&value| value as i64).collect::<Vec<_>>()));
        self.node("Slice", &inputs, &[]);
        self.shape.size = size;
    }

    /// \[batch, channel, y, x\] → \[batch, values\].
    pub fn flatten(&mut self) {
        if !self.flat {
            self.node("Flatten", &[], &[("axis", Value::Integer(1))]);
            self.flat = true;
        }
    }

    /// \[batch, values\] → \[batch, values, 1, 1\], where it is flat.
    fn unflatten(&mut self) {
        if self.flat {
            self.reshape(&[0, -1, 1, 1]);
            self.flat = false;
        }
    }

    /// Channels of the result come as PyTorch's `pixel_unshuffle` has them; ONNX's own operator has another order.
    fn space_to_depth(&mut self) {
        let (channels, half) = (self.shape.channels as i64, self.shape.size as i64 / 2);
        self.reshape(&[0, channels, half, 2, half, 2]);
        self.node("Transpose", &[], &[("perm", Value::Integers(&[0, 1, 3, 5, 2, 4]))]);
        self.reshape(&[0, 4 * channels, half, half]);
    }

    /// Averages to a grid. Where cells have different sizes or overlap, that is a product with a matrix from either side.
    fn average(&mut self, cells: usize) {
        let side = self.shape.size;
        if side.is_multiple_of(cells) {
            let kernel = [side / cells; 2];
            let attributes = [("kernel_shape", Value::Integers(&kernel)), ("strides", Value::Integers(&kernel))];
            return self.node("AveragePool", &[], &attributes);
        }
        let mut shares = vec![0.0f32; cells * side];
        for cell in 0..cells {
            let pixels = cell * side / cells..((cell + 1) * side).div_ceil(cells);
            let share = 1.0 / pixels.len() as f32;
            shares[cell * side..][pixels].fill(share);
        }
        let turned: Vec<f32> = (0..side * cells).map(|at| shares[at % cells * side + at / cells]).collect();
        let right = self.tensor("columns", &[side, cells], &turned);
        self.node("MatMul", &[right], &[]);
        let left = self.tensor("rows", &[cells, side], &shares);
        let inputs = [left, self.value.clone()];
        self.named_node("MatMul", &inputs, &[]);
    }

    fn reshape(&mut self, shape: &[i64]) {
        let shape = self.integers("shape", shape);
        self.node("Reshape", &[shape], &[]);
    }

    /// A node that reads the last result and other values behind it.
    fn node(&mut self, operator: &str, others: &[String], attributes: &[(&str, Value<'_>)]) {
        let inputs: Vec<String> = std::iter::once(self.value.clone()).chain(others.iter().cloned()).collect();
        self.named_node(operator, &inputs, attributes);
    }

    fn named_node(&mut self, operator: &str, inputs: &[String], attributes: &[(&str, Value<'_>)]) {
        let name = format!("{}/{}_{operator}", self.prefix, self.nodes.len());
        let node = inputs.iter().fold(Message::new(), |node, input| node.text(1, input));
        let node = node.text(2, &name).text(3, &name).text(4, operator);
        self.nodes.push(node.messages(5, attributes.iter().map(|(name, value)| attribute(name, value))));
        self.value = name;
    }

    /// A weight of a layer as a constant of the graph; gives its name.
    fn weight(&mut self, part: &Part, layer: &str, what: &str) -> Result<String> {
        let own = format!("{layer}.{what}");
        let found = part.variables.iter().find(|(name, _)| *name == own);
        let (_, variable) = found.ok_or_else(|| Error::failed(format!("{} has no weights `{own}`", self.prefix)))?;
        let values: Vec<f32> = variable.flatten_all()?.to_vec1()?;
        let name = format!("{}.{own}", self.prefix);
        self.initializers.push(tensor(&name, variable.dims(), FLOAT, &bytes(&values)));
        Ok(name)
    }

    fn tensor(&mut self, what: &str, shape: &[usize], values: &[f32]) -> String {
        let name = format!("{}/{}_{what}", self.prefix, self.nodes.len());
        self.initializers.push(tensor(&name, shape, FLOAT, &bytes(values)));
        name
    }

    fn integers(&mut self, what: &str, values: &[i64]) -> String {
        let name = format!("{}/{}_{what}", self.prefix, self.nodes.len());
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializers.push(tensor(&name, &[values.len()], INT64, &raw));
        name
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `TensorProto`
fn tensor(name: &str, shape: &[usize], element: i64, raw: &[u8]) -> Message {
    let dims = Message::new().integers(1, shape.iter().map(|&side| side as i64));
    dims.integer(2, element).text(8, name).raw(9, raw)
}

/// `AttributeProto`
fn attribute(name: &str, value: &Value<'_>) -> Message {
    /// Types of attributes.
    const FLOAT: i64 = 1;
    const INT: i64 = 2;
    const INTS: i64 = 7;
    let own = Message::new().text(1, name);
    match value {
        Value::Float(value) => own.float(2, *value).integer(20, FLOAT),
        Value::Integer(value) => own.integer(3, *value).integer(20, INT),
        Value::Integers(values) => own.integers(8, values.iter().map(|&value| value as i64)).integer(20, INTS),
    }
}
