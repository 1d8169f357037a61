//! Stage 0: decodes all images once and writes them as u8 arrays.

use super::array::{Files, Layout, Order, Split, write_files};
use super::labels::label_files;
use super::portion::Ledger;
use super::shard::{ShardWriter, StoredSamples};
use super::writer::{Written, begin_shard, finish_shard, known_shard, whole_shard};
use crate::disk;
use crate::error::{Error, Result};
use crate::images::{Fault, SplitImages};
use crate::pipeline::{BadImage, Codec, Dtype, Keep, Recipe, Shape};
use crate::progress::{Progress, Task};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Images that are decoded at once at most.
const BATCH: usize = 256;
/// Bytes of such a batch at most.
const BATCH_BYTES: usize = 1 << 26;

/// What stage 0 wrote of one split.
pub struct Decoded {
    /// The array.
    pub written: Written,
    /// Images that were left out: place in the source, and fault.
    pub skipped: Vec<(String, String)>,
    /// Images that were read although something was odd about them: place, and what.
    pub warned: Vec<(String, String)>,
    /// The images that were taken.
    pub kept: Vec<usize>,
}

/// Images that hinder stage 0, of all subsets.
#[derive(Default)]
pub struct Hindrances {
    /// What is wrong with bad images that may not be left out.
    bad: Vec<Error>,
    /// Why images could not be read, which says nothing about them.
    unreadable: Vec<Error>,
}

/// So many images that cannot be read are a fault of something else: looking on is of no use.
const MOST_UNREADABLE: usize = 1000;

impl Hindrances {
    fn is_empty(&self) -> bool {
        self.bad.is_empty() && self.unreadable.is_empty()
    }

    /// Fails with all of them where there are any.
    ///
    /// # Errors
    /// The error names each image.
    pub fn refuse(self) -> Result<()> {
        let Self { mut bad, mut unreadable } = self;
        let skip = "`data.on_bad_image = \"skip\"` leaves bad images out";
        let list = |errors: &[Error]| errors.iter().map(|error| format!("\n  {error}")).collect::<String>();
        let count = |count: usize| format!("{count} {}", if count == 1 { "image" } else { "images" });
        match (&bad[..], &unreadable[..]) {
            ([], []) => Ok(()),
            ([_], []) => Err(bad.remove(0).or_hint(skip)),
            ([], [_]) => Err(unreadable.remove(0).or_hint("nothing is wrong with an image because it cannot be read")),
            (bad, []) => Err(Error::failed(format!("{} are bad:{}", count(bad.len()), list(bad))).hint(skip)),
            (bad, unreadable) => {
                let first = unreadable.first().and_then(Error::hint_text);
                let hint = first.unwrap_or("nothing is wrong with an image because it cannot be read").to_string();
                let also = if bad.is_empty() {
                    String::new()
                } else {
                    format!("\n{} are bad:{}", count(bad.len()), list(bad))
                };
                let fault = format!("{} could not be read:{}{also}", count(unreadable.len()), list(unreadable));
                Err(Error::failed(fault).hint(hint))
            }
        }
    }
}

/// Decodes one split into a stage's folder; shards that are there are kept.
///
/// # Errors
/// Those of [`decode_noting`], and when an image hinders it.
pub fn decode(
    stage: &Path,
    split: Split,
    images: &SplitImages,
    pipeline: &Recipe,
    progress: &dyn Progress,
) -> Result<Decoded> {
    let mut hindrances = Hindrances::default();
    let decoded = decode_noting((stage, split), images, pipeline, &(), (&mut hindrances, progress))?;
    hindrances.refuse()?;
    decoded.ok_or_else(|| Error::failed(format!("no {} image could be decoded", split.name())))
}

