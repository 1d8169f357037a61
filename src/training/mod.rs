//! LEARN: the epochs of a stage, gradient descent, metrics and checkpoints.

mod checkpoint;
mod classify;
mod epochs;
mod metrics;
mod module;
mod queue;
mod relay;
mod sgd;
mod step;
mod sums;

pub use checkpoint::{Epoch, is_checkpoint, latest as latest_checkpoint, unfinished_history};
pub use classify::{classify, classify_all};
pub use epochs::{Job, Learned, Outcome, train};
pub use metrics::{Score, ensemble, score};
pub use sgd::Sgd;
pub use step::step;
pub use sums::Outcome as StepOutcome;
