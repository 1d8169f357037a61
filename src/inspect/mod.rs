//! SEE: what lies in a stage's folder, described, measured and drawn.

mod arrays;
mod compare;
mod kernels;
mod maps;
mod nearest;
mod pca;
mod picture;
mod pictures;
mod sampling;
mod scatter;
mod similarity;
mod statistics;
mod validation;

pub use arrays::{ArraySummary, arrays};
pub use compare::{Comparison, Difference, Differences, Predictions, Similarity, compare};
pub use maps::channel_grid;
pub use picture::Picture;
pub use pictures::{Images, Pictures, Query, pictures};
pub use statistics::{BINS, Channel, channels, histogram, histograms, sample_values, values};
pub use validation::{Features, Matrix};
