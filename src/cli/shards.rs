//! `greedy shards`: one part of the shards of a node, made, checked or verified by a worker.

use super::make_args::{PipelineArgs, ShardsArgs};
use super::output::Output;
use super::progress::Terminal;
use super::run::{beside, project};
use super::verify::lines;
use super::wording;
use crate::error::{Error, Result};
use crate::features::Portion;
use crate::pipeline::{Node, Verdict};
use crate::progress::Progress;
use crate::run::{self, Finding, Flaw, Receipt, ShardWorker, StageFolder};
use crate::text::shown;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// `greedy shards NODE --from DIR --part I/N`
pub(super) fn shards(args: &ShardsArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let portion = portion(args)?;
    let folder = folder(args)?;
    let what = if args.check {
        "check"
    } else if args.verify {
        "verify"
    } else {
        "make"
    };
    if args.dry_run {
        return output.line(&format!("would {what} part {portion} of the shards in `{}`", shown(folder.path())));
    }
    if args.verify {
        return verify(&folder, portion, args.json, terminal, output);
    }
    let word = if args.check || is_images(&args.node) { "cpu" } else { &args.device.device };
    let device = run::device(word, false, terminal)?;
    let worker = ShardWorker {
        folder: &folder,
        portion,
        device: &device,
        overrides: &args.set,
        patience: Duration::from_secs(args.wait),
        progress: terminal,
    };
    let receipt = if args.check { worker.check()? } else { worker.make()? };
    if args.json { output.json(&json!(receipt)) } else { output.line(&line(&receipt, args.check)) }
}

/// What a worker did, in a line.
fn line(receipt: &Receipt, check: bool) -> String {
    let (node, part, parts) = (&receipt.node, receipt.part, receipt.parts);
    let time = wording::seconds(receipt.seconds);
    match check {
        true => format!(
            "{node}, part {part}/{parts}: {} bad images, {} odd ones, {time}",
            receipt.bad.count(),
            receipt.odd.count()
        ),
        false => {
            let bytes = wording::bytes(receipt.bytes());
            format!("{node}, part {part}/{parts}: {} shards, {bytes}, {time}", receipt.shards())
        }
    }
}

fn is_images(node: &str) -> bool {
    node == "images" || node == "0" || node == Node::stage_id(0)
}

/// The part that is asked for: as it says, or as the engine that started this says in the environment.
fn portion(args: &ShardsArgs) -> Result<Portion> {
    if let Some(part) = &args.part {
        let numbers = part.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let (number, of) = numbers.ok_or_else(|| {
            Error::usage(format!("`{part}` is no part")).hint("write `--part 2/4` for the second of four")
        })?;
        return Portion::new(number, of);
    }
    let parts = args.parts.map_or(1, |parts| parts as usize);
    let variable = |name: &str| Some((name.to_string(), std::env::var(name).ok()?.parse::<usize>().ok()?));
    // Slurm's arrays are numbered as the user says, here from 1; Kubernetes counts from 0.
    let found =
        variable("SLURM_ARRAY_TASK_ID").or_else(|| variable("JOB_COMPLETION_INDEX").map(|(name, at)| (name, at + 1)));
    let (name, number) = found.ok_or_else(|| {
        Error::usage("which part this is stands neither on the command line nor in the environment")
            .hint("`--part I/N`, or `--parts N` within an array of Slurm's or an indexed job of Kubernetes")
    })?;
    Portion::new(number, parts)
        .map_err(|e| e.context(name).hint(format!("number the array from 1: `sbatch --array=1-{parts}`")))
}

/// The folder of the node that is worked on.
fn folder(args: &ShardsArgs) -> Result<StageFolder> {
    if let Some(to) = &args.to {
        return Ok(StageFolder::new(to));
    }
    match (&args.from, &args.pipeline) {
        (Some(from), None) => {
            let number = args.node.strip_prefix("stage").unwrap_or(&args.node).parse::<usize>();
            let number = number.map_err(|_| {
                Error::usage(format!("`{}` is no number of a stage", args.node))
                    .hint("with `--from` name a stage, such as 3; images and other nodes go with a pipeline's file")
            })?;
            beside(&StageFolder::new(from), number)
        }
        (None, Some(pipeline)) => of_pipeline(args, pipeline.clone()),
        _ => Err(Error::usage("it is not said whose shards these are")
            .hint("name a pipeline's file, or the stage before with `--from`")),
    }
}

/// The folder of a node of a pipeline, which must be as the pipeline would have it now.
fn of_pipeline(args: &ShardsArgs, pipeline: PathBuf) -> Result<StageFolder> {
    let pipeline = PipelineArgs { pipeline, cache: args.cache.clone(), look_again: false };
    let project = project(&pipeline, &args.set)?.project;
    let wanted = project.find(std::slice::from_ref(&args.node))?;
    let mut looks = project.nodes();
    let look =
        wanted.first().and_then(|&at| looks.nth(at)).ok_or_else(|| Error::failed("the pipeline has no nodes"))?;
    if let Some(trouble) = look.trouble {
        return Err(trouble.clone());
    }
    match look.verdict {
        Verdict::Stale(reasons) | Verdict::ReExtract(reasons) => {
            let (title, folder) = (look.node.title(), look.folder.path().display());
            let reasons: Vec<String> = reasons.iter().map(|reason| reason.say(project.graph())).collect();
            Err(Error::failed(format!("{title} in `{folder}` is another: {}", reasons.join("; ")))
                .hint(format!("`greedy run PIPELINE {} --until trained` makes it anew", look.node.id)))
        }
        _ => Ok(look.folder.clone()),
    }
}

/// `greedy shards … --verify`
fn verify(
    folder: &StageFolder,
    portion: Portion,
    json: bool,
    terminal: &dyn Progress,
    output: &mut Output,
) -> Result<()> {
    let (files, bytes, findings) = run::verify_part(folder, portion, terminal)?;
    let wrong = findings.iter().filter(|finding| finding.flaw != Flaw::Leftover).count();
    if json {
        let found: Vec<_> = findings.iter().map(as_json).collect();
        let part = portion.to_string();
        output.json(&json!({ "part": part, "files": files, "bytes": bytes, "findings": found, "wrong": wrong }))?;
    } else {
        let of = wording::bytes(bytes);
        output.line(&format!("part {portion} of `{}`: {files} files, {of}, {wrong} wrong", shown(folder.path())))?;
        lines(folder, &findings).iter().try_for_each(|line| output.line(line))?;
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Error::failed("1 file is missing, damaged or foreign")),
        wrong => Err(Error::failed(format!("{wrong} files are missing, damaged or foreign"))),
    }
    .map_err(|e| {
        e.hint(format!("`greedy verify {} --repair` makes again what can be made again", folder.path().display()))
    })
}

fn as_json(finding: &Finding) -> serde_json::Value {
    json!({ "file": finding.name.to_string_lossy(), "flaw": finding.flaw.word(), "note": finding.note })
}
