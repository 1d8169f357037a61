//! The words of the command line: the commands.

use super::bench_args::BenchArgs;
use super::export_args::ExportArgs;
use super::look_args::{
    CleanArgs, EvaluateArgs, InspectArgs, PlanArgs, PredictArgs, ReportArgs, StatusArgs, VerifyArgs,
};
use super::make_args::{ImportArgs, RunArgs, ShardsArgs, StageArgs};
use clap::{Parser, Subcommand};
use clap_complete::Shell;

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

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
