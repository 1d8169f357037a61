//! A list of layers, one after the other: a block, or the head that classifies its features.

use super::layer::{Layer, Shape};
use std::fmt;

/// Layers, and what they read. They fit each other: this is looked at once, when the list is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// What the first of them reads.
    pub input: Shape,
    /// What the last gives; where that is one logit a class, as if there were one class.
    pub output: Shape,
    layers: Vec<Layer>,
}

/// What a list is for: it decides how weights are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stays in the network.
    Block,
    /// Classifies features.
    Head,
}

/// A layer that does not fit: its index, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The index of the layer.
    pub at: usize,
    /// What is wrong, naming the layer.
    pub message: String,
}

/// Values of a feature map that are worked with at most: 8 GiB of single precision. More is a slip of the pen.
const MOST_VALUES: usize = 1 << 31;

impl Layers {
    /// A list of layers for an input of a shape.
    ///
    /// # Errors
    /// With the first layer that does not fit.
    pub fn new(input: Shape, layers: Vec<Layer>) -> Result<Self, Misfit> {
        let mut output = input;
        for (at, layer) in layers.iter().enumerate() {
            let misfit = |message: String| Misfit { at, message: format!("{layer} {message}") };
            output = layer.output(output, 1).map_err(misfit)?;
            let too_large = || misfit(format!("gives {output}, more than any machine holds"));
            output
                .size
                .checked_mul(output.size)
                .and_then(|pixels| pixels.checked_mul(output.channels))
                .filter(|&values| values <= MOST_VALUES)
                .ok_or_else(too_large)?;
        }
        Ok(Self { input, output, layers })
    }

    /// The layers, first to last.
    pub fn iter(&self) -> impl Iterator<Item = Layer> + '_ {
        self.layers.iter().copied()
    }

    /// Each layer with what it reads and what it gives.
    pub fn shapes(&self, classes: usize) -> impl Iterator<Item = (Layer, Shape, Shape)> + '_ {
        self.layers.iter().scan(self.input, move |shape, &layer| {
            let input = *shape;
            *shape = layer.output(input, classes).unwrap_or(input);
            Some((layer, input, *shape))
        })
    }

    /// Values that are learned, with so many classes.
    pub fn parameters(&self, classes: usize) -> usize {
        self.shapes(classes).map(|(layer, input, _)| layer.parameters(input, classes)).sum()
    }

    /// Values of all weights and of running statistics: what a file of them holds.
    pub fn weights(&self, classes: usize) -> usize {
        let statistics: usize = self.shapes(classes).map(|(layer, input, _)| layer.statistics(input)).sum();
        self.parameters(classes) + statistics
    }

    /// Whether all of it is a scattering transform, of which nothing is learned.
    pub fn is_handcrafted(&self) -> bool {
        matches!(self.layers[..], [Layer::Scattering { .. }])
    }

    /// Whether no value that comes out is negative: behind a ReLU there is nothing but what moves, averages or picks values.
    pub fn is_rectified(&self) -> bool {
        use Layer::{AvgPool, Dropout, Flatten, MaxPool, SpaceToDepth};
        let keeps_signs =
            |layer: &&Layer| matches!(layer, SpaceToDepth | MaxPool { .. } | AvgPool { .. } | Dropout { .. } | Flatten);
        self.layers.iter().rev().find(|layer| !keeps_signs(layer)) == Some(&Layer::Relu)
    }

    /// The layers whose results get the gradient of the logits by direct feedback: the last of a block that learns; of a
    /// head each convolution and linear layer but the one that gives the logits, or rather what follows right behind it and
    /// is computed with it, a batch norm and a ReLU.
    pub fn fed_directly(&self, role: Role) -> Vec<usize> {
        if role == Role::Block {
            let learns =
                self.layers.iter().any(|layer| is_conv(layer) || is_linear(layer) || *layer == Layer::BatchNorm);
            return Vec::from_iter(self.layers.len().checked_sub(1).filter(|_| learns));
        }
        let follows = |at: usize, layer: Layer| usize::from(self.layers.get(at + 1) == Some(&layer));
        let weighted = self.layers.iter().enumerate().filter(|(_, layer)| is_conv(layer) || is_linear(layer));
        let mut last: Vec<usize> = weighted
            .map(|(at, layer)| {
                let at = if is_conv(layer) { at + follows(at, Layer::BatchNorm) } else { at };
                at + follows(at, Layer::Relu)
            })
            .collect();
        last.pop();
        last
    }

    /// Operations of a sample's forward pass.
    pub fn operations(&self, classes: usize) -> f64 {
        self.shapes(classes).map(|(layer, input, output)| layer.operations(input, output)).sum()
    }

    /// Whether crops of the features can be taken instead of crops of the input.
    pub fn keeps_shifts(&self) -> bool {
        self.layers.iter().all(Layer::keeps_shifts)
    }

    /// The output for an input of another size, such as a whole image instead of a crop.
    pub fn output_of(&self, input: Shape) -> Shape {
        self.layers.iter().fold(input, |shape, layer| layer.output(shape, 1).unwrap_or(shape))
    }

    /// The tensors of weights and running statistics: the name of the layer, what the tensor is to it, and its dimensions as
    /// PyTorch has them.
    pub fn tensors(&self, role: Role, classes: usize) -> Vec<(String, &'static str, Vec<usize>)> {
        let mut all = Vec::new();
        for ((layer, input, output), name) in self.shapes(classes).zip(self.names(role)) {
            let Some(name) = name else { continue };
            let own = match layer {
                Layer::Conv { channels, kernel, bias, .. } => {
                    let weight = ("weight", vec![channels, input.channels, kernel, kernel]);
                    vec![Some(weight), bias.then(|| ("bias", vec![channels]))]
                }
                Layer::BatchNorm => {
                    let kinds = ["weight", "bias", "running_mean", "running_var"];
                    kinds.map(|kind| Some((kind, vec![input.channels]))).into()
                }
                Layer::Linear { .. } => {
                    let (inputs, outputs) = (input.values(), output.values());
                    vec![Some(("weight", vec![outputs, inputs])), Some(("bias", vec![outputs]))]
                }
                _ => Vec::new(),
            };
            all.extend(own.into_iter().flatten().map(|(kind, shape)| (name.clone(), kind, shape)));
        }
        all
    }

    /// What the weights of each layer are called; nothing for layers without.
    ///
    /// Convolutions are `conv1`, `conv2` and so on, a batch norm right behind one has its number; where a block has one
    /// convolution, numbers are left out. A batch norm elsewhere is `bn`, linear layers are `linear`, or `linear1` and so
    /// on where there are several. A name that is taken gets a suffix.
    pub fn names(&self, role: Role) -> Vec<Option<String>> {
        let count = |is: fn(&Layer) -> bool| self.layers.iter().filter(|layer| is(layer)).count();
        let single = role == Role::Block && count(is_conv) == 1;
        let one_linear = count(is_linear) == 1;
        let (mut convs, mut linears, mut taken) = (0, 0, Vec::<String>::new());
        let mut names = Vec::with_capacity(self.layers.len());
        for (at, layer) in self.layers.iter().enumerate() {
            let behind = at > 0 && is_conv(&self.layers[at - 1]);
            let number = |count: usize, alone: bool| if alone { String::new() } else { count.to_string() };
            let name = match layer {
                Layer::Conv { .. } => {
                    convs += 1;
                    format!("conv{}", number(convs, single))
                }
                Layer::BatchNorm if behind => format!("bn{}", number(convs, single)),
                Layer::BatchNorm => "bn".into(),
                Layer::Linear { .. } => {
                    linears += 1;
                    format!("linear{}", number(linears, one_linear))
                }
                _ => {
                    names.push(None);
                    continue;
                }
            };
            let name = (1..).map(|again| if again == 1 { name.clone() } else { format!("{name}_{again}") });
            let name = name.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
            taken.push(name.clone());
            names.push(Some(name));
        }
        names
    }
}

