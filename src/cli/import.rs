//! `greedy import`.

use super::make_args::ImportArgs;
use super::output::Output;
use super::progress::Terminal;
use super::run::{Opened, bring};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run::{self, Project, keep_pipeline, open_pipeline};
use crate::text::shown;
use toml::Value;

/// What published networks are trained for: a short side of 256 pixels, of which the centre is taken.
const SIZES: [(&str, i64); 2] = [("data.size", 256), ("augmentation.size", 224)];

/// `greedy import WEIGHTS --to CACHE`: a pipeline whose network comes from the file, and a run of it.
pub(super) fn import(args: &ImportArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let name = args.to.file_name().map_or_else(|| "imported".into(), |name| name.to_string_lossy().into_owned());
    let overrides = overrides(args)?;
    let settings = match &args.pipeline {
        Some(file) => open_pipeline(file, &overrides)?,
        None => run::new_pipeline(&name, &overrides)?,
    };
    let (text, cache) = (settings.as_written().text.clone(), args.to.clone());
    let unplanned = settings.leaves_plan_open() && run::recall_choice(&cache, &settings).is_none();
    let project = Project::open(run::resolve(settings, &cache), &cache, false);
    project.check()?;
    if !args.work.dry_run {
        let file = keep_pipeline(&cache, &text)?;
        terminal.say(&format!(
            "`{}` is the pipeline: `greedy run` goes on with it, `greedy status` explains it",
            shown(&file)
        ));
    }
    bring(Opened { project, cache, unplanned, look_again: false }, &[], &args.work, terminal, output)
}

/// The settings that the command line stands for; those that are written out come last, and win.
fn overrides(args: &ImportArgs) -> Result<Vec<String>> {
    let text = |value: &std::path::Path| Value::String(value.to_string_lossy().into_owned());
    let mut all: Vec<(&str, Value)> = Vec::new();
    if args.pipeline.is_none() {
        let chosen = args.images.is_some() || args.work.set.iter().any(|setting| setting.starts_with("data.source"));
        if !chosen {
            return Err(Error::usage("nothing says of which images features are wanted").hint(
                "`--images FOLDER` with train/CLASS/… and val/CLASS/… in it, or `--pipeline FILE` for any other form",
            ));
        }
        all.extend(SIZES.map(|(key, side)| (key, Value::Integer(side))));
    }
    if let Some(images) = &args.images {
        all.extend([("data.source", Value::String("folder".into())), ("data.path", text(images))]);
    }
    if let Some(architecture) = &args.architecture {
        all.push(("network.architecture", Value::String(architecture.clone())));
    }
    all.extend([("network.weights", text(&args.weights)), ("cache", text(&args.to))]);
    if let Some(blocks) = args.blocks {
        all.push(("network.imported", Value::Integer(blocks.into())));
    }
    let own = all.into_iter().map(|(key, value)| format!("{key}={value}"));
    Ok(own.chain(args.work.set.iter().cloned()).collect())
}
