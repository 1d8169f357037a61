//! Blocks, auxiliary classifiers, and their weights in and out.

mod chain;
mod frozen;
mod gradients;
mod layer;
mod stage;
mod weights;

pub use chain::Chain;
pub use frozen::{FrozenAuxiliary, FrozenBlock};
pub use gradients::Gradients;
pub use stage::{Auxiliary, Block, Pass, StageNetwork};
pub use weights::{Role, Variables, load, save_bytes};
