//! What everything was made of and where: versions, devices, settings, hashes, images that were left out.

use super::html::{Table, cut, details, escape, note, paragraph};
use super::subject::Subject;
use crate::error::Result;
use crate::run::Record;

/// Odd images that are listed at most.
const LISTED: usize = 20;
/// Letters of the settings that are shown at most.
const MOST_SETTINGS: usize = 20_000;
/// Letters of a value that a node depends on, and of a line about an image, that are shown at most.
const MOST_LETTERS: usize = 400;

/// Origin of each node.
pub(super) fn origin(subject: &Subject) -> Result<String> {
    let headings = ["node", "kind", "made on", "threads", "version", "key", "output", "made of"];
    let mut table = Table::new("Where each node was made, and of what", &headings);
    let mut depends = String::new();
    for (node, record) in subject.recorded() {
        let inputs: Vec<String> =
            record.inputs.iter().map(|input| format!("{} {:.8}", input.node, input.output)).collect();
        let made = &record.made_on;
        table.row([
            node.title.clone(),
            record.kind.word().into(),
            made.device.clone(),
            made.threads.to_string(),
            made.version.clone(),
            format!("{:.12}", record.key),
            format!("{:.12}", record.output.as_deref().unwrap_or("-")),
            if inputs.is_empty() { "image files".into() } else { inputs.join(", ") },
        ]);
        depends += &details(&format!("What {} depends on", node.title), &manifest(record));
    }
    if table.is_empty() {
        return Ok(note("No node has a record."));
    }
    let last = subject.recorded().last().map(|(_, record)| record);
    let settings = last.map_or_else(String::new, |record| {
        details(
            "The settings, as the last node keeps them",
            &format!("<pre>{}</pre>\n", escape(&cut(&record.settings, MOST_SETTINGS))),
        )
    });
    Ok(format!("{}{}{settings}{depends}", table.html(), images(subject)))
}

fn manifest(record: &Record) -> String {
    let mut table = Table::new("", &["setting", "value"]);
    table.row(["key", &record.key]);
    table.row(["output", record.output.as_deref().unwrap_or("not finished")]);
    for (name, value) in record.manifest().entries() {
        table.row([name, &cut(value, MOST_LETTERS)]);
    }
    table.html()
}

/// What was found where images were looked for, and which of them are odd.
fn images(subject: &Subject) -> String {
    let Ok((_, record)) = subject.images() else { return note("The node of the images is not here.") };
    let mut html: String = record
        .census
        .iter()
        .flat_map(|census| census.lines())
        .map(|line| paragraph(&cut(&line, MOST_LETTERS)))
        .collect();
    for (odd, what) in [(&record.skipped, "left out"), (&record.warned, "read with warnings")] {
        if odd.is_empty() {
            continue;
        }
        let lines =
            odd.iter().take(LISTED).map(|(_, fault)| format!("<li>{}</li>\n", escape(&cut(fault, MOST_LETTERS))));
        let more = match odd.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => note(&format!("And {more} more, all in the record of the images.")),
        };
        let list = format!("<ul>\n{}</ul>\n{more}", lines.collect::<String>());
        html += &details(&format!("{} images were {what}", odd.len()), &list);
    }
    html
}
