//! 2-d convolution with stride 1 and zero padding, with bias and ReLU in the same pass, and its gradients.

use super::cpu::{is_ours, with_values};
use super::geometry::{Finish, Images};
use super::unfolding::Unfolding;
use super::winograd::{self, Kernels};
use super::{to_nchw, to_nhwc};
use candle_core::{Result, Tensor, Var, bail};

/// What is applied to the sums of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// max(x, 0).
    Relu,
}

/// Convolves `x` \[batch, height, width, inputs\] with `weight` \[outputs, inputs, kernel, kernel\], adds `bias`
/// \[outputs\] where there is one, and applies the activation: \[batch, height', width', outputs\].
///
/// # Errors
/// When the shapes do not fit, or the padding is as large as the kernel.
pub fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    activation: Activation,
) -> Result<Tensor> {
    let sizes = sizes(x, weight.dims4()?, padding)?;
    if let Some(found) = bias.filter(|bias| bias.dims() != [sizes.outputs]) {
        bail!("a bias of {:?} for {} channels", found.shape(), sizes.outputs)
    }
    on_gpu!(x, crate::cuda::convolution(x, weight, bias, padding, activation == Activation::Relu));
    if !is_ours(x) {
        return by_candle(x, weight, bias, padding, activation);
    }
    let no_bias = Tensor::zeros(0, x.dtype(), x.device())?;
    let values = with_values([x, weight, bias.unwrap_or(&no_bias)], |[x, weight, values]| {
        let finish = Finish { bias: bias.map(|_| values), relu: activation == Activation::Relu };
        match sizes.is_tiled() {
            true => winograd::convolve(sizes.images, x, Kernels::new(weight, sizes.outputs, sizes.inputs), finish),
            false => sizes.convolve(x, weight, finish),
        }
    })?;
    Tensor::from_vec(values, (sizes.images.batch, sizes.out_height(), sizes.out_width(), sizes.outputs), x.device())
}

/// The gradient of the weights \[outputs, inputs, kernel, kernel\] of a convolution of `x` \[batch, height, width,
/// inputs\], from the gradient of its result.
///
/// # Errors
/// When the shapes do not fit.
pub fn weight_gradient(x: &Tensor, grad: &Tensor, kernel: usize, padding: usize) -> Result<Tensor> {
    let shape = (grad.dim(3)?, x.dim(3)?, kernel, kernel);
    let sizes = sizes(x, shape, padding)?;
    sizes.check(grad)?;
    on_gpu!(x, crate::cuda::weight_gradient(x, grad, kernel, padding));
    if !is_ours(x) {
        let weight = Var::zeros(shape, x.dtype(), x.device())?;
        return gradient_by_candle(x, weight.as_tensor(), grad, padding, &weight);
    }
    let values = with_values([x, grad], |[x, grad]| match sizes.is_tiled() {
        true => winograd::weight_gradient(sizes.images, x, sizes.inputs, grad, sizes.outputs),
        false => sizes.weight_gradient(x, grad),
    })?;
    Tensor::from_vec(values, shape, x.device())
}

/// The gradient of the input of a convolution with `weight` \[outputs, inputs, kernel, kernel\], from the gradient of
/// its result \[batch, height', width', outputs\].
///
/// # Errors
/// When the shapes do not fit.
pub fn input_gradient(weight: &Tensor, grad: &Tensor, padding: usize) -> Result<Tensor> {
    let (outputs, inputs, kernel, _) = weight.dims4()?;
    let (batch, out_height, out_width, channels) = grad.dims4()?;
    if channels != outputs
        || inputs * outputs == 0
        || padding >= kernel
        || out_height + kernel < 2 * padding + 2
        || out_width + kernel < 2 * padding + 2
    {
        bail!("{:?} is no gradient of a convolution with {:?} and padding {padding}", grad.shape(), weight.shape())
    }
    let (height, width) = (out_height + kernel - 1 - 2 * padding, out_width + kernel - 1 - 2 * padding);
    on_gpu!(grad, crate::cuda::input_gradient(weight, grad, padding, (height, width)));
    if !is_ours(grad) {
        let x = Var::zeros((batch, height, width, inputs), grad.dtype(), grad.device())?;
        return gradient_by_candle(x.as_tensor(), weight, grad, padding, &x);
    }
    if kernel == 3 && padding == 1 {
        let images = Images { batch, height, width };
        let values = with_values([grad, weight], |[grad, weight]| {
            let finish = Finish { bias: None, relu: false };
            winograd::convolve(images, grad, Kernels::new(weight, outputs, inputs).turned(), finish)
        })?;
        return Tensor::from_vec(values, (batch, height, width, inputs), grad.device());
    }
    // A convolution with the kernel turned by half a turn.
    let turned = weight.flip(&[2, 3])?.transpose(0, 1)?.contiguous()?;
    convolution(grad, &turned, None, kernel - 1 - padding, Activation::Identity)
}

fn sizes(x: &Tensor, weight: (usize, usize, usize, usize), padding: usize) -> Result<Unfolding> {
    let (batch, height, width, inputs) = x.dims4()?;
    let (outputs, weight_inputs, kernel, kernel_width) = weight;
    let fits = weight_inputs == inputs && kernel == kernel_width && padding < kernel && inputs * outputs > 0;
    if !fits || height + 2 * padding < kernel || width + 2 * padding < kernel {
        bail!("a convolution of {:?} with {weight:?} and padding {padding} is not possible", x.shape())
    }
    Ok(Unfolding { images: Images { batch, height, width }, inputs, outputs, kernel, padding })
}

impl Unfolding {
    fn is_tiled(&self) -> bool {
        self.kernel == 3 && self.padding == 1
    }

    fn check(&self, grad: &Tensor) -> Result<()> {
        let expected = [self.images.batch, self.out_height(), self.out_width(), self.outputs];
        if grad.dims() != expected {
            bail!("a gradient of {:?} for a result of {expected:?}", grad.shape())
        }
        Ok(())
    }
}

fn by_candle(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    activation: Activation,
) -> Result<Tensor> {
    let sums = to_nhwc(&to_nchw(x)?.conv2d(weight, padding, 1, 1, 1)?)?;
    let sums = match bias {
        None => sums,
        Some(bias) => sums.broadcast_add(bias)?,
    };
    if activation == Activation::Relu { sums.relu() } else { Ok(sums) }
}

/// The gradient of a variable that is the input or the weight of a convolution, by candle's own backward pass.
fn gradient_by_candle(x: &Tensor, weight: &Tensor, grad: &Tensor, padding: usize, of: &Var) -> Result<Tensor> {
    let y = by_candle(x, weight, None, padding, Activation::Identity)?;
    let mut gradients = (y * grad)?.sum_all()?.backward()?;
    match gradients.remove(of) {
        Some(gradient) => gradient.contiguous(),
        None => bail!("candle gave no gradient"),
    }
}