fn is_conv(layer: &Layer) -> bool {
    matches!(layer, Layer::Conv { .. })
}

fn is_linear(layer: &Layer) -> bool {
    matches!(layer, Layer::Linear { .. })
}

impl fmt::Display for Layers {
    /// The layers in one line, with what they read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.input)?;
        self.layers.iter().try_for_each(|layer| write!(f, " > {layer}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::layer::Outputs;
    use super::*;

    const INPUT: Shape = Shape { channels: 8, size: 16 };

    fn names(role: Role, layers: &[Layer]) -> Vec<String> {
        let layers = Layers::new(INPUT, layers.to_vec()).unwrap();
        layers.names(role).into_iter().flatten().collect()
    }

    #[test]
    fn weights_are_called_as_people_call_them() {
        let conv = Layer::conv3x3(4, false);
        let linear = Layer::Linear { outputs: Outputs::Classes };
        let hidden = Layer::Linear { outputs: Outputs::Values(5) };
        assert_eq!(names(Role::Block, &[Layer::SpaceToDepth, conv, Layer::BatchNorm, Layer::Relu]), ["conv", "bn"]);
        let head = [conv, Layer::BatchNorm, Layer::Relu, Layer::AvgPool { size: 2 }, Layer::BatchNorm];
        let head: Vec<Layer> = head.into_iter().chain([Layer::Flatten, linear]).collect();
        assert_eq!(names(Role::Head, &head), ["conv1", "bn1", "bn", "linear"]);
        assert_eq!(names(Role::Head, &[Layer::Flatten, hidden, hidden, linear]), ["linear1", "linear2", "linear3"]);
        // Nothing shares a name, whatever people write.
        let odd = [Layer::BatchNorm, conv, Layer::BatchNorm, Layer::BatchNorm];
        assert_eq!(names(Role::Block, &odd), ["bn", "conv", "bn_2", "bn_3"]);
    }

    #[test]
    fn values_behind_a_relu_are_never_negative() {
        let is_rectified = |layers: &[Layer]| Layers::new(INPUT, layers.to_vec()).unwrap().is_rectified();
        let (conv, pool) = (Layer::conv3x3(4, false), Layer::max_pool(2));
        assert!(is_rectified(&[conv, Layer::BatchNorm, Layer::Relu]));
        assert!(is_rectified(&[conv, Layer::Relu, pool, Layer::Dropout { rate: 0.5 }, Layer::SpaceToDepth]));
        for layer in [Layer::BatchNorm, conv] {
            assert!(!is_rectified(&[conv, Layer::Relu, layer]), "{layer}");
        }
        // Whatever comes in comes out.
        assert!(!is_rectified(&[pool, Layer::Flatten]) && !is_rectified(&[]));
    }

    #[test]
    fn a_list_tells_which_layer_does_not_fit() {
        let misfit = Layers::new(INPUT, vec![Layer::Relu, Layer::max_pool(32)]).unwrap_err();
        assert_eq!(misfit.at, 1);
        assert!(misfit.message.starts_with("max pool 32x32 stride 32 does not fit"), "{}", misfit.message);
        let huge = Layers::new(INPUT, vec![Layer::conv3x3(1 << 40, false)]).unwrap_err();
        assert!(huge.message.contains("more than any machine"), "{}", huge.message);
    }
}
