//! Which features are written where a pipeline leaves that to the plan: it is planned once, and kept to from then on.

use crate::disk;
use crate::error::{Error, Result};
use crate::pipeline::{Materialize, Pipeline, Stage};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file of a cache that remembers it.
pub(super) const CHOICE: &str = "plan.json";

/// A choice, and what it was made for.
#[derive(Serialize, Deserialize)]
struct Choice {
    planned_for: String,
    materialize: Vec<usize>,
}

/// Puts the choice that was made for a cache into a pipeline that leaves it open; says whether nothing is left open.
/// A file that is damaged, or was made for another network, counts as none.
pub fn recall_choice(cache: &Path, pipeline: &mut Pipeline) -> bool {
    if pipeline.features.materialize != Materialize::Auto {
        return true;
    }
    let text = disk::read_text(&cache.join(CHOICE)).ok().flatten();
    let found = text.and_then(|text| serde_json::from_str::<Choice>(&text).ok());
    let known = |choice: &Choice| {
        let stages = 1..=pipeline.stages.len();
        choice.planned_for == subject(pipeline)
            && choice.materialize.iter().all(|stage| stages.contains(stage))
            && (!pipeline.features.late_crops || choice.materialize.contains(&1))
    };
    match found.filter(known) {
        Some(choice) => pipeline.features.materialize = Materialize::Only(choice.materialize),
        None => return false,
    }
    true
}

/// Keeps a choice for a cache, and puts it into the pipeline.
///
/// # Errors
/// When the disk refuses.
pub fn remember_choice(cache: &Path, pipeline: &mut Pipeline, mut stages: Vec<usize>) -> Result<()> {
    if pipeline.features.late_crops && !stages.contains(&1) {
        // Late crops begin with the features of the first stage.
        stages.insert(0, 1);
    }
    let choice = Choice { planned_for: subject(pipeline), materialize: stages.clone() };
    let text = serde_json::to_string_pretty(&choice).map_err(|e| Error::failed(e.to_string()))?;
    super::cache::tag(cache)?;
    disk::write(&cache.join(CHOICE), text.as_bytes())?;
    pipeline.features.materialize = Materialize::Only(stages);
    Ok(())
}

/// What a choice depends on, but for the machine: a learning rate, say, changes nothing of it.
fn subject(pipeline: &Pipeline) -> String {
    let shape = |stage: &Stage| {
        let (block, auxiliary) = (stage.block, stage.auxiliary);
        let (output, hidden) = (block.output, (auxiliary.convolutions, auxiliary.width));
        format!("{} x {} x {} + {hidden:?} x {}", output.channels, output.size, output.size, stage.training.epochs)
    };
    let stages: Vec<String> = pipeline.stages.iter().map(shape).collect();
    let features = &pipeline.features;
    let kept = (features.dtype.word(), features.codec.word(), features.views, features.late_crops, features.disk);
    let data = (&pipeline.data.source, pipeline.data.size, pipeline.data.train_images, pipeline.data.val_images);
    format!("{}: {data:?}; {}; {kept:?}; refresh {}", pipeline.name, stages.join(", "), pipeline.refresh())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_kept_for_the_network_it_was_made_for() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[data]\nsource = \"builtin\"\n[features]\nmaterialize = \"auto\"\n";
        let pipeline = |set: &str| Pipeline::parse("p", "p", text, &[set.to_string()]).unwrap();
        let recalled = |set: &str| {
            let mut pipeline = pipeline(set);
            recall_choice(folder.path(), &mut pipeline).then_some(pipeline.features.materialize)
        };
        assert_eq!(recalled("seed=0"), None);
        remember_choice(folder.path(), &mut pipeline("seed=0"), vec![2, 3]).unwrap();
        assert_eq!(recalled("seed=0"), Some(Materialize::Only(vec![2, 3])));
        assert_eq!(recalled("training.learning_rate=0.3"), Some(Materialize::Only(vec![2, 3])));
        assert_eq!(recalled("network.width=7"), None);
        assert_eq!(recalled("features.materialize=[1]"), Some(Materialize::Only(vec![1])));
        std::fs::write(folder.path().join(CHOICE), "damaged").unwrap();
        assert_eq!(recalled("seed=0"), None);
    }
}
