//! Makes broken files of a stage again, and only those: with the very bytes that they had.

use super::ancestry::{Ancestry, Inputs};
use super::classifier;
use super::contents::{self, BLOCK, Class, HEAD, NETWORK, RECORD, SPARE, array_name};
use super::execute::attributes;
use super::folder::StageFolder;
use super::import::network_bytes;
use super::network::{load_block, load_stage, load_whole, part_of, recipe};
use super::record::Record;
use super::together::{Together, members};
use super::verify::{Finding, Flaw, Sum, Verified, check_file, check_record, sums};
use crate::disk;
use crate::error::{self, Error, Result};
use crate::features::{self, Extraction, Files, Redecoding, ShardSum, Split};
use crate::images::ImageSet;
use crate::lock::Lock;
use crate::network::{Network, Sequence, save_bytes};
use crate::pipeline::{Kind, Node, Recipe};
use crate::progress::{Progress, Silent};
use crate::text::counted;
use crate::training;
use candle_core::Device;
use std::collections::BTreeMap;
use std::path::Path;

/// What became of a finding.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is as it was when the stage was made.
    Repaired,
    /// It cannot be made again, and why.
    Impossible(Error),
    /// It is nobody's to touch.
    Left,
}

impl Verified {
    /// Whether a file is a function of the nodes before it, the weights and the record, of which there are two copies.
    pub fn can_be_made_again(&self, name: &Path) -> bool {
        let Some(record) = &self.record else { return false };
        let class = contents::class(name.to_str().unwrap_or_default(), Some(record.kind));
        class != Some(Class::Weights) || matches!(record.kind, Kind::Imported | Kind::Depth | Kind::Scattering)
    }
}

/// How files are made again.
pub struct Repair<'a> {
    /// Settings that changed since, such as the path of the images.
    pub overrides: &'a [String],
    /// Where blocks are run.
    pub device: &'a Device,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

/// What broken files have to be again, by name.
type Broken = BTreeMap<String, Sum>;

