//! The words of the command line.

use super::figures;
use crate::pipeline::{Average, Profile};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;

/// Trains convolutional networks one block at a time on cached features.
#[derive(Debug, Parser)]
#[command(
    name = "greedy",
    version,
    about,
    arg_required_else_help = true,
    after_help = "Examples:\n  greedy run pipelines/demo.toml\n  greedy stage 3 --from cache/stage2\n  greedy inspect cache/stage2"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Threads to compute with [default: one for each core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Bring a pipeline up to date, or what some of its nodes need, then print the table of stages
    #[command(
        after_help = "Examples:\n  greedy run pipelines/demo.toml\n  greedy run pipelines/demo.toml stage2\n  greedy run pipelines/paper-small/*.toml\n  greedy run pipelines/demo.toml --set training.epochs=8 --cache cache-8\n  greedy run pipelines/demo.toml --events events"
    )]
    Run(RunArgs),
    /// Train one stage from the features of the stage before it
    #[command(
        after_help = "Examples:\n  greedy stage 3 --from cache/stage2\n  greedy stage 3 --from cache/stage2 --to cache/wider --set auxiliary.width=64"
    )]
    Stage(StageArgs),
    /// Make one part of a node's shards (features, decoded images), as one of many workers; or check or verify a part
    #[command(
        after_help = "Examples:\n  greedy stage 3 --from cache/stage2 --until trained\n  greedy shards 3 --from cache/stage2 --part 1/4      # and 2/4, 3/4, 4/4, anywhere\n  greedy stage 3 --from cache/stage2\n  greedy shards images pipelines/imagenet-vgg11.toml --check --parts 64\n\nParts may run at once, be killed and started again. docs/cluster.md has the same for Slurm, Snakemake and Kubernetes."
    )]
    Shards(ShardsArgs),
    /// Say of each stage whether it is current, and why not
    #[command(
        after_help = "Examples:\n  greedy status pipelines/demo.toml\n  greedy status pipelines/demo.toml --why --set training.epochs=8\n  greedy status pipelines/demo.toml --graph dot\n  greedy status pipelines/demo.toml --watch"
    )]
    Status(StatusArgs),
    /// Predict bytes and time of every stage, and choose whose features are worth their bytes
    #[command(
        after_help = "Examples:\n  greedy plan pipelines/demo.toml\n  greedy plan pipelines/imagenet-simcnn-k2.toml --profile h200 --disk 2TB --images 1281167 --val-images 50000\n\nWithout `--profile` this machine is measured at each stage, with a sample of the data, for some seconds. Profiles\nare assumptions: h200 (one H200, two NVMe disks, 16 cores) and cpu2 (two cores, one disk). Single figures override\neither. Where stages are there, what they took stands beside what is predicted of them."
    )]
    Plan(Box<PlanArgs>),
    /// Describe the arrays of a stage: shapes, types, codecs, bytes, statistics, origin
    #[command(
        after_help = "Examples:\n  greedy inspect cache/stage2\n  greedy inspect cache/stage2 --json\n  greedy inspect cache/stage2 --pictures pictures --sample 7\n  greedy inspect cache/stage2 cache/stage3\n\nPictures: every channel of a sample's features, the kernels of the block's first convolution, the images nearest in\nfeature space, and all classes in a plane (classes.svg, for a browser). docs/inspect.md says how to read them."
    )]
    Inspect(InspectArgs),
    /// Hold every file of a stage, or of all stages, against the sums in its record
    #[command(
        after_help = "Examples:\n  greedy verify cache\n  greedy verify cache/stage2 --repair\n\nFeatures, images, labels, logits and metadata can be made again, just where they are broken; weights cannot.\nExit code 1 where something is missing, damaged or foreign and was not repaired."
    )]
    Verify(VerifyArgs),
    /// Remove from the cache what none of the pipelines named here needs
    #[command(
        after_help = "Examples:\n  greedy clean pipelines/demo.toml --dry-run\n  greedy clean pipelines/demo.toml pipelines/cifar10-quick.toml --yes\n\nWhat goes: stages that would be made anew, stages that none of the pipelines has, and what runs that were cut off\nhave left over. All pipelines that share a cache are to be named together. Links are not followed."
    )]
    Clean(CleanArgs),
    /// Write one HTML page about pipelines: curves, confusions, images, feature maps, bytes, time, origin
    #[command(
        after_help = "Examples:\n  greedy report cache\n  greedy report pipelines/demo.toml pipelines/simcnn-end-to-end-quick.toml --to both.html\n\nThe page is a single file that needs neither a network nor a script. A report that is there is written over, any\nother file only with `--force`. docs/report.md says how to read each part."
    )]
    Report(ReportArgs),
    /// Run the validation images through the whole trained network
    #[command(after_help = "Example:\n  greedy evaluate cache/stage3")]
    Evaluate(EvaluateArgs),
    /// Say what images show
    #[command(after_help = "Example:\n  greedy predict --from cache/stage3 cat.jpg dog.png")]
    Predict(PredictArgs),
    /// Take a trained network from a file: each of its depths becomes a stage, to be cached, probed and trained on from
    #[command(
        after_help = "Examples:\n  greedy import vgg11_bn.safetensors --architecture vgg11_bn --images birds --to cache/vgg11\n  greedy import vgg11_bn.safetensors --architecture vgg11_bn --images birds --to cache/vgg11 --blocks 8\n  greedy import net.safetensors --pipeline birds.toml --to cache/net\n\nThe file holds tensors under the names of torchvision, timm or `greedy export`. Where it classifies other classes than\nthose of the images, `--blocks N` leaves its classifier out. Images are taken as published networks want them: the\ncentre 224 x 224 of a short side of 256, unless a pipeline or `--set` says otherwise. What was done is written down as\n`pipeline.toml` in the folder of the stages; `network.weights` in a pipeline file of your own does the same.\n\nThen: `greedy stage 5 --from cache/vgg11/stage4` trains a block on what the first four give."
    )]
    Import(ImportArgs),
    /// Hand a network or its features on (weights, ONNX, TensorBoard, embedding projector), or a pipeline to an engine for
    /// clusters (snakemake, slurm, kubernetes)
    #[command(
        after_help = "Examples:\n  greedy export cache/stage4 --to net.safetensors\n  greedy export cache/stage4 --format onnx --to net.onnx\n  greedy export cache --format tensorboard --to events\n  greedy export cache/stage4 --format projector --to projector --samples 2000\n  greedy export snakemake pipelines/demo.toml --parts 4 --to Snakefile\n\nONNX: the frozen blocks and the classifier of the last, for normalised inputs [batch, channel, y, x]; the file says\nwith which means and deviations. docs/inspect.md says more of all forms.\n\nWeights: the file holds all blocks up to the stage, or the whole of `cache/network`, and the classifier of the last block. A\nwhole VGG or AlexNet has torchvision's names, so that `torchvision.models.vgg11(num_classes=10).load_state_dict(…)`\ntakes it where width and classifier are torchvision's too; all else has greedy's: block1.conv.weight and so on."
    )]
    Export(ExportArgs),
    /// Measure how fast this machine trains, extracts, decodes and reads, and whether a GPU computes what the CPU does
    #[command(
        after_help = "Examples:\n  greedy bench\n  greedy bench steps --seconds 3 --json\n  greedy bench operations --device cuda --precision bf16\n  greedy bench agreement\n\n`agreement` runs every operation on random inputs, twice on the device and once on one thread of the CPU in f32; on a\nGPU in bf16 as well. Exit code 1 where a result is farther off than it may be, or the second run gave other bits."
    )]
    Bench(BenchArgs),
    /// Print the completion script of a shell
    #[command(after_help = "Example:\n  greedy completions bash > ~/.local/share/bash-completion/completions/greedy")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// Whether the same command, given again after it was stopped, goes on from there.
    pub fn goes_on(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Stage(_) | Self::Import(_))
    }
}

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
    /// How operations and steps store feature maps; bf16 takes a GPU
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

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
