//! The node `network` whose weights come from a file: they are copied, so that nothing needs the file any more.

use super::contents::NETWORK;
use super::execute::Work;
use super::network::load_whole;
use super::record::{Figures, Record, State};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{self, Split};
use crate::network::{Foreign, Network, save_bytes};
use crate::pipeline::{Pretrained, Recipe, Verdict, Whole, footprint};
use crate::room;
use crate::size;
use crate::text::shown;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

/// Bytes that are hashed at once.
const PART: usize = 16 << 20;

/// The hash of a file of weights, which is not held in memory for it.
pub(super) fn hash_of(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| Error::io("read", path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hasher, mut part) = (blake3::Hasher::new(), Vec::new());
    loop {
        part.clear();
        let count = (&mut file).take(PART as u64).read_to_end(&mut part).map_err(failed)?;
        if count == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update_rayon(&part);
    }
}

/// Fails where the file does not hold the network of a pipeline, as far as that can be known before its images are there:
/// to decode them may take hours.
pub(super) fn check_file(pipeline: &Recipe) -> Result<()> {
    let (Some(pretrained), Some(whole)) = (&pipeline.pretrained, pipeline.whole()) else { return Ok(()) };
    find(pipeline, pretrained, &whole, 0).map(drop)
}

/// The weights of the network in the file, for so many classes; 0 where they are not known yet.
fn find(pipeline: &Recipe, pretrained: &Pretrained, whole: &Whole<'_>, classes: usize) -> Result<Foreign> {
    let (path, name) = (&pretrained.file, shown(&pretrained.file));
    let bytes = std::fs::metadata(path).map_err(|e| Error::io("read", path, &e))?.len();
    let free = room::free_memory();
    if bytes > free / 2 {
        let (bytes, free) = (size::words(bytes), size::words(free));
        return Err(Error::failed(format!(
            "`{name}` has {bytes}, more than half of the {free} of memory that are free"
        )));
    }
    let bytes = disk::read(path)?;
    if blake3::Hasher::new().update_rayon(&bytes).finalize().to_hex().as_str() != pretrained.hash {
        return Err(Error::failed(format!("`{name}` was changed while it was read")).hint("run it again"));
    }
    Foreign::read(&bytes, &name, &whole.weights(pipeline, classes), pretrained.blocks.is_none())
}

/// The bytes of the node's file of weights, as they come of the file that the pipeline names.
pub(super) fn network_bytes(pipeline: &Recipe, classes: usize) -> Result<(Vec<u8>, Vec<String>)> {
    let (Some(pretrained), Some(whole)) = (&pipeline.pretrained, pipeline.whole()) else {
        return Err(Error::failed("the settings name no file of weights"));
    };
    let found = find(pipeline, pretrained, &whole, classes)?;
    Ok((save_bytes(&found.tensors, None)?, found.passed_over))
}

impl Work<'_> {
    /// Copies the weights, and sees how well they do on the validation images where they classify.
    pub(super) fn import_network(&self, verdict: &Verdict) -> Result<()> {
        let (Some(first), Some(whole)) = (self.pipeline.stages.first(), self.pipeline.whole()) else {
            return Err(Error::failed("the pipeline has no blocks to import"));
        };
        let _reading = self.ancestry.share()?;
        let inputs = self.ancestry.inputs(self.pipeline, first, 0, self.device)?;
        let classes = inputs.classes.len();
        // All that can go wrong with the file does before anything is removed.
        let copied = matches!(verdict, Verdict::Partial(_)) && self.folder.holds_weights(&self.folder.record()?);
        let started = Instant::now();
        let found = if copied { None } else { Some(network_bytes(self.pipeline, classes)?) };
        room::require(self.folder.path(), footprint::network_on_disk(self.pipeline, inputs.val.len(), classes))?;
        let mut record = self.prepare(verdict)?;
        record.classes = inputs.classes.clone();
        if let Some((bytes, passed_over)) = found {
            if let [first, ..] = &passed_over[..] {
                let count = passed_over.len();
                self.progress.say(&format!(
                    "{count} tensors of the file are no part of it and passed over: `{first}` and so on"
                ));
            }
            self.write_weights(&mut record, NETWORK, &bytes)?;
            record.state = State::Trained;
            record.write(self.folder.path())?;
        }
        features::write_files(self.folder.path(), &features::label_files(Split::Val, inputs.val.labels())?)?;
        if whole.head.is_some() {
            let networks = load_whole(self.folder, &record, self.pipeline, self.device)?;
            let networks: Vec<&Network> = networks.iter().collect();
            self.complete_logits(&networks, self.pipeline.training.batch, &inputs)?;
            let (logits, _) = features::read_logits(self.folder.path(), Split::Val)?;
            let figures = self.figures(&networks, vec![logits], Vec::new(), &inputs)?;
            record.figures = Some(Figures { ensemble_accuracy: None, images: 0, ..figures });
        }
        record.spend("import", started.elapsed());
        self.finish(&mut record)
    }
}

/// What was seen of the file, or else what the copy was made of: nothing needs it once there is one.
pub(super) fn seen(pretrained: &Pretrained, copy: Option<&Record>) -> String {
    let recorded = || copy.and_then(|copy| copy.manifest().value("network.weights").map(String::from));
    hash_of(&pretrained.file).ok().or_else(recorded).unwrap_or_else(|| "unknown".into())
}
