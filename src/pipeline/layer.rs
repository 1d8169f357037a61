//! The layers that networks are made of: what each makes of a shape, what it costs, and its line of text.

use std::fmt;

/// The shape of one sample: channels, height, width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Height and width, in pixels or steps of the feature grid.
    pub size: usize,
}

impl Shape {
    /// Values in one sample.
    pub fn values(&self) -> usize {
        self.channels * self.size * self.size
    }
}

impl fmt::Display for Shape {
    /// Channels x height x width.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} x {}", self.channels, self.size, self.size)
    }
}

/// How many values a linear layer gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// A hidden layer of this width.
    Values(usize),
    /// One logit a class.
    Classes,
}

/// One layer. Windows are square, and the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layer {
    /// Each 2x2 square of pixels becomes one pixel of four times the channels (PyTorch's `pixel_unshuffle`).
    SpaceToDepth,
    /// A scattering transform (Bruna & Mallat 2013), of which nothing is learned. It reads images only.
    Scattering {
        /// Octaves: the size shrinks by two to this power.
        scales: usize,
        /// Wavelets of an octave.
        angles: usize,
        /// 1, or 2 with what wavelets leave of what wavelets leave.
        order: usize,
    },
    /// A convolution.
    Conv {
        /// Channels of its output.
        channels: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Pixels between neighbouring windows.
        stride: usize,
        /// Zeros added on each side.
        padding: usize,
        /// Whether a learned constant is added to each channel.
        bias: bool,
    },
    /// Normalises each channel by the statistics of the batch, or by running ones in evaluation, then scales and shifts it.
    BatchNorm,
    /// max(x, 0).
    Relu,
    /// The largest value of each window; padding never counts.
    MaxPool {
        /// Side of the window.
        kernel: usize,
        /// Pixels between neighbouring windows.
        stride: usize,
        /// Pixels added on each side.
        padding: usize,
    },
    /// Averages to a fixed number of rows and columns (PyTorch's `adaptive_avg_pool2d`).
    AvgPool {
        /// Rows and columns of the result.
        size: usize,
    },
    /// Sets a share of the values to zero in training, and scales the others so that the expected sum stays.
    Dropout {
        /// The share.
        rate: f64,
    },
    /// All values of a sample in one row, channel by channel.
    Flatten,
    /// A matrix product with a bias, of a flattened sample.
    Linear {
        /// Values of its result.
        outputs: Outputs,
    },
}

impl Layer {
    /// A 3x3 convolution with stride 1 that keeps the size.
    pub const fn conv3x3(channels: usize, bias: bool) -> Self {
        Self::Conv { channels, kernel: 3, stride: 1, padding: 1, bias }
    }

    /// Max pooling of windows that lie side by side.
    pub const fn max_pool(size: usize) -> Self {
        Self::MaxPool { kernel: size, stride: size, padding: 0 }
    }

    /// What it makes of an input, with so many classes.
    ///
    /// # Errors
    /// When it cannot be applied, in words that follow its own text.
    pub fn output(&self, input: Shape, classes: usize) -> Result<Shape, String> {
        let Shape { channels, size } = input;
        match *self {
            Self::SpaceToDepth if !size.is_multiple_of(2) => {
                Err(format!("halves {size} pixels; that number must be even"))
            }
            Self::SpaceToDepth => Ok(Shape { channels: 4 * channels, size: size / 2 }),
            Self::Scattering { scales, angles, order } => {
                let [padded, size] =
                    scattered(size, scales).ok_or_else(|| format!("does not fit into {size} pixels"))?;
                if scales * angles > MOST_FILTER_VALUES / (padded * padded) {
                    return Err(format!("has more filters of {padded} x {padded} values than any machine holds"));
                }
                Ok(Shape { channels: channels * coefficients(scales, angles, order), size })
            }
            Self::Conv { channels, kernel, stride, padding, .. } => {
                let size = windows(size, kernel, stride, padding)?;
                Ok(Shape { channels, size })
            }
            Self::MaxPool { kernel, stride, padding } => {
                if 2 * padding > kernel {
                    return Err(format!("has a padding of {padding}, more than half its window"));
                }
                Ok(Shape { channels, size: windows(size, kernel, stride, padding)? })
            }
            Self::AvgPool { size } => Ok(Shape { channels, size }),
            Self::BatchNorm | Self::Relu | Self::Dropout { .. } => Ok(input),
            Self::Flatten => Ok(Shape { channels: input.values(), size: 1 }),
            Self::Linear { .. } if size != 1 => Err(format!("reads a flattened sample, not {input}")),
            Self::Linear { outputs } => Ok(Shape { channels: outputs.count(classes), size: 1 }),
        }
    }

