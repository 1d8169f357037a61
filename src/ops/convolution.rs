//! 2-d convolution with zero padding, with bias and ReLU in the same pass, and its gradients.

use super::bf16_products::Instructions;
use super::cpu::with_values;
use super::direct::Sizes;
use super::direct_gradient;
use super::element::Element;
use super::geometry::{Finish, Images};
use super::window::Window;
use super::winograd::{self, Kernels, Padded};
use super::{to_nchw, to_nhwc};
use candle_core::{DType, Result, Tensor, Var, bail};
use half::bf16;

/// What is applied to the sums of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// max(x, 0).
    Relu,
}

/// Convolves `x` \[batch, height, width, inputs\] with `weight` \[outputs, inputs, kernel, kernel\], adds `bias`
/// \[outputs\] where there is one, and applies the activation: \[batch, height', width', outputs\]. Weights are rounded to
/// the type of `x`; sums are f32.
///
/// # Errors
/// When the shapes do not fit, or the padding is as large as the kernel.
pub fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    activation: Activation,
) -> Result<Tensor> {
    let sizes = sizes(x.dims4()?, weight.dims4()?, window)?;
    if let Some(found) = bias.filter(|bias| bias.dims() != [sizes.outputs]) {
        bail!("a bias of {:?} for {} channels", found.shape(), sizes.outputs)
    }
    on_gpu!(x, crate::cuda::convolution(x, weight, bias, sizes.on_gpu(), activation == Activation::Relu));
    if let Some(instructions) = sizes.instructions(x) {
        return with_weights(x, (weight, bias), &sizes, activation, |x, weight, finish| {
            instructions.convolve(&sizes, x, weight, finish)
        });
    }
    on_cpu!(x, E => with_weights::<E>(x, (weight, bias), &sizes, activation, |x, weight, finish| {
        sizes.forward(x, &E::rounded(weight), finish)
    }), by_candle(x, weight, bias, &sizes, activation))
}

/// The result of a convolution in one way, which is given the values of everything.
fn with_weights<E: Element>(
    x: &Tensor,
    (weight, bias): (&Tensor, Option<&Tensor>),
    sizes: &Sizes,
    activation: Activation,
    way: impl FnOnce(&[E], &[f32], Finish<'_>) -> Vec<E>,
) -> Result<Tensor> {
    let no_bias = Tensor::zeros(0, DType::F32, x.device())?;
    let values = with_values([weight, bias.unwrap_or(&no_bias)], |[weight, values]: [&[f32]; 2]| {
        let finish = Finish { bias: bias.map(|_| values), relu: activation == Activation::Relu };
        with_values([x], |[x]: [&[E]; 1]| way(x, weight, finish))
    })??;
    Tensor::from_vec(values, sizes.result(), x.device())
}

/// Weights \[outputs, inputs, kernel, kernel\] as convolutions of maps of a type read them on their device, so that they are
/// brought into that order but once, and all together.
///
/// # Errors
/// When the device fails.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn packed(weights: &[&Tensor], maps: DType) -> Result<Vec<Tensor>> {
    #[cfg(feature = "cuda")]
    if weights.iter().any(|weight| weight.device().is_cuda()) {
        return crate::cuda::packed(weights, maps);
    }
    Ok(weights.iter().map(|&weight| weight.clone()).collect())
}

/// Weights or a gradient of such in f32 and in their own order, in which they lie side by side.
///
/// # Errors
/// When the device fails.
pub fn unpacked(weight: &Tensor) -> Result<Tensor> {
    on_gpu!(weight, crate::cuda::unpacked(weight));
    Ok(weight.clone())
}

/// The gradient of the weights \[outputs, inputs, kernel, kernel\] of a convolution of `x` \[batch, height, width,
/// inputs\], from the gradient of its result: in f32. On a GPU it lies in memory, and has the type, as convolutions write
/// it; [`unpacked`] brings it in order.
///
/// # Errors
/// When the shapes do not fit.
pub fn weight_gradient(x: &Tensor, grad: &Tensor, window: Window) -> Result<Tensor> {
    let shape = (grad.dim(3)?, x.dim(3)?, window.kernel, window.kernel);
    let sizes = sizes(x.dims4()?, shape, window)?;
    sizes.check(grad)?;
    on_gpu!(x, crate::cuda::weight_gradient(x, grad, sizes.on_gpu()));
    if let Some(instructions) = sizes.instructions(x) {
        let values = with_values([x, grad], |[x, grad]| instructions.weight_gradient(&sizes, x, grad))?;
        return Tensor::from_vec(values, shape, x.device());
    }
    on_cpu!(x, E => {
        let values = with_values([x, grad], |[x, grad]: [&[E]; 2]| sizes.weights_back(x, grad))?;
        Tensor::from_vec(values, shape, x.device())
    }, {
        let weight = Var::zeros(shape, x.dtype(), x.device())?;
        gradient_by_candle(x, weight.as_tensor(), grad, &sizes, &weight)
    })
}

