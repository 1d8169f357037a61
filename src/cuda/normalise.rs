//! Launches of batch norm with a ReLU, of its gradients, of ReLUs by themselves, and of biases.

use super::gpu::{Argument, Gpu, Pointer};
use super::tiling::{Maps, at, count, launch_blocks, launch_each, value};
use candle_core::Result;

/// Channels of a block that adds what others summed: `ADDED` of the kernels.
const ADDED: usize = 8;

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

/// Running statistics, and how those of a batch move them: running ← kept · running + share · new.
#[derive(Clone, Copy)]
pub(crate) struct Running {
    /// Means, one f32 a channel.
    pub mean: Pointer,
    /// Variances, one f32 a channel.
    pub variance: Pointer,
    /// The share of what there was.
    pub kept: f64,
    /// The share of the batch's means, and that of its biased variances.
    pub shares: [f64; 2],
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
    /// Normalises, scales and shifts `x` into `y` by the mean and the biased variance of each channel, which it writes
    /// first, and with which it moves the running statistics.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn normalise_by_moments(
        self,
        gpu: &impl Gpu,
        x: Pointer,
        (line, running): (Line, Option<Running>),
        y: Pointer,
    ) -> Result<()> {
        let Some(tiles) = self.few()? else {
            // SAFETY: the caller's promise.
            unsafe {
                self.moments(gpu, x, line, running)?;
                return self.normalise(gpu, x, line, y);
            }
        };
        let mut arguments = vec![at(x)];
        arguments.extend(line.arguments());
        arguments.push(at(y));
        arguments.extend(tiles.arguments()?);
        arguments.extend(line.moments(running));
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "normalise_few", 1, &arguments) }
    }

    /// Mean and biased variance of each channel, by which running statistics are moved.
    ///
    /// # Safety
    /// See the `impl`.
    pub(super) unsafe fn moments(self, gpu: &impl Gpu, x: Pointer, line: Line, running: Option<Running>) -> Result<()> {
        let tiles = self.tiles()?;
        let parts = tiles.summed();
        let memory = gpu.reserve(parts * 2 * self.channels * size_of::<f32>())?;
        let sums = gpu.pointer(&memory);
        let [pixels, channels, lanes] = tiles.arguments()?;
        let kernel = format!("end_moments_{}", self.element.name());
        let mut end = vec![at(x), at(sums), count(parts)?, pixels, channels];
        end.extend(line.moments(running));
        // SAFETY: the caller's promise; the sums are as many as parts, terms and channels.
        unsafe {
            tiles.launch(gpu, "moments", parts, &[at(x), pixels, channels, lanes, at(sums)])?;
            launch_blocks(gpu, &kernel, [self.channels.div_ceil(ADDED), 1], &end)
        }
    }

    /// Normalises, scales and shifts `x` into `y`.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn normalise(self, gpu: &impl Gpu, x: Pointer, line: Line, y: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let mut arguments = vec![at(x)];
        arguments.extend(line.arguments());
        arguments.push(at(y));
        arguments.extend(tiles.arguments()?);
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "normalise", tiles.mapped(), &arguments) }
    }

    /// The gradients of [`normalise_by_moments`](Self::normalise_by_moments), from its input and the gradient of its
    /// result.
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
        let mut from = vec![at(x), at(grad)];
        from.extend(line.arguments());
        if let Some(tiles) = self.few()? {
            from.extend([to.x, to.gamma, to.beta].map(at));
            from.extend(tiles.arguments()?);
            // SAFETY: the caller's promise.
            return unsafe { tiles.launch(gpu, "normalise_gradients_few", 1, &from) };
        }
        let kernels = ["normalise_sums", "normalise_gradient"];
        // SAFETY: the caller's promise.
        unsafe { self.gradients_by_sums(gpu, (kernels, self.pixels), &from, line, to) }
    }

    /// The same by a kernel that sums and one that maps, which take the same arguments `from` first, and of which blocks take
    /// turns at so many `things`.
    ///
    /// # Safety
    /// As of the kernels.
    pub(super) unsafe fn gradients_by_sums(
        self,
        gpu: &impl Gpu,
        ([summing, mapping], things): ([&str; 2], usize),
        from: &[Argument],
        line: Line,
        to: NormGradients,
    ) -> Result<()> {
        let tiles = self.tiles()?;
        let parts = tiles.summed().min(things);
        let memory = gpu.reserve(parts * 2 * self.channels * size_of::<f32>())?;
        let sums = gpu.pointer(&memory);
        let own = tiles.arguments()?;
        let of_sums = [from, &own, &[at(sums)]].concat();
        let (parts_count, channels) = (count(parts)?, own[1]);
        let end = [at(sums), at(line.variance), parts_count, channels, value(line.epsilon), at(to.gamma), at(to.beta)];
        let of_gradient = [from, &[to.gamma, to.beta, to.x].map(at), &own].concat();
        // SAFETY: the caller's promise; the sums are as many as parts, terms and channels.
        unsafe {
            tiles.launch(gpu, summing, parts, &of_sums)?;
            launch_blocks(gpu, "end_normalise_sums_f32", [self.channels.div_ceil(ADDED), 1], &end)?;
            tiles.launch(gpu, mapping, tiles.mapped().min(things), &of_gradient)
        }
    }

    /// Adds a bias to each channel of `x` in place, and takes the ReLU where that is wanted.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn add_bias(self, gpu: &impl Gpu, x: Pointer, bias: Pointer, relu: bool) -> Result<()> {
        let tiles = self.tiles()?;
        let [pixels, channels, lanes] = tiles.arguments()?;
        let arguments = [at(x), at(bias), pixels, channels, lanes, Argument::Count(u32::from(relu))];
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "add_bias", tiles.mapped(), &arguments) }
    }

    /// The ReLU of every value.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn relu(self, gpu: &impl Gpu, x: Pointer, to: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let [pixels, channels, lanes] = tiles.arguments()?;
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "relu", tiles.mapped(), &[at(x), at(to), pixels, channels, lanes]) }
    }

    /// The gradient of what went into a ReLU, from its result `y` and the gradient of that.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn relu_gradient(self, gpu: &impl Gpu, y: Pointer, grad: Pointer, to: Pointer) -> Result<()> {
        let tiles = self.tiles()?;
        let [pixels, channels, lanes] = tiles.arguments()?;
        let arguments = [at(y), at(grad), at(to), pixels, channels, lanes];
        // SAFETY: the caller's promise.
        unsafe { tiles.launch(gpu, "relu_gradient", tiles.mapped(), &arguments) }
    }

    /// The sum of each channel.
    ///
    /// # Safety
    /// See the `impl`.
    pub unsafe fn channel_sums(self, gpu: &impl Gpu, x: Pointer, to: Pointer) -> Result<()> {
        if let Some(tiles) = self.few()? {
            let [pixels, channels, lanes] = tiles.arguments()?;
            // SAFETY: the caller's promise.
            return unsafe { tiles.launch(gpu, "channel_sums", 1, &[at(x), pixels, channels, lanes, at(to)]) };
        }
        let tiles = self.tiles()?;
        let parts = tiles.summed();
        let memory = gpu.reserve(parts * self.channels * size_of::<f32>())?;
        let sums = gpu.pointer(&memory);
        let [pixels, channels, lanes] = tiles.arguments()?;
        let end = [at(sums), count(parts)?, channels, at(to)];
        // SAFETY: the caller's promise; the sums are as many as parts and channels.
        unsafe {
            tiles.launch(gpu, "channel_sums", parts, &[at(x), pixels, channels, lanes, at(sums)])?;
            launch_blocks(gpu, "end_channel_sums_f32", [self.channels.div_ceil(ADDED), 1], &end)
        }
    }
}

impl Line {
    /// What the kernels' `OF_NORM` takes.
    pub(super) fn arguments(&self) -> [Argument; 6] {
        let [mean, variance, gamma, beta] = [self.mean, self.variance, self.gamma, self.beta].map(at);
        [mean, variance, gamma, beta, value(self.epsilon), Argument::Count(u32::from(self.relu))]
    }

    /// What the kernels' `OF_MOMENTS` takes; where nothing is moved, the running statistics are not looked at.
    fn moments(&self, running: Option<Running>) -> [Argument; 8] {
        let unmoved = Running { mean: self.mean, variance: self.variance, kept: 0.0, shares: [0.0; 2] };
        let moved = Argument::Count(u32::from(running.is_some()));
        let Running { mean, variance, kept, shares } = running.unwrap_or(unmoved);
        let [of_mean, of_variance] = shares.map(value);
        [at(self.mean), at(self.variance), at(mean), at(variance), moved, value(kept), of_mean, of_variance]
    }
}

/// sum ← kept · sum + share · new, for as many f32 of two sums, each with a share of its own.
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
