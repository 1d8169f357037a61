//! SEE: what lies in a stage's folder, described and measured.

mod arrays;
mod statistics;

pub use arrays::{ArraySummary, arrays};
pub use statistics::{Channel, channels, histogram, sample_values, values};