/// Decodes one split into a stage's folder, and notes what hinders that; shards that are there are kept, and those that the
/// ledger knows not even read.
///
/// With `on_bad_image = "skip"` images that cannot be decoded are left out. Their list is stored before the shard
/// after them, so that a run which goes on finds every image at the same place. Once an image hinders the stage, those
/// after it are looked at all the same, but nothing is written any more and nothing given.
///
/// # Errors
/// When no image is good, the disk refuses or the user interrupts.
pub fn decode_noting(
    (stage, split): (&Path, Split),
    images: &SplitImages,
    pipeline: &Recipe,
    ledger: &dyn Ledger,
    (hindrances, progress): (&mut Hindrances, &dyn Progress),
) -> Result<Option<Decoded>> {
    let layout = layout(images, pipeline);
    let samples_in_shard = layout.samples_in_shard;
    let task = progress.start(&format!("decode {}", split.name()), images.len() as u64);
    let list = skipped_list(stage, split);
    disk::create_folder(&stage.join(split.name()))?;
    let array = split.array(stage, "features");
    let mut decoder = Decoder {
        images,
        layout,
        on_bad_image: pipeline.data.on_bad_image,
        task: &*task,
        progress,
        skipped: read_list(&list)?,
        warned: read_list(&warned_list(stage, split))?,
        hindrances,
    };
    let mut shards = Vec::new();
    for at in 0.. {
        let first = at * samples_in_shard;
        let good = candidates(images, &decoder.skipped);
        let Some(candidates) = good.get(first..).filter(|rest| !rest.is_empty()) else { break };
        let count = candidates.len().min(samples_in_shard);
        let known = known_shard(&array, &layout, (0, at), ledger);
        if let Some(shard) =
            known.map_or_else(|| whole_shard(&array, &layout, (0, at), count), |known| Ok(Some(known)))?
        {
            task.skip(count as u64);
            shards.push(shard);
            continue;
        }
        if !decoder.hindrances.is_empty() {
            decoder.look(candidates)?;
            return Ok(None);
        }
        let mut writer = begin_shard(&array, &layout, (0, at))?;
        let (known, warned) = (decoder.skipped.len(), decoder.warned.len());
        let left = decoder.fill(&mut writer, candidates)?;
        if !decoder.hindrances.is_empty() {
            drop(writer);
            decoder.look(left)?;
            return Ok(None);
        }
        if decoder.skipped.len() > known {
            write_list(&list, &decoder.skipped)?;
        }
        if decoder.warned.len() > warned {
            let warned = warned_list(stage, split);
            warned.parent().map_or(Ok(()), disk::create_folder)?;
            write_list(&warned, &decoder.warned)?;
        }
        if writer.room() == samples_in_shard {
            // All images that were left are bad.
            break;
        }
        shards.push(finish_shard(writer, &layout, (0, at))?);
    }
    let Decoder { skipped, warned, .. } = decoder;
    let kept = candidates(images, &skipped);
    if kept.is_empty() {
        return Err(Error::failed(format!("no {} image could be decoded", split.name())));
    }
    let layout = Layout { samples: kept.len(), ..layout };
    write_files(stage, &decoded_files(split, images, &layout, &kept)?)?;
    let placed = |list: Vec<(usize, String)>| list.into_iter().map(|(at, text)| (images.place(at), text)).collect();
    let (skipped, warned) = (placed(skipped), placed(warned));
    Ok(Some(Decoded { written: Written { layout, shards }, skipped, warned, kept }))
}

/// What all images of a split would take, were all of them good.
pub(super) fn layout(images: &SplitImages, pipeline: &Recipe) -> Layout {
    let data = &pipeline.data;
    let shape = Shape { channels: data.channels, size: data.size };
    let samples_in_shard = pipeline.features.samples_in_shard(data.image_bytes()).min(images.len().max(1));
    let order = if data.keep == Keep::Whole { Order::Ppm } else { Order::Planes };
    let (dtype, codec) = (Dtype::U8, Codec::None);
    Layout { views: 1, samples: images.len(), shape, dtype, order, codec, scale: None, samples_in_shard }
}

/// The small files of a split: metadata and labels.
pub(super) fn decoded_files(split: Split, images: &SplitImages, layout: &Layout, kept: &[usize]) -> Result<Files> {
    let labels: Vec<u32> = kept.iter().map(|&index| images.label(index)).collect();
    let mut files = label_files(split, &labels)?;
    files.push(layout.file(split)?);
    Ok(files)
}

pub(super) struct Decoder<'a> {
    pub images: &'a SplitImages,
    pub layout: Layout,
    pub on_bad_image: BadImage,
    pub task: &'a dyn Task,
    pub progress: &'a dyn Progress,
    /// Images that are left out, and why.
    pub skipped: Vec<(usize, String)>,
    /// Images that were read, and what is odd about them.
    pub warned: Vec<(usize, String)>,
    pub hindrances: &'a mut Hindrances,
}

