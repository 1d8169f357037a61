//! What the network saw: feature maps of a few validation images at each depth, and channels that are never active.

use super::answers::{image, images};
use super::html::{Table, escape, note};
use super::picture::grid;
use super::subject::{NodeView, Subject, class_word};
use crate::error::Result;
use crate::features::{Reader, Split, read_labels};
use crate::inspect::{Channel, channels, sample_values};
use crate::run::Record;
use std::fmt::Write;

/// Validation images that are followed through the network.
const IMAGES: usize = 3;
/// Channels of each depth that are shown.
const CHANNELS: usize = 16;
/// Depths that are shown; of more, some are passed over evenly.
const DEPTHS: usize = 12;
/// Samples that channels are measured on: as many as have so many bytes together, within these bounds.
const MEASURED_BYTES: usize = 128 << 20;
const MEASURED: [usize; 2] = [8, 256];

/// Samples of an array that its channels are measured on.
fn measured(reader: &Reader) -> usize {
    (MEASURED_BYTES / reader.layout().sample_bytes().max(1)).clamp(MEASURED[0], MEASURED[1])
}

/// Feature maps of some validation images at each depth.
pub(super) fn feature_maps(subject: &Subject) -> Result<String> {
    let images = images(subject);
    let stages: Vec<(&NodeView, &Record)> = subject.stages().collect();
    let count = match (&images, stages.iter().find_map(|(_, record)| record.arrays.get("val/features"))) {
        (Ok(images), _) => images.len(),
        (Err(_), Some(array)) => array.shape[1],
        (Err(_), None) => 0,
    };
    let mut samples: Vec<usize> = (0..IMAGES).map(|at| at * count / IMAGES).filter(|&at| at < count).collect();
    samples.dedup();
    if samples.is_empty() {
        return Ok(note("There are no validation images here."));
    }
    let names = names(subject, &samples);
    let mut html = String::new();
    if let Ok(images) = &images {
        let cards = samples.iter().zip(&names).map(|(&sample, name)| {
            format!(
                "<figure class=\"card\">{}<figcaption>{}</figcaption></figure>\n",
                image(images, sample, name),
                escape(name)
            )
        });
        html += &format!("<h4>Images</h4>\n<div class=\"maps\">\n{}</div>\n", cards.collect::<String>());
    }
    let step = stages.len().div_ceil(DEPTHS).max(1);
    let mut uncached = Vec::new();
    for (node, record) in stages.iter().skip((stages.len().max(1) - 1) % step).step_by(step) {
        if !record.arrays.contains_key("val/features") {
            uncached.push(node.title.as_str());
            continue;
        }
        html += &match grids(node, &samples, &names) {
            Ok(grids) => grids,
            Err(fault) => note(&subject.without_places(&format!("{}: {fault}", node.title))),
        };
    }
    if !uncached.is_empty() {
        html +=
            &note(&format!("Without features, as these are not cached or not written yet: {}.", uncached.join(", ")));
    }
    Ok(html)
}

/// What the images show, where that is known.
fn names(subject: &Subject, samples: &[usize]) -> Vec<String> {
    let labels = subject.images().and_then(|(folder, record)| Ok((read_labels(folder.path(), Split::Val)?, record)));
    let name = |&sample: &usize| match &labels {
        Ok((labels, record)) => {
            labels.get(sample).map_or_else(String::new, |&label| class_word(record, label as usize))
        }
        Err(_) => format!("image {sample}"),
    };
    samples.iter().map(name).collect()
}

