//! Writes a feature array shard by shard; whole shards that are there already are kept.

use super::array::Layout;
use super::shard::{ShardWriter, read_index, read_sample};
use crate::disk;
use crate::error::{Error, Result};
use crate::progress::Task;
use rayon::prelude::*;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

/// A shard that is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSum {
    /// Its key below the array's folder.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// The BLAKE3 hash of its bytes, in hexadecimal.
    pub blake3: String,
}

/// A whole array that is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its layout.
    pub layout: Layout,
    /// Its shards, in order.
    pub shards: Vec<ShardSum>,
}

impl Written {
    /// Bytes of all shards.
    pub fn stored_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }
}

/// Writes the array in a folder. `fill` is called for each shard that is missing or damaged, with the view and the
/// samples that belong into it, and appends them in order.
///
/// At most one whole shard waits for the disk at any time, and none when this is done.
///
/// # Errors
/// When `fill` fails or the disk refuses; shards written before stay.
pub fn write_array(
    array: &Path,
    layout: &Layout,
    task: &dyn Task,
    mut fill: impl FnMut(usize, Range<usize>, &mut ShardWriter) -> Result<()>,
) -> Result<Written> {
    // Shards whose bytes meant something else, or nobody knows what, are of no use.
    let known = Layout::open(array).is_ok_and(|found| found == *layout);
    describe(array, layout)?;
    let mut shards = Vec::with_capacity(layout.views * layout.shards_in_view());
    thread::scope(|scope| {
        // The disk takes a shard while the next one is made.
        let mut last: Option<ScopedJoinHandle<'_, Result<()>>> = None;
        for (view, at) in layout.shards() {
            let samples = layout.samples_of(at);
            if known && let Some(shard) = whole_shard(array, layout, (view, at), samples.len())? {
                task.skip(samples.len() as u64);
                shards.push(shard);
                continue;
            }
            let mut writer = begin_shard(array, layout, (view, at))?;
            let count = samples.len();
            fill(view, samples, &mut writer)?;
            if layout.samples_in_shard - writer.room() != count {
                let fault = format!("shard {at} of `{}` did not get its {count} samples", array.display());
                return Err(Error::failed(fault));
            }
            let (bytes, hash, file) = writer.close()?;
            shards.push(ShardSum { key: layout.shard_key((view, at)), bytes, blake3: hash.to_hex().to_string() });
            last.take().map_or(Ok(()), join)?;
            last = Some(scope.spawn(|| file.finish()));
        }
        last.map_or(Ok(()), join)
    })?;
    Ok(Written { layout: *layout, shards })
}

fn join(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(Error::failed("the thread that writes a shard has ended")))
}

/// How many samples belong into some shards.
pub(super) fn samples_in(layout: &Layout, shards: &[ShardSum]) -> usize {
    let wanted = |&(view, at): &(usize, usize)| {
        let key = layout.shard_key((view, at));
        shards.iter().any(|shard| shard.key == key)
    };
    layout.shards().filter(wanted).map(|(_, at)| layout.samples_of(at).len()).sum()
}

/// Writes single shards of an array again; `fill` is as in [`write_array`].
///
/// # Errors
/// When `fill` fails, the disk refuses, or a shard does not come out with the bytes that it had. It is left as it is
/// then.
pub(super) fn rewrite_shards(
    array: &Path,
    layout: &Layout,
    shards: &[ShardSum],
    mut fill: impl FnMut(usize, Range<usize>, &mut ShardWriter) -> Result<()>,
) -> Result<()> {
    for shard in shards {
        let place = layout.shards().find(|&(view, at)| layout.shard_key((view, at)) == shard.key);
        let path = array.join(&shard.key);
        let (view, at) =
            place.ok_or_else(|| Error::failed(format!("`{}` is no shard of its array", path.display())))?;
        let mut writer = begin_shard(array, layout, (view, at))?;
        fill(view, layout.samples_of(at), &mut writer)?;
        writer
            .finish_as((shard.bytes, &shard.blake3))
            .map_err(|e| e.context(format_args!("cannot make `{}` again", path.display())))?;
    }
    Ok(())
}

/// Writes the metadata of the array.
fn describe(array: &Path, layout: &Layout) -> Result<()> {
    disk::create_folder(array)?;
    disk::write(&array.join("zarr.json"), layout.metadata()?.as_bytes())
}

pub(super) fn begin_shard(array: &Path, layout: &Layout, (view, at): (usize, usize)) -> Result<ShardWriter> {
    let path = array.join(layout.shard_key((view, at)));
    if let Some(folder) = path.parent() {
        disk::create_folder(folder)?;
    }
    ShardWriter::create(&path, layout.samples_in_shard)
}

pub(super) fn finish_shard(writer: ShardWriter, layout: &Layout, place: (usize, usize)) -> Result<ShardSum> {
    let (bytes, hash, file) = writer.close()?;
    file.finish()?;
    Ok(ShardSum { key: layout.shard_key(place), bytes, blake3: hash.to_hex().to_string() })
}

/// A shard, if it is on the disk with `count` samples and every checksum in it is right.
pub(super) fn whole_shard(
    array: &Path,
    layout: &Layout,
    (view, at): (usize, usize),
    count: usize,
) -> Result<Option<ShardSum>> {
    let key = layout.shard_key((view, at));
    let path = array.join(&key);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", &path, &e)),
    };
    let Ok(places) = read_index(&file, layout, count) else { return Ok(None) };
    let check = places.par_iter().map_init(Vec::new, |sample, &place| read_sample(&file, place, layout, sample));
    let whole = check.all(|read| read.is_ok());
    if !whole {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).map_err(|e| Error::io("read", &path, &e))?;
    let bytes = hasher.count();
    Ok(Some(ShardSum { key, bytes, blake3: hasher.finalize().to_hex().to_string() }))
}
