//! The square windows that convolutions and max pooling move over feature maps.

/// A square window and how it moves, the same downwards and to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pixels along a side.
    pub kernel: usize,
    /// Pixels between neighbouring windows.
    pub stride: usize,
    /// Pixels that are added to the image on each side.
    pub padding: usize,
}

impl Window {
    /// A window of `kernel` x `kernel` pixels every `stride` pixels, on an image with `padding` pixels added to each side.
    pub const fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel, stride, padding }
    }

    /// How many windows there are along a side of so many pixels: those that end within the padded image, as in PyTorch.
    /// None where there is none.
    pub fn output(&self, size: usize) -> Option<usize> {
        let padded = size.checked_add(self.padding.checked_mul(2)?)?;
        let last = padded.checked_sub(self.kernel)?;
        if self.kernel == 0 { None } else { Some(last.checked_div(self.stride)? + 1) }
    }

    /// The same for both sides of an image.
    pub(super) fn outputs(&self, height: usize, width: usize) -> Option<(usize, usize)> {
        Some((self.output(height)?, self.output(width)?))
    }

    #[cfg(feature = "cuda")]
    pub(super) fn on_gpu(&self, (rows, columns): (usize, usize)) -> crate::cuda::Windows {
        let Self { kernel, stride, padding } = *self;
        crate::cuda::Windows { side: kernel, stride, padding, rows, columns }
    }
}
