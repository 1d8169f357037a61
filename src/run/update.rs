//! Brings stages up to date: all of a pipeline, or a single one from the folder before it.

use super::ancestry::Ancestry;
use super::cache;
use super::execute::{Source, Work};
use super::folder::StageFolder;
use super::observe::{Observation, observe};
use super::record::Record;
use crate::error::{Error, Result};
use crate::images::{Memory, Sight, look};
use crate::lock::Lock;
use crate::network::map_type;
use crate::pipeline::{Graph, Manifest, Materialize, Pipeline, Seen, Source as Images, Verdict, plan};
use crate::progress::Progress;
use candle_core::Device;
use std::path::{Path, PathBuf};

/// A pipeline, its stages on the disk, and what has to be done about each.
pub struct Project {
    pipeline: Pipeline,
    /// The number of the first stage of the graph.
    first: usize,
    /// The folder of all stages, where they have one.
    cache: Option<PathBuf>,
    graph: Graph,
    folders: Vec<StageFolder>,
    observations: Vec<Option<Observation>>,
    /// What hinders each stage from being looked at.
    troubles: Vec<Option<Error>>,
    verdicts: Vec<Verdict>,
    /// What may be remembered of the images.
    memory: Option<Memory>,
}

/// A stage as it was seen.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Its number.
    pub number: usize,
    /// Its folder.
    pub folder: &'a StageFolder,
    /// What is to be done about it; of no meaning where there is trouble.
    pub verdict: &'a Verdict,
    /// What was seen of it, if there is anything.
    pub found: Option<&'a Observation>,
    /// Why it could not be looked at: its record is damaged or the data are gone.
    pub trouble: Option<&'a Error>,
}

impl Project {
    /// Looks at a pipeline's data and at its stages in a cache. What cannot be looked at is no error here, but
    /// [trouble](Look::trouble) of its stage.
    ///
    /// A large folder of images that was seen by an earlier run is taken as it was then, where the times of its
    /// folders and of some of its files are the same; with `again` every file is looked at.
    pub fn open(pipeline: Pipeline, cache: &Path, again: bool) -> Self {
        let known = match &pipeline.data.source {
            Images::Folder(root) | Images::Imagenet(root) if !again => Memory::recall(&cache.join(cache::SEEN), root),
            _ => None,
        };
        let recalled = known.is_some();
        let (sight, trouble) = match known.map(|fingerprint| Ok(Sight { fingerprint, memory: None })) {
            Some(known) => Self::seen(known, cache),
            None => Self::seen(look(&pipeline.data.source), cache),
        };
        let mut project = Self::build(pipeline, cache, &sight.fingerprint);
        if recalled && project.verdicts[0] != Verdict::Current {
            // Images that are to be decoded are all looked at.
            return Self::open(project.pipeline, cache, true);
        }
        project.memory = sight.memory;
        project.troubles[0] = trouble.or_else(|| project.troubles[0].take());
        project
    }

    /// What was seen of the images. Where they have gone, all else about the stages can still be judged.
    fn seen(sight: Result<Sight>, cache: &Path) -> (Sight, Option<Error>) {
        match sight {
            Ok(sight) => (sight, None),
            Err(e) => {
                let record = StageFolder::in_cache(cache, 0).record().ok();
                let files = record.as_ref().and_then(|record| record.manifest().value("data.files").map(String::from));
                let fingerprint = files.unwrap_or_else(|| "unknown".into());
                (Sight { fingerprint, memory: None }, Some(without_data(e, record.is_some(), cache)))
            }
        }
    }

    fn build(pipeline: Pipeline, cache: &Path, files: &str) -> Self {
        let mut graph = Graph::default();
        let mut last = graph.add(Vec::new(), Manifest::of_images(&pipeline, files));
        for stage in &pipeline.stages {
            last = graph.add(pipeline.reads(stage.number).collect(), Manifest::of_stage(&pipeline, stage));
        }
        let folders = (0..=last).map(|number| StageFolder::in_cache(cache, number)).collect();
        Self::look(pipeline, 0, Some(cache.to_path_buf()), graph, folders)
    }

