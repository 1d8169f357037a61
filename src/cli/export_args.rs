//! What `export` is told.

use super::look_args::PredictionArgs;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A form in which other programs read networks or features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportForm {
    /// All weights as safetensors
    Weights,
    /// The whole network as an ONNX model
    Onnx,
    /// Scalars, images and histograms of each stage as TensorBoard's event files
    Tensorboard,
    /// Averaged validation features for TensorBoard's embedding projector
    Projector,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct ExportArgs {
    #[command(subcommand)]
    pub engine: Option<Engine>,
    #[command(flatten)]
    pub artifact: Option<ArtifactArgs>,
}

/// An engine that runs a pipeline on many machines.
#[derive(Debug, Subcommand)]
pub(super) enum Engine {
    /// Write a pipeline as a Snakefile
    Snakemake(Box<WorkflowArgs>),
    /// Write a pipeline as a script of Slurm's job arrays
    Slurm(Box<WorkflowArgs>),
    /// Write a pipeline as indexed jobs of Kubernetes
    Kubernetes(Box<WorkflowArgs>),
}

#[derive(Debug, Args)]
pub(super) struct WorkflowArgs {
    #[command(flatten)]
    pub prediction: PredictionArgs,
    /// Parts that the work over shards is divided into
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub parts: u16,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Cores and threads of each task, which also decide about the bits of results [default: those of the machine that is
    /// planned for, and 8 beside a GPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub cores: Option<u16>,
    /// How often a task that failed is tried again
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub retries: u16,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// Say what would be written, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct ArtifactArgs {
    /// The folder of the last stage of the network, or of a network that was trained as a whole; for TensorBoard also of
    /// all stages
    pub stage: PathBuf,
    /// The file to write; for tensorboard and projector a folder
    #[arg(long, value_name = "PLACE")]
    pub to: PathBuf,
    /// What to write
    #[arg(long, value_name = "FORM", default_value = "weights")]
    pub format: ExportForm,
    /// With `--format projector`: validation samples at most, spread evenly [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: Option<u32>,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// Say what would be written, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}
