//! What all stages say together, from the logits that they have left.

use super::folder::StageFolder;
use super::record::Record;
use crate::error::{Error, Result};
use crate::features::{self, Files, Split};
use crate::pipeline::Average;
use crate::training::{Score, ensemble, score};

/// What all stages say together of the validation samples.
pub(super) struct Together {
    labels: Vec<u32>,
    logits: Vec<f32>,
    /// The names of the classes.
    pub classes: Vec<String>,
}

impl Together {
    /// From what each of some stages has left.
    ///
    /// # Errors
    /// When logits are missing or damaged, or not of the same samples and classes.
    pub fn of(stages: &[(StageFolder, Record)], of: Average) -> Result<Self> {
        let (last, record) = stages.last().ok_or_else(|| Error::failed("an ensemble needs stages"))?;
        let labels = features::read_labels(last.path(), Split::Val)?;
        let classes = record.classes.clone();
        let mut all = Vec::new();
        for (folder, _) in stages {
            let (logits, found) = features::read_logits(folder.path(), Split::Val)?;
            if found != classes.len() || logits.len() != found * labels.len() {
                let (folder, last) = (folder.path().display(), last.path().display());
                return Err(Error::failed(format!("the logits in `{folder}` are not of the samples in `{last}`")));
            }
            all.push(logits);
        }
        let logits = ensemble(&all, classes.len(), of);
        Ok(Self { labels, logits, classes })
    }

    /// How well they agree with the labels.
    pub fn score(&self) -> Score {
        score(&self.logits, &self.labels)
    }

    /// The files that its node has of them.
    ///
    /// # Errors
    /// When they cannot be encoded.
    pub fn files(&self) -> Result<Files> {
        let mut files = features::label_files(Split::Val, &self.labels)?;
        files.extend(features::logit_files(Split::Val, &self.logits, self.classes.len())?);
        Ok(files)
    }
}

/// What an ensemble is the mean of, and its stages as they were then, by its record.
///
/// # Errors
/// When one of them is gone, or holds another output by now.
pub(super) fn members(folder: &StageFolder, record: &Record) -> Result<(Average, Vec<(StageFolder, Record)>)> {
    let mut stages = Vec::new();
    for input in &record.inputs {
        let stage = folder.folder_of(input);
        let found = stage.record()?;
        if found.output.as_ref() != Some(&input.output) {
            let (stage, own) = (stage.path().display(), folder.path().display());
            return Err(Error::failed(format!("`{stage}` is not what `{own}` was made of"))
                .hint("`greedy run` brings the nodes up to date"));
        }
        stages.push((stage, found));
    }
    Ok((average_of(record.manifest().value("ensemble.of"))?, stages))
}

/// What an ensemble is the mean of, by the entry of its manifest.
pub(super) fn average_of(word: Option<&str>) -> Result<Average> {
    let found = word.and_then(Average::named);
    found.ok_or_else(|| Error::failed("it is not recorded what the ensemble is the mean of"))
}