    /// A stage, and those before it that it reads. `from` is the stage right before, or an earlier one with the stages
    /// between beside it; all are taken as they are.
    ///
    /// # Errors
    /// When `from` is no finished stage before it, or one of those between is missing.
    pub fn single(mut pipeline: Pipeline, number: usize, from: &StageFolder, to: StageFolder) -> Result<Self> {
        let count = pipeline.stages.len();
        let Some(stage) = number.checked_sub(1).and_then(|at| pipeline.stages.get(at)).copied() else {
            let error = Error::usage(format!("pipeline `{}` has stages 1 to {count}, not {number}", pipeline.name));
            return Err(error.hint(match number {
                0 => "`greedy run` decodes the images".to_string(),
                _ => format!("add blocks with `--set network.blocks={number}`"),
            }));
        };
        let last = last_before(number, from)?;
        refuse_another_stage(number, &to)?;
        let most = from.record()?.stage;
        pipeline.features.materialize = Materialize::Only(kept_before(&pipeline, (number, most), &last)?);
        if number > 1 && pipeline.features.late_crops && pipeline.features.nearest(number) == 0 {
            return Err(Error::usage("features can be cropped late only where some are kept")
                .hint("`--set features.crop=early` draws fresh crops of the images instead"));
        }
        let mut ancestry = Ancestry::follow(&last, pipeline.reads(number).start);
        let anew = Record::read(to.path())?.is_none();
        if ancestry.is_err() && pipeline.features.refresh.is_none() && anew {
            // The folder was moved away from its images: it does without new views, unless they were asked for or the
            // stage was begun with them.
            pipeline.features.refresh = Some(0.0);
            ancestry = Ancestry::follow(&last, pipeline.reads(number).start);
        }
        let ancestry = ancestry.map_err(|e| match pipeline.refresh() > 0.0 {
            true => e.hint("`--set features.refresh=0` does without the images and new views of them"),
            false => e,
        })?;
        let first = number - ancestry.stages().len();
        let mut graph = Graph::default();
        for (_, record) in ancestry.stages() {
            graph.add(Vec::new(), record.manifest());
        }
        graph.add((0..number - first).collect(), Manifest::of_stage(&pipeline, &stage));
        let folders = ancestry.stages().iter().map(|(folder, _)| folder.clone()).chain([to]).collect();
        let project = Self::look(pipeline, first, None, graph, folders);
        project.refuse_trouble()?;
        if let Some(look) = project.stages().take(number - first).find(|look| *look.verdict != Verdict::Current) {
            return Err(Error::failed(format!("`{}` is not finished", look.folder.path().display()))
                .hint("`greedy run` with the pipeline's file finishes it"));
        }
        Ok(project)
    }

    fn look(pipeline: Pipeline, first: usize, cache: Option<PathBuf>, graph: Graph, folders: Vec<StageFolder>) -> Self {
        let (mut observations, mut troubles) = (Vec::new(), Vec::new());
        for folder in &folders {
            let (found, trouble) = match observe(folder) {
                Ok(found) => (found, None),
                Err(e) => (None, Some(e)),
            };
            observations.push(found);
            troubles.push(trouble);
        }
        let verdicts = Vec::new();
        let mut project =
            Self { pipeline, first, cache, graph, folders, observations, troubles, verdicts, memory: None };
        project.judge();
        project
    }

