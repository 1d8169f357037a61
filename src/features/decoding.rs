//! Stage 0: decodes all images once and writes them as u8 arrays.

use super::array::{Files, Layout, Order, Subset, write_files};
use super::shard::{ShardWriter, StoredSamples};
use super::small::label_files;
use super::writer::{ShardSum, Written, begin_shard, finish_shard, rewrite_shards, samples_in, whole_shard};
use crate::disk;
use crate::error::{Error, Result};
use crate::images::Split;
use crate::pipeline::{BadImage, Codec, Dtype, Recipe, Shape};
use crate::progress::{Progress, Task};
use crate::room;
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
    /// Images that were left out: place in the source, and fault.
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
    pipeline: &Recipe,
    progress: &dyn Progress,
) -> Result<Decoded> {
    let layout = layout(images, pipeline);
    let samples_in_shard = layout.samples_in_shard;
    let task = progress.start(&format!("decode {}", subset.name()), images.len() as u64);
    let list = skipped_list(stage, subset);
    disk::create_folder(&stage.join(subset.name()))?;
    let decoder = Decoder { images, layout, on_bad_image: pipeline.data.on_bad_image, task: &*task, progress };
    let array = subset.array(stage, "features");

    let mut skipped: Vec<(usize, String)> = read_list(&list)?;
    let mut shards = Vec::new();
    for at in 0.. {
        let first = at * samples_in_shard;
        let good = candidates(images, &skipped);
        let Some(candidates) = good.get(first..).filter(|rest| !rest.is_empty()) else { break };
        let count = candidates.len().min(samples_in_shard);
        if let Some(shard) = whole_shard(&array, &layout, (0, at), count)? {
            task.skip(count as u64);
            shards.push(shard);
            continue;
        }
        let mut writer = begin_shard(&array, &layout, (0, at))?;
        decoder.fill(&mut writer, candidates, &mut skipped)?;
        write_list(&list, &skipped)?;
        if writer.room() == samples_in_shard {
            // All images that were left are bad.
            break;
        }
        shards.push(finish_shard(writer, (0, at))?);
    }
    let kept = candidates(images, &skipped);
    if kept.is_empty() {
        return Err(Error::failed(format!("no {} image could be decoded", subset.name())));
    }
    let layout = Layout { samples: kept.len(), ..layout };
    write_files(stage, &decoded_files(subset, images, &layout, &kept)?)?;
    let skipped = skipped.into_iter().map(|(index, fault)| (images.place(index), fault)).collect();
    Ok(Decoded { written: Written { layout, shards }, skipped })
}

/// What all images of a split would take, were all of them good.
fn layout(images: &Split, pipeline: &Recipe) -> Layout {
    let shape = Shape { channels: pipeline.data.channels, size: pipeline.data.size };
    let samples_in_shard = pipeline.features.samples_in_shard(shape.values()).min(images.len().max(1));
    let (dtype, order, codec) = (Dtype::U8, Order::Planes, Codec::None);
    Layout { views: 1, samples: images.len(), shape, dtype, order, codec, scale: None, samples_in_shard }
}

/// The small files of a subset: metadata and labels.
fn decoded_files(subset: Subset, images: &Split, layout: &Layout, kept: &[usize]) -> Result<Files> {
    let labels: Vec<u32> = kept.iter().map(|&index| images.label(index)).collect();
    let mut files = label_files(subset, &labels)?;
    files.push(layout.file(subset)?);
    Ok(files)
}

/// A subset that was decoded before, of which parts are made again.
pub struct Redecoding<'a> {
    stage: &'a Path,
    subset: Subset,
    images: &'a Split,
    layout: Layout,
    /// The images that were good.
    kept: Vec<usize>,
}

impl<'a> Redecoding<'a> {
    /// Takes up a subset with the images that it was made of and the list of those that were left out.
    ///
    /// # Errors
    /// When the list is damaged.
    pub fn open(stage: &'a Path, subset: Subset, images: &'a Split, pipeline: &Recipe) -> Result<Self> {
        let skipped = read_list(&skipped_list(stage, subset))?;
        let kept = candidates(images, &skipped);
        let layout = Layout { samples: kept.len(), ..layout(images, pipeline) };
        Ok(Self { stage, subset, images, layout, kept })
    }

    /// Metadata and labels.
    ///
    /// # Errors
    /// When they cannot be encoded.
    pub fn files(&self) -> Result<Files> {
        decoded_files(self.subset, self.images, &self.layout, &self.kept)
    }