    /// Values that are learned.
    pub fn parameters(&self, input: Shape, classes: usize) -> usize {
        match *self {
            Self::Conv { channels, kernel, bias, .. } => {
                channels * (kernel * kernel * input.channels + usize::from(bias))
            }
            Self::BatchNorm => 2 * input.channels,
            Self::Linear { outputs } => outputs.count(classes) * (input.values() + 1),
            _ => 0,
        }
    }

    /// Those of them by which its input is multiplied.
    pub fn weights(&self, input: Shape, classes: usize) -> usize {
        match *self {
            Self::Conv { channels, kernel, .. } => channels * kernel * kernel * input.channels,
            Self::Linear { outputs } => outputs.count(classes) * input.values(),
            _ => 0,
        }
    }

    /// Values that are gathered from batches: running means and variances.
    pub fn statistics(&self, input: Shape) -> usize {
        if *self == Self::BatchNorm { 2 * input.channels } else { 0 }
    }

    /// Floating-point operations of a sample's forward pass; a multiplication and an addition count as two. What is done
    /// once for each value (batch norm, ReLU, pooling) is left out.
    pub fn operations(&self, input: Shape, output: Shape) -> f64 {
        match *self {
            Self::Scattering { scales, angles, order } => {
                let padded = scattered(input.size, scales).map_or(0, |[padded, _]| padded);
                input.channels as f64 * transform_operations(padded, scales, angles, order)
            }
            Self::Conv { kernel, .. } => 2.0 * (kernel * kernel * input.channels) as f64 * output.values() as f64,
            Self::Linear { .. } => 2.0 * (input.values() * output.values()) as f64,
            _ => 0.0,
        }
    }

    /// Whether features of a shifted input are the shifted features, but for the border: crops can then be taken from
    /// features instead of images.
    pub fn keeps_shifts(&self) -> bool {
        match *self {
            Self::SpaceToDepth | Self::BatchNorm | Self::Relu => true,
            Self::Conv { kernel, stride, padding, .. } => stride == 1 && 2 * padding + 1 == kernel,
            Self::MaxPool { kernel, stride, padding } => kernel == stride && padding == 0,
            Self::Scattering { .. }
            | Self::AvgPool { .. }
            | Self::Dropout { .. }
            | Self::Flatten
            | Self::Linear { .. } => false,
        }
    }
}

/// Values of the filters of a scattering transform that are worked with at most: 2 GiB.
const MOST_FILTER_VALUES: usize = 1 << 29;

/// The side of an image whose borders are mirrored, to a multiple of the coarsest step, and that of what a scattering
/// transform over so many octaves makes of it; nothing where the image is too small.
pub fn scattered(size: usize, scales: usize) -> Option<[usize; 2]> {
    let step = 1usize.checked_shl(u32::try_from(scales).ok()?).filter(|&step| scales > 0 && step <= size)?;
    let padded =
        (size / step).checked_add(2)?.checked_mul(step).filter(|padded| padded.checked_mul(*padded).is_some())?;
    ((padded - size).div_ceil(2) < size).then_some([padded, size / step])
}

/// Coefficients of a channel: the average, one a wavelet, and one a pair of a wavelet and a coarser one.
fn coefficients(scales: usize, angles: usize, order: usize) -> usize {
    let second = if order > 1 { angles * angles * (scales * scales.saturating_sub(1) / 2) } else { 0 };
    1 + scales * angles + second
}

/// Operations of the Fourier transforms of a channel: two for what each wavelet leaves, one for each average.
fn transform_operations(padded: usize, scales: usize, angles: usize, order: usize) -> f64 {
    let fourier = |level: usize| {
        let values = ((padded >> level) * (padded >> level)) as f64;
        5.0 * values * values.max(2.0).log2()
    };
    let wavelets = |scale: usize, count: usize| count as f64 * 2.0 * fourier(scale);
    let first: f64 = (0..scales).map(|scale| wavelets(scale, angles)).sum();
    let second: f64 = (1..scales).map(|scale| wavelets(scale, angles * angles * scale)).sum();
    let averages = coefficients(scales, angles, order) as f64 * fourier(scales);
    fourier(0) + first + averages + if order > 1 { second } else { 0.0 }
}

impl Outputs {
    fn count(self, classes: usize) -> usize {
        match self {
            Self::Values(count) => count,
            Self::Classes => classes,
        }
    }
}

