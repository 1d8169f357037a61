//! What `bench` is told.

use super::make_args::DeviceArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What `greedy bench` measures.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum BenchPart {
    /// Tensor operations one by one
    Operations,
    /// Whole training steps and frozen blocks
    Steps,
    /// Writing and reading features, and extraction
    Cache,
    /// Decoding images
    Decoding,
    /// Whether every operation agrees with one thread of the CPU
    Agreement,
}

/// How feature maps are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Precision {
    F32,
    Bf16,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure [default: all but agreement]
    #[arg(value_name = "PART")]
    parts: Vec<BenchPart>,
    /// The least time that each measurement takes
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub seconds: f64,
    /// Measure only what has this text in its name or sizes, such as "k = 2, 32 channels"
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Where to write features for a moment [default: the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Read and decode images of a data set, such as parquet=data/imagenet; once for each of several
    #[arg(long, value_name = "SOURCE=PLACE")]
    pub images: Vec<String>,
    /// How operations, steps and what the cache feeds store feature maps
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
    /// Let a GPU compute gradients in ways that give other bits at every run, where they are faster
    #[arg(long)]
    pub fast: bool,
    /// What the random inputs of agreement are drawn from [default: the time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

impl BenchArgs {
    /// The parts to measure.
    pub fn parts(&self) -> &[BenchPart] {
        const MEASURED: [BenchPart; 4] =
            [BenchPart::Operations, BenchPart::Steps, BenchPart::Cache, BenchPart::Decoding];
        if self.parts.is_empty() { &MEASURED } else { &self.parts }
    }
}

/// A time that is neither negative nor endless.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds between 0 and 3600".into()),
    }
}