    fn judge(&mut self) {
        let seen: Vec<Option<Seen>> =
            self.observations.iter().map(|found| found.as_ref().map(|found| found.seen.clone())).collect();
        self.verdicts = plan(&self.graph, &seen);
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The folder of all its stages, where they have one.
    pub fn cache(&self) -> Option<&Path> {
        self.cache.as_deref()
    }

    /// The number of the first stage here: verdicts count from it.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Each stage as it was seen.
    pub fn stages(&self) -> impl Iterator<Item = Look<'_>> {
        self.folders.iter().enumerate().map(|(at, folder)| Look {
            number: self.first + at,
            folder,
            verdict: &self.verdicts[at],
            found: self.observations[at].as_ref(),
            trouble: self.troubles[at].as_ref(),
        })
    }

    /// Fails where [`update`](Self::update) would refuse to begin.
    ///
    /// # Errors
    /// When a stage could not be looked at, or one that would be made anew belongs to another pipeline.
    pub fn check(&self) -> Result<()> {
        self.refuse_trouble()?;
        (0..self.folders.len()).try_for_each(|at| self.refuse_another_pipeline(at))
    }

    /// Whether all stages are current.
    pub fn is_current(&self) -> bool {
        self.verdicts.iter().all(|verdict| *verdict == Verdict::Current) && self.refuse_trouble().is_ok()
    }

    fn refuse_trouble(&self) -> Result<()> {
        self.troubles.iter().flatten().next().map_or(Ok(()), |trouble| Err(trouble.clone()))
    }

