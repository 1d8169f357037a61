//! What the ways of convolving share: the images of a batch, and what is done to the sums.

/// The images of one batch, in NHWC order.
#[derive(Clone, Copy)]
pub(super) struct Images {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
}

/// What is done to the sums of a convolution before they are stored.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// Added to each channel.
    pub bias: Option<&'a [f32]>,
    /// Whether negative results become 0.
    pub relu: bool,
}

impl Finish<'_> {
    /// Finishes the sums \[pixel, channel\].
    pub fn apply(&self, channels: usize, sums: &mut [f32]) {
        if let Some(bias) = self.bias {
            let pixels = sums.chunks_exact_mut(channels.max(1));
            pixels.for_each(|pixel| pixel.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias));
        }
        if self.relu {
            sums.iter_mut().for_each(|sum| *sum = if *sum < 0.0 { 0.0 } else { *sum });
        }
    }
}
