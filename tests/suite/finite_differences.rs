//! The gradients of every layer kind agree with central differences, in f64, of what the layer is by its definition.

use candle_core::{DType, Device, Tensor};
use greedy::network::{Network, NetworkPass, Noise};
use greedy::ops::{to_nchw, to_nhwc};
use greedy::pipeline::{Layer, Layers, Recipe, Role, Shape};
use greedy::random::{Purpose, Stream};
use std::collections::HashMap;

const CLASSES: usize = 3;
const BATCH: usize = 4;

/// A batch of feature maps, [sample, channel, y, x], in f64.
#[derive(Clone)]
struct Maps {
    shape: Shape,
    values: Vec<f64>,
}

impl Maps {
    fn new(shape: Shape) -> Self {
        Self { shape, values: vec![0.0; BATCH * shape.values()] }
    }

    fn at(&self, sample: usize, channel: usize, y: usize, x: usize) -> usize {
        ((sample * self.shape.channels + channel) * self.shape.size + y) * self.shape.size + x
    }

    /// Another batch, value by value, from sample, channel, y and x.
    fn map(shape: Shape, value: impl Fn(usize, usize, usize, usize) -> f64) -> Self {
        let mut out = Self::new(shape);
        for sample in 0..BATCH {
            for channel in 0..shape.channels {
                for (y, x) in (0..shape.size).flat_map(|y| (0..shape.size).map(move |x| (y, x))) {
                    let at = out.at(sample, channel, y, x);
                    out.values[at] = value(sample, channel, y, x);
                }
            }
        }
        out
    }

    /// The pixels of a window that lie inside, with their place in the window.
    fn window(&self, (y, x): (usize, usize), (kernel, stride, padding): (usize, usize, usize)) -> Vec<[usize; 4]> {
        let inside = |at: usize, offset: usize| (at * stride + offset).checked_sub(padding);
        let mut all = Vec::new();
        for (dy, dx) in (0..kernel).flat_map(|dy| (0..kernel).map(move |dx| (dy, dx))) {
            if let (Some(y), Some(x)) = (inside(y, dy), inside(x, dx))
                && y.max(x) < self.shape.size
            {
                all.push([dy, dx, y, x]);
            }
        }
        all
    }
}

/// Weights in f64, by name.
type Weights = HashMap<String, Vec<f64>>;

