//! `greedy export`.

use super::export_args::{ArtifactArgs, ExportArgs, ExportForm};
use super::output::{Output, refuse_present};
use super::progress::Terminal;
use super::wording;
use super::workflow::workflow;
use crate::disk;
use crate::error::{Error, Result};
use crate::export::{Exported, OnnxModel, events_folder, projector_files, write_events, write_projector};
use crate::pipeline::Node;
use crate::run::{Record, StageFolder, State, refuse_file, what_instead};
use crate::text::shown;
use std::path::Path;

/// Samples of a projection where none are asked for: what a browser still turns smoothly.
const SAMPLES: u32 = 10_000;

/// `greedy export STAGE --to PLACE`, and `greedy export ENGINE PIPELINE`
pub(super) fn export(args: &ExportArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    match (&args.engine, &args.artifact) {
        (Some(engine), _) => workflow(engine, terminal, output),
        (None, Some(artifact)) => export_artifact(artifact, terminal, output),
        (None, None) => Err(Error::usage("it is not said what to hand on")),
    }
}

fn export_artifact(args: &ArtifactArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    if args.samples.is_some() && args.format != ExportForm::Projector {
        return Err(Error::usage("`--samples` goes with `--format projector` only"));
    }
    match args.format {
        ExportForm::Weights => weights(args, output),
        ExportForm::Onnx => onnx(args, output),
        ExportForm::Tensorboard => tensorboard(args, output),
        ExportForm::Projector => projector(args, terminal, output),
    }
}

fn weights(args: &ArtifactArgs, output: &mut Output) -> Result<()> {
    let exported = Exported::read(&StageFolder::new(&args.stage))?;
    refuse_present(&args.to, args.force)?;
    let names = match exported.torchvision {
        Some(architecture) => format!("under the names of torchvision's {architecture}"),
        None => "under greedy's names".into(),
    };
    let parts = parts(exported.blocks, exported.classifies);
    let what = format!("{} tensors, {parts}, {names}", exported.tensors());
    write_file(args, &what, output, |path| exported.write(path))
}

fn onnx(args: &ArtifactArgs, output: &mut Output) -> Result<()> {
    let model = OnnxModel::read(&StageFolder::new(&args.stage))?;
    refuse_present(&args.to, args.force)?;
    let (mean, std) = &model.normalisation;
    let parts = parts(model.blocks, model.classifies);
    let what = format!("{parts} for inputs of {}, (pixel / 255 - {mean:?}) / {std:?}", model.input);
    write_file(args, &what, output, |path| model.write(path))
}

/// Writes one file, or only says so.
fn write_file(
    args: &ArtifactArgs,
    what: &str,
    output: &mut Output,
    write: impl FnOnce(&Path) -> Result<usize>,
) -> Result<()> {
    let file = args.to.display();
    if args.dry_run {
        return output.line(&format!("would write {file}: {what}"));
    }
    if let Some(folder) = args.to.parent() {
        disk::create_folder(folder)?;
    }
    let bytes = write(&args.to)?;
    output.line(&format!("{file}: {what}, {}", wording::bytes(bytes as u64)))
}

fn tensorboard(args: &ArtifactArgs, output: &mut Output) -> Result<()> {
    let nodes = trained_nodes(&args.stage)?;
    for (folder, record) in &nodes {
        if args.dry_run {
            let place = events_folder(&args.to, record);
            output.line(&format!("would write events of {} into {}", record.title(), shown(&place)))?;
        } else if let Some(path) = write_events(folder, record, &args.to)? {
            output.line(&format!("{}: {}", shown(&path), record.title()))?;
        }
    }
    output.line(&format!("`tensorboard --logdir {}` shows them", shown(&args.to)))
}

/// The stage in a folder, or all trained stages and the whole network in a cache.
fn trained_nodes(path: &Path) -> Result<Vec<(StageFolder, Record)>> {
    refuse_file(path)?;
    let own = StageFolder::new(path);
    let is_stage = path.join("record.json").is_file();
    let inside = (1..).map(|number| StageFolder::in_cache(path, number));
    let inside = inside.take_while(|stage| stage.path().join("record.json").is_file());
    let network = StageFolder::new(path.join(Node::NETWORK));
    let network = Some(network).filter(|network| network.path().join("record.json").is_file());
    let folders: Vec<StageFolder> = if is_stage { vec![own] } else { network.into_iter().chain(inside).collect() };
    let mut nodes = Vec::new();
    for folder in folders {
        let record = folder.record()?;
        if record.state != State::Begun && (record.kind.is_network() || record.stage > 0 && record.kind.is_stage()) {
            nodes.push((folder, record));
        }
    }
    if nodes.is_empty() {
        return Err(Error::failed(format!("`{}` is neither a trained stage nor a cache with some", shown(path)))
            .hint(what_instead(path, "cache` or `cache/stage3")));
    }
    Ok(nodes)
}

fn projector(args: &ArtifactArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let folder = StageFolder::new(&args.stage);
    let record = folder.record()?;
    if record.state != State::Finished {
        return Err(Error::failed(format!("{} is not finished", record.title())).hint("`greedy run` goes on with it"));
    }
    let most = args.samples.unwrap_or(SAMPLES) as usize;
    projector_files(&args.to).try_for_each(|path| refuse_present(&path, args.force))?;
    if args.dry_run {
        let what = format!("averaged features of {}, of {most} validation samples at most", record.title());
        return projector_files(&args.to)
            .try_for_each(|path| output.line(&format!("would write {}: {what}", shown(&path))));
    }
    let done = write_projector((&folder, &record), most, &args.to, terminal)?;
    done.files.iter().try_for_each(|path| output.line(&shown(path)))?;
    if let Some(why) = &done.without_images {
        output.line(&format!("without thumbnails: {why}"))?;
    }
    output.line(&format!(
        "{} validation samples of {} channels; `tensorboard --logdir {}` shows them under Projector",
        done.samples,
        done.channels,
        shown(&args.to)
    ))
}

fn parts(blocks: usize, classifies: bool) -> String {
    let blocks = if blocks == 1 { "1 block".into() } else { format!("{blocks} blocks") };
    let classifier = if classifies { " and a classifier" } else { " without a classifier" };
    blocks + classifier
}
