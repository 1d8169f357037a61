//! `greedy export`.

use super::args::ExportArgs;
use super::output::Output;
use super::wording;
use crate::error::{Error, Result};
use crate::run::{Exported, StageFolder};

/// `greedy export STAGE --to FILE`
pub(super) fn export(args: &ExportArgs, output: &mut Output) -> Result<()> {
    let exported = Exported::read(&StageFolder::new(&args.stage))?;
    let file = args.to.display();
    if args.to.symlink_metadata().is_ok() && !args.force {
        return Err(Error::usage(format!("`{file}` is there already")).hint("`--force` writes over it"));
    }
    let names = match exported.torchvision {
        Some(architecture) => format!("under the names of torchvision's {architecture}"),
        None => "under greedy's names".into(),
    };
    let blocks = if exported.blocks == 1 { "1 block".into() } else { format!("{} blocks", exported.blocks) };
    let classifier = if exported.classifies { " and a classifier" } else { " without a classifier" };
    let what = format!("{} tensors, {blocks}{classifier}, {names}", exported.tensors());
    if args.dry_run {
        return output.line(&format!("would write {file}: {what}"));
    }
    let bytes = exported.write(&args.to)?;
    output.line(&format!("{file}: {what}, {}", wording::bytes(bytes as u64)))
}
