//! SEE: one HTML page about pipelines, which needs neither a network nor a script to be read.
//!
//! The page is a list of sections (`SECTIONS`), each a function from what is on the disk to a piece of HTML; what cannot
//! be shown is said in a line. The same records give the same bytes.

mod activations;
mod answers;
mod chart;
mod confusion;
mod costs;
mod html;
mod learning;
mod origin;
mod overview;
mod picture;
mod probes;
mod style;
mod subject;

pub use subject::{NodeView, Subject};

use crate::error::Result;
use html::{escape, note};
use std::fmt::Write;

/// How every page of ours begins: no other file is written over.
pub const BEGINNING: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"generator\" content=\"greedy report\"/>\n";

/// A part of the page about one pipeline.
struct Section {
    id: &'static str,
    title: &'static str,
    /// How it is read.
    about: &'static str,
    make: fn(&Subject) -> Result<String>,
}

/// All of them, in order. A further one is a function and an entry here.
const SECTIONS: [Section; 9] = [
    Section { id: "nodes", title: "Nodes", about: "", make: overview::nodes },
    Section {
        id: "epochs",
        title: "Learning",
        about: "Each node's epochs follow those of the node before it. Training figures are of the samples as they were met, with their augmentation; validation figures are of the state after the epoch.",
        make: learning::epochs,
    },
    Section {
        id: "probes",
        title: "Probes by depth",
        about: "What was measured of each stage's features by themselves; depth 0 stands for the images.",
        make: probes::probes,
    },
    Section {
        id: "confusion",
        title: "Confusion",
        about: "Which classes are taken for which others, by the stored logits of the validation images.",
        make: confusion::confusion,
    },
    Section {
        id: "answers",
        title: "Most wrong and most certain images",
        about: "Validation images as they are stored, with the probability that the classifier gives: at most two of a class.",
        make: answers::answers,
    },
    Section {
        id: "maps",
        title: "What the network saw",
        about: "Stored features of some validation images, depth by depth: the channels that vary most, each scaled from its least to its greatest value over these images, so that a row can be compared from left to right.",
        make: activations::feature_maps,
    },
    Section {
        id: "dead",
        title: "Dead channels",
        about: "A channel that is zero everywhere carries nothing, but costs its bytes. Measured on stored training features, spread over all.",
        make: activations::dead_channels,
    },
    Section { id: "costs", title: "Bytes and time", about: "", make: costs::costs },
    Section {
        id: "origin",
        title: "Origin",
        about: "What a node depends on is hashed to its key; what it holds to its output, which the nodes made of it name.",
        make: origin::origin,
    },
];

/// The page about some pipelines or caches.
pub fn page(subjects: &[Subject]) -> String {
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
    let title = escape(&format!("greedy: {}", names.join(", ")));
    let mut page = format!(
        "{BEGINNING}<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<link rel=\"icon\" href=\"data:,\"/>\n<title>{title}</title>\n<style>{}</style>\n</head>\n<body>\n<header><h1>{title}</h1></header>\n",
        style::CSS
    );
    page += &contents(subjects);
    page += "<main>\n<section id=\"depth\">\n<h2>Accuracy by depth</h2>\n<p class=\"about\">Each stage's own classifier on the validation images, and the ensemble of it and all before it (weights 1, 2, 4 and so on), as they were recorded.</p>\n";
    page += &learning::depths(subjects);
    page += "</section>\n";
    for (number, subject) in subjects.iter().enumerate() {
        let _ = writeln!(page, "<section id=\"p{number}\">\n<h2>{}</h2>", escape(&subject.name));
        for section in &SECTIONS {
            page += &one(section, subject, number);
        }
        page += "</section>\n";
    }
    let _ = writeln!(
        page,
        "</main>\n<footer>Written by greedy {}.</footer>\n<script>{}</script>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION"),
        style::SCRIPT
    );
    page
}

fn one(section: &Section, subject: &Subject, number: usize) -> String {
    let content = (section.make)(subject).unwrap_or_else(|fault| note(&subject.without_places(&fault.to_string())));
    let about = if section.about.is_empty() {
        String::new()
    } else {
        format!("<p class=\"about\">{}</p>\n", escape(section.about))
    };
    format!(
        "<section id=\"p{number}-{}\">\n<h3>{}</h3>\n{about}{content}</section>\n",
        section.id,
        escape(section.title)
    )
}

/// Links to all parts.
fn contents(subjects: &[Subject]) -> String {
    let mut nav =
        String::from("<nav aria-label=\"Contents\"><ul>\n<li><a href=\"#depth\">Accuracy by depth</a></li>\n</ul>\n");
    for (number, subject) in subjects.iter().enumerate() {
        let _ = writeln!(nav, "<ul>\n<li><a href=\"#p{number}\"><b>{}</b></a></li>", escape(&subject.name));
        for section in &SECTIONS {
            let _ = writeln!(nav, "<li><a href=\"#p{number}-{}\">{}</a></li>", section.id, escape(section.title));
        }
        nav += "</ul>\n";
    }
    nav + "</nav>\n"
}
