//! The node of the ensemble: asks all stages together by what each of them has left.

use super::execute::Work;
use super::record::{Figures, State};
use super::together::{Together, average_of};
use crate::error::Result;
use crate::features;
use crate::pipeline::Verdict;
use std::time::Instant;

impl Work<'_> {
    /// Asks all stages together. No network runs.
    pub(super) fn ask_together(&self, verdict: &Verdict) -> Result<()> {
        let started = Instant::now();
        let of = average_of(self.node.manifest.value("ensemble.of"))?;
        let _reading = self.ancestry.share()?;
        let together = Together::of(self.ancestry.stages(), of)?;
        let mut record = self.prepare(verdict)?;
        features::write_files(self.folder.path(), &together.files()?)?;
        let found = together.score();
        record.figures = Some(Figures {
            accuracy: found.top1,
            top5: found.top5,
            loss: found.loss,
            ensemble_accuracy: None,
            block_parameters: 0,
            auxiliary_parameters: 0,
            images: 0,
            history: Vec::new(),
        });
        record.classes = together.classes;
        record.state = State::Trained;
        record.spend("ensemble", started.elapsed());
        self.finish(&mut record)
    }
}