    /// Writes single shards again, so that their bytes are the recorded ones.
    ///
    /// # Errors
    /// When an image is bad, other bytes come out, the disk refuses or the user interrupts; such a shard is left as it
    /// is.
    pub fn rewrite(&self, shards: &[ShardSum], progress: &dyn Progress) -> Result<()> {
        let Self { stage, subset, images, layout, kept } = self;
        let count = samples_in(layout, shards);
        let task = progress.start(&format!("decode {}", subset.name()), count as u64);
        let decoder = Decoder { images, layout: *layout, on_bad_image: BadImage::Fail, task: &*task, progress };
        rewrite_shards(&subset.array(stage, "features"), layout, shards, |_, samples, shard| {
            decoder.fill(shard, &kept[samples], &mut Vec::new())
        })
    }
}

struct Decoder<'a> {
    images: &'a Split,
    layout: Layout,
    on_bad_image: BadImage,
    task: &'a dyn Task,
    progress: &'a dyn Progress,
}

impl Decoder<'_> {
    /// Decodes candidates until the shard is full or none is left; the bad ones go to `skipped`.
    fn fill(&self, shard: &mut ShardWriter, candidates: &[usize], skipped: &mut Vec<(usize, String)>) -> Result<()> {
        let sample_bytes = self.layout.sample_bytes();
        let at_once = BATCH.min(BATCH_BYTES / sample_bytes).max(1);
        let (mut rest, mut stored) = (candidates, StoredSamples::new(&self.layout));
        while shard.room() > 0 && !rest.is_empty() {
            self.progress.check()?;
            let (batch, after) = rest.split_at(rest.len().min(at_once).min(shard.room()));
            rest = after;
            let mut pixels = Vec::new();
            room::resize(&mut pixels, batch.len() * sample_bytes)?;
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
            stored.copy(&pixels[..good * sample_bytes])?;
            shard.append(&stored)?;
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

/// The images that are not known to be bad, in order.
fn candidates(images: &Split, skipped: &[(usize, String)]) -> Vec<usize> {
    let bad: HashSet<usize> = skipped.iter().map(|(index, _)| *index).collect();
    (0..images.len()).filter(|index| !bad.contains(index)).collect()
}

/// Writes the list of images that were left out, given by their places in the source, as it was when they were
/// decoded; says how many of them belong to the subset.
///
/// # Errors
/// When the disk refuses.
pub fn note_skipped(stage: &Path, subset: Subset, images: &Split, skipped: &[(String, String)]) -> Result<usize> {
    let faults: HashMap<&str, &str> = skipped.iter().map(|(place, fault)| (place.as_str(), fault.as_str())).collect();
    let fault = |index: usize| faults.get(images.place(index).as_str()).map(|fault| (index, fault.to_string()));
    let found: Vec<_> = (0..images.len()).filter_map(fault).collect();
    write_list(&skipped_list(stage, subset), &found)?;
    Ok(found.len())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ImageSet;
    use crate::progress::Silent;
    use std::fs;

    #[test]
    fn bad_images_at_the_end_are_listed_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let (images, stage) = (folder.path().join("images"), folder.path().join("stage0"));
        for (path, pixels) in [("train/a/1", 64), ("train/b/2", 64), ("train/b/3", 7), ("val/a/4", 64), ("val/b/5", 64)]
        {
            let path = images.join(format!("{path}.pgm"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [&b"P5 8 8 255\n"[..], &vec![9; pixels]].concat()).unwrap();
        }
        // A sample takes more than a shard is meant to: the bad image has one of its own.
        let text = "[data]\nsource = \"folder\"\nsize = 600\non_bad_image = \"skip\"\n[features]\nshard_mib = 1\n";
        let path = format!("data.path={:?}", images.display().to_string());
        let pipeline = Recipe::parse("p.toml", "p", text, &[path]).unwrap();
        let train = ImageSet::open(&pipeline.data, 0).unwrap().train;
        let decoded = decode(&stage, Subset::Train, &train, &pipeline, &Silent).unwrap();
        assert_eq!((decoded.written.shards.len(), decoded.skipped.len()), (2, 1));
        assert_eq!(decoded.skipped[0].0, "train/b/3.pgm");
        for (name, bytes) in Redecoding::open(&stage, Subset::Train, &train, &pipeline).unwrap().files().unwrap() {
            assert!(fs::read(stage.join(&name)).unwrap() == bytes, "{name}");
        }
    }
}