    /// Does what has to be done, one stage after the other, and calls `before` with each that begins.
    ///
    /// # Errors
    /// When a stage fails or the user interrupts; what was done until then stays.
    pub fn update(
        &mut self,
        device: &Device,
        progress: &dyn Progress,
        mut before: impl FnMut(usize, &Verdict),
    ) -> Result<Update> {
        self.refuse_trouble()?;
        self.refuse_precision(device)?;
        let mut done = Vec::new();
        while let Some(at) = self.verdicts.iter().position(|verdict| *verdict != Verdict::Current) {
            let number = self.first + at;
            if done.contains(&number) {
                return Err(Error::failed(format!("stage {number} is not up to date although it was just made"))
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
            before(number, &self.verdicts[at]);
            self.execute(at, device, progress).map_err(|e| e.context(format!("stage {number}")))?;
            self.observe_again(at)?;
            done.push(number);
        }
        if let (Some(cache), Some(memory)) = (&self.cache, self.memory.take()) {
            // What cannot be remembered is looked at again: that is no fault.
            let _ = memory.write(&cache.join(cache::SEEN));
        }
        let records = self.observations.iter().flatten().map(|found| found.record.clone()).collect();
        Ok(Update { done, records })
    }

    /// A stage that the device cannot compute is found before those before it are made.
    fn refuse_precision(&self, device: &Device) -> Result<()> {
        let undone = self.stages().filter(|look| *look.verdict != Verdict::Current);
        let stages = undone.filter_map(|look| self.pipeline.stages.get(look.number.checked_sub(1)?));
        for stage in stages {
            map_type(stage.training.precision, device).map_err(|e| e.context(format!("stage {}", stage.number)))?;
        }
        Ok(())
    }

    /// Looks again at a stage and those it reads.
    fn observe_again(&mut self, at: usize) -> Result<()> {
        for index in self.graph.nodes()[at].parents.iter().copied().chain([at]) {
            self.observations[index] = observe(&self.folders[index])?;
        }
        self.judge();
        Ok(())
    }

    fn execute(&self, at: usize, device: &Device, progress: &dyn Progress) -> Result<()> {
        self.refuse_another_pipeline(at)?;
        let number = self.first + at;
        let stage = number.checked_sub(1).and_then(|at| self.pipeline.stages.get(at));
        let source = stage.map(|stage| {
            let read = self.graph.nodes()[at].parents.iter();
            let seen = read.filter_map(|&parent| Some((parent, self.observations[parent].as_ref()?)));
            let ancestry = seen.map(|(parent, found)| (self.folders[parent].clone(), found.record.clone()));
            Source { stage, ancestry: Ancestry::new(ancestry.collect()) }
        });
        let work = Work {
            pipeline: &self.pipeline,
            number,
            manifest: &self.graph.nodes()[at].manifest,
            folder: &self.folders[at],
            source,
            device,
            progress,
        };
        work.execute(&self.verdicts[at])
    }

    /// A stage of another pipeline is never overwritten.
    fn refuse_another_pipeline(&self, at: usize) -> Result<()> {
        let Some(found) = &self.observations[at] else { return Ok(()) };
        let (own, other) = (&self.pipeline.name, &found.record.pipeline);
        if own == other || !matches!(self.verdicts[at], Verdict::Stale(_) | Verdict::Restore(_)) {
            return Ok(());
        }
        let folder = self.folders[at].path().display();
        Err(Error::failed(format!("`{folder}` belongs to pipeline `{other}`, and `{own}` would overwrite it")).hint(
            format!("use `--cache DIR` (or `cache = \"…\"` in the file), or `--set name={other}` if it is the same"),
        ))
    }
}

/// The error about data that cannot be found, with what can be done without them.
fn without_data(error: Error, decoded: bool, cache: &Path) -> Error {
    let folder = cache.display();
    match decoded && error.way_out().is_none() {
        true => error.hint(format!(
            "the stages in `{folder}` are whole without it: see `greedy stage N --from {folder}/stage…`"
        )),
        false => error,
    }
}

/// The stage right before another: the one in `from`, or, where that is an earlier one, the last of those beside it that
/// lead on from there.
fn last_before(number: usize, from: &StageFolder) -> Result<StageFolder> {
    let real = std::fs::canonicalize(from.path()).map_err(|e| Error::io("find", from.path(), &e));
    let (mut folder, mut record) = (from.clone(), from.record()?);
    let given = record.stage;
    let wrong = |found: usize| {
        let (before, from) = (number - 1, from.path().display());
        Error::usage(format!("stage {number} reads stage {before}, but `{from}` is stage {found}"))
            .hint(format!("name the folder of stage {before}, or an earlier one with those between beside it"))
    };
    while record.stage + 1 < number {
        folder = StageFolder::new(real.clone()?);
        let next = folder.path().with_file_name(format!("stage{}", record.stage + 1));
        let next = StageFolder::new(next);
        record = Record::read(next.path())?.filter(|next| next.follows(&record)).ok_or_else(|| wrong(given))?;
        folder = next;
    }
    if record.stage + 1 == number { Ok(folder) } else { Err(wrong(given)) }
}

/// The stages whose features are to be read by a stage, none of them above `most`, as the pipeline says and the folders
/// have them; and the stage itself, where its features are to be written.
fn kept_before(pipeline: &Pipeline, (number, most): (usize, usize), last: &StageFolder) -> Result<Vec<usize>> {
    let mut kept = Vec::from_iter(pipeline.features.keeps(number).then_some(number));
    let (mut folder, mut record) = (last.clone(), last.record()?);
    loop {
        if record.stage <= most && pipeline.features.keeps(record.stage) && !record.arrays.is_empty() {
            kept.push(record.stage);
        }
        match folder.parent_if_there(&record)? {
            Some(parent) => (folder, record) = parent,
            None => return Ok(kept),
        }
    }
}

/// A single stage is never written over a stage of another number, such as the one that it reads.
fn refuse_another_stage(number: usize, to: &StageFolder) -> Result<()> {
    match Record::read(to.path())? {
        Some(found) if found.stage != number => {
            let (folder, other) = (to.path().display(), found.stage);
            Err(Error::usage(format!("`{folder}` holds stage {other}, and stage {number} would overwrite it"))
                .hint("name another folder with `--to DIR`"))
        }
        _ => Ok(()),
    }
}

/// What an update did.
pub struct Update {
    /// The stages that were done, by number.
    pub done: Vec<usize>,
    /// The records of all stages.
    pub records: Vec<Record>,
}