impl Repair<'_> {
    /// Makes what is broken in a stage again, from the features of the stage before it or from the images. The
    /// outcomes stand in the order of the findings. Files are replaced one by one, each by a whole one.
    ///
    /// # Errors
    /// When the user interrupts.
    pub fn repair(&self, verified: &Verified) -> Result<Vec<Outcome>> {
        if verified.findings.is_empty() {
            return Ok(Vec::new());
        }
        match self.repair_all(verified) {
            Err(e) if e.kind() != error::Kind::Interrupted => {
                Ok(verified.findings.iter().map(|_| Outcome::Impossible(e.clone())).collect())
            }
            outcomes => outcomes,
        }
    }

    fn repair_all(&self, verified: &Verified) -> Result<Vec<Outcome>> {
        let folder = &verified.folder;
        let _lock = Lock::take(folder.path())?;
        for leftover in verified.findings.iter().filter(|finding| finding.flaw == Flaw::Leftover) {
            disk::remove(&folder.path().join(&leftover.name))?;
        }
        if verified.findings.iter().any(|finding| is_record(&finding.name)) && verified.record.is_some() {
            Record::restore(folder.path())?;
        }
        let mut faults = Faults::default();
        match Record::read(folder.path()) {
            Ok(Some(record)) => {
                let made = self.make_again(folder, &record, &verified.findings, &mut faults);
                faults.note(None, made)?;
            }
            read => faults.all = read.err(),
        }
        // Whatever happened, what counts is on the disk.
        let recorded = Record::read(folder.path()).ok().flatten().map(|record| sums(&record)).unwrap_or_default();
        let outcome = |finding: &Finding| self.outcome(verified, &recorded, finding, &faults);
        verified.findings.iter().map(outcome).collect()
    }

    fn outcome(
        &self,
        verified: &Verified,
        recorded: &BTreeMap<String, Sum>,
        finding: &Finding,
        faults: &Faults,
    ) -> Result<Outcome> {
        let folder = &verified.folder;
        let path = folder.path().join(&finding.name);
        Ok(match finding.flaw {
            Flaw::Foreign => Outcome::Left,
            Flaw::Leftover => Outcome::Repaired,
            _ if is_record(&finding.name) && check_record(folder, &finding.name.to_string_lossy()).is_none() => {
                Outcome::Repaired
            }
            _ if !verified.can_be_made_again(&finding.name) => Outcome::Impossible(beyond(folder, finding)),
            Flaw::Missing | Flaw::Damaged => match recorded.get(&*finding.name.to_string_lossy()) {
                Some(sum) if check_file(&path, sum, &Silent, self.progress)?.is_none() => Outcome::Repaired,
                _ => Outcome::Impossible(faults.of(&finding.name).cloned().unwrap_or_else(|| {
                    Error::failed("this version of greedy writes it with other bytes")
                        .hint("`greedy run` brings the stage up to date")
                })),
            },
        })
    }

    fn make_again(
        &self,
        folder: &StageFolder,
        record: &Record,
        findings: &[Finding],
        faults: &mut Faults,
    ) -> Result<()> {
        let mut broken = Broken::new();
        for (name, sum) in sums(record) {
            // Somebody else may have repaired it before this process held the lock.
            let found = findings.iter().any(|finding| finding.name == Path::new(&name));
            if found && check_file(&folder.path().join(&name), &sum, &Silent, self.progress)?.is_some() {
                broken.insert(name, sum);
            }
        }
        put(folder, &broken, features::group_files(attributes(record))?)?;
        let pipeline = recipe(folder, record, self.overrides)?;
        match record.kind {
            Kind::Images => self.images(folder, record, &pipeline, &broken, faults),
            Kind::Block | Kind::Wide | Kind::Pruned | Kind::Depth | Kind::Scattering => {
                self.trained(folder, record, &pipeline, &broken, faults)
            }
            Kind::EndToEnd | Kind::Decoupled | Kind::Imported => self.network(folder, record, pipeline, &broken),
            Kind::Ensemble if broken.keys().any(|name| name.starts_with("val/")) => {
                let (of, stages) = members(folder, record)?;
                let _reading = Ancestry::new(stages.clone()).share()?;
                put(folder, &broken, Together::of(&stages, of)?.files()?)
            }
            Kind::Classifier if broken.keys().any(|name| name.starts_with("val/")) => {
                put(folder, &broken, classifier::files(folder, record, &pipeline, (self.device, self.progress))?)
            }
            Kind::Classifier | Kind::Ensemble | Kind::Probe => Ok(()),
        }
    }

    fn images(
        &self,
        folder: &StageFolder,
        record: &Record,
        pipeline: &Recipe,
        broken: &Broken,
        faults: &mut Faults,
    ) -> Result<()> {
        let below = |name: &String| name.starts_with("train/") || name.starts_with("val/");
        if !broken.keys().any(below) {
            return Ok(());
        }
        let images = ImageSet::open(&pipeline.data, pipeline.seed)?;
        for (split, own) in [(Split::Train, &images.train), (Split::Val, &images.val)] {
            if broken.contains_key(&format!("{}/skipped.json", split.name())) {
                features::note_skipped(folder.path(), split, &features::list_skipped(own, &record.skipped))?;
            }
            let decoded = Redecoding::open(folder.path(), split, own, pipeline)?;
            put(folder, broken, decoded.files()?)?;
            for (name, shard) in broken_shards(record, split, broken) {
                faults.note(Some(name), decoded.rewrite(&[shard], self.progress))?;
            }
        }
        Ok(())
    }

    fn trained(
        &self,
        folder: &StageFolder,
        record: &Record,
        pipeline: &Recipe,
        broken: &Broken,
        faults: &mut Faults,
    ) -> Result<()> {
        let stage = pipeline.stages.get(record.stage - 1);
        let stage = stage.ok_or_else(|| Error::failed("its record has no settings of its stage"))?;
        let Some((parent, _)) = folder.parent(record)? else {
            return Err(Error::failed("its record names no stage before it"));
        };
        let nearest = record.features_of();
        let ancestry = Ancestry::follow(&parent, nearest)?;
        let _reading = ancestry.share()?;
        let Inputs { train, val, .. } = ancestry.inputs(pipeline, stage, nearest, self.device)?;
        let inputs = [(Split::Train, train), (Split::Val, val)];
        for (split, input) in &inputs {
            put(folder, broken, features::label_files(*split, input.labels())?)?;
        }
        if record.kind == Kind::Depth && [BLOCK, HEAD].iter().any(|name| broken.contains_key(*name)) {
            let (source, whole) = network_of(folder, record)?;
            let networks = load_whole(&source, &whole, pipeline, self.device)?;
            let part = part_of(&networks, record.stage);
            let parts = [(BLOCK, part.map(|(block, _)| block)), (HEAD, part.and_then(|(_, head)| head))];
            let files = parts.into_iter().filter_map(|(name, part)| Some((name, part?)));
            let bytes = |(name, part): (&str, &Sequence)| {
                Ok((name.to_string(), save_bytes(&part.variables().tensors(), None)?))
            };
            put(folder, broken, files.map(bytes).collect::<Result<Files>>()?)?;
        }
        if record.kind == Kind::Scattering {
            put(folder, broken, vec![(BLOCK.to_string(), save_bytes(&[], None)?)])?;
        }
        // All else needs weights that are as they were: damaged ones are refused here.
        let derived = |name: &String| name.contains("/features/") || name.contains("/logits/");
        if !broken.keys().any(derived) {
            return Ok(());
        }
        let block = load_block(folder, record, pipeline, self.device)?;
        let extraction = Extraction {
            stage: folder.path(),
            block: &block.frozen()?,
            features: &pipeline.features,
            encoding: pipeline.features.encoding(&stage.block),
            progress: self.progress,
        };
        let [_, (_, val)] = &inputs;
        if broken.keys().any(|name| name.starts_with("val/logits/")) {
            let whole = if record.kind == Kind::Depth { Some(network_of(folder, record)?) } else { None };
            let logits = match whole {
                Some((source, whole)) if whole.kind != Kind::Decoupled => {
                    features::read_logits(source.path(), Split::Val)?.0
                }
                _ => {
                    let network = load_stage(folder, record, pipeline, self.device)?;
                    training::classify(&network, val, stage.training.batch, self.progress)?
                }
            };
            put(folder, broken, features::logit_files(Split::Val, &logits, record.classes.len())?)?;
        }
        for (split, input) in &inputs {
            put(folder, broken, extraction.array_files(*split, input)?)?;
            for (name, shard) in broken_shards(record, *split, broken) {
                let made = extraction.rewrite(*split, input, &[shard]);
                faults.note(Some(name), made.map_err(|e| self.elsewhere(e, record)))?;
            }
        }
        Ok(())
    }

    /// The labels and logits of a network of which stages are taken, and its weights where they come from a file.
    fn network(&self, folder: &StageFolder, record: &Record, mut pipeline: Recipe, broken: &Broken) -> Result<()> {
        if let (Some(pretrained), true) = (&mut pipeline.pretrained, broken.contains_key(NETWORK)) {
            pretrained.hash = record.manifest().value("network.weights").unwrap_or_default().into();
            let (bytes, _) = network_bytes(&pipeline, record.classes.len())?;
            put(folder, broken, vec![(NETWORK.to_string(), bytes)])?;
        }
        if !broken.keys().any(|name| name.starts_with("val/")) {
            return Ok(());
        }
        let Some((parent, _)) = folder.parent(record)? else {
            return Err(Error::failed("its record names no images"));
        };
        let first = pipeline.stages.first().ok_or_else(|| Error::failed("its record has no settings of its blocks"))?;
        let ancestry = Ancestry::follow(&parent, 0)?;
        let _reading = ancestry.share()?;
        let inputs = ancestry.inputs(&pipeline, first, 0, self.device)?;
        put(folder, broken, features::label_files(Split::Val, inputs.val.labels())?)?;
        if !broken.keys().any(|name| name.starts_with("val/logits/")) {
            return Ok(());
        }
        let networks = load_whole(folder, record, &pipeline, self.device)?;
        let networks: Vec<&Network> = networks.iter().collect();
        let batch = pipeline.training.batch;
        let logits = training::classify_all(&networks, &inputs.val, batch, self.progress)?.pop().unwrap_or_default();
        put(folder, broken, features::logit_files(Split::Val, &logits, record.classes.len())?)
    }

    /// Another device or another number of threads may round otherwise.
    fn elsewhere(&self, error: Error, record: &Record) -> Error {
        let made = &record.made_on;
        if error.hint_text().is_some() || error.kind() == error::Kind::Interrupted {
            return error;
        }
        error.hint(format!(
            "it was made on {} with {} by greedy {}: repair it there, or let `greedy run` write the stage anew",
            made.device,
            counted(made.threads as u64, "thread"),
            made.version
        ))
    }
}

