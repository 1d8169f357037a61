//! A list of layers as a trainable and as a frozen network, and weights in and out.

mod batch_norm;
mod chain;
mod convolution;
mod direct;
mod foreign;
mod frozen;
mod gradients;
mod initial;
mod joint;
mod linear;
mod noise;
mod precision;
mod pruning;
mod sequence;
mod shapes;
mod variables;

pub use chain::Chain;
pub use foreign::Foreign;
pub use frozen::Frozen;
pub use gradients::Gradients;
pub use joint::{Network, NetworkPass};
pub use noise::Noise;
pub use precision::map_type;
pub use pruning::prune;
pub use sequence::Sequence;
pub use variables::{Role, Variables, load, save_bytes};
