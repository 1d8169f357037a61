//! LEARN: the epochs of a stage, gradient descent, metrics and checkpoints.

mod checkpoint;
mod epochs;
mod metrics;
mod sgd;
mod step;
mod sums;

pub use checkpoint::{Epoch, is_checkpoint, latest as latest_checkpoint, unfinished_history};
pub use epochs::{Job, Outcome, classify, train};
pub use metrics::{Score, ensemble, score};
pub use sgd::Sgd;
pub use step::{Outcome as StepOutcome, step};
