//! `greedy inspect A B`.

use super::output::Output;
use super::progress::Terminal;
use super::table::Table;
use super::wording;
use crate::error::Result;
use crate::inspect::{Comparison, Difference, Predictions, compare as measure};
use crate::run::{Record, StageFolder};
use crate::text::shown;
use serde_json::{Value, json};

/// Channels that are printed, those that are farthest apart; `--json` has all.
const SHOWN_CHANNELS: usize = 16;

/// Compares two finished stages.
pub(super) fn compare(
    stages: [(&StageFolder, &Record); 2],
    (samples, json): (usize, bool),
    terminal: &Terminal,
    output: &mut Output,
) -> Result<()> {
    let found = measure(stages, samples, terminal)?;
    let names = stages.map(|(folder, record)| format!("{} ({})", shown(folder.path()), record.title()));
    if json {
        return output.json(&comparison_json(&names, &found));
    }
    output.text(&format!("A  {}: {}\nB  {}: {}\n", names[0], found.shapes[0], names[1], found.shapes[1]))?;
    if !found.same_labels {
        let [a, b] = found.samples;
        return output.line(&format!(
            "their validation samples are not the same ({a} and {b} of them, or with other labels): nothing is compared sample by sample"
        ));
    }
    output.line(&format!("same labels; features of {} validation samples compared", found.compared))?;
    if let Some(similarity) = &found.similarity {
        let [a, b] = similarity.grids;
        output.text(&format!(
            "\nlinear CKA     {:.4} of averaged features, {:.4} of maps averaged to {a} x {a} and {b} x {b}\n",
            similarity.averaged, similarity.spatial
        ))?;
        let channels = found.shapes.iter().map(|shape| shape.channels).max().unwrap_or(0);
        if found.compared < 2 * channels {
            output.line(
                "               of few samples for so many channels it is near 1 by chance: `--samples N` takes more",
            )?;
        }
    }
    match &found.predictions {
        Some(predictions) => output.text(&prediction_text(predictions))?,
        None => output.line("predictions    not compared: one of them has no logits")?,
    }
    let Some(values) = &found.values else {
        return output.line("values         not compared: the shapes differ");
    };
    let mut table = Table::new(&["channel", "mean A", "mean B", "difference", "relative", "correlation"]);
    table.row(cells("all".into(), &values.all));
    let mut worst: Vec<(usize, &Difference)> = values.channels.iter().enumerate().collect();
    // Those that are dead in A alone cannot be farther apart.
    let distance = |one: &Difference| one.relative.unwrap_or(if one.means[1] == 0.0 { 0.0 } else { f64::INFINITY });
    worst.sort_by(|a, b| distance(b.1).total_cmp(&distance(a.1)));
    worst.iter().take(SHOWN_CHANNELS).for_each(|(number, one)| table.row(cells(number.to_string(), one)));
    let more = match worst.len().saturating_sub(SHOWN_CHANNELS) {
        0 => String::new(),
        hidden => format!("and {hidden} channels that are closer (`--json` has all)\n"),
    };
    output.text(&format!("\n{}{more}", table.text()))
}

fn cells(name: String, one: &Difference) -> [String; 6] {
    let [a, b] = one.means;
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
    [name, format!("{a:.4}"), format!("{b:.4}"), format!("{:.4}", b - a), number(one.relative), number(one.correlation)]
}

fn prediction_text(found: &Predictions) -> String {
    let percent = |value: f64| wording::percent(Some(value));
    let neither = (100.0 - found.both - found.only[0] - found.only[1]).max(0.0);
    format!(
        "predictions    the same for {} of {} images; A right {}, B right {}\n               both right {}, only A {}, only B {}, neither {}\n",
        percent(found.agreement),
        found.samples,
        percent(found.accuracy[0]),
        percent(found.accuracy[1]),
        percent(found.both),
        percent(found.only[0]),
        percent(found.only[1]),
        percent(neither),
    )
}

fn comparison_json(names: &[String; 2], found: &Comparison) -> Value {
    let difference = |one: &Difference| {
        json!({
            "mean": one.means, "difference": one.means[1] - one.means[0],
            "relative": one.relative, "correlation": one.correlation,
        })
    };
    let shape = |at: usize| {
        let shape = found.shapes[at];
        json!({ "stage": names[at], "shape": [shape.channels, shape.size, shape.size], "samples": found.samples[at] })
    };
    json!({
        "a": shape(0),
        "b": shape(1),
        "same_labels": found.same_labels,
        "compared": found.compared,
        "values": found.values.as_ref().map(|values| json!({
            "all": difference(&values.all),
            "channels": values.channels.iter().map(difference).collect::<Vec<_>>(),
        })),
        "cka": found.similarity.as_ref().map(|one| json!({
            "averaged": one.averaged, "spatial": one.spatial, "grids": one.grids,
        })),
        "predictions": found.predictions.as_ref().map(|one| json!({
            "agreement": one.agreement, "accuracy": one.accuracy, "both": one.both, "only": one.only,
            "samples": one.samples,
        })),
    })
}
