//! Brings nodes up to date: all of a pipeline, some of them, or a single stage.

use super::ancestry::Ancestry;
use super::cache;
use super::execute::Work;
use super::folder::StageFolder;
use super::import;
use super::observe::observe;
use super::project::{Look, Project};
use super::record::{Input, Record, State};
use super::underway::Noted;
use crate::error::{Error, Result};
use crate::lock::Lock;
use crate::ops::why_no_bf16;
use crate::pipeline::{Graph, Kind, Node, Precision, Probe, Verdict};
use crate::progress::Progress;
use candle_core::Device;

/// What an update did.
pub struct Update {
    /// The nodes that were done, in order.
    pub done: Vec<Node>,
    /// The records of all nodes that were looked after.
    pub records: Vec<Record>,
}

impl Project {
    /// Fails where [`update`](Self::update) would refuse to begin.
    ///
    /// # Errors
    /// When a stage could not be looked at, one that would be made anew belongs to another pipeline, or a file of weights
    /// does not hold the network.
    pub fn check(&self) -> Result<()> {
        self.refuse_trouble()?;
        self.refuse_weights(&vec![true; self.folders.len()])?;
        self.nodes().try_for_each(|look| self.refuse_another_pipeline(&look))
    }

    /// Does what has to be done for some nodes, one after the other, and calls `before` with each that begins and `after`
    /// with the folder and the record of each that is done.
    ///
    /// # Errors
    /// When a node or what comes after it fails, or the user interrupts; what was done until then stays.
    pub fn update(
        &mut self,
        wanted: &[usize],
        device: &Device,
        progress: &dyn Progress,
        mut before: impl FnMut(&Look<'_>, &Graph),
        mut after: impl FnMut(&StageFolder, &Record) -> Result<()>,
    ) -> Result<Update> {
        let needed = self.graph.needed(wanted);
        self.refuse_trouble_of(&needed)?;
        self.refuse_weights(&needed)?;
        let mut done = Vec::new();
        if let Some(cache) = &self.cache {
            cache::sweep(cache)?;
        }
        let scattered = wanted.last().copied().filter(|_| self.scatters);
        let is_left = |at: usize, done: &[usize]| scattered == Some(at) && done.contains(&at);
        let next = |verdicts: &[Verdict], done: &[usize]| {
            (0..needed.len()).find(|&at| needed[at] && verdicts[at] != Verdict::Current && !is_left(at, done))
        };
        let in_halves = self.pipeline.stages.iter().any(|stage| stage.training.precision == Precision::Bf16);
        if let (true, Some(_), Some(why)) = (in_halves, next(&self.verdicts, &done), why_no_bf16(device)) {
            progress.say(&format!("feature maps in bf16 are computed with in f32 here, no faster than in f32: {why}"));
        }
        while let Some(at) = next(&self.verdicts, &done) {
            let node = &self.graph.nodes()[at];
            if done.contains(&at) {
                let title = node.title();
                return Err(Error::failed(format!("{title} is not up to date although it was just made"))
                    .hint("does another program change its files or the data?"));
            }
            progress.check()?;
            if let Some(cache) = &self.cache {
                cache::tag(cache)?;
            }
            let _lock = Lock::take_after_readers(self.folders[at].path(), progress)?;
            // Another run may have come first while this one waited or worked: under the lock, look again.
            self.observe_again(at)?;
            if matches!(self.verdicts[at], Verdict::Current | Verdict::Waiting(_)) {
                continue;
            }
            before(&self.look_at(at), &self.graph);
            let node = &self.graph.nodes()[at];
            let scatters = scattered == Some(at);
            self.execute(at, device, (progress, scatters)).map_err(|e| e.context(node.title()))?;
            self.observe_again(at)?;
            if let Some(found) = self.observations[at].as_ref().filter(|found| found.record.state != State::Begun) {
                after(&self.folders[at], &found.record)?;
            }
            done.push(at);
        }
        if let (Some(cache), Some(memory)) = (&self.cache, self.memory.take()) {
            // What cannot be remembered is looked at again: that is no fault.
            let _ = memory.write(&cache.join(cache::SEEN));
        }
        let records = (0..needed.len()).filter(|&at| needed[at]);
        let records = records.filter_map(|at| self.observations[at].as_ref()).map(|found| found.record.clone());
        let done = done.into_iter().map(|at| self.graph.nodes()[at].clone()).collect();
        Ok(Update { done, records: records.collect() })
    }

    /// A file that does not hold the network is found before the images are decoded.
    fn refuse_weights(&self, needed: &[bool]) -> Result<()> {
        let undone = |look: &Look<'_>| {
            let copied = look.found.is_some_and(|found| look.folder.holds_weights(&found.record));
            look.node.kind == Kind::Imported
                && *look.verdict != Verdict::Current
                && !(copied && matches!(look.verdict, Verdict::Partial(_)))
        };
        let undone = self.nodes().zip(needed).any(|(look, needed)| *needed && undone(&look));
        if undone { import::check_file(&self.pipeline) } else { Ok(()) }
    }

