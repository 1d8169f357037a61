//! What commands are told that look at stages, predict by them, mend or remove them.

use super::figures;
use super::make_args::{DeviceArgs, PipelineArgs};
use crate::pipeline::{Average, Profile};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// How a graph is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum GraphForm {
    /// A table of nodes and what they are made of
    Text,
    /// The language of Graphviz
    Dot,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Explain every node, also those that are current
    #[arg(long)]
    pub why: bool,
    /// Show what a run does at this moment, until nothing runs any more; PIPELINE may also be the folder of the stages
    #[arg(long, conflicts_with_all = ["why", "graph"])]
    pub watch: bool,
    /// Print the graph of nodes instead: as text, or for Graphviz (`--graph dot | dot -Tsvg`)
    #[arg(long, value_name = "FORM", num_args = 0..=1, default_missing_value = "text", conflicts_with = "json")]
    pub graph: Option<GraphForm>,
    /// Override a setting, such as training.epochs=5
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the table as JSON
    #[arg(long)]
    pub json: bool,
}

/// What time and memory of a pipeline are predicted from.
#[derive(Debug, Args)]
pub(super) struct PredictionArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Override a setting, such as training.epochs=5
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Plan for an assumed machine, instead of measuring this one
    #[arg(long, value_name = "NAME", value_parser = figures::profile)]
    pub profile: Option<Profile>,
    /// Training images, where the data are not here
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Validation images, where the data are not here
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub val_images: Option<u32>,
    /// Classes, where the data are not here [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    pub classes: Option<u16>,
    /// Operations a second of frozen blocks, such as 100TFLOPS
    #[arg(long, value_name = "RATE", value_parser = figures::operations)]
    pub forward: Option<f64>,
    /// Operations a second of training steps
    #[arg(long, value_name = "RATE", value_parser = figures::operations)]
    pub training: Option<f64>,
    /// Bytes a second that the disk reads, such as 6GB/s
    #[arg(long, value_name = "RATE", value_parser = figures::throughput)]
    pub read: Option<f64>,
    /// Bytes a second that the disk writes
    #[arg(long, value_name = "RATE", value_parser = figures::throughput)]
    pub write: Option<f64>,
    /// Stored images a second that are cropped for the network
    #[arg(long, value_name = "N", value_parser = figures::count)]
    pub decode: Option<f64>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub prediction: PredictionArgs,
    /// Bytes that all features together may take, such as 2TB [default: `features.disk` in the file]
    #[arg(long, value_name = "SIZE", value_parser = figures::size)]
    pub disk: Option<u64>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The folder of a stage
    pub stage: PathBuf,
    /// The folder of another stage, to compare the two
    #[arg(value_name = "OTHER", conflicts_with_all = ["pictures", "values"])]
    pub other: Option<PathBuf>,
    /// Samples that are looked at, spread evenly [default: 512 for tables and comparisons, all for pictures]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Add the first values of some samples and the sum of all to `--json`, to compare other readers with
    #[arg(long, requires = "json")]
    pub values: bool,
    /// Write pictures of the features into a folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "values")]
    pub pictures: Option<PathBuf>,
    /// With `--pictures`: the validation sample whose features are shown
    #[arg(long, value_name = "N", requires = "pictures", default_value_t = 0)]
    pub sample: usize,
    /// With `--pictures`: show an image file instead, cropped as validation images are
    #[arg(long, value_name = "FILE", requires = "pictures", conflicts_with = "sample")]
    pub image: Option<PathBuf>,
    /// With `--pictures`: write over files of others too
    #[arg(long, requires = "pictures")]
    pub force: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The folder of a stage, or of all stages
    #[arg(default_value = "cache")]
    pub folder: PathBuf,
    /// Make what is missing or damaged again, from the stage before or the images, with the bytes that it had
    #[arg(long)]
    pub repair: bool,
    /// With `--repair`: say what would be made again, and do nothing
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
    /// Override a recorded setting, such as data.path=/new/place
    #[arg(long, value_name = "KEY=VALUE", requires = "repair")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the table as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// The files of all pipelines whose stages are to be kept
    #[arg(required = true, value_name = "PIPELINE")]
    pub pipelines: Vec<PathBuf>,
    /// The folder of the stages [default: `cache` in the files]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Override a setting of all the pipelines, such as training.epochs=5
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Say what would be removed, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// What the ensemble of all stages is the mean of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Together {
    /// As the node of the ensemble says; logits where there is none
    AsRecorded,
    Logits,
    Softmax,
}

impl Together {
    /// What it is the mean of, where that is said.
    pub fn average(self) -> Option<Average> {
        match self {
            Self::AsRecorded => None,
            Self::Logits => Some(Average::Logits),
            Self::Softmax => Some(Average::Softmax),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Folders of stages, or pipeline files
    #[arg(value_name = "CACHE | PIPELINE", default_value = "cache")]
    pub of: Vec<PathBuf>,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub to: PathBuf,
    /// Write over a file that is no report
    #[arg(long)]
    pub force: bool,
    /// Override a setting of the pipeline files, such as cache=elsewhere
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Say what would be written, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    /// The folder of the last stage of the network, of its ensemble, or of all stages
    #[arg(default_value = "cache")]
    pub stage: PathBuf,
    /// What the ensembles are the mean of: what the node of the ensemble says, logits or softmax outputs
    #[arg(long, value_name = "OF", num_args = 0..=1, require_equals = true, default_missing_value = "as-recorded")]
    pub ensemble: Option<Together>,
    /// Use the training images instead, cropped as validation images are
    #[arg(long)]
    pub train: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the table as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    /// The image files
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// The folder of the last stage of the network, of its ensemble, or of all stages
    #[arg(long, value_name = "DIR", default_value = "cache")]
    pub from: PathBuf,
    /// Ask the ensemble of all stages instead of the last: of what its node says, or of logits or softmax outputs
    #[arg(long, value_name = "OF", num_args = 0..=1, require_equals = true, default_missing_value = "as-recorded")]
    pub ensemble: Option<Together>,
    /// Classes to name for each image
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub top: u16,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}
