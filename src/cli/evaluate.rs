//! `greedy evaluate`.

use super::look_args::{EvaluateArgs, Together};
use super::output::Output;
use super::progress::Terminal;
use super::table::Table;
use super::wording;
use crate::error::{Error, Result};
use crate::features::Split;
use crate::pipeline::{Average, Node};
use crate::run::{StageFolder, TrainedNetwork, device, refuse_file, what_instead};
use crate::training::Score;
use candle_core::Device;
use serde_json::{Value, json};
use std::path::Path;

/// `greedy evaluate STAGE`
pub(super) fn evaluate(args: &EvaluateArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let network = network(&args.stage, args.ensemble, &device(&args.device.device, false, terminal)?)?;
    let split = if args.train { Split::Train } else { Split::Val };
    let images = network.images(split)?;
    let found = network.evaluate(&images, terminal)?;
    let of = network.ensemble().unwrap_or(Average::Logits).word();
    let rows = found.numbers.iter().copied().zip(found.stages.iter().zip(&found.ensembles));
    if args.json {
        let stages: Vec<Value> = rows.map(|(stage, scores)| row_json(stage, scores)).collect();
        return output
            .json(&json!({ "split": split.name(), "samples": found.samples, "stages": stages, "ensemble_of": of }));
    }
    let mut table = Table::new(&["stage", "accuracy", "top-5", "loss", "ensemble", "its top-5"]);
    for (stage, (own, together)) in rows {
        table.row([
            stage.to_string(),
            wording::percent(Some(own.top1)),
            wording::percent(Some(own.top5)),
            format!("{:.4}", own.loss),
            wording::percent(Some(together.top1)),
            wording::percent(Some(together.top5)),
        ]);
    }
    let words =
        format!("{} {} images; the ensemble of {of} has weights 1, 2, 4 and so on", found.samples, split.name());
    output.text(&format!("{}\n{words}\n", table.text()))
}

fn row_json(stage: usize, (own, together): (&Score, &Score)) -> Value {
    json!({
        "stage": stage, "accuracy": own.top1, "top5": own.top5, "loss": own.loss,
        "ensemble_accuracy": together.top1, "ensemble_top5": together.top5,
    })
}

/// The network of a stage or of a cache, asked together as is wanted; of a cache whose ensemble is a node, as that says.
pub(super) fn network(path: &Path, together: Option<Together>, device: &Device) -> Result<TrainedNetwork> {
    let node = StageFolder::new(path.join(Node::ENSEMBLE));
    let by_node = together == Some(Together::AsRecorded) && node.path().join("record.json").is_file();
    let network = TrainedNetwork::open(&if by_node { node } else { last_stage(path)? }, device)?;
    Ok(match together.map(|together| together.average()) {
        Some(Some(of)) => network.together(of),
        Some(None) if network.ensemble().is_none() => network.together(Average::Logits),
        _ => network,
    })
}

/// The folder itself where it is a stage's, or the last trained stage of a cache.
pub(super) fn last_stage(path: &Path) -> Result<StageFolder> {
    refuse_file(path)?;
    let own = StageFolder::new(path);
    if path.join("record.json").is_file() {
        return Ok(own);
    }
    let stages = (1..).map(|number| StageFolder::in_cache(path, number));
    let trained = stages.take_while(|stage| stage.path().join("record.json").is_file());
    trained.filter(|stage| stage.record().is_ok_and(|record| record.figures.is_some())).last().ok_or_else(|| {
        Error::failed(format!("`{}` is neither a stage nor a cache with trained stages", path.display()))
            .hint(what_instead(path, "cache/stage3"))
    })
}
