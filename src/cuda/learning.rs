//! Launches of the loss and the update, and of changes between the weights' own order and that of convolutions.

use super::gpu::{Element, Gpu, Pointer};
use super::tiling::{at, count, launch_blocks, launch_each, value};
use candle_core::Result;

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

/// velocity ← momentum · velocity + gradient + decay · weight;  weight ← weight − rate · velocity, all f32.
///
/// # Safety
/// The pointers lead to as many values.
pub(crate) unsafe fn descend(
    gpu: &impl Gpu,
    [weight, velocity, gradient]: [Pointer; 3],
    values: usize,
    step: &Step,
) -> Result<()> {
    let mut arguments = [weight, velocity, gradient].map(at).to_vec();
    arguments.extend([count(values)?, value(step.rate), value(step.momentum), value(step.decay)]);
    // SAFETY: the caller's promise.
    unsafe { launch_each(gpu, "descend_f32", values, &arguments) }
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

    /// \[output, input, y, x\] in f32 → \[output, y, x, input\] in the type of the feature maps, [wide](Self::widened).
    ///
    /// # Safety
    /// The pointers lead to as many values.
    pub unsafe fn pack(self, gpu: &impl Gpu, weight: Pointer, element: Element, packed: Pointer) -> Result<()> {
        let wide = self.widened(element);
        let sizes = [wide.values(), self.outputs, self.inputs, wide.inputs, self.kernel * self.kernel];
        // SAFETY: the caller's promise.
        unsafe { reorder(gpu, &format!("pack_{}", element.name()), [weight, packed], &sizes) }
    }

    /// And back.
    ///
    /// # Safety
    /// The pointers lead to as many values.
    pub unsafe fn unpack(self, gpu: &impl Gpu, packed: Pointer, element: Element, weight: Pointer) -> Result<()> {
        let sizes = [self.values(), self.inputs, self.widened(element).inputs, self.kernel * self.kernel];
        // SAFETY: the caller's promise.
        unsafe { reorder(gpu, &format!("unpack_{}", element.name()), [packed, weight], &sizes) }
    }
}

/// # Safety
/// The pointers lead to as many values as the sizes say, of which the first is the number of threads.
unsafe fn reorder(gpu: &impl Gpu, kernel: &str, pointers: [Pointer; 2], sizes: &[usize]) -> Result<()> {
    let mut arguments = pointers.map(at).to_vec();
    arguments.extend(sizes.iter().map(|&size| count(size)).collect::<Result<Vec<_>>>()?);
    // SAFETY: the caller's promise.
    unsafe { launch_each(gpu, kernel, sizes[0], &arguments) }
}