impl Decoder<'_> {
    /// Decodes candidates until the shard is full, none is left or one hinders; gives those that are left.
    pub fn fill<'c>(&mut self, shard: &mut ShardWriter, candidates: &'c [usize]) -> Result<&'c [usize]> {
        let (mut rest, mut stored) = (candidates, StoredSamples::new(&self.layout));
        while shard.room() > 0 && !rest.is_empty() && self.hindrances.is_empty() {
            let (batch, after) = rest.split_at(rest.len().min(self.at_once()).min(shard.room()));
            rest = after;
            let good = self.decode(batch)?;
            match self.layout.keep() {
                Keep::Square => stored.fill(good.len(), |at, out| {
                    out.copy_from_slice(&good[at]);
                    Ok(())
                })?,
                Keep::Whole => stored.copy_any(&good)?,
            }
            shard.append(&stored)?;
        }
        Ok(rest)
    }

    /// Decodes candidates only to know what is wrong with them.
    pub fn look(&mut self, candidates: &[usize]) -> Result<()> {
        for batch in candidates.chunks(self.at_once()) {
            if self.hindrances.unreadable.len() < MOST_UNREADABLE {
                self.decode(batch)?;
            }
        }
        Ok(())
    }

    fn at_once(&self) -> usize {
        // Whole images may be many times longer than is usual.
        let most = if self.layout.keep() == Keep::Whole { BATCH_BYTES / 4 } else { BATCH_BYTES };
        BATCH.min(most / self.layout.sample_bytes()).max(1)
    }

    /// Decodes a batch; gives the good ones.
    fn decode(&mut self, batch: &[usize]) -> Result<Vec<Vec<u8>>> {
        self.progress.check()?;
        // A batch of large images takes seconds: the user may interrupt between any two of them.
        let decode = |&index: &usize| {
            if self.progress.interrupted() {
                return Err(Fault::Unreadable(Error::interrupted()));
            }
            let mut pixels = Vec::new();
            self.images.decode(index, &mut pixels).map(|warning| (pixels, warning))
        };
        let results: Vec<Result<_, Fault>> = batch.par_iter().map(decode).collect();
        self.progress.check()?;
        let mut good = Vec::with_capacity(batch.len());
        for (at, result) in results.into_iter().enumerate() {
            match result {
                Ok((pixels, warning)) => {
                    self.warned.extend(warning.map(|warning| (batch[at], warning)));
                    good.push(pixels);
                }
                Err(Fault::Bad(e)) if self.on_bad_image == BadImage::Skip => {
                    self.skipped.push((batch[at], e.to_string()));
                }
                Err(Fault::Bad(e)) => self.hindrances.bad.push(e),
                Err(Fault::Unreadable(e)) => self.hindrances.unreadable.push(e),
            }
        }
        self.task.advance(batch.len() as u64);
        Ok(good)
    }
}

/// The images that are not known to be bad, in order.
pub(super) fn candidates(images: &SplitImages, skipped: &[(usize, String)]) -> Vec<usize> {
    let bad: HashSet<usize> = skipped.iter().map(|(index, _)| *index).collect();
    (0..images.len()).filter(|index| !bad.contains(index)).collect()
}

/// Images of a split by their index, and what is said of each.
pub type Listed = Vec<(usize, String)>;

/// The images that were left out of a split, of those that are given by their places in the source.
pub fn list_skipped(images: &SplitImages, skipped: &[(String, String)]) -> Listed {
    let faults: HashMap<&str, &str> = skipped.iter().map(|(place, fault)| (place.as_str(), fault.as_str())).collect();
    let fault = |index: usize| faults.get(images.place(index).as_str()).map(|fault| (index, fault.to_string()));
    (0..images.len()).filter_map(fault).collect()
}

/// Writes the list of images that are left out of a split, before or after it is decoded.
///
/// # Errors
/// When the disk refuses.
pub fn note_skipped(stage: &Path, split: Split, skipped: &[(usize, String)]) -> Result<()> {
    disk::create_folder(&stage.join(split.name()))?;
    write_list(&skipped_list(stage, split), skipped)
}

/// The file that lists the images of a split that were left out.
pub(super) fn skipped_list(stage: &Path, split: Split) -> PathBuf {
    stage.join(split.name()).join("skipped.json")
}

/// The file that lists, while a split is decoded, the images that were read although something was odd about them.
fn warned_list(stage: &Path, split: Split) -> PathBuf {
    stage.join("checkpoint").join(format!("warned-{}.json", split.name()))
}

pub(super) fn read_list(path: &Path) -> Result<Listed> {
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
    use crate::features::Redecoding;
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
        let decoded = decode(&stage, Split::Train, &train, &pipeline, &Silent).unwrap();
        assert_eq!((decoded.written.shards.len(), decoded.skipped.len()), (2, 1));
        assert_eq!(decoded.skipped[0].0, "train/b/3.pgm");
        for (name, bytes) in Redecoding::open(&stage, Split::Train, &train, &pipeline).unwrap().files().unwrap() {
            assert!(fs::read(stage.join(&name)).unwrap() == bytes, "{name}");
        }
    }
}
