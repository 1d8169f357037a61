//! What was measured of the features of each depth.

use super::chart::{Chart, Point, Series};
use super::html::{Table, details, note};
use super::subject::Subject;
use crate::error::Result;
use crate::pipeline::Kind;
use crate::run::Record;

/// Measures that are drawn: what each is called, and its unit.
const DRAWN: [(&str, &str, &str); 2] = [
    ("accuracy", "Accuracy of probes by depth", "%"),
    ("ratio", "Distance within classes over distance between them", "ratio"),
];

/// The probes by depth; 0 stands for the images.
pub(super) fn probes(subject: &Subject) -> Result<String> {
    // In the order of the pipeline's file.
    let mut by_name: Vec<(String, Vec<&Record>)> = Vec::new();
    for (_, record) in subject.recorded().filter(|(_, record)| record.kind == Kind::Probe) {
        let name = name_of(record);
        match by_name.iter_mut().find(|(known, _)| *known == name) {
            Some((_, records)) => records.push(record),
            None => by_name.push((name, vec![record])),
        }
    }
    if by_name.is_empty() {
        return Ok(note("This pipeline has no probes; `[[probes]]` in its file adds some."));
    }
    let mut table = Table::new("All that was measured", &["probe", "features of", "measure", "value"]);
    for (name, records) in &by_name {
        for record in records {
            let of = if record.stage == 0 { "images".to_string() } else { format!("stage {}", record.stage) };
            if record.measures.is_empty() {
                table.row([name.as_str(), &of, "not measured yet", "-"]);
            }
            for (measure, value) in &record.measures {
                // Iterations are counted.
                let digits = if value.fract() == 0.0 && measure == "iterations" { 0 } else { 4 };
                table.row([name, &of, measure, &format!("{value:.digits$}")]);
            }
        }
    }
    let charts: String = DRAWN.into_iter().filter_map(|drawn| chart(&by_name, drawn)).collect();
    Ok(format!("<div class=\"pair\">{charts}</div>\n{}", details("All that was measured", &table.html())))
}

fn chart(by_name: &[(String, Vec<&Record>)], (measure, title, y): (&str, &str, &str)) -> Option<String> {
    let series = by_name.iter().enumerate().map(|(colour, (name, records))| {
        let mut found: Vec<(usize, f64)> =
            records.iter().filter_map(|record| Some((record.stage, *record.measures.get(measure)?))).collect();
        found.sort_by_key(|(stage, _)| *stage);
        let point = |(stage, value): (usize, f64)| Point {
            x: stage as f64,
            y: value,
            text: format!("{name}, depth {stage}: {measure} {value:.3}"),
        };
        let points = found.into_iter().map(point).collect();
        Series { name: name.clone(), colour, dashed: false, pieces: vec![points] }
    });
    Chart { title, x: "depth (stage)", y, series: series.collect(), parts: Vec::new() }.html()
}

fn name_of(record: &Record) -> String {
    record.manifest().value("probes.name").unwrap_or(record.kind.word()).to_string()
}