/// What a layer makes of a batch, straight from its definition.
fn apply(layer: Layer, output: Shape, x: &Maps, name: &str, weights: &Weights, mask: &[f64]) -> Maps {
    let input = x.shape;
    let weight = |value: &str| weights.get(&format!("{name}.{value}"));
    match layer {
        Layer::SpaceToDepth => Maps::map(output, |n, c, y, col| {
            let (dy, dx) = (c % 4 / 2, c % 2);
            x.values[x.at(n, c / 4, 2 * y + dy, 2 * col + dx)]
        }),
        Layer::Scattering { .. } => unreachable!("it learns nothing and reads constants: nothing is differentiated"),
        Layer::Conv { kernel, stride, padding, bias, .. } => {
            let (w, b) = (weight("weight").unwrap(), weight("bias"));
            assert_eq!(bias, b.is_some());
            Maps::map(output, |n, c, y, col| {
                let pixels = x.window((y, col), (kernel, stride, padding));
                let products = (0..input.channels).flat_map(|from| {
                    let w = &w[(c * input.channels + from) * kernel * kernel..];
                    pixels.iter().map(move |&[dy, dx, y, col]| w[dy * kernel + dx] * x.values[x.at(n, from, y, col)])
                });
                products.sum::<f64>() + b.map_or(0.0, |b| b[c])
            })
        }
        Layer::BatchNorm => {
            let (gamma, beta) = (weight("weight").unwrap(), weight("bias").unwrap());
            let moments: Vec<(f64, f64)> = (0..input.channels)
                .map(|c| {
                    let pixels = input.size * input.size;
                    let all = (0..BATCH).flat_map(|n| (0..pixels).map(move |p| (n * input.channels + c) * pixels + p));
                    let all: Vec<f64> = all.map(|at| x.values[at]).collect();
                    let mean = all.iter().sum::<f64>() / all.len() as f64;
                    (mean, all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64)
                })
                .collect();
            Maps::map(output, |n, c, y, col| {
                let (mean, variance) = moments[c];
                (x.values[x.at(n, c, y, col)] - mean) / (variance + 1e-5).sqrt() * gamma[c] + beta[c]
            })
        }
        Layer::Relu => Maps { shape: output, values: x.values.iter().map(|v| v.max(0.0)).collect() },
        Layer::MaxPool { kernel, stride, padding } => Maps::map(output, |n, c, y, col| {
            let pixels = x.window((y, col), (kernel, stride, padding)).into_iter();
            pixels.map(|[_, _, y, col]| x.values[x.at(n, c, y, col)]).fold(f64::NEG_INFINITY, f64::max)
        }),
        Layer::AvgPool { size } => Maps::map(output, |n, c, y, col| {
            let cell = |at: usize| at * input.size / size..((at + 1) * input.size).div_ceil(size);
            let pixels: Vec<f64> =
                cell(y).flat_map(|y| cell(col).map(move |col| x.values[x.at(n, c, y, col)])).collect();
            pixels.iter().sum::<f64>() / pixels.len() as f64
        }),
        Layer::Dropout { .. } => {
            Maps { shape: output, values: x.values.iter().zip(mask).map(|(v, kept)| v * kept).collect() }
        }
        Layer::Flatten => Maps { shape: output, values: x.values.clone() },
        Layer::Linear { .. } => {
            let (w, b) = (weight("weight").unwrap(), weight("bias").unwrap());
            Maps::map(output, |n, c, _, _| {
                let products =
                    (0..input.channels).map(|from| w[c * input.channels + from] * x.values[x.at(n, from, 0, 0)]);
                products.sum::<f64>() + b[c]
            })
        }
    }
}

/// A network of a table of layers, a batch for it, and the direction in which its logits are looked at.
struct Case {
    name: String,
    parts: Vec<(String, Layers)>,
    network: Network,
    x: Maps,
    direction: Vec<f64>,
    mask: Vec<f64>,
}

impl Case {
    fn new(size: usize, blocks: &str, head: &str) -> Self {
        let text = format!(
            "[data]\nsource = \"builtin\"\nsize = {size}\n[network]\narchitecture = \"custom\"\nblocks = {blocks}\nhead = {head}\n\
             [training]\nmethod = \"end_to_end\"\n"
        );
        let recipe = Recipe::parse("test", "test", &text, &[]).unwrap();
        let name = format!("{blocks}, {head}");
        let blocks: Vec<&Layers> = recipe.stages.iter().map(|stage| &stage.block).collect();
        let head = recipe.stages.last().unwrap().head.as_ref().unwrap();
        let mut draw = Stream::new(Purpose::Weights, 7, (1, 0));
        let network = Network::new(&blocks, head, CLASSES, (recipe.init, &mut draw, &Device::Cpu)).unwrap();
        for (_, variable) in network.variables().parameters() {
            // Nothing at a default that would hide a fault: gains are not 1, shifts not 0.
            let values: Vec<f32> = (0..variable.elem_count()).map(|_| 0.6 * draw.normal() as f32).collect();
            variable.set(&Tensor::from_vec(values, variable.dims(), &Device::Cpu).unwrap()).unwrap();
        }
        let several = blocks.len() > 1;
        let block_name = |number: usize| if several { format!("block{number}") } else { "block".into() };
        let mut parts: Vec<(String, Layers)> =
            (1..).zip(&blocks).map(|(number, block)| (block_name(number), (*block).clone())).collect();
        parts.push(("auxiliary".into(), head.clone()));
        let mut x = Maps::new(Shape { channels: 3, size });
        x.values.iter_mut().for_each(|value| *value = f64::from(draw.normal() as f32));
        let direction = (0..BATCH * CLASSES).map(|_| f64::from(draw.normal() as f32)).collect();
        Self { name, parts, network, x, direction, mask: Vec::new() }
    }

