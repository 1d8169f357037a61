//! The node of the images: decodes them once.

use super::execute::{Work, note_array};
use super::receipt::{CHECK_FIRST, Found, Receipts, bad_images, has_shards, identity};
use super::record::Record;
use crate::error::{Error, Result};
use crate::features::{self, Split};
use crate::images::{ImageSet, SplitImages};
use crate::pipeline::{BadImage, Verdict, footprint};
use crate::room;
use std::path::Path;
use std::time::Instant;

impl Work<'_> {
    pub(super) fn decode(&self, verdict: &Verdict) -> Result<()> {
        let images = ImageSet::open_keeping(&self.pipeline.data, self.pipeline.seed, self.cache())?;
        images.census.lines().iter().for_each(|line| self.progress.say(&format!("  {line}")));
        let (train, val) = (images.train.len(), images.val.len());
        let count = train + val;
        if count as u64 != images.census.images {
            self.progress.say(&format!(
                "  {train} training and {val} validation images are used (`data.train_images`, `data.val_images`)"
            ));
        }
        room::require(self.folder.path(), footprint::images_on_disk(&self.pipeline.data, count))?;
        let mut record = self.prepare(verdict)?;
        if self.scatters {
            return Ok(());
        }
        self.decode_images(&mut record, &images)?;
        self.finish(&mut record)
    }

    /// The folder that the images' own lies in.
    fn cache(&self) -> &Path {
        self.folder.path().parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn decode_images(&self, record: &mut Record, images: &ImageSet) -> Result<()> {
        let started = Instant::now();
        let splits = [(Split::Train, &images.train), (Split::Val, &images.val)];
        let bad = self.bad_images(record, splits)?;
        for (split, _) in splits {
            features::note_skipped(self.folder.path(), split, bad.of(split))?;
        }
        let receipts = Receipts::read(self.folder, &identity(record, &bad));
        if receipts.made_on()?.is_some() {
            receipts.say_all(self.progress);
        }
        self.write_arrays(record, |record| {
            record.skipped.clear();
            let mut census = images.census.clone();
            let mut hindrances = features::Hindrances::default();
            for (split, own) in splits {
                let known = (&mut hindrances, self.progress);
                let place = (self.folder.path(), split);
                let sums = receipts.sums(split);
                let Some(decoded) = features::decode_noting(place, own, self.pipeline, &sums, known)? else { continue };
                record.warned.extend(receipts.odd(split).into_iter().map(|(index, text)| (own.place(index), text)));
                note_array(record, split, &decoded.written);
                if let Some(note) = own.empty_classes(&images.classes, decoded.kept.iter().copied()) {
                    let note = format!("{note} among the {} good {} images", decoded.kept.len(), split.name());
                    if !decoded.skipped.is_empty() {
                        self.progress.say(&format!("  {note}"));
                        census.notes.push(note);
                    }
                }
                record.skipped.extend(decoded.skipped);
                // What an earlier run has decoded is not looked at again.
                record.warned.extend(decoded.warned);
            }
            record.warned.sort();
            record.warned.dedup();
            record.census = Some(census);
            hindrances.refuse()
        })?;
        record.classes = images.classes.clone();
        if images.words.iter().any(|words| !words.is_empty()) {
            record.words = images.words.clone();
        }
        record.spend("decode", started.elapsed());
        Ok(())
    }

    /// The bad images that are known before any is decoded, without whose list every later image would move up: a finished
    /// stage knows what it left out, and else all workers together do.
    fn bad_images(&self, record: &Record, splits: [(Split, &SplitImages); 2]) -> Result<Found> {
        if record.arrays.is_empty() {
            if self.pipeline.data.on_bad_image == BadImage::Fail {
                return Ok(Found::default());
            }
            let bad = bad_images(self.folder, record);
            if bad.is_none() && has_shards(self.folder) {
                let folder = self.folder.path().display();
                let fault =
                    format!("workers have decoded images in `{folder}`, but the receipts of which are bad are gone");
                return Err(Error::failed(fault).hint(CHECK_FIRST));
            }
            return Ok(bad.unwrap_or_default());
        }
        let mut bad = Found::default();
        for (split, own) in splits {
            bad.add(split, features::list_skipped(own, &record.skipped));
        }
        self.require_all_noted(bad.count(), record.skipped.len())?;
        Ok(bad)
    }

    /// Fails where images that were left out are no longer to be found.
    fn require_all_noted(&self, noted: usize, known: usize) -> Result<()> {
        if noted == known {
            return Ok(());
        }
        let folder = self.folder.path().display();
        let fault = format!("of {known} bad images that `{folder}` left out, {noted} are among the images");
        Err(Error::failed(fault).hint(format!("remove `{folder}`; `greedy run` then decodes all images again")))
    }
}