/// The network that a depth was taken from, which must be as it was then.
fn network_of(folder: &StageFolder, record: &Record) -> Result<(StageFolder, Record)> {
    let missing = || Error::failed("its record names no network that it was taken from");
    let input = record.inputs.iter().find(|input| input.node == Node::NETWORK).ok_or_else(missing)?;
    let source = folder.folder_of(input);
    let whole = source.record()?;
    if !whole.kind.is_network() || whole.output.as_ref() != Some(&input.output) {
        let (source, folder) = (source.path().display(), folder.path().display());
        return Err(Error::failed(format!("`{source}` is not what `{folder}` was made of"))
            .hint("`greedy run` brings the nodes up to date"));
    }
    Ok((source, whole))
}

/// What went wrong: with a file by its name, and with the rest of the work.
#[derive(Default)]
struct Faults {
    by_name: BTreeMap<String, Error>,
    all: Option<Error>,
}

impl Faults {
    /// Notes the fault of a file, or else of all, and lets the work go on.
    ///
    /// # Errors
    /// When the user interrupts.
    fn note(&mut self, name: Option<String>, made: Result<()>) -> Result<()> {
        match (made, name) {
            (Ok(()), _) => {}
            (Err(e), _) if e.kind() == error::Kind::Interrupted => return Err(e),
            (Err(e), Some(name)) => drop(self.by_name.insert(name, e)),
            (Err(e), None) => self.all = Some(e),
        }
        Ok(())
    }

