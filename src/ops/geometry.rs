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
