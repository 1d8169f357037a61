//! A pipeline's nodes as they lie on the disk: all of a cache, or a single stage and the folder before it.

use super::ancestry::Ancestry;
use super::cache;
use super::choice::recall_choice;
use super::folder::StageFolder;
use super::import;
use super::observe::{Observation, observe};
use super::record::Record;
use crate::error::{Error, Result};
use crate::images::{Fingerprint, Memory, look};
use crate::pipeline::{Graph, Kind, Manifest, Node, Recipe, Seen, Settings, Source as Images, Verdict, plan};
use crate::room;
use crate::text::shown;
use std::path::{Path, PathBuf};

/// A pipeline, its stages on the disk, and what has to be done about each.
pub struct Project {
    pub(super) pipeline: Recipe,
    /// The folder of all stages, where they have one.
    pub(super) cache: Option<PathBuf>,
    pub(super) graph: Graph,
    pub(super) folders: Vec<StageFolder>,
    pub(super) observations: Vec<Option<Observation>>,
    /// What hinders each stage from being looked at.
    pub(super) troubles: Vec<Option<Error>>,
    pub(super) verdicts: Vec<Verdict>,
    /// What may be remembered of the images.
    pub(super) memory: Option<Memory>,
    /// Whether the node that is wanted is left where its shards come next.
    pub(super) scatters: bool,
}