    /// The settings of a node that measures something.
    fn probe_of(&self, node: &Node) -> Option<&Probe> {
        self.pipeline.probes.iter().find(|probe| probe.id(node.stage) == node.id)
    }

    /// Looks again at a stage and those it reads.
    fn observe_again(&mut self, at: usize) -> Result<()> {
        for index in self.graph.nodes()[at].inputs.iter().copied().chain([at]) {
            self.observations[index] = observe(&self.folders[index])?;
        }
        self.judge();
        Ok(())
    }

    fn execute(&self, at: usize, device: &Device, (progress, scatters): (&dyn Progress, bool)) -> Result<()> {
        self.refuse_another_pipeline(&self.look_at(at))?;
        let (node, folder) = (&self.graph.nodes()[at], &self.folders[at]);
        let (mut stages, mut network, mut inputs) = (Vec::new(), None, Vec::new());
        for &input in &node.inputs {
            let Some(found) = &self.observations[input] else { continue };
            let (read, record) = (&self.folders[input], found.record.clone());
            let output = record.output.clone().unwrap_or_default();
            let id = self.graph.nodes()[input].id.clone();
            inputs.push(Input { node: id, folder: folder.path_to(read)?, output });
            match record.kind {
                Kind::EndToEnd | Kind::Decoupled | Kind::Imported | Kind::Wide => {
                    network = Some((read.clone(), record))
                }
                Kind::Images | Kind::Block | Kind::Pruned | Kind::Depth | Kind::Scattering => {
                    stages.push((read.clone(), record))
                }
                Kind::Classifier | Kind::Ensemble | Kind::Probe => {}
            }
        }
        let (pipeline, ancestry, probe) = (&self.pipeline, Ancestry::new(stages), self.probe_of(node));
        let noted = Noted::new(progress, folder, node);
        let progress = &noted;
        let verdict = &self.verdicts[at];
        Work { pipeline, node, folder, ancestry, network, probe, inputs, device, progress, scatters }.execute(verdict)
    }

    /// A node of another pipeline is never overwritten.
    ///
    /// # Errors
    /// Where this pipeline would make a node anew that belongs to another.
    pub fn refuse_another_pipeline(&self, look: &Look<'_>) -> Result<()> {
        let Some(found) = look.found else { return Ok(()) };
        let (own, other) = (&self.pipeline.name, &found.record.pipeline);
        if own == other || !matches!(look.verdict, Verdict::Stale(_) | Verdict::ReExtract(_)) {
            return Ok(());
        }
        let folder = look.folder.path().display();
        if look.node.kind == Kind::Images && self.pipeline.data.decoded.is_some() {
            return Err(Error::failed(format!(
                "the images in `{folder}` were decoded for pipeline `{other}` with other settings, and `{own}` would decode them again"
            ))
            .hint("`greedy status` says which; give other images another folder with `data.decoded`, or remove that one"));
        }
        Err(Error::failed(format!("`{folder}` belongs to pipeline `{other}`, and `{own}` would overwrite it")).hint(
            format!("use `--cache DIR` (or `cache = \"…\"` in the file), or `--set name={other}` if it is the same"),
        ))
    }
}
