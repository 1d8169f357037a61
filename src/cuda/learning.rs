//! Launches of the loss and the update, and of changes between the weights' own order and that of convolutions.

use super::gpu::{Element, Gpu, Pointer};
use super::tiling::{THREADS, at, count, launch_blocks, launch_each, value};
use candle_core::{Result, bail};

/// Logits that one block takes by itself.
const FEW: usize = 1 << 13;

/// Where the loss of a batch is written.
#[derive(Clone, Copy)]
pub(crate) struct LossPointers {
    /// The mean loss, one f32.
    pub mean: Pointer,
    /// How many labels have the largest logit, one f32.
    pub correct: Pointer,
    /// The gradient of the mean: \[batch, class\], f32.
    pub gradient: Pointer,
}

/// Mean softmax cross entropy of logits \[batch, class\] (f32) and labels \[batch\] (u32).
///
/// # Safety
/// The pointers lead to as many values.
pub(crate) unsafe fn cross_entropy(
    gpu: &impl Gpu,
    (logits, labels): (Pointer, Pointer),
    (batch, classes): (usize, usize),
    to: LossPointers,
) -> Result<()> {
    if batch * classes <= FEW {
        let mut arguments = [logits, labels, to.gradient].map(at).to_vec();
        arguments.extend([count(batch)?, count(classes)?, at(to.mean), at(to.correct)]);
        // SAFETY: the caller's promise.
        return unsafe { launch_blocks(gpu, "cross_entropy_few_f32", [1, 1], &arguments) };
    }
    let memory = gpu.reserve(2 * batch * size_of::<f32>())?;
    let losses = gpu.pointer(&memory);
    let hits = Pointer(losses.0 + (batch * size_of::<f32>()) as u64);
    let mut arguments = [logits, labels, to.gradient, losses, hits].map(at).to_vec();
    arguments.extend([count(batch)?, count(classes)?]);
    let end = [at(losses), at(hits), count(batch)?, at(to.mean), at(to.correct)];
    // SAFETY: the caller's promise; what was reserved holds losses and correct answers.
    unsafe {
        launch_blocks(gpu, "cross_entropy_f32", [batch, 1], &arguments)?;
        launch_blocks(gpu, "end_cross_entropy_f32", [1, 1], &end)
    }
}

/// The settings of a step: learning rate, momentum, weight decay.
pub(crate) struct Step {
    /// The learning rate.
    pub rate: f64,
    /// The share of the velocity that stays.
    pub momentum: f64,
    /// The pull of weights towards zero.
    pub decay: f64,
}

/// A weight that a step moves.
#[derive(Clone, Copy)]
pub(crate) struct Moved {
    /// The weight, its velocity and its gradient.
    pub pointers: [Pointer; 3],
    /// How many values each has.
    pub values: usize,
    /// What the gradient is of, and its type, where it is in the order of convolutions: [packed](Weights::pack), as wide as
    /// the weights are. Else it is f32, in the order of the weight.
    pub packed: Option<(Weights, Element)>,
}

/// Weights that one launch moves.
pub(crate) const AT_ONCE: usize = 8;

/// velocity ← momentum · velocity + gradient + decay · weight;  weight ← weight − rate · velocity, all f32, for up to
/// [`AT_ONCE`] weights.
///
/// # Safety
/// The pointers lead to as many values.
pub(crate) unsafe fn descend(gpu: &impl Gpu, weights: &[Moved], step: &Step) -> Result<()> {
    let most = weights.iter().map(|moved| moved.values).max().unwrap_or(0);
    if most == 0 || weights.len() > AT_ONCE {
        bail!("{} weights of up to {most} values cannot be moved at once", weights.len())
    }
    let unused = Moved { values: 0, ..weights[0] };
    let mut arguments = Vec::with_capacity(7 * AT_ONCE + 3);
    for moved in weights.iter().chain(std::iter::repeat(&unused)).take(AT_ONCE) {
        let (inputs, area, order) = match moved.packed {
            None => (1, 1, 0),
            Some((Weights { inputs, kernel, .. }, Element::F32)) => (inputs, kernel * kernel, 1),
            Some((Weights { inputs, kernel, .. }, Element::Bf16)) => (inputs, kernel * kernel, 2),
        };
        arguments.extend(moved.pointers.map(at));
        for number in [moved.values, inputs, area, order] {
            arguments.push(count(number)?);
        }
    }
    arguments.extend([step.rate, step.momentum, step.decay].map(value));
    let blocks = [most.div_ceil(THREADS as usize), weights.len()];
    // SAFETY: the caller's promise; a place that is not used has no values.
    unsafe { launch_blocks(gpu, "descend_f32", blocks, &arguments) }
}