/// The maps of one depth: the channels that vary most, each from its least to its greatest value over these images.
fn grids(node: &NodeView, samples: &[usize], names: &[String]) -> Result<String> {
    let reader = Reader::open(&Split::Val.array(node.folder.path(), "features"))?;
    let shape = reader.layout().shape;
    let plane = shape.size * shape.size;
    let (statistics, _) = channels(&reader, measured(&reader))?;
    let mut chosen: Vec<usize> = (0..shape.channels).collect();
    chosen.sort_by(|&a, &b| statistics[b].std.total_cmp(&statistics[a].std).then(a.cmp(&b)));
    chosen.truncate(CHANNELS);
    chosen.sort_unstable();
    let values = samples.iter().map(|&sample| sample_values(&reader, 0, sample)).collect::<Result<Vec<_>>>()?;
    let map = |image: usize, channel: usize| &values[image][channel * plane..][..plane];
    let mut grids = vec![Vec::new(); samples.len()];
    for &channel in &chosen {
        let all = || (0..samples.len()).flat_map(|image| map(image, channel).iter().copied());
        let (low, high) = all().fold((0.0f32, 0.0f32), |(low, high), value| (low.min(value), high.max(value)));
        let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
        for (image, grid) in grids.iter_mut().enumerate() {
            grid.push(map(image, channel).iter().map(|value| (value - low) * scale).collect::<Vec<f32>>());
        }
    }
    let mut html = format!("<h4>{}: {shape}</h4>\n<div class=\"maps\">\n", escape(&node.title));
    for ((maps, name), sample) in grids.iter().zip(names).zip(samples) {
        let alt = format!("{} feature maps of {} for validation image {sample}, {name}", maps.len(), node.title);
        html += &(grid(maps, shape.size, &alt)? + "\n");
    }
    let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
    Ok(format!("{html}</div>\n<p class=\"about\">Channels {}, from left to right and down.</p>\n", chosen.join(", ")))
}

/// How active the channels of each depth are.
pub(super) fn dead_channels(subject: &Subject) -> Result<String> {
    let headings = [
        "node",
        "channels",
        "always zero",
        "nearly always (99 %)",
        "zeros on average",
        "from never to always zero",
        "samples",
    ];
    let mut table = Table::new("Channels by how often they are zero", &headings);
    let mut missing = String::new();
    for (node, record) in subject.stages() {
        if !record.arrays.contains_key("train/features") {
            missing += &note(&format!("{} caches no features, or has not written them yet.", node.title));
            continue;
        }
        let found = Reader::open(&Split::Train.array(node.folder.path(), "features"))
            .and_then(|reader| channels(&reader, measured(&reader)));
        match found {
            Ok((channels, samples)) => table.row_of_html(&row(node, &channels, samples)),
            Err(fault) => missing += &note(&subject.without_places(&format!("{}: {fault}", node.title))),
        }
    }
    let table = if table.is_empty() { note("No stage has features here.") } else { table.html() };
    Ok(format!("{table}{missing}"))
}

fn row(node: &NodeView, channels: &[Channel], samples: usize) -> Vec<String> {
    let above = |least: f64| channels.iter().filter(|channel| channel.zeros >= least).count();
    let mean = channels.iter().map(|channel| channel.zeros).sum::<f64>() / channels.len().max(1) as f64;
    vec![
        escape(&node.title),
        channels.len().to_string(),
        above(100.0).to_string(),
        above(99.0).to_string(),
        format!("{mean:.1} %"),
        histogram(channels),
        samples.to_string(),
    ]
}

/// How many channels are zero in up to 10, 20, … percent of their values, as ten small bars.
fn histogram(channels: &[Channel]) -> String {
    let mut counts = [0usize; 10];
    for channel in channels.iter().filter(|channel| channel.zeros.is_finite()) {
        counts[((channel.zeros / 10.0) as usize).min(9)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let words: Vec<String> = counts.iter().map(ToString::to_string).collect();
    let mut svg = format!(
        "<svg class=\"spark\" viewBox=\"0 0 100 24\" role=\"img\" aria-label=\"channels by tenths: {}\"><path class=\"rule\" d=\"M0 23.5H100\"/>",
        words.join(", ")
    );
    for (at, &count) in counts.iter().enumerate() {
        let high = 22.0 * count as f64 / most as f64;
        let (from, to) = (10 * at, 10 * (at + 1));
        let _ = write!(
            svg,
            "<rect class=\"bar c0\" x=\"{}\" y=\"{:.1}\" width=\"8\" height=\"{high:.1}\"><title>{count} channels are zero in {from} to {to} % of their values</title></rect>",
            10 * at + 1,
            23.0 - high
        );
    }
    svg + "</svg>"
}