/// Windows along a side.
fn windows(size: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize, String> {
    let room = (size + 2 * padding).checked_sub(kernel).filter(|_| kernel > 0 && stride > 0);
    room.map(|room| room / stride + 1).ok_or_else(|| format!("does not fit into {size} pixels"))
}

impl fmt::Display for Layer {
    /// As people say it; part of a stage's key, so that a change here makes stages stale.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beyond = |f: &mut fmt::Formatter<'_>, stride: usize, padding: usize| {
            if stride != 1 {
                write!(f, " stride {stride}")?;
            }
            if padding != 0 { write!(f, " padding {padding}") } else { Ok(()) }
        };
        match *self {
            Self::SpaceToDepth => write!(f, "space-to-depth 2x2"),
            Self::Scattering { scales, angles, order } => {
                write!(f, "scattering over {scales} octaves, {angles} angles, order {order}")
            }
            Self::Conv { channels, kernel, stride, padding, bias } => {
                write!(f, "conv {channels}, {kernel}x{kernel}")?;
                beyond(f, stride, padding)?;
                if bias { write!(f, ", bias") } else { Ok(()) }
            }
            Self::BatchNorm => write!(f, "batch norm"),
            Self::Relu => write!(f, "ReLU"),
            Self::MaxPool { kernel, stride, padding } => {
                write!(f, "max pool {kernel}x{kernel}")?;
                beyond(f, stride, padding)
            }
            Self::AvgPool { size } => write!(f, "average pool to {size}x{size}"),
            Self::Dropout { rate } => write!(f, "dropout {rate}"),
            Self::Flatten => write!(f, "flatten"),
            Self::Linear { outputs: Outputs::Values(count) } => write!(f, "linear {count}"),
            Self::Linear { outputs: Outputs::Classes } => write!(f, "linear, one logit a class"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: Shape = Shape { channels: 3, size: 224 };

    #[test]
    fn shapes_are_those_of_pytorch() {
        let of = |layer: Layer, input| layer.output(input, 10).map(|shape| (shape.channels, shape.size));
        let alexnet = Layer::Conv { channels: 64, kernel: 11, stride: 4, padding: 2, bias: true };
        assert_eq!(of(alexnet, IMAGE), Ok((64, 55)));
        let overlapping = Layer::MaxPool { kernel: 3, stride: 2, padding: 0 };
        assert_eq!(of(overlapping, Shape { channels: 64, size: 55 }), Ok((64, 27)));
        assert_eq!(of(Layer::SpaceToDepth, IMAGE), Ok((12, 112)));
        assert_eq!(of(Layer::AvgPool { size: 6 }, Shape { channels: 256, size: 6 }), Ok((256, 6)));
        assert_eq!(of(Layer::Flatten, Shape { channels: 256, size: 6 }), Ok((9216, 1)));
        let linear = Layer::Linear { outputs: Outputs::Classes };
        assert_eq!(of(linear, Shape { channels: 9216, size: 1 }), Ok((10, 1)));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let says = |layer: Layer, size: usize| layer.output(Shape { channels: 4, size }, 10).unwrap_err();
        assert!(says(Layer::SpaceToDepth, 7).contains("must be even"));
        let valid = Layer::Conv { channels: 8, kernel: 3, stride: 1, padding: 0, bias: false };
        assert_eq!(says(valid, 2), "does not fit into 2 pixels");
        assert!(says(Layer::MaxPool { kernel: 2, stride: 2, padding: 2 }, 8).contains("more than half"));
        assert!(says(Layer::Linear { outputs: Outputs::Classes }, 2).contains("flattened"));
    }

    #[test]
    fn alexnet_has_as_many_parameters_as_in_torchvision() {
        let conv = |input: usize, channels, kernel| {
            let layer = Layer::Conv { channels, kernel, stride: 1, padding: 0, bias: true };
            layer.parameters(Shape { channels: input, size: 20 }, 1000)
        };
        let linear = |input, outputs| Layer::Linear { outputs }.parameters(Shape { channels: input, size: 1 }, 1000);
        let convolutions =
            conv(3, 64, 11) + conv(64, 192, 5) + conv(192, 384, 3) + conv(384, 256, 3) + conv(256, 256, 3);
        let linears = linear(9216, Outputs::Values(4096)) + linear(4096, Outputs::Values(4096));
        assert_eq!(convolutions + linears + linear(4096, Outputs::Classes), 61_100_840);
    }
}
