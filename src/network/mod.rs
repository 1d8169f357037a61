//! Blocks, auxiliary classifiers, and their weights in and out.

mod frozen;
mod layer;
mod stage;
mod weights;

pub use frozen::FrozenBlock;
pub use layer::Mode;
pub use stage::{Auxiliary, Block, StageNetwork};
pub use weights::{Role, Variables, load, save_bytes};
