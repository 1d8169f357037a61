//! Blocks, auxiliary classifiers, and their weights in and out.

mod chain;
mod frozen;
mod gradients;
mod layer;
mod precision;
mod stage;
mod weights;

pub use chain::Chain;
pub use frozen::{FrozenAuxiliary, FrozenBlock};
pub use gradients::Gradients;
pub use precision::map_type;
pub use stage::{Auxiliary, Block, Pass, StageNetwork};
pub use weights::{Role, Variables, load, save_bytes};