    fn train(&self) -> (Tensor, NetworkPass) {
        self.network.train(&self.batch(), &Noise::new(3, (1, 2), &SAMPLES)).unwrap()
    }

    fn batch(&self) -> Tensor {
        let values: Vec<f32> = self.x.values.iter().map(|&value| value as f32).collect();
        let Shape { channels, size } = self.x.shape;
        to_nhwc(&Tensor::from_vec(values, (BATCH, channels, size, size), &Device::Cpu).unwrap()).unwrap()
    }

    /// The logits by definition, as far as the network's layers are known by their names.
    fn logits(&self, weights: &Weights) -> Vec<f64> {
        let mut x = self.x.clone();
        for (part, layers) in &self.parts {
            let role = if part == "auxiliary" { Role::Head } else { Role::Block };
            for ((layer, _, output), name) in layers.shapes(CLASSES).zip(layers.names(role)) {
                let name = format!("{part}.{}", name.unwrap_or_default());
                x = apply(layer, output, &x, &name, weights, &self.mask);
            }
        }
        x.values
    }

    fn loss(&self, weights: &Weights) -> f64 {
        self.logits(weights).iter().zip(&self.direction).map(|(logit, along)| logit * along).sum()
    }

    #[track_caller]
    fn check(&self) {
        let variables = self.network.variables();
        let mut weights: Weights = variables.iter().map(|(name, value)| (name.to_string(), values(value))).collect();
        let (logits, pass) = self.train();
        close(&values(&logits), &self.logits(&weights), &format!("logits of {}", self.name));
        let direction: Vec<f32> = self.direction.iter().map(|&value| value as f32).collect();
        let direction = Tensor::from_vec(direction, (BATCH, CLASSES), &Device::Cpu).unwrap();
        let gradients = self.network.gradients(pass, &direction).unwrap();
        for (name, variable) in variables.parameters() {
            let differences: Vec<f64> =
                (0..variable.elem_count()).map(|at| self.difference(&mut weights, name, at)).collect();
            close(&values(gradients.get(variable).unwrap()), &differences, &format!("{name} of {}", self.name));
        }
    }

    fn difference(&self, weights: &mut Weights, name: &str, at: usize) -> f64 {
        const STEP: f64 = 1e-6;
        let mut loss_at = |offset: f64| {
            weights.get_mut(name).unwrap()[at] += offset;
            let loss = self.loss(weights);
            weights.get_mut(name).unwrap()[at] -= offset;
            loss
        };
        (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP)
    }
}

const SAMPLES: [u32; BATCH] = [4, 0, 9, 17];

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Within 1e-4 of the largest: single precision against double.
#[track_caller]
fn close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.1f64, |largest, value| largest.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= 1e-4 * scale, "{what}: value {at} is {found}, not {expected}");
    }
}

/// What every head here ends with.
const HEAD: &str = "[\"flatten\", { linear = \"classes\" }]";

#[test]
fn convolutions_of_any_window_have_the_gradients_of_their_definition() {
    for conv in [
        "{ conv = 4 }",
        "{ conv = 4, bias = false }",
        "{ conv = 4, kernel = 5, stride = 2 }",
        "{ conv = 4, kernel = 3, padding = 0 }",
        "{ conv = 4, kernel = 1 }",
        "{ conv = 4, kernel = 7, stride = 2, padding = 3 }",
        "{ conv = 4, kernel = 4, stride = 3, padding = 1 }",
    ] {
        // Below another one, so that the gradient of the input counts as well; with and without a ReLU behind.
        Case::new(8, &format!("[[{{ conv = 5 }}, \"relu\", {conv}], [{{ conv = 3, kernel = 1 }}]]"), HEAD).check();
        Case::new(8, &format!("[[{{ conv = 5 }}, {conv}, \"relu\"]]"), HEAD).check();
    }
}

