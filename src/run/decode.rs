//! The node of the images: decodes them once.

use super::execute::{Work, note_array};
use super::record::Record;
use crate::error::{Error, Result};
use crate::features::{self, Subset};
use crate::images::ImageSet;
use crate::pipeline::{Shape, Verdict, footprint};
use crate::room;
use std::time::Instant;

impl Work<'_> {
    pub(super) fn decode(&self, verdict: &Verdict) -> Result<()> {
        let images = ImageSet::open(&self.pipeline.data, self.pipeline.seed)?;
        let (data, count) = (&self.pipeline.data, images.train.len() + images.val.len());
        let stored = Shape { channels: data.channels, size: data.size };
        room::require(self.folder.path(), footprint::images_on_disk(stored, count))?;
        let mut record = self.prepare(verdict)?;
        self.decode_images(&mut record, &images)?;
        self.finish(&mut record)
    }

    fn decode_images(&self, record: &mut Record, images: &ImageSet) -> Result<()> {
        let started = Instant::now();
        let splits = [(Subset::Train, &images.train), (Subset::Val, &images.val)];
        // A finished stage knows what it left out: without the list every later image would move up.
        if !record.skipped.is_empty() {
            let mut noted = 0;
            for (subset, split) in splits {
                noted += features::note_skipped(self.folder.path(), subset, split, &record.skipped)?;
            }
            self.require_all_noted(noted, record.skipped.len())?;
        }
        self.write_arrays(record, |record| {
            record.skipped.clear();
            for (subset, split) in splits {
                let decoded = features::decode(self.folder.path(), subset, split, self.pipeline, self.progress)?;
                note_array(record, subset, &decoded.written);
                record.skipped.extend(decoded.skipped);
            }
            Ok(())
        })?;
        record.classes = images.classes.clone();
        record.spend("decode", started.elapsed());
        Ok(())
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
