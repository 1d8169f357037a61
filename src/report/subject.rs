//! What a page is about: the nodes of a pipeline or of a cache, as they are on the disk.

use super::html::short;
use crate::error::{Error, Result};
use crate::features::{Split, has_logits, read_labels, read_logits};
use crate::pipeline::Kind;
use crate::run::{Record, StageFolder};
use crate::text::{class, shown};

/// One pipeline, or the stages of a cache.
pub struct Subject {
    /// What it is called; different from all others on the page.
    pub name: String,
    /// Its nodes, those that others are made of first.
    pub nodes: Vec<NodeView>,
}

/// A node as it was found.
pub struct NodeView {
    /// What people call it.
    pub title: String,
    /// Its folder.
    pub folder: StageFolder,
    /// Its state in one word, such as `current`.
    pub state: String,
    /// Why it is in that state.
    pub reasons: Vec<String>,
    /// What its folder says of it, where it can be read.
    pub record: Option<Record>,
}

/// What a node's classifier says of the validation images.
pub(super) struct Answers {
    /// \[sample, class\]
    pub logits: Vec<f32>,
    /// The right class of each sample.
    pub labels: Vec<u32>,
    /// How many there are.
    pub classes: usize,
}

impl Answers {
    /// The logits of each sample, with its label; samples of a class that is not there are left out.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[f32], usize)> {
        let rows = self.logits.chunks_exact(self.classes).zip(&self.labels).enumerate();
        rows.map(|(at, (row, &label))| (at, row, label as usize)).filter(|(.., label)| *label < self.classes)
    }
}

/// The class with the largest of some logits; of equal ones the first, as accuracies are counted.
pub(super) fn favourite(row: &[f32]) -> usize {
    let best = row.iter().enumerate().filter(|(_, value)| !value.is_nan());
    best.fold((0, f32::NEG_INFINITY), |best, (at, &value)| if value > best.1 { (at, value) } else { best }).0
}

impl Subject {
    /// Nodes with their records, where these can be read.
    pub(super) fn recorded(&self) -> impl Iterator<Item = (&NodeView, &Record)> {
        self.nodes.iter().filter_map(|node| Some((node, node.record.as_ref()?)))
    }

    /// The stages, by depth, however their blocks came about; without the images.
    pub(super) fn stages(&self) -> impl Iterator<Item = (&NodeView, &Record)> {
        self.recorded().filter(|(_, record)| record.kind.is_stage() && record.kind != Kind::Images)
    }

    /// The node of the decoded images: one of these, or the one that they were made of.
    ///
    /// # Errors
    /// When it cannot be found.
    pub(super) fn images(&self) -> Result<(StageFolder, Record)> {
        if let Some((node, record)) = self.recorded().find(|(_, record)| record.kind == Kind::Images) {
            return Ok((node.folder.clone(), record.clone()));
        }
        let missing = || Error::failed("the decoded images are not here");
        let (first, record) = self.recorded().next().ok_or_else(missing)?;
        let (mut folder, mut record) = (first.folder.clone(), record.clone());
        while record.kind != Kind::Images {
            (folder, record) = folder.parent(&record)?.ok_or_else(missing)?;
        }
        Ok((folder, record))
    }

    /// What the deepest node that classifies says of the validation images.
    ///
    /// # Errors
    /// When no node has logits, or they or the labels are damaged.
    pub(super) fn answers(&self) -> Result<(&NodeView, &Record, Answers)> {
        let has = |(node, record): &(&NodeView, &Record)| {
            record.kind != Kind::Ensemble && record.figures.is_some() && has_logits(node.folder.path(), Split::Val)
        };
        let deepest = self.recorded().filter(has).max_by_key(|(_, record)| record.stage);
        let (node, record) =
            deepest.ok_or_else(|| Error::failed("no node has classified the validation images yet"))?;
        let (logits, classes) = read_logits(node.folder.path(), Split::Val)?;
        let labels = read_labels(node.folder.path(), Split::Val);
        let labels = labels.or_else(|_| read_labels(self.images()?.0.path(), Split::Val))?;
        if classes == 0 || logits.len() != labels.len() * classes {
            let fault =
                format!("{} has {} logits of {classes} classes for {} labels", node.title, logits.len(), labels.len());
            return Err(Error::failed(fault));
        }
        Ok((node, record, Answers { logits, labels, classes }))
    }

    /// A text with the names of nodes in place of their folders: a page does not depend on where they lie.
    pub(super) fn without_places(&self, text: &str) -> String {
        let mut text = text.to_string();
        for node in &self.nodes {
            text = text.replace(&shown(node.folder.path()), &node.title);
        }
        text
    }
}

/// A class as people call it: in one word where there is one.
pub(super) fn class_word(record: &Record, at: usize) -> String {
    match record.words(at).and_then(|words| words.split(',').next()) {
        Some(word) => short(word),
        None => class_name(record, at),
    }
}

/// A class as people call it, with its own name.
pub(super) fn class_name(record: &Record, at: usize) -> String {
    let name = record.classes.get(at).map_or_else(|| format!("class {at}"), |name| class(name, record.words(at)));
    short(&name)
}
