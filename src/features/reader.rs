//! Reads samples of a feature array at random, with the places of all samples in memory and every checksum checked.

use super::array::Layout;
use super::shard::{Place, read_index, read_sample};
use crate::disk::{self, OpenSlot};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A feature array that is open for reading.
pub struct Reader {
    array: PathBuf,
    layout: Layout,
    shards: Vec<OnceLock<Shard>>,
}

struct Shard {
    places: Vec<Place>,
    /// The file, where the process may keep one more open; else it is opened for each read.
    file: Option<(File, OpenSlot)>,
}

impl Reader {
    /// Opens the array in a folder.
    ///
    /// # Errors
    /// When it is missing or not one of this program's.
    pub fn open(array: &Path) -> Result<Self> {
        let layout = Layout::open(array)?;
        let shards = layout.views.checked_mul(layout.shards_in_view()).filter(|&count| count <= 1 << 24);
        let count = shards.ok_or_else(|| Error::failed(format!("`{}` has too many shards", array.display())))?;
        let shards = (0..count).map(|_| OnceLock::new()).collect();
        Ok(Self { array: array.to_path_buf(), layout, shards })
    }

    /// Its layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Reads one sample of one view: [`Layout::sample_bytes`] bytes of values, into a buffer that is reused.
    ///
    /// # Errors
    /// When the shard or the sample is missing or damaged; the message names array, shard and sample.
    pub fn read(&self, view: usize, sample: usize, out: &mut Vec<u8>) -> Result<()> {
        let Layout { views, samples, samples_in_shard, .. } = self.layout;
        if view >= views || sample >= samples {
            return Err(Error::failed(format!("`{}` has no sample {sample} of view {view}", self.array.display())));
        }
        let place = (view, sample / samples_in_shard);
        let shard = self.shard(place)?;
        let mut read = |file: &File| read_sample(file, shard.places[sample % samples_in_shard], &self.layout, out);
        let done = match &shard.file {
            Some((file, _)) => read(file),
            None => self.open_shard(place).and_then(|file| read(&file)),
        };
        done.map_err(|e| self.damaged(place, format!("sample {sample}: {e}")))
    }

    fn path(&self, (view, at): (usize, usize)) -> PathBuf {
        self.array.join(self.layout.shard_key((view, at)))
    }

    /// The folder of the stage that the array belongs to.
    fn stage(&self) -> &Path {
        self.array.ancestors().nth(2).unwrap_or(&self.array)
    }

    /// Opens the file of a shard, of so many of a view.
    ///
    /// # Errors
    /// When it is missing or the system refuses.
    pub(crate) fn open_shard(&self, place: (usize, usize)) -> Result<File> {
        let path = self.path(place);
        File::open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::failed(format!("shard `{}` is missing", path.display()))
                .hint("`greedy run` writes just this shard again"),
            _ => Error::io("open shard", &path, &e),
        })
    }

    fn shard(&self, (view, at): (usize, usize)) -> Result<&Shard> {
        let position = view * self.layout.shards_in_view() + at;
        let slot = &self.shards[position];
        if let Some(shard) = slot.get() {
            return Ok(shard);
        }
        let file = self.open_shard((view, at))?;
        let count = self.layout.samples_of(at).len();
        let places = read_index(&file, &self.layout, count).map_err(|e| self.damaged((view, at), e))?;
        // Where another thread was faster, its reading is as good as this one.
        Ok(slot.get_or_init(|| Shard { places, file: disk::open_slot().map(|slot| (file, slot)) }))
    }

    fn damaged(&self, place: (usize, usize), fault: impl std::fmt::Display) -> Error {
        Error::failed(format!("shard `{}` is damaged: {fault}", self.path(place).display()))
            .hint(format!("`greedy verify {} --repair` makes just this shard again", self.stage().display()))
    }
}