#[test]
fn batch_norm_has_the_gradients_of_its_definition() {
    for norm in [
        "[{ conv = 4 }, \"batch_norm\", \"relu\"]",
        "[{ conv = 4, bias = true }, \"batch_norm\"]",
        "[{ conv = 4 }, { max_pool = 2 }, \"batch_norm\"]",
        "[{ conv = 4 }, { max_pool = 2 }, \"batch_norm\", \"relu\"]",
        // Not right behind each other: the second would take the first's scale out again, and leave rounding alone.
        "[{ conv = 4 }, \"batch_norm\", \"relu\", \"batch_norm\"]",
    ] {
        Case::new(6, &format!("[{norm}, [{{ conv = 3 }}, \"batch_norm\", \"relu\"]]"), HEAD).check();
    }
}

#[test]
fn poolings_have_the_gradients_of_their_definition() {
    for pool in [
        "{ max_pool = 2 }",
        "{ max_pool = 3, stride = 2 }",
        "{ max_pool = 3, stride = 2, padding = 1 }",
        "{ max_pool = 3, stride = 1, padding = 1 }",
        "{ avg_pool = 1 }",
        "{ avg_pool = 3 }",
        "{ avg_pool = 5 }",
        "{ avg_pool = 9 }",
    ] {
        Case::new(7, &format!("[[{{ conv = 4 }}, {pool}], [{{ conv = 3, kernel = 1 }}, \"relu\"]]"), HEAD).check();
        Case::new(7, "[[{ conv = 4 }, \"relu\"]]", &format!("[{pool}, \"flatten\", {{ linear = \"classes\" }}]"))
            .check();
    }
}

#[test]
fn space_to_depth_and_a_relu_by_itself_have_the_gradients_of_their_definition() {
    Case::new(8, "[[{ conv = 3 }, \"space_to_depth\", { conv = 4 }, \"relu\"]]", HEAD).check();
    Case::new(8, "[[{ conv = 3 }, { max_pool = 2 }, \"relu\", \"space_to_depth\"]]", HEAD).check();
}

#[test]
fn linear_layers_have_the_gradients_of_their_definition() {
    let head = "[\"flatten\", { linear = 7 }, \"relu\", { linear = 6 }, { linear = \"classes\" }]";
    Case::new(5, "[[{ conv = 4, kernel = 3, stride = 2 }, \"relu\"]]", head).check();
}

#[test]
fn dropout_has_the_gradients_of_what_it_lets_through() {
    let mut case = Case::new(6, "[[{ conv = 4 }, \"relu\", { dropout = 0.4 }], [{ conv = 3 }, \"relu\"]]", HEAD);
    // Which values are dropped is learned from a block that gives 1 everywhere.
    let variables = case.network.blocks[0].variables();
    let kept: HashMap<String, Tensor> = variables.tensors().into_iter().map(|(n, t)| (n, t.copy().unwrap())).collect();
    let ones = variables.iter().map(|(name, value)| {
        let constant = if name.ends_with("bias") { 1.0 } else { 0.0 };
        (name.to_string(), Tensor::full(constant as f32, value.dims(), &Device::Cpu).unwrap())
    });
    variables.set(&ones.collect(), "ones").unwrap();
    let (mask, _) = case.network.blocks[0].train(case.batch(), &Noise::new(3, (1, 2), &SAMPLES)).unwrap();
    variables.set(&kept, "kept").unwrap();
    case.mask = values(&to_nchw(&mask).unwrap());
    let dropped = case.mask.iter().filter(|&&kept| kept == 0.0).count() as f64 / case.mask.len() as f64;
    assert!((0.3..0.5).contains(&dropped), "{dropped}");
    assert!(case.mask.iter().all(|&kept| kept == 0.0 || (kept - 1.0 / 0.6).abs() < 1e-6));
    case.check();
}
