//! `greedy` trains convolutional networks one shallow block at a time on cached features.
//!
//! The method is that of Belilovsky, Eickenberg & Oyallon, "Greedy Layerwise Learning Can Scale to ImageNet"
//! (ICML 2019). A stage trains one block together with an auxiliary classifier on the features of the frozen blocks
//! before it; then the block is run once over the data set and its output is written as sharded Zarr v3 arrays, from
//! which the next stage is trained. The stages are a DAG that is brought up to date as `make` would.
//!
//! The modules, in the order in which they are best read: what is wanted, where images come from, what is trained, how
//! features are kept between stages, how a stage learns, what its
//! features are worth, how fast this machine is, how stages are run, and how the
//! program talks. Each may import those above it, but none below, and all may use those at the end; a test holds that.

pub mod pipeline;

pub mod images;

#[cfg(any(test, feature = "cuda"))]
mod cuda;

pub mod ops;

pub mod network;

pub mod features;

pub mod training;

pub mod probes;

pub mod bench;

pub mod run;

pub mod inspect;

pub mod export;

pub mod report;

pub mod cli;

pub mod disk;
pub mod error;
#[cfg(test)]
mod faults;
pub mod lock;
pub mod progress;
pub mod random;
pub mod room;
pub mod size;
pub mod temporary;
pub mod text;
