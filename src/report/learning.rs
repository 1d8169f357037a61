//! Curves: loss and accuracy by epoch, accuracy and ensemble by depth.

use super::chart::{Chart, Point, Series};
use super::html::{Table, details, note};
use super::subject::{NodeView, Subject};
use crate::error::Result;
use crate::pipeline::Kind;
use crate::run::{Epoch, Record};
use crate::size::percent;

/// Rows of the table of epochs at most.
const MOST_ROWS: usize = 400;

/// Loss and accuracy by epoch, one node after the other.
pub(super) fn epochs(subject: &Subject) -> Result<String> {
    let mut learned = Vec::new();
    let mut missing = String::new();
    for (node, record) in subject.recorded() {
        let (history, unfinished) = match (&record.figures, record.kind) {
            (Some(figures), _) => (figures.history.clone(), false),
            (None, Kind::Block | Kind::Wide | Kind::Pruned | Kind::EndToEnd | Kind::Decoupled | Kind::Classifier) => {
                (node.folder.unfinished_history(), true)
            }
            (None, _) => continue,
        };
        if history.is_empty() && unfinished {
            missing += &note(&format!("{} has no epoch behind it.", node.title));
        } else if !history.is_empty() {
            if unfinished {
                missing +=
                    &note(&format!("{} is not trained to its end: {} epochs so far.", node.title, history.len()));
            }
            learned.push((node, history));
        }
    }
    if learned.is_empty() {
        return Ok(format!("{}{missing}", note("No node has been trained.")));
    }
    let (mut loss, mut train, mut val, mut parts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut before = 0;
    let mut table = Table::new("Epochs", &["node", "epoch", "learning rate", "loss", "training", "validation"]);
    let mut rows = 0;
    for (node, history) in &learned {
        parts.push((before as f64 + 0.5, node.title.clone()));
        let point = |at: usize, y: f64, what: &str, unit: &str| Point {
            x: (before + at) as f64,
            y,
            text: format!("{}, epoch {at}: {what} {y:.3}{unit}", node.title),
        };
        let each = |value: &dyn Fn(&Epoch) -> Option<f64>, what: &str, unit: &str| -> Vec<Point> {
            history.iter().filter_map(|epoch| Some(point(epoch.epoch, value(epoch)?, what, unit))).collect()
        };
        loss.push(each(&|epoch| Some(epoch.loss), "training loss", ""));
        train.push(each(&|epoch| Some(epoch.train_accuracy), "training accuracy", " %"));
        val.push(each(&|epoch| epoch.accuracy, "validation accuracy", " %"));
        for epoch in history.iter().take(MOST_ROWS.saturating_sub(rows)) {
            rows += 1;
            table.row([
                node.title.clone(),
                epoch.epoch.to_string(),
                epoch.learning_rate.to_string(),
                format!("{:.4}", epoch.loss),
                percent(Some(epoch.train_accuracy)),
                percent(epoch.accuracy),
            ]);
        }
        before += history.iter().map(|epoch| epoch.epoch).max().unwrap_or(0);
    }
    let series = |name: &str, colour, dashed, pieces| Series { name: name.into(), colour, dashed, pieces };
    let x = "epochs, one node after the other";
    let losses = Chart {
        title: "Loss by epoch",
        x,
        y: "nats",
        series: vec![series("training, as the samples were met", 0, false, loss)],
        parts: parts.clone(),
    };
    let accuracies = Chart {
        title: "Accuracy by epoch",
        x,
        y: "%",
        series: vec![series("validation", 1, false, val), series("training, as the samples were met", 0, true, train)],
        parts,
    };
    let charts: String = [losses, accuracies].into_iter().filter_map(Chart::html).collect();
    let more =
        if before > rows { note(&format!("The first {rows} of {before} epochs are listed.")) } else { String::new() };
    Ok(format!(
        "<div class=\"pair\">{charts}</div>\n{missing}{}",
        details("Every epoch in figures", &format!("{}{more}", table.html()))
    ))
}

/// Accuracy by depth, of all pipelines of the page in one chart.
pub(super) fn depths(subjects: &[Subject]) -> String {
    let mut series = Vec::new();
    let mut table = Table::new("Accuracy by depth", &["pipeline", "node", "accuracy", "top-5", "ensemble"]);
    for (colour, subject) in subjects.iter().enumerate() {
        let by_depth = |value: &dyn Fn(&Record) -> Option<f64>, what: &str| -> Vec<Point> {
            let of = |(node, record): (&NodeView, &Record)| {
                let y = value(record)?;
                let text = format!("{}, {}: {what} {y:.2} %", subject.name, node.title);
                Some(Point { x: record.stage as f64, y, text })
            };
            subject.stages().filter_map(of).collect()
        };
        let own = by_depth(&|record| Some(record.figures.as_ref()?.accuracy), "accuracy");
        let together = by_depth(&|record| record.figures.as_ref()?.ensemble_accuracy, "ensemble");
        // The last depth of a network that was trained as a whole answers as the network does.
        let own = if own.is_empty() { whole_network(subject) } else { own };
        series.push(Series { name: subject.name.clone(), colour, dashed: false, pieces: vec![own] });
        if together.len() > 1 {
            let name = format!("{}, ensemble", subject.name);
            series.push(Series { name, colour, dashed: true, pieces: vec![together] });
        }
        for (node, record) in subject.recorded() {
            let Some(figures) = &record.figures else { continue };
            let cells = [Some(figures.accuracy), record.top5(), figures.ensemble_accuracy].map(percent);
            table.row([subject.name.clone(), node.title.clone()].into_iter().chain(cells));
        }
    }
    let chart = Chart { title: "Validation accuracy by depth", x: "depth (stage)", y: "%", series, parts: Vec::new() };
    match chart.html() {
        Some(chart) => format!("{chart}{}", details("The same in figures", &table.html())),
        None => note("No stage has been trained."),
    }
}

/// A network that was trained as a whole has one accuracy, behind its last block.
fn whole_network(subject: &Subject) -> Vec<Point> {
    let found = subject.recorded().find(|(_, record)| record.kind.is_network());
    let accuracy = found.and_then(|(_, record)| Some((record.kind, record.figures.as_ref()?.accuracy)));
    let depth = subject.stages().map(|(_, record)| record.stage).max().unwrap_or(1);
    let point = |(kind, y): (Kind, f64)| {
        let text = format!("{}, {}: accuracy {y:.2} %", subject.name, kind.word().replace('_', " "));
        Point { x: depth as f64, y, text }
    };
    accuracy.map(point).into_iter().collect()
}
