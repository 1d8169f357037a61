//! Images of which it is known which are bad: single shards of them, and how that becomes known in parts.

use super::array::{Files, Layout, Split};
use super::decoding::{Decoder, Hindrances, Listed, candidates, decoded_files, layout, read_list, skipped_list};
use super::portion::{Ledger, Portion};
use super::shard::{ShardSum, ShardWriter};
use super::writer::{rewrite_shards, samples_in, write_part};
use crate::error::Result;
use crate::images::SplitImages;
use crate::pipeline::{BadImage, Recipe};
use crate::progress::{Progress, Task};
use std::path::Path;

/// Images next to each other that one part looks at.
const BLOCK: usize = 256;

/// What was found wrong with images of a split.
#[derive(Default)]
pub struct Checked {
    /// Those that cannot be decoded.
    pub bad: Listed,
    /// Those that can, although something is odd about them.
    pub odd: Listed,
}

/// Decodes a part of the images of a split only to know which of them are bad.
///
/// # Errors
/// When an image cannot be read, which says nothing about it, or the user interrupts.
pub fn check_images(
    (split, images): (Split, &SplitImages),
    pipeline: &Recipe,
    portion: Portion,
    progress: &dyn Progress,
) -> Result<Checked> {
    let own: Vec<usize> = (0..images.len()).filter(|index| portion.has(index / BLOCK)).collect();
    let task = progress.start(&format!("check {}", split.name()), own.len() as u64);
    let mut hindrances = Hindrances::default();
    let layout = layout(images, pipeline);
    let (skipped, warned, hindrances_of) = (Vec::new(), Vec::new(), &mut hindrances);
    let on_bad_image = BadImage::Skip;
    let mut decoder =
        Decoder { images, layout, on_bad_image, task: &*task, progress, skipped, warned, hindrances: hindrances_of };
    decoder.look(&own)?;
    let Decoder { skipped: bad, warned: odd, .. } = decoder;
    hindrances.refuse()?;
    Ok(Checked { bad, odd })
}

/// A split of which it is known which images are bad: single shards of it are made, or made again.
pub struct Redecoding<'a> {
    stage: &'a Path,
    split: Split,
    images: &'a SplitImages,
    layout: Layout,
    /// The images that were good.
    kept: Vec<usize>,
}

impl<'a> Redecoding<'a> {
    /// Takes up a split that was decoded before with the images that it was made of and the list of those that were left
    /// out.
    ///
    /// # Errors
    /// When the list is damaged.
    pub fn open(stage: &'a Path, split: Split, images: &'a SplitImages, pipeline: &Recipe) -> Result<Self> {
        Ok(Self::without((stage, split), images, pipeline, &read_list(&skipped_list(stage, split))?))
    }

    /// A split without the images that are bad.
    pub fn without(
        (stage, split): (&'a Path, Split),
        images: &'a SplitImages,
        pipeline: &Recipe,
        bad: &[(usize, String)],
    ) -> Self {
        let kept = candidates(images, bad);
        let layout = Layout { samples: kept.len(), ..layout(images, pipeline) };
        Self { stage, split, images, layout, kept }
    }

    /// Its layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Metadata and labels.
    ///
    /// # Errors
    /// When they cannot be encoded.
    pub fn files(&self) -> Result<Files> {
        decoded_files(self.split, self.images, &self.layout, &self.kept)
    }

    /// Writes single shards again, so that their bytes are the recorded ones.
    ///
    /// # Errors
    /// When an image is bad, other bytes come out, the disk refuses or the user interrupts; such a shard is left as it
    /// is.
    pub fn rewrite(&self, shards: &[ShardSum], progress: &dyn Progress) -> Result<()> {
        let task = self.task(samples_in(&self.layout, shards), progress);
        let array = self.split.array(self.stage, "features");
        rewrite_shards(&array, &self.layout, shards, |_, samples, shard| {
            self.fill(shard, &self.kept[samples], (&*task, progress)).map(drop)
        })
    }

    /// Writes some shards, by view and position, but for those that the ledger knows; tells of images that are odd before
    /// the shard that holds them takes its place.
    ///
    /// # Errors
    /// As [`rewrite`](Self::rewrite), and when the ledger does not admit a shard.
    pub fn write_part(
        &self,
        places: &[(usize, usize)],
        (ledger, odd): (&dyn Ledger, &dyn Fn(Listed)),
        progress: &dyn Progress,
    ) -> Result<()> {
        let count: usize = places.iter().map(|&(_, at)| self.layout.samples_of(at).len()).sum();
        let task = self.task(count, progress);
        let array = self.split.array(self.stage, "features");
        write_part(&array, &self.layout, places, (ledger, &*task), |_, samples, shard| {
            odd(self.fill(shard, &self.kept[samples], (&*task, progress))?);
            Ok(())
        })
    }

    fn task(&self, count: usize, progress: &dyn Progress) -> Box<dyn Task> {
        progress.start(&format!("decode {}", self.split.name()), count as u64)
    }

    /// Appends images to a shard, none of which may be bad; gives those that are odd.
    fn fill(
        &self,
        shard: &mut ShardWriter,
        kept: &[usize],
        (task, progress): (&dyn Task, &dyn Progress),
    ) -> Result<Listed> {
        let mut hindrances = Hindrances::default();
        let (images, layout, on_bad_image) = (self.images, self.layout, BadImage::Fail);
        let (skipped, warned) = (Vec::new(), Vec::new());
        let mut decoder =
            Decoder { images, layout, on_bad_image, task, progress, skipped, warned, hindrances: &mut hindrances };
        decoder.fill(shard, kept)?;
        let odd = decoder.warned;
        hindrances.refuse()?;
        Ok(odd)
    }
}