/// A node as it was seen.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The node.
    pub node: &'a Node,
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
    pub fn open(pipeline: Recipe, cache: &Path, again: bool) -> Self {
        let known = match &pipeline.data.source {
            Images::Folder(root) | Images::Imagenet(root) if !again => Memory::recall(&cache.join(cache::SEEN), root),
            _ => None,
        };
        let recalled = known.is_some();
        let (found, trouble) = match known.map(|fingerprint| Ok(Fingerprint { text: fingerprint, memory: None })) {
            Some(known) => Self::seen(known, &pipeline, cache),
            None => Self::seen(look(&pipeline.data.source), &pipeline, cache),
        };
        let mut project = Self::build(pipeline, cache, &found.text);
        if recalled && project.verdicts[0] != Verdict::Current {
            // Images that are to be decoded are all looked at.
            return Self::open(project.pipeline, cache, true);
        }
        project.memory = found.memory;
        project.troubles[0] = trouble.or_else(|| project.troubles[0].take());
        project
    }

    /// What was seen of the images. Where they have gone, all else about the stages can still be judged.
    fn seen(found: Result<Fingerprint>, pipeline: &Recipe, cache: &Path) -> (Fingerprint, Option<Error>) {
        match found {
            Ok(found) => (found, None),
            Err(e) => {
                let record = folder_of(pipeline, cache, &Node::images(Manifest::default())).record().ok();
                let files = record.as_ref().and_then(|record| record.manifest().value("data.files").map(String::from));
                let fingerprint = files.unwrap_or_else(|| "unknown".into());
                (
                    Fingerprint { text: fingerprint, memory: None },
                    Some(without_data(e, record.is_some(), &pipeline.data.source, cache)),
                )
            }
        }
    }

    fn build(mut pipeline: Recipe, cache: &Path, files: &str) -> Self {
        if let Some(pretrained) = &mut pipeline.pretrained {
            let copy = StageFolder::new(cache.join(Node::NETWORK)).record().ok();
            pretrained.hash = import::seen(pretrained, copy.as_ref());
        }
        let graph = Graph::of(&pipeline, files);
        let folders = graph.nodes().iter().map(|node| folder_of(&pipeline, cache, node)).collect();
        Self::look(pipeline, Some(cache.to_path_buf()), graph, folders)
    }

    /// A stage, and those before it that it reads. `from` is the stage right before, or an earlier one with the stages
    /// between beside it; all are taken as they are.
    ///
    /// # Errors
    /// When `from` is no finished stage before it, or one of those between is missing.
    pub fn single(settings: Settings, number: usize, from: &StageFolder, to: StageFolder) -> Result<Self> {
        let asked = settings.says_refresh();
        let memory = room::free_memory() / 2;
        let planned = std::fs::canonicalize(from.path()).ok();
        let planned = planned.and_then(|real| recall_choice(real.parent()?, &settings));
        let mut pipeline = settings.resolve(planned, memory);
        let count = pipeline.stages.len();
        let Some(stage) = number.checked_sub(1).and_then(|at| pipeline.stages.get(at)).cloned() else {
            let error = Error::usage(format!("pipeline `{}` has stages 1 to {count}, not {number}", pipeline.name));
            return Err(error.hint(match number {
                0 => "`greedy run` decodes the images".to_string(),
                _ => format!("add blocks with `--set network.blocks={number}`"),
            }));
        };
        if stage.pruning.is_some() {
            return Err(Error::usage("a single stage is not pruned: that takes the stage as it is before as well")
                .hint("`greedy run` trains and prunes it, with another `--cache DIR` beside what is there"));
        }
        let found = from.record()?;
        if found.kind.is_leaf() {
            let (folder, title) = (from.path().display(), found.title());
            return Err(Error::usage(format!("`{folder}` holds {title}, no features to train a stage on"))
                .hint("name the folder of a stage, such as `cache/stage1`"));
        }
        let last = last_before(number, from)?;
        refuse_another_stage(number, &to)?;
        let most = from.record()?.stage;
        pipeline.features.cached = cached_before(&pipeline, (number, most), &last)?;
        if number > 1 && pipeline.features.late_crops && pipeline.features.nearest(number) == 0 {
            return Err(Error::usage("features can be cropped late only where some are cached")
                .hint("`--set features.crop=early` draws fresh crops of the images instead"));
        }
        let mut ancestry = Ancestry::follow(&last, pipeline.reads(number).start);
        let anew = Record::read(to.path())?.is_none();
        if ancestry.is_err() && !asked && anew {
            // The folder was moved away from its images: it does without new views, unless they were asked for or the
            // stage was begun with them.
            pipeline.features.refresh = 0.0;
            ancestry = Ancestry::follow(&last, pipeline.reads(number).start);
        }
        let ancestry = ancestry.map_err(|e| match pipeline.features.refresh > 0.0 {
            true => e.hint("`--set features.refresh=0` does without the images and new views of them"),
            false => e,
        })?;
        let mut graph = Graph::default();
        for (_, record) in ancestry.stages() {
            let kind = if record.stage == 0 { Kind::Images } else { Kind::Block };
            graph.add(Node::stage(kind, record.stage, Vec::new(), record.manifest()));
        }
        let before = graph.nodes().len();
        let manifest = Manifest::of_stage(&pipeline, &stage);
        graph.add(Node::stage(Kind::of(&stage), number, (0..before).collect(), manifest));
        let folders = ancestry.stages().iter().map(|(folder, _)| folder.clone()).chain([to]).collect();
        let project = Self::look(pipeline, None, graph, folders);
        project.refuse_trouble()?;
        if let Some(look) = project.nodes().take(before).find(|look| *look.verdict != Verdict::Current) {
            return Err(Error::failed(format!("`{}` is not finished", look.folder.path().display()))
                .hint("`greedy run` with the pipeline's file finishes it"));
        }
        Ok(project)
    }

    fn look(pipeline: Recipe, cache: Option<PathBuf>, graph: Graph, folders: Vec<StageFolder>) -> Self {
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
            Self { pipeline, cache, graph, folders, observations, troubles, verdicts, memory: None, scatters: false };
        project.judge();
        project
    }

    pub(super) fn judge(&mut self) {
        let seen: Vec<Option<Seen>> =
            self.observations.iter().map(|found| found.as_ref().map(|found| found.seen.clone())).collect();
        self.verdicts = plan(&self.graph, &seen);
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &Recipe {
        &self.pipeline
    }

    /// The folder of all its stages, where they have one.
    pub fn cache(&self) -> Option<&Path> {
        self.cache.as_deref()
    }

    /// The graph of its nodes: verdicts count from the first.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Each node as it was seen.
    pub fn nodes(&self) -> impl Iterator<Item = Look<'_>> {
        (0..self.folders.len()).map(|at| self.look_at(at))
    }

    pub(super) fn look_at(&self, at: usize) -> Look<'_> {
        Look {
            node: &self.graph.nodes()[at],
            folder: &self.folders[at],
            verdict: &self.verdicts[at],
            found: self.observations[at].as_ref(),
            trouble: self.troubles[at].as_ref(),
        }
    }

    /// Whether all stages are current.
    pub fn is_current(&self) -> bool {
        self.verdicts.iter().all(|verdict| *verdict == Verdict::Current) && self.refuse_trouble().is_ok()
    }

    pub(super) fn refuse_trouble(&self) -> Result<()> {
        self.refuse_trouble_of(&vec![true; self.troubles.len()])
    }

    pub(super) fn refuse_trouble_of(&self, needed: &[bool]) -> Result<()> {
        let found = self.troubles.iter().zip(needed).find_map(|(trouble, needed)| trouble.as_ref().filter(|_| *needed));
        found.map_or(Ok(()), |trouble| Err(trouble.clone()))
    }

    /// From now on leaves the node that is wanted where its shards come next, for workers to write them; the last, where
    /// several are.
    pub fn scatter(&mut self) {
        self.scatters = true;
    }

    /// The indices of nodes that a user names; of all of them where none is named.
    ///
    /// # Errors
    /// When there is no node of a name.
    pub fn find(&self, names: &[String]) -> Result<Vec<usize>> {
        if names.is_empty() {
            return Ok((0..self.folders.len()).collect());
        }
        let unknown = |name: &String| {
            let known: Vec<&str> = self.graph.nodes().iter().map(|node| node.id.as_str()).collect();
            Error::usage(format!("pipeline `{}` has no node `{name}`", self.pipeline.name))
                .hint(format!("its nodes are {}", known.join(", ")))
        };
        names.iter().map(|name| self.graph.find(name).ok_or_else(|| unknown(name))).collect()
    }
}

