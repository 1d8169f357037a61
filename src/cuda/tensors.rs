//! The operations on candle's tensors: what `ops` calls where a tensor lies on a GPU.
//!
//! Shapes were checked there; types and pointers are checked here.

use super::convolution::{Pass, Shape};
use super::dropout::Mask;
use super::engine::{Engine, engine};
use super::gpu::Element;
use super::learning::{self, LossPointers, Moved, Step, Weights};
use super::mapped::cast;
use super::pixels::{self, Images, Windows};
use super::pointers::{Unset, element, element_of, in_order, in_place, make, require, with_pointers};
use super::tiling::Maps;
use candle_core::{DType, Device, Result, Shape as Dimensions, Tensor, Var};
use std::cell::RefCell;

pub(super) fn images(x: &Tensor) -> Result<Images> {
    let (batch, height, width, channels) = x.dims4()?;
    Ok(Images { batch, height, width, channels, element: element(x)? })
}

/// Maps \[…, channels\].
fn maps(x: &Tensor) -> Result<Maps> {
    let channels = x.dims().last().copied().unwrap_or(0);
    Ok(Maps { pixels: x.elem_count() / channels.max(1), channels, element: element(x)? })
}

/// Runs a convolution of maps and weights, whatever their numbers of channels: to maps or sums of so many pixels and
/// channels, or to packed weights.
fn convolve(engine: &Engine, shape: Shape, from: [&Tensor; 2], to: [usize; 4]) -> Result<Tensor> {
    let Shape { pass, weights, element, .. } = shape;
    let wide = weights.widened(element);
    let channels = match pass {
        Pass::Forward => [(weights.inputs, wide.inputs), (0, 0), (weights.outputs, wide.outputs)],
        Pass::Input => [(0, 0), (weights.outputs, wide.outputs), (weights.inputs, wide.inputs)],
        Pass::Weight => [(weights.inputs, wide.inputs), (weights.outputs, wide.outputs), (0, 0)],
    };
    let [first, second] = [0, 1].map(|at| widen(engine, from[at], channels[at]));
    let (first, second) = (first?, second?);
    let (has, wants) = (channels[2].1, channels[2].0);
    let dims = if has == wants { to } else { [to[0], to[1], to[2], has] };
    let shape = Shape { weights: wide, ..shape };
    let y = make(engine, dims.to_vec(), element, |to| {
        // SAFETY: tensors of the shapes that were described.
        with_pointers(engine, [&first, &second], |from| unsafe { engine.convolutions().run(engine, shape, from, to) })
    })?;
    widen(engine, &y, (has, wants))
}

/// The same maps with another number of channels, if it is another.
fn widen(engine: &Engine, x: &Tensor, (has, wants): (usize, usize)) -> Result<Tensor> {
    if has == wants {
        return Ok(x.clone());
    }
    let maps = maps(x)?;
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(wants);
    make(engine, dims, maps.element, |y| {
        // SAFETY: as many pixels on both sides.
        with_pointers(engine, [x], |[x]| unsafe { maps.widen(engine, x, wants, y) })
    })
}

/// As [`ops::convolution`].
pub(crate) fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    windows: Windows,
    relu: bool,
) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let (images, weights) = (images(x)?, weights(weight)?);
    let packed = pack_one(&engine, weight, images.element)?;
    let shape = convolved(Pass::Forward, images, weights, windows);
    let to = [images.batch, windows.rows, windows.columns, weights.outputs];
    let y = convolve(&engine, shape, [x, &packed], to)?;
    if bias.is_some() || relu {
        let none = Tensor::zeros(weights.outputs, DType::F32, x.device())?;
        finish(&engine, &y, bias.unwrap_or(&none), relu)?;
    }
    Ok(y)
}

/// Adds a bias \[channels\] to `y` \[…, channels\], of which nobody else knows yet, and takes the ReLU.
fn finish(engine: &Engine, y: &Tensor, bias: &Tensor, relu: bool) -> Result<()> {
    require([bias], DType::F32)?;
    let maps = maps(y)?;
    // SAFETY: as many values as the maps have, and a bias for each channel.
    with_pointers(engine, [y, bias], |[y, bias]| unsafe { maps.add_bias(engine, y, bias, relu) })
}

