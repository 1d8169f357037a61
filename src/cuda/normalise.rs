//! Launches of batch norm with a ReLU, of its gradients, of ReLUs by themselves, and of biases.

use super::gpu::{Argument, Gpu, Pointer};
use super::tiling::{Maps, at, count, launch_blocks, launch_each, value};
use candle_core::Result;

/// Channels of a block that adds what parts came to.
const ADDED: usize = 32;

/// What batch norm is computed with: one f32 a channel each.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    /// Means of the batch.
    pub mean: Pointer,
    /// Biased variances of the batch.
    pub variance: Pointer,
    /// Scales.
    pub gamma: Pointer,
    /// Shifts.
    pub beta: Pointer,
    /// What is added to variances.
    pub epsilon: f64,
    /// Whether a ReLU follows.
    pub relu: bool,
}

/// Where the gradients of batch norm are written: of the input, and of scale and shift.
#[derive(Clone, Copy)]
pub(crate) struct NormGradients {
    /// \[pixel, channel\].
    pub x: Pointer,
    /// \[channel\], f32.
    pub gamma: Pointer,
    /// \[channel\], f32.
    pub beta: Pointer,
}

/// Pointers of these functions lead to as many values as the maps have, or one f32 a channel: that is what makes calling
/// them safe.
impl Maps {
    /// Mean and biased variance of each channel.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn moments(self, gpu: &impl Gpu, x: Pointer, mean: Pointer, variance: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let parts = tiles.summed();
        let memory = gpu.reserve(parts.count * 2 * self.channels * size_of::<f32>())?;
        let sums = gpu.pointer(&memory);
        let [pixels, channels, lanes, in_part] = tiles.arguments(&parts)?;
        let kernel = format!("end_moments_{}", self.element.name());
        let end = [at(x), at(sums), count(parts.count)?, pixels, channels, at(mean), at(variance)];
        // SAFETY: the caller's promise; the sums are as many as parts, terms and channels.
        unsafe {
            tiles.launch(gpu, "moments", &parts, &[at(x), pixels, channels, lanes, in_part, at(sums)])?;
            launch_blocks(gpu, &kernel, [self.channels.div_ceil(ADDED), 1], &end)
        }
    }

    /// Normalises, scales and shifts `x` into `y`.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn normalise(self, gpu: &impl Gpu, x: Pointer, line: Line, y: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let parts = tiles.mapped();
        let mut arguments = vec![at(x)];
        arguments.extend(line.channels());
        arguments.push(at(y));
        arguments.extend(tiles.arguments(&parts)?);
        arguments.extend(line.settings());
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "normalise", &parts, &arguments) }
    }

    /// The gradients of [`normalise`](Self::normalise), from its input and the gradient of its result.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn normalise_gradients(
        self,
        gpu: &impl Gpu,
        (x, grad): (Pointer, Pointer),
        line: Line,
        to: NormGradients,
    ) -> Result<()> {
        let tiles = self.tiles()?;
        let (summed, mapped) = (tiles.summed(), tiles.mapped());
        let memory = gpu.reserve((summed.count * 2 + 2) * self.channels * size_of::<f32>())?;
        let plain = gpu.pointer(&memory);
        let [slope, sums] = [1, 2].map(|rows| Pointer(plain.0 + (rows * self.channels * size_of::<f32>()) as u64));
        let [epsilon, relu] = line.settings();

        let mut of_sums = vec![at(x), at(grad)];
        of_sums.extend(line.channels());
        of_sums.extend(tiles.arguments(&summed)?);
        of_sums.extend([epsilon, relu, at(sums)]);

        let (parts, pixels, channels) = (count(summed.count)?, count(self.pixels)?, count(self.channels)?);
        let mut end = vec![at(sums), at(line.variance), parts, pixels, channels, epsilon];
        end.extend([to.gamma, to.beta, plain, slope].map(at));

        let mut of_gradient = vec![at(x), at(grad)];
        of_gradient.extend(line.channels());
        of_gradient.extend([plain, slope, to.x].map(at));
        of_gradient.extend(tiles.arguments(&mapped)?);
        of_gradient.extend([epsilon, relu]);
        // SAFETY: the caller's promise; what was reserved holds two rows of channels before the sums.
        unsafe {
            tiles.launch(gpu, "normalise_sums", &summed, &of_sums)?;
            launch_blocks(gpu, "end_normalise_sums_f32", [self.channels.div_ceil(ADDED), 1], &end)?;
            tiles.launch(gpu, "normalise_gradient", &mapped, &of_gradient)
        }
    }

    /// Adds a bias to each channel of `x` in place, and takes the ReLU where that is wanted.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn add_bias(self, gpu: &impl Gpu, x: Pointer, bias: Pointer, relu: bool) -> Result<()> {
        let tiles = self.tiles()?;
        let parts = tiles.mapped();
        let [pixels, channels, lanes, in_part] = tiles.arguments(&parts)?;
        let arguments = [at(x), at(bias), pixels, channels, lanes, in_part, Argument::Count(u32::from(relu))];
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "add_bias", &parts, &arguments) }
    }

    /// The ReLU of every value.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn relu(self, gpu: &impl Gpu, x: Pointer, to: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let parts = tiles.mapped();
        let [pixels, channels, lanes, in_part] = tiles.arguments(&parts)?;
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "relu", &parts, &[at(x), at(to), pixels, channels, lanes, in_part]) }
    }

    /// The gradient of what went into a ReLU, from its result `y` and the gradient of that.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn relu_gradient(self, gpu: &impl Gpu, y: Pointer, grad: Pointer, to: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let parts = tiles.mapped();
        let [pixels, channels, lanes, in_part] = tiles.arguments(&parts)?;
        let arguments = [at(y), at(grad), at(to), pixels, channels, lanes, in_part];
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "relu_gradient", &parts, &arguments) }
    }

    /// The sum of each channel.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn channel_sums(self, gpu: &impl Gpu, x: Pointer, to: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let parts = tiles.summed();
        let memory = gpu.reserve(parts.count * self.channels * size_of::<f32>())?;
        let sums = gpu.pointer(&memory);
        let [pixels, channels, lanes, in_part] = tiles.arguments(&parts)?;
        let end = [at(sums), count(parts.count)?, channels, at(to)];
        // SAFETY: the caller's promise; the sums are as many as parts and channels.
        unsafe {
            tiles.launch(gpu, "channel_sums", &parts, &[at(x), pixels, channels, lanes, in_part, at(sums)])?;
            launch_blocks(gpu, "end_channel_sums_f32", [self.channels.div_ceil(ADDED), 1], &end)
        }
    }
}

impl Line {
    fn channels(&self) -> [Argument; 4] {
        [self.mean, self.variance, self.gamma, self.beta].map(at)
    }

    fn settings(&self) -> [Argument; 2] {
        [value(self.epsilon), Argument::Count(u32::from(self.relu))]
    }
}

/// running ← kept · running + share · new, for as many f32 of two statistics, each with a share of its own.
///
/// # Safety
/// All pointers lead to as many f32.
pub(crate) unsafe fn blend(
    gpu: &impl Gpu,
    running: [Pointer; 2],
    new: [Pointer; 2],
    values: usize,
    (kept, shares): (f64, [f64; 2]),
) -> Result<()> {
    let pairs = [running[0], new[0], running[1], new[1]].map(at);
    let mut arguments = pairs.to_vec();
    arguments.extend([count(values)?, value(kept), value(shares[0]), value(shares[1])]);
    // SAFETY: the caller's promise.
    unsafe { launch_each(gpu, "blend_f32", values, &arguments) }
}
