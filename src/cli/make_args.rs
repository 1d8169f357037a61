//! What commands that make stages are told: `run`, `stage`, `shards`, `import`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// A pipeline's file and the folder of its stages.
#[derive(Debug, Args)]
pub(super) struct PipelineArgs {
    /// The pipeline's file
    pub pipeline: PathBuf,
    /// The folder of the stages [default: `cache` in the file]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Look at every image file, not only at the times of their folders: some may have been rewritten in place
    #[arg(long)]
    pub look_again: bool,
}

#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
}

/// What every command that makes stages takes.
#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    /// Override a setting, such as training.epochs=5
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Write TensorBoard's event files of every stage that is done below a folder
    #[arg(long, value_name = "DIR")]
    pub events: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Let a GPU compute gradients in ways that give other bits at every run, where they are faster
    #[arg(long)]
    pub fast: bool,
    /// Stop where shards come next, for `greedy shards` to make them: of a stage when it is trained, of the images when
    /// they are begun. The same command without it makes what is missing and finishes
    #[arg(long, value_name = "POINT")]
    pub until: Option<Until>,
    /// Print the table as JSON
    #[arg(long)]
    pub json: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Where a node is left to workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Until {
    /// Before its first shard
    #[value(alias = "begun")]
    Trained,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Bring only these nodes up to date, and what they need: stage2 (or 2), images, network [default: all]. Further
    /// pipelines (names that end in .toml) are brought up to date one after the other, and compared in one table
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    #[command(flatten)]
    pub work: WorkArgs,
}

#[derive(Debug, Args)]
pub(super) struct StageArgs {
    /// The number of the stage
    pub number: usize,
    /// The folder of the stage before it, or of an earlier one with those between beside it
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The folder of this stage [default: `stageN` beside the one before it]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// A pipeline's file, instead of the settings recorded in the folder
    #[arg(long, value_name = "FILE")]
    pub pipeline: Option<PathBuf>,
    #[command(flatten)]
    pub work: WorkArgs,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").args(["part", "parts"]).required(true))]
pub(super) struct ShardsArgs {
    /// The node: images, stage3 (or 3)
    pub node: String,
    /// The pipeline's file, where it is not said with `--from` or `--to` where the node lies
    #[arg(value_name = "PIPELINE", conflicts_with_all = ["from", "to"])]
    pub pipeline: Option<PathBuf>,
    /// The folder of the stage before it
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    pub from: Option<PathBuf>,
    /// The folder of the node itself
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// The folder of the stages [default: `cache` in the file]
    #[arg(long, value_name = "DIR", requires = "pipeline")]
    pub cache: Option<PathBuf>,
    /// The part of the work, such as 2/4
    #[arg(long, value_name = "I/N", conflicts_with = "parts")]
    pub part: Option<String>,
    /// The number of parts; which of them this is says SLURM_ARRAY_TASK_ID (from 1) or JOB_COMPLETION_INDEX (from 0)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub parts: Option<u32>,
    /// Look which images are bad instead, for `data.on_bad_image = "skip"`
    #[arg(long, conflicts_with = "verify")]
    pub check: bool,
    /// Hold a part of the files of a finished node against their sums instead; exit code 1 where one is wrong
    #[arg(long)]
    pub verify: bool,
    /// How long to wait for what another machine has written to be seen on this one
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    /// Override a setting, such as data.path=/local/imagenet
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The safetensors file
    pub weights: PathBuf,
    /// The folder of the stages that are made
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// The network in it: alexnet, vgg11, vgg11_bn and so on to vgg19_bn, or another word of `network.architecture`
    #[arg(long, value_name = "NAME", required_unless_present = "pipeline")]
    pub architecture: Option<String>,
    /// A folder of images whose features are wanted: train/CLASS/… and val/CLASS/…
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// A pipeline's file, for images in other forms, other networks, probes and all else
    #[arg(long, value_name = "FILE")]
    pub pipeline: Option<PathBuf>,
    /// Take only the first blocks, without the classifier; those after them are trained
    #[arg(long, value_name = "N")]
    pub blocks: Option<u32>,
    #[command(flatten)]
    pub work: WorkArgs,
}