/// As [`ops::weight_gradient`].
pub(crate) fn weight_gradient(x: &Tensor, grad: &Tensor, windows: Windows) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let images = images(x)?;
    require([grad], x.dtype())?;
    let weights = Weights { outputs: grad.dim(3)?, inputs: images.channels, kernel: windows.side };
    let shape = convolved(Pass::Weight, images, weights, windows);
    let wide = weights.widened(images.element);
    let packed = convolve(&engine, shape, [x, grad], [wide.outputs, wide.kernel, wide.kernel, wide.inputs])?;
    if wide == weights {
        // In the order in which it came, and of the type: who reads it need not have it in another.
        return packed.permute((0, 3, 1, 2));
    }
    unpack(&engine, &packed, weights, images.element)
}

/// As [`ops::packed`].
pub(crate) fn packed(all: &[&Tensor], dtype: DType) -> Result<Vec<Tensor>> {
    let Some(first) = all.first() else { return Ok(Vec::new()) };
    let (engine, element) = (engine(first.device())?, element_of(dtype)?);
    // What must be made wider has no order that a tensor of its shape could have.
    let fits = |weight: &&Tensor| weights(weight).is_ok_and(|own| own.widened(element) == own);
    let fitting: Vec<&Tensor> = all.iter().copied().filter(|weight| fits(weight)).collect();
    let mut packed = pack(&engine, &fitting, element)?.into_iter();
    let take = |weight: &&Tensor| match fits(weight).then(|| packed.next()).flatten() {
        Some(packed) => packed.permute((0, 3, 1, 2)),
        None => Ok((*weight).clone()),
    };
    all.iter().map(take).collect()
}

/// As [`ops::unpacked`].
pub(crate) fn unpacked(weight: &Tensor) -> Result<Tensor> {
    let Some((weights, element)) = is_packed(weight)? else { return Ok(weight.clone()) };
    unpack(&*engine(weight.device())?, &weight.permute((0, 2, 3, 1))?, weights, element)
}

/// \[output, y, x, input\], as [wide](Weights::widened) as convolutions take them → \[output, input, y, x\] in f32.
fn unpack(engine: &Engine, packed: &Tensor, weights: Weights, element: Element) -> Result<Tensor> {
    make(engine, (weights.outputs, weights.inputs, weights.kernel, weights.kernel), Element::F32, |to| {
        // SAFETY: both have as many values as the weights.
        with_pointers(engine, [packed], |[from]| unsafe { weights.unpack(engine, from, element, to) })
    })
}

/// What weights, or gradients of such, are of, and their type, where they lie in the order of convolutions.
fn is_packed(weight: &Tensor) -> Result<Option<(Weights, Element)>> {
    if weight.rank() != 4 || weight.is_contiguous() && weight.dtype() == DType::F32 {
        return Ok(None);
    }
    let lies_so = weight.permute((0, 2, 3, 1))?.is_contiguous();
    Ok(if lies_so { Some((weights(weight)?, element(weight)?)) } else { None })
}

/// As [`ops::input_gradient`], for an input of the given height and width.
pub(crate) fn input_gradient(
    weight: &Tensor,
    grad: &Tensor,
    windows: Windows,
    (height, width): (usize, usize),
) -> Result<Tensor> {
    let engine = engine(grad.device())?;
    let weights = weights(weight)?;
    let of = Images { height, width, channels: weights.inputs, ..images(grad)? };
    let packed = pack_one(&engine, weight, of.element)?;
    let shape = convolved(Pass::Input, of, weights, windows);
    convolve(&engine, shape, [&packed, grad], [of.batch, height, width, of.channels])
}

fn weights(weight: &Tensor) -> Result<Weights> {
    let (outputs, inputs, kernel, _) = weight.dims4()?;
    Ok(Weights { outputs, inputs, kernel })
}

fn convolved(pass: Pass, images: Images, weights: Weights, Windows { stride, padding, .. }: Windows) -> Shape {
    let Images { batch, height, width, element, .. } = images;
    Shape { pass, batch, height, width, weights, stride, padding, element }
}

/// Weights in the order and the type in which convolutions read them: \[output, y, x, input\], as wide as they are taken.
fn pack(engine: &Engine, all: &[&Tensor], element: Element) -> Result<Vec<Tensor>> {
    let mut out = Vec::with_capacity(all.len());
    for some in all.chunks(learning::AT_ONCE) {
        some.iter().try_for_each(|weight| require([weight], DType::F32))?;
        let held: Vec<Tensor> = some.iter().map(|weight| in_order(weight)).collect::<Result<_>>()?;
        let mut places = Vec::with_capacity(some.len());
        for weight in &held {
            let own = weights(weight)?;
            let Weights { outputs, inputs, kernel } = own.widened(element);
            let to = Unset::new(&engine.device, (outputs, kernel, kernel, inputs), element)?;
            let from = with_pointers(engine, [weight], |[from]| Ok(from))?;
            places.push((own, [from, to.pointer]));
            out.push(to.written());
        }
        // SAFETY: those here and there are held, and have as many values as the weights.
        unsafe { learning::pack(engine, &places, element) }?;
    }
    Ok(out)
}

