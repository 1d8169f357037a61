//! The table of nodes, and what else is said of a pipeline at first sight.

use super::html::{Table, escape, note, short};
use super::subject::{NodeView, Subject};
use crate::error::Result;
use crate::run::Record;
use crate::size::{self, percent};

/// The nodes with their states, and the reasons behind these.
pub(super) fn nodes(subject: &Subject) -> Result<String> {
    if subject.nodes.is_empty() {
        return Ok(note("There are no nodes."));
    }
    let headings = ["node", "state", "features", "accuracy", "top-5", "ensemble", "parameters", "time", "on disk"];
    let mut table = Table::new("Nodes, those that others are made of first", &headings);
    for node in &subject.nodes {
        table.row_of_html(&row(node));
    }
    let reasons = subject.nodes.iter().flat_map(|node| node.reasons.iter().map(move |reason| (node, reason)));
    let reasons: String = reasons
        .map(|(node, reason)| {
            format!("<li>{}: {}</li>\n", escape(&node.title), escape(&subject.without_places(reason)))
        })
        .collect();
    let reasons = if reasons.is_empty() { reasons } else { format!("<ul>\n{reasons}</ul>\n") };
    Ok(format!("{}{}{reasons}", summary(subject), table.html()))
}

fn row(node: &NodeView) -> Vec<String> {
    let record = node.record.as_ref();
    let figures = record.and_then(|record| record.figures.as_ref());
    let shape = record.and_then(|record| record.arrays.get("train/features")).map(|array| array.shape);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let state = escape(&node.state);
    vec![
        escape(&node.title),
        format!(
            "<span class=\"state {}\">{state}</span>",
            if node.state == "current" || node.state == "finished" { "good" } else { "open" }
        ),
        or_dash(shape.map(|[_, _, channels, y, x]| format!("{channels} × {y} × {x}"))),
        percent(record.and_then(Record::accuracy)),
        percent(record.and_then(Record::top5)),
        percent(figures.and_then(|figures| figures.ensemble_accuracy)),
        or_dash(
            figures.map(|figures| size::magnitude((figures.block_parameters + figures.auxiliary_parameters) as f64)),
        ),
        or_dash(record.map(|record| size::seconds(record.total_seconds()))),
        or_dash(record.map(|record| size::words(record.stored_bytes()))),
    ]
}

/// The figures that people look for first.
fn summary(subject: &Subject) -> String {
    let records = || subject.recorded().map(|(_, record)| record);
    let best = |of: &dyn Fn(&Record) -> Option<f64>| records().filter_map(of).max_by(f64::total_cmp);
    let stages =
        |record: &Record| record.kind.is_stage().then(|| record.figures.as_ref().map(|figures| figures.accuracy));
    let accuracy = best(&|record| stages(record).flatten());
    let ensemble = best(&|record| record.figures.as_ref()?.ensemble_accuracy);
    let classes = records().map(|record| record.classes.len()).max().unwrap_or(0);
    let images = subject.images().ok().map(|(_, record)| {
        let count = |name: &str| record.arrays.get(name).map_or(0, |array| array.shape[1]);
        format!("{} + {}", count("train/features"), count("val/features"))
    });
    let seconds: f64 = records().map(Record::total_seconds).sum();
    let bytes: u64 = records().map(Record::stored_bytes).sum();
    let tiles = [
        ("best accuracy", percent(accuracy)),
        ("best ensemble", percent(ensemble)),
        ("images, training + validation", images.unwrap_or_else(|| "-".into())),
        ("classes", if classes == 0 { "-".into() } else { classes.to_string() }),
        ("time in all", size::seconds(seconds)),
        ("on disk", size::words(bytes)),
    ];
    let tiles: String = tiles
        .iter()
        .map(|(name, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(&short(value))))
        .collect();
    format!("<dl class=\"tiles\">\n{tiles}</dl>\n")
}