/// Where a node of a pipeline lies: below its cache, but for images that several pipelines share.
fn folder_of(pipeline: &Recipe, cache: &Path, node: &Node) -> StageFolder {
    match (&pipeline.data.decoded, node.kind) {
        (Some(decoded), Kind::Images) => StageFolder::new(decoded),
        _ => StageFolder::new(cache.join(&node.id)),
    }
}

/// The error about data that cannot be found, with what can be done without them.
fn without_data(error: Error, decoded: bool, data: &Images, cache: &Path) -> Error {
    let folder = cache.display();
    if decoded {
        let way = format!("the stages in `{folder}` are whole without it: see `greedy stage N --from {folder}/stage…`");
        return error.or_hint(way);
    }
    match (data.place(), std::env::current_dir()) {
        (Some(place), Ok(here)) if place.is_relative() && !place.exists() => {
            let here = shown(&here);
            error.or_hint(format!("`data.path` is taken from the folder where the command is given, here `{here}`"))
        }
        _ => error,
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
fn cached_before(pipeline: &Recipe, (number, most): (usize, usize), last: &StageFolder) -> Result<Vec<usize>> {
    let mut cached = Vec::from_iter(pipeline.features.caches(number).then_some(number));
    let (mut folder, mut record) = (last.clone(), last.record()?);
    loop {
        if record.stage <= most && pipeline.features.caches(record.stage) && !record.arrays.is_empty() {
            cached.push(record.stage);
        }
        match folder.parent_if_there(&record)? {
            Some(parent) => (folder, record) = parent,
            None => return Ok(cached),
        }
    }
}

/// A single stage is never written over anything but a stage of its number that was trained in the same way.
fn refuse_another_stage(number: usize, to: &StageFolder) -> Result<()> {
    let Some(found) = Record::read(to.path())? else { return Ok(()) };
    if found.stage == number && matches!(found.kind, Kind::Block | Kind::Scattering) {
        return Ok(());
    }
    let (folder, title) = (to.path().display(), found.title());
    let what = match found.kind {
        Kind::Depth => format!("{title} of a network that was trained as a whole"),
        _ => title,
    };
    Err(Error::usage(format!("`{folder}` holds {what}, and stage {number} would overwrite it"))
        .hint("name another folder with `--to DIR`"))
}