/// Weights of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Weights {
    /// Channels out.
    pub outputs: usize,
    /// Channels in.
    pub inputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
}

impl Weights {
    /// Their number.
    pub fn values(self) -> usize {
        self.outputs * self.inputs * self.kernel * self.kernel
    }

    /// As many channels as cuDNN takes: tensor cores read 8 values of bf16 at once, and of other numbers of channels it
    /// may have no way that gives the same bits at every run.
    pub fn widened(self, element: Element) -> Self {
        let wide = |channels: usize| match element {
            Element::F32 => channels,
            Element::Bf16 => channels.next_multiple_of(Element::Bf16.in_vector()),
        };
        Self { outputs: wide(self.outputs), inputs: wide(self.inputs), ..self }
    }

    /// [`pack`] of these alone.
    ///
    /// # Safety
    /// The pointers lead to as many values.
    #[cfg(test)]
    pub unsafe fn pack(self, gpu: &impl Gpu, weight: Pointer, element: Element, packed: Pointer) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { pack(gpu, &[(self, [weight, packed])], element) }
    }

    /// \[output, y, x, input\] in the type of the feature maps → \[output, input, y, x\] in f32.
    ///
    /// # Safety
    /// The pointers lead to as many values.
    pub unsafe fn unpack(self, gpu: &impl Gpu, packed: Pointer, element: Element, weight: Pointer) -> Result<()> {
        let sizes = [self.values(), self.inputs, self.widened(element).inputs, self.kernel * self.kernel];
        let mut arguments = [packed, weight].map(at).to_vec();
        for size in sizes {
            arguments.push(count(size)?);
        }
        // SAFETY: the caller's promise.
        unsafe { launch_each(gpu, &format!("unpack_{}", element.name()), sizes[0], &arguments) }
    }
}

/// \[output, input, y, x\] in f32 → \[output, y, x, input\] in the type of the feature maps, [wide](Weights::widened), for up to
/// [`AT_ONCE`] weights: from where they lie to where they shall.
///
/// # Safety
/// The pointers lead to as many values.
pub(crate) unsafe fn pack(gpu: &impl Gpu, weights: &[(Weights, [Pointer; 2])], element: Element) -> Result<()> {
    let values = |&(weights, _): &(Weights, [Pointer; 2])| weights.widened(element).values();
    let most = weights.iter().map(values).max().unwrap_or(0);
    if most == 0 || weights.len() > AT_ONCE {
        bail!("{} weights of up to {most} values cannot be packed at once", weights.len())
    }
    let mut arguments = Vec::with_capacity(7 * AT_ONCE);
    for place in 0..AT_ONCE {
        let &(own, pointers) = weights.get(place).unwrap_or(&weights[0]);
        let wide = own.widened(element);
        let values = if place < weights.len() { wide.values() } else { 0 };
        arguments.extend(pointers.map(at));
        for size in [values, own.outputs, own.inputs, wide.inputs, own.kernel * own.kernel] {
            arguments.push(count(size)?);
        }
    }
    let blocks = [most.div_ceil(THREADS as usize), weights.len()];
    // SAFETY: the caller's promise; a place that is not used has no values.
    unsafe { launch_blocks(gpu, &format!("pack_{}", element.name()), blocks, &arguments) }
}
