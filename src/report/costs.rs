//! Where bytes and time went, and what was computed beside what recomputing everything would have taken.

use super::chart::{Bar, bars};
use super::html::{Table, note, paragraph};
use super::subject::Subject;
use crate::error::Result;
use crate::pipeline::{Cost, Costs, Kind, Recipe};
use crate::run::{Record, settings};
use crate::size::{self, magnitude};

/// Bytes and seconds of each node.
pub(super) fn costs(subject: &Subject) -> Result<String> {
    let recorded: Vec<(&str, &Record)> =
        subject.recorded().map(|(node, record)| (node.title.as_str(), record)).collect();
    if recorded.is_empty() {
        return Ok(note("No node has a record."));
    }
    let time = recorded.iter().map(|(title, record)| Bar {
        name: title.to_string(),
        parts: record.seconds.iter().map(|(part, &taken)| (part.clone(), taken, size::seconds(taken))).collect(),
        total: size::seconds(record.total_seconds()),
    });
    let disk = recorded.iter().map(|(title, record)| Bar {
        name: title.to_string(),
        parts: record
            .arrays
            .iter()
            .map(|(array, written)| (array.clone(), written.stored_bytes as f64, size::words(written.stored_bytes)))
            .collect(),
        total: size::words(record.stored_bytes()),
    });
    let charts = [bars("Time", &time.collect::<Vec<_>>()), bars("On disk", &disk.collect::<Vec<_>>())];
    let charts: String = charts.into_iter().flatten().collect();
    Ok(format!("<div class=\"pair\">{charts}</div>\n{}{}", arrays(&recorded), recomputing(subject)))
}

/// The arrays of each node.
fn arrays(recorded: &[(&str, &Record)]) -> String {
    let headings = [
        "node",
        "array",
        "views × samples",
        "type",
        "values",
        "stored",
        "stored / values",
        "shards",
        "training images/s",
    ];
    let mut table = Table::new("What lies on the disk", &headings);
    for (title, record) in recorded {
        let rate = record.images_per_second().map_or_else(|| "-".into(), |rate| format!("{rate:.0}"));
        if record.arrays.is_empty() {
            let none = if record.kind.is_network() { "weights only" } else { "no features" };
            table.row([*title, none, "-", "-", "-", "-", "-", "-", &rate]);
        }
        for (name, array) in &record.arrays {
            table.row([
                title.to_string(),
                name.clone(),
                format!("{} × {}", array.shape[0], array.shape[1]),
                array.dtype.clone(),
                size::words(array.logical_bytes),
                size::words(array.stored_bytes),
                format!("{:.2}", array.stored_bytes as f64 / array.logical_bytes.max(1) as f64),
                array.shards.len().to_string(),
                rate.clone(),
            ]);
        }
    }
    table.html()
}

/// Operations of a stage over all its epochs.
struct Work {
    /// Of the block and the classifier that are trained.
    training: f64,
    /// Of frozen blocks, as it was done.
    frozen: f64,
    /// Of frozen blocks, had all of them been run on every image at every epoch.
    all_frozen: f64,
}

impl Work {
    /// What it was by the stage's own record and settings.
    fn of(record: &Record, recipe: &Recipe) -> Option<Self> {
        let figures = record.figures.as_ref().filter(|_| record.kind == Kind::Block)?;
        let costs = Costs::of(recipe, record.classes.len()).stages;
        let before = record.stage.checked_sub(1)?;
        let from = record.features_of().min(before);
        let sum = |stages: &[Cost]| stages.iter().fold(0.0, |sum, cost| sum + cost.forward);
        let (cached, run) = (sum(costs.get(..from)?), sum(costs.get(from..before)?));
        let images = figures.images as f64 * figures.history.len() as f64;
        // A share of the samples was taken anew from the images, through all frozen blocks.
        let refreshed = if from == 0 { 0.0 } else { recipe.features.refresh };
        Some(Self {
            training: images * costs.get(before)?.training,
            frozen: images * (run + refreshed * cached),
            all_frozen: images * (run + cached),
        })
    }
}

/// Cached against recomputed, in operations: what they take depends on the machine.
fn recomputing(subject: &Subject) -> String {
    let headings =
        ["node", "read", "training", "frozen blocks, as it was", "frozen blocks, all recomputed", "operations saved"];
    let mut table = Table::new("Operations of training: cached against recomputed", &headings);
    let (mut done, mut whole) = (0.0, 0.0);
    for (node, record) in subject.stages() {
        let recipe = settings(&node.folder, record, &[]).map(|settings| settings.as_written().clone());
        let Some(work) = recipe.ok().and_then(|recipe| Work::of(record, &recipe)) else { continue };
        let read = match record.features_of() {
            0 => "images".to_string(),
            stage => format!("features of stage {stage}"),
        };
        let (own, all) = (work.training + work.frozen, work.training + work.all_frozen);
        (done, whole) = (done + own, whole + all);
        table.row([
            node.title.clone(),
            read,
            magnitude(work.training),
            magnitude(work.frozen),
            magnitude(work.all_frozen),
            format!("{:.0} %", 100.0 * (1.0 - own / all.max(1.0))),
        ]);
    }
    let mut html = match table.is_empty() {
        true => note("No stage was trained on features by itself: nothing to hold cached against recomputed."),
        false => format!(
            "{}{}",
            table.html(),
            paragraph(&format!(
                "In all {} operations instead of {}: recomputing would take {:.2} times as many. Counted are convolutions and \
                 linear layers over all training images and epochs, not validation, decoding, or writing the features once.",
                magnitude(done),
                magnitude(whole),
                whole / done.max(1.0)
            ))
        ),
    };
    html += &note(
        "The records hold no predicted times; `greedy plan PIPELINE` predicts each stage's, beside what it took.",
    );
    html
}
