//! Stage 0: decodes all images once and writes them as u8 arrays.

use super::array::{Layout, Subset};
use super::shard::ShardWriter;
use super::small::write_labels;
use super::writer::{Written, begin_shard, describe, finish_shard, whole_shard};
use crate::disk;
use crate::error::{Error, Result};
use crate::images::Split;
use crate::pipeline::{BadImage, Dtype, Pipeline, Shape};
use crate::progress::{Progress, Task};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Images that are decoded at once at most.
const BATCH: usize = 256;
/// Bytes of such a batch at most.
const BATCH_BYTES: usize = 1 << 26;

/// What stage 0 wrote of one subset.
pub struct Decoded {
    /// The array.
    pub written: Written,
    /// Images that were left out: name and fault.
    pub skipped: Vec<(String, String)>,
}

/// Decodes one subset into a stage's folder; shards that are there are kept.
///
/// With `on_bad_image = "skip"` images that cannot be decoded are left out. Their list is stored before the shard
/// after them, so that a run which goes on finds every image at the same place.
///
/// # Errors
/// When an image is bad and none may be left out, no image is good, the disk refuses or the user interrupts.
pub fn decode(
    stage: &Path,
    subset: Subset,
    images: &Split,
    pipeline: &Pipeline,
    progress: &dyn Progress,
) -> Result<Decoded> {
    let shape = Shape { channels: pipeline.data.channels, size: pipeline.data.size };
    let samples_in_shard = pipeline.features.samples_in_shard(shape.values()).min(images.len().max(1));
    let layout = Layout { views: 1, samples: images.len(), shape, dtype: Dtype::U8, samples_in_shard };
    let task = progress.start(&format!("decode {}", subset.name()), images.len() as u64);
    let list = skipped_list(stage, subset);
    disk::create_folder(&stage.join(subset.name()))?;
    let decoder = Decoder { images, layout, on_bad_image: pipeline.data.on_bad_image, task: &*task, progress };
    let array = subset.array(stage, "features");

    let mut skipped: Vec<(usize, String)> = read_list(&list)?;
    let mut shards = Vec::new();
    for at in 0.. {
        let first = at * samples_in_shard;
        let candidates = decoder.candidates(&skipped);
        let Some(candidates) = candidates.get(first..).filter(|rest| !rest.is_empty()) else { break };
        let count = candidates.len().min(samples_in_shard);
        if let Some(shard) = whole_shard(&array, &layout, (0, at), count)? {
            task.skip(count as u64);
            shards.push(shard);
            continue;
        }
        let mut writer = begin_shard(&array, &layout, (0, at))?;
        decoder.fill(&mut writer, candidates, &mut skipped)?;
        if writer.room() == samples_in_shard {
            // All images that were left are bad.
            break;
        }
        write_list(&list, &skipped)?;
        shards.push(finish_shard(writer, (0, at))?);
    }
    let kept = decoder.candidates(&skipped);
    if kept.is_empty() {
        return Err(Error::failed(format!("no {} image could be decoded", subset.name())));
    }
    let labels: Vec<u32> = kept.iter().map(|&index| images.label(index)).collect();
    let layout = Layout { samples: kept.len(), ..layout };
    describe(&array, &layout)?;
    write_labels(stage, subset, &labels)?;
    let skipped = skipped.into_iter().map(|(index, fault)| (images.name(index), fault)).collect();
    Ok(Decoded { written: Written { layout, shards }, skipped })
}

struct Decoder<'a> {
    images: &'a Split,
    layout: Layout,
    on_bad_image: BadImage,
    task: &'a dyn Task,
    progress: &'a dyn Progress,
}

impl Decoder<'_> {
    /// The images that are not known to be bad, in order.
    fn candidates(&self, skipped: &[(usize, String)]) -> Vec<usize> {
        let bad: HashSet<usize> = skipped.iter().map(|(index, _)| *index).collect();
        (0..self.images.len()).filter(|index| !bad.contains(index)).collect()
    }

    /// Decodes candidates until the shard is full or none is left; the bad ones go to `skipped`.
    fn fill(&self, shard: &mut ShardWriter, candidates: &[usize], skipped: &mut Vec<(usize, String)>) -> Result<()> {
        let sample_bytes = self.layout.sample_bytes();
        let at_once = BATCH.min(BATCH_BYTES / sample_bytes).max(1);
        let mut rest = candidates;
        while shard.room() > 0 && !rest.is_empty() {
            self.progress.check()?;
            let (batch, after) = rest.split_at(rest.len().min(at_once).min(shard.room()));
            rest = after;
            let mut pixels = vec![0; batch.len() * sample_bytes];
            let slots = pixels.par_chunks_exact_mut(sample_bytes).zip(batch);
            // A batch of large images takes seconds: a wish to stop is granted between any two of them.
            let decode = |(out, &index): (&mut [u8], &usize)| match self.progress.interrupted() {
                true => Err(Error::interrupted()),
                false => self.images.decode(index, out),
            };
            let results: Vec<Result<()>> = slots.map(decode).collect();
            self.progress.check()?;
            let mut good = 0;
            for (at, result) in results.into_iter().enumerate() {
                match result {
                    Ok(()) => {
                        pixels.copy_within(at * sample_bytes..(at + 1) * sample_bytes, good * sample_bytes);
                        good += 1;
                    }
                    Err(e) if self.on_bad_image == BadImage::Skip => skipped.push((batch[at], e.to_string())),
                    Err(e) => return Err(self.bad_image(e)),
                }
            }
            shard.append(&pixels[..good * sample_bytes])?;
            self.task.advance(batch.len() as u64);
        }
        Ok(())
    }

    fn bad_image(&self, error: Error) -> Error {
        if error.way_out().is_some() {
            error
        } else {
            error.hint("`data.on_bad_image = \"skip\"` leaves bad images out")
        }
    }
}

/// Writes the list of images that were left out, given by name, as it was when they were decoded.
///
/// # Errors
/// When the disk refuses.
pub fn note_skipped(stage: &Path, subset: Subset, images: &Split, skipped: &[(String, String)]) -> Result<()> {
    let faults: HashMap<&str, &str> = skipped.iter().map(|(name, fault)| (name.as_str(), fault.as_str())).collect();
    let fault = |index: usize| faults.get(images.name(index).as_str()).map(|fault| (index, fault.to_string()));
    let found: Vec<_> = (0..images.len()).filter_map(fault).collect();
    write_list(&skipped_list(stage, subset), &found)
}

/// The file that lists the images of a subset that were left out.
fn skipped_list(stage: &Path, subset: Subset) -> PathBuf {
    stage.join(subset.name()).join("skipped.json")
}

fn read_list(path: &Path) -> Result<Vec<(usize, String)>> {
    let Some(text) = disk::read_text(path)? else { return Ok(Vec::new()) };
    serde_json::from_str(&text).map_err(|e| Error::failed(format!("`{}` is damaged: {e}", path.display())))
}

fn write_list(path: &Path, skipped: &[(usize, String)]) -> Result<()> {
    if skipped.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_string_pretty(skipped).map_err(|e| Error::failed(e.to_string()))?;
    disk::write(path, text.as_bytes())
}