/// The gradient of the input \[batch, height, width, inputs\] of a convolution with `weight` \[outputs, inputs, kernel,
/// kernel\], from the gradient of its result \[batch, height', width', outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn input_gradient(
    weight: &Tensor,
    grad: &Tensor,
    window: Window,
    (height, width): (usize, usize),
) -> Result<Tensor> {
    let (outputs, inputs, kernel, kernel_width) = weight.dims4()?;
    let shape = (grad.dim(0)?, height, width, inputs);
    let sizes = sizes(shape, (outputs, inputs, kernel, kernel_width), window)?;
    sizes.check(grad)?;
    on_gpu!(grad, crate::cuda::input_gradient(weight, grad, sizes.on_gpu(), (height, width)));
    if let Some(instructions) = sizes.instructions(grad) {
        let values = with_values([weight], |[weight]| {
            with_values([grad], |[grad]| instructions.input_gradient::<bf16>(&sizes, weight, grad))
        })??;
        return Tensor::from_vec(values, shape, grad.device());
    }
    on_cpu!(grad, E => {
        let values = with_values([weight], |[weight]| {
            with_values([grad], |[grad]: [&[E]; 1]| sizes.back(&E::rounded(weight), grad))
        })??;
        Tensor::from_vec(values, shape, grad.device())
    }, {
        let x = Var::zeros(shape, grad.dtype(), grad.device())?;
        gradient_by_candle(x.as_tensor(), weight, grad, &sizes, &x)
    })
}

fn sizes(x: (usize, usize, usize, usize), weight: (usize, usize, usize, usize), window: Window) -> Result<Sizes> {
    let (batch, height, width, inputs) = x;
    let (outputs, weight_inputs, kernel, kernel_width) = weight;
    let fits = weight_inputs == inputs && kernel == kernel_width && kernel == window.kernel;
    match window.outputs(height, width) {
        Some((rows, columns)) if fits && window.padding < kernel && inputs * outputs > 0 => {
            // A longer stride gives no other result.
            let stride = window.stride.min(height.max(width) + 2 * window.padding);
            let window = Window { stride, ..window };
            Ok(Sizes { images: Images { batch, height, width }, inputs, outputs, window, rows, columns })
        }
        _ => bail!("a convolution of {x:?} with {weight:?} and {window:?} is not possible"),
    }
}

/// Which maps in bf16 are multiplied as they are: all by matrix units. Vectors make twice as many products in bf16 as in f32,
/// but Winograd's way in f32 needs but a quarter of them.
impl Sizes {
    /// What is faster than f32 for a convolution of maps, and for its gradients.
    pub(super) fn instructions(&self, maps: &Tensor) -> Option<Instructions> {
        Instructions::of(maps).filter(|of| of.are_matrix_units() || !self.is_tiled())
    }
}

/// The ways that compute in f32, by this processor's vectors.
impl Sizes {
    /// Whether there is a faster way than the direct one.
    fn is_tiled(&self) -> bool {
        self.window.kernel == 3 && self.window.stride == 1
    }

    fn forward<E: Element>(&self, x: &[E], weight: &[f32], finish: Finish<'_>) -> Vec<E> {
        match self.is_tiled() {
            true => winograd::convolve(self.padded(), x, Kernels::new(weight, self.outputs, self.inputs), finish),
            false => self.convolve(x, weight, finish),
        }
    }

    fn weights_back<E: Element>(&self, x: &[E], grad: &[E]) -> Vec<f32> {
        match self.is_tiled() {
            true => winograd::weight_gradient(self.padded(), x, self.inputs, grad, self.outputs),
            false => direct_gradient::weight_gradient(self, x, grad),
        }
    }

    fn back<E: Element>(&self, weight: &[f32], grad: &[E]) -> Vec<E> {
        if !self.is_tiled() {
            return self.input_gradient(weight, grad);
        }
        // A convolution with the kernels turned by half a turn.
        let from = Padded { images: self.results(), padding: self.window.kernel - 1 - self.window.padding };
        let kernels = Kernels::new(weight, self.outputs, self.inputs).turned();
        winograd::convolve(from, grad, kernels, Finish { bias: None, relu: false })
    }

    fn padded(&self) -> Padded {
        Padded { images: self.images, padding: self.window.padding }
    }

    fn result(&self) -> (usize, usize, usize, usize) {
        (self.images.batch, self.rows, self.columns, self.outputs)
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(&self) -> crate::cuda::Windows {
        self.window.on_gpu((self.rows, self.columns))
    }

    fn check(&self, grad: &Tensor) -> Result<()> {
        if grad.dims4()? != self.result() {
            bail!("a gradient of {:?} for a result of {:?}", grad.shape(), self.result())
        }
        Ok(())
    }
}

fn by_candle(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    sizes: &Sizes,
    activation: Activation,
) -> Result<Tensor> {
    let Window { kernel, stride, padding } = sizes.window;
    // What no window reaches is cut off first: candle's gradient takes it that height and width leave over as much.
    let side = |x: Tensor, dim: usize, windows: usize| {
        x.pad_with_zeros(dim, padding, padding)?.narrow(dim, 0, (windows - 1) * stride + kernel)
    };
    let x = side(side(to_nchw(x)?, 2, sizes.rows)?, 3, sizes.columns)?.contiguous()?;
    let sums = to_nhwc(&x.conv2d(weight, 0, stride, 1, 1)?)?;
    let sums = match bias {
        None => sums,
        Some(bias) => sums.broadcast_add(bias)?,
    };
    if activation == Activation::Relu { sums.relu() } else { Ok(sums) }
}

/// The gradient of a variable that is the input or the weight of a convolution, by candle's own backward pass.
fn gradient_by_candle(x: &Tensor, weight: &Tensor, grad: &Tensor, sizes: &Sizes, of: &Var) -> Result<Tensor> {
    let y = by_candle(x, weight, None, sizes, Activation::Identity)?;
    let mut gradients = (y * grad)?.sum_all()?.backward()?;
    match gradients.remove(of) {
        Some(gradient) => gradient.contiguous(),
        None => bail!("candle gave no gradient"),
    }
}