/// A weight as convolutions read it, where it is not so already.
fn pack_one(engine: &Engine, weight: &Tensor, element: Element) -> Result<Tensor> {
    let own = weights(weight)?;
    match is_packed(weight)? {
        Some((_, other)) if other == element && own.widened(element) == own => weight.permute((0, 2, 3, 1)),
        Some(_) => pack_one(engine, &unpacked(weight)?, element),
        None => Ok(pack(engine, &[weight], element)?.remove(0)),
    }
}

/// As [`ops::relu`].
pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let maps = maps(x)?;
    make(&engine, x.shape(), maps.element, |to| {
        // SAFETY: both have as many values as the maps.
        with_pointers(&engine, [x], |[x]| unsafe { maps.relu(&*engine, x, to) })
    })
}

/// As [`ops::dropout`], for values \[sample, …\] and one seed for each.
pub(crate) fn dropout(x: &Tensor, mask: Mask, seeds: &[u64]) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let samples = seeds.len();
    let maps = Maps { pixels: samples, channels: x.elem_count() / samples.max(1), element: element(x)? };
    let halves: Vec<u32> = seeds.iter().flat_map(|&seed| [seed as u32, (seed >> 32) as u32]).collect();
    let seeds = Tensor::from_vec(halves, (samples, 2), x.device())?;
    make(&engine, x.shape(), maps.element, |to| {
        // SAFETY: as many values as the samples have, and two halves of a seed for each.
        with_pointers(&engine, [x, &seeds], |from| unsafe { maps.dropout(&*engine, from, mask, to) })
    })
}

/// As [`ops::relu_gradient`].
pub(crate) fn relu_gradient(y: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let engine = engine(y.device())?;
    let maps = maps(y)?;
    require([grad], y.dtype())?;
    make(&engine, y.shape(), maps.element, |to| {
        // SAFETY: all have as many values as the maps.
        with_pointers(&engine, [y, grad], |[y, grad]| unsafe { maps.relu_gradient(&*engine, y, grad, to) })
    })
}

/// The sums of `x` \[…, channels\] over all but the channels, in f32.
pub(crate) fn channel_sums(x: &Tensor) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let maps = maps(x)?;
    make(&engine, maps.channels, Element::F32, |to| {
        // SAFETY: as many values as the maps have, and one f32 a channel.
        with_pointers(&engine, [x], |[x]| unsafe { maps.channel_sums(&*engine, x, to) })
    })
}

/// As [`ops::linear`]. The matrix product is made in the type of the input, from which the weights are rounded to it.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    require([weight], DType::F32)?;
    let y = x.matmul(&cast(weight, x.dtype())?.t()?)?;
    finish(&*engine(x.device())?, &y, bias, false)?;
    Ok(y)
}

/// As [`ops::linear_weight_gradient`].
pub(crate) fn linear_weight_gradient(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    require([grad], x.dtype())?;
    cast(&grad.t()?.matmul(x)?, DType::F32)
}

/// As [`ops::linear_input_gradient`].
pub(crate) fn linear_input_gradient(weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
    require([weight], DType::F32)?;
    grad.matmul(&cast(weight, grad.dtype())?)
}

/// As [`ops::pool`]; the result is f32.
pub(crate) fn pool(x: &Tensor, side: usize) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let images = images(x)?;
    make(&engine, (images.batch, side, side, images.channels), Element::F32, |to| {
        // SAFETY: as many values as the images and the cells have.
        with_pointers(&engine, [x], |[x]| unsafe { images.pool(&*engine, x, side, to) })
    })
}

/// As [`ops::pool_gradient`], from an f32 gradient.
pub(crate) fn pool_gradient(grad: &Tensor, (height, width): (usize, usize), dtype: DType) -> Result<Tensor> {
    let engine = engine(grad.device())?;
    require([grad], DType::F32)?;
    let (batch, side, _, channels) = grad.dims4()?;
    let element = element_of(dtype)?;
    let images = Images { batch, height, width, channels, element };
    make(&engine, (batch, height, width, channels), element, |to| {
        // SAFETY: as many values as the images and the cells have.
        with_pointers(&engine, [grad], |[grad]| unsafe { images.pool_gradient(&*engine, grad, side, to) })
    })
}