    fn of(&self, name: &Path) -> Option<&Error> {
        name.to_str().and_then(|name| self.by_name.get(name)).or(self.all.as_ref())
    }
}

fn is_record(name: &Path) -> bool {
    [RECORD, SPARE].iter().any(|own| name == Path::new(own))
}

/// Puts those of the files into the folder that are broken and have come out as recorded.
fn put(folder: &StageFolder, broken: &Broken, mut files: Files) -> Result<()> {
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex();
    files.retain(|(name, bytes)| broken.get(name).is_some_and(|(_, sum)| hash(bytes).as_str() == sum));
    features::write_files(folder.path(), &files)
}

/// The broken shards of a split's features, with their names.
fn broken_shards(record: &Record, split: Split, broken: &Broken) -> Vec<(String, ShardSum)> {
    let array = array_name(split);
    let written = record.arrays.get(&array).into_iter().flat_map(|written| &written.shards);
    let named = written.map(|(key, bytes, blake3)| {
        (format!("{array}/{key}"), ShardSum { key: key.clone(), bytes: *bytes, blake3: blake3.clone() })
    });
    named.filter(|(name, _)| broken.contains_key(name)).collect()
}

/// The error about a file that is no function of what is left.
fn beyond(folder: &StageFolder, finding: &Finding) -> Error {
    let path = folder.path().join(&finding.name);
    match is_record(&finding.name) {
        true => Error::failed("nothing else says what the stage was made of").hint(format!(
            "remove `{}` if nothing in it is needed; `greedy run` then makes the stage anew",
            folder.path().display()
        )),
        false => Error::failed("weights come from training alone").hint(format!(
            "remove `{}`; `greedy run` then trains the stage again, and the same weights leave the stages after it \
             current",
            path.display()
        )),
    }
}
