//! Which features are written where a pipeline leaves that to the plan: it is planned once, and adhered to from then on.

use super::contents::CHOICE;
use crate::disk;
use crate::error::{Error, Result};
use crate::pipeline::{Encoding, Recipe, Settings, Stage};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A choice, and what it was made for.
#[derive(Serialize, Deserialize)]
struct Choice {
    planned_for: String,
    materialize: Vec<usize>,
}

/// The choice that was made for a cache, of a pipeline that leaves it open. A file that is damaged, or was made for
/// another network, counts as none.
pub fn recall_choice(cache: &Path, settings: &Settings) -> Option<Vec<usize>> {
    if !settings.leaves_plan_open() {
        return None;
    }
    let pipeline = settings.as_written();
    let text = disk::read_text(&cache.join(CHOICE)).ok().flatten();
    let found = text.and_then(|text| serde_json::from_str::<Choice>(&text).ok());
    let known = |choice: &Choice| {
        let stages = 1..=pipeline.stages.len();
        choice.planned_for == subject(pipeline)
            && choice.materialize.iter().all(|stage| stages.contains(stage))
            && (!pipeline.features.late_crops || choice.materialize.contains(&1))
    };
    found.filter(known).map(|choice| choice.materialize)
}

/// Keeps a choice for a cache; gives the stages that it comes to.
///
/// # Errors
/// When the disk refuses.
pub fn remember_choice(cache: &Path, pipeline: &Recipe, mut stages: Vec<usize>) -> Result<Vec<usize>> {
    if pipeline.features.late_crops && !stages.contains(&1) {
        // Late crops begin with the features of the first stage.
        stages.insert(0, 1);
    }
    let choice = Choice { planned_for: subject(pipeline), materialize: stages.clone() };
    let text = serde_json::to_string_pretty(&choice).map_err(|e| Error::failed(e.to_string()))?;
    super::cache::tag(cache)?;
    disk::write(&cache.join(CHOICE), text.as_bytes())?;
    Ok(stages)
}

/// What a choice depends on, but for the machine: a learning rate, say, changes nothing of it.
fn subject(pipeline: &Recipe) -> String {
    let shape = |stage: &Stage| {
        let head = stage.head.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{} + {head} x {}", stage.block, stage.training.epochs)
    };
    let stages: Vec<String> = pipeline.stages.iter().map(shape).collect();
    let features = &pipeline.features;
    let encoding = |stage: &Stage| {
        let Encoding { dtype, codec } = features.encoding(&stage.block);
        format!("{} {}", dtype.word(), codec.word())
    };
    let encodings: Vec<String> = pipeline.stages.iter().map(encoding).collect();
    let form = (encodings.join(", "), features.views, features.late_crops, features.disk);
    let data = (&pipeline.data.source, pipeline.data.size, pipeline.data.train_images, pipeline.data.val_images);
    format!("{}: {data:?}; {}; {form:?}; refresh {}", pipeline.name, stages.join(", "), pipeline.features.refresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_kept_for_the_network_it_was_made_for() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[data]\nsource = \"builtin\"\n[features]\nmaterialize = \"auto\"\n";
        let settings = |set: &str| Settings::parse("p", "p", text, &[set.to_string()]).unwrap();
        let recalled = |set: &str| recall_choice(folder.path(), &settings(set));
        assert_eq!(recalled("seed=0"), None);
        remember_choice(folder.path(), settings("seed=0").as_written(), vec![2, 3]).unwrap();
        assert_eq!(recalled("seed=0"), Some(vec![2, 3]));
        assert_eq!(recalled("training.learning_rate=0.3"), Some(vec![2, 3]));
        assert_eq!(recalled("network.width=7"), None);
        assert_eq!(recalled("features.materialize=[1]"), None, "the file says it itself");
        std::fs::write(folder.path().join(CHOICE), "damaged").unwrap();
        assert_eq!(recalled("seed=0"), None);
    }
}