/// As [`ops::space_to_depth`].
pub(crate) fn space_to_depth(x: &Tensor) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let images = images(x)?;
    let Images { batch, height, width, channels, element } = images;
    make(&engine, (batch, height / 2, width / 2, 4 * channels), element, |to| {
        // SAFETY: both have as many values as the images.
        with_pointers(&engine, [x], |[x]| unsafe { images.space_to_depth(&*engine, x, to) })
    })
}

/// As [`ops::max_pool`].
pub(crate) fn max_pool(x: &Tensor, windows: Windows) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let images = images(x)?;
    make(&engine, (images.batch, windows.rows, windows.columns, images.channels), images.element, |to| {
        // SAFETY: as many values as the images and the windows have.
        with_pointers(&engine, [x], |[x]| unsafe { images.max_pool(&*engine, x, windows, to) })
    })
}

/// As [`ops::max_pool_gradient`].
pub(crate) fn max_pool_gradient(x: &Tensor, grad: &Tensor, windows: Windows) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let images = images(x)?;
    require([grad], x.dtype())?;
    make(&engine, x.shape(), images.element, |to| {
        with_pointers(&engine, [x, grad], |[x, grad]| {
            // SAFETY: as many values as the images and the windows have.
            unsafe { images.max_pool_gradient(&*engine, (x, grad), windows, to) }
        })
    })
}

/// \[batch, a, b\] → \[batch, b, a\] of the values of `x`, as a tensor of the given shape.
pub(crate) fn exchange(x: &Tensor, sizes: [usize; 3], shape: impl Into<Dimensions>) -> Result<Tensor> {
    let engine = engine(x.device())?;
    let element = element(x)?;
    make(&engine, shape, element, |to| {
        // SAFETY: both have as many values.
        with_pointers(&engine, [x], |[x]| unsafe { pixels::exchange(&*engine, element, x, sizes, to) })
    })
}

/// The mean loss, the number of correct answers, and the gradient of the mean, as of [`ops::cross_entropy`].
pub(crate) fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<[Tensor; 3]> {
    let engine = engine(logits.device())?;
    require([logits], DType::F32)?;
    require([labels], DType::U32)?;
    let (batch, classes) = logits.dims2()?;
    let [mean, correct] = [0, 1].map(|_| Unset::new(&engine.device, (), Element::F32));
    let (mean, correct) = (mean?, correct?);
    let gradient = make(&engine, (batch, classes), Element::F32, |gradient| {
        let to = LossPointers { mean: mean.pointer, correct: correct.pointer, gradient };
        with_pointers(&engine, [logits, labels], |from| {
            // SAFETY: as many logits and labels as the batch has.
            unsafe { learning::cross_entropy(&*engine, from.into(), (batch, classes), to) }
        })
    })?;
    Ok([mean.written(), correct.written(), gradient])
}

/// As [`ops::descend`], several weights at a launch.
pub(crate) fn descend(weights: &[(&Var, &Var, &Tensor)], device: &Device, step: &Step) -> Result<()> {
    let engine = engine(device)?;
    weights.chunks(learning::AT_ONCE).try_for_each(|some| descend_some(&engine, some, &mut Vec::new(), step))
}

/// Finds where the weights lie one after the other, and moves them all once that is known of the last.
fn descend_some(engine: &Engine, weights: &[(&Var, &Var, &Tensor)], found: &mut Vec<Moved>, step: &Step) -> Result<()> {
    let Some((&(weight, velocity, gradient), others)) = weights.split_first() else {
        // SAFETY: all three of each have as many values.
        return unsafe { learning::descend(engine, found, step) };
    };
    require([weight, velocity], DType::F32)?;
    let (found, values, packed) = (RefCell::new(found), weight.elem_count(), is_packed(gradient)?);
    let gradient = match packed {
        Some(_) => gradient.permute((0, 2, 3, 1))?,
        None => gradient.clone(),
    };
    if packed.is_none() {
        require([&gradient], DType::F32)?;
    }
    with_pointers(engine, [&gradient], |[gradient]| {
        in_place(velocity, "descent", |velocity| {
            in_place(weight, "descent", |weight| {
                let mut found = found.borrow_mut();
                found.push(Moved { pointers: [weight, velocity, gradient], values, packed });
                descend_some(engine, others, &mut found, step)
            })
        })
    })
}
