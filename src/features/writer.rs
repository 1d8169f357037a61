//! Writes a feature array shard by shard; whole shards that are there already are kept.

use super::array::Layout;
use super::portion::Ledger;
use super::shard::{ShardSum, ShardWriter, read_index, read_sample};
use crate::disk;
use crate::error::{Error, Result};
use crate::progress::Task;
use rayon::prelude::*;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

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
/// samples that belong into it, and appends them in order. Shards that the ledger knows are not read again where they have
/// the length that it says.
///
/// At most one whole shard waits for the disk at any time, and none when this is done.
///
/// # Errors
/// When `fill` fails or the disk refuses; shards written before stay.
pub fn write_array(
    array: &Path,
    layout: &Layout,
    (ledger, task): (&dyn Ledger, &dyn Task),
    fill: impl FnMut(usize, Range<usize>, &mut ShardWriter) -> Result<()>,
) -> Result<Written> {
    // Shards whose bytes meant something else, or nobody knows what, are of no use.
    let meant = Layout::open(array).is_ok_and(|found| found == *layout);
    describe(array, layout)?;
    let there = |place, count| match known_shard(array, layout, place, ledger) {
        _ if !meant => Ok(None),
        None => whole_shard(array, layout, place, count),
        known => Ok(known),
    };
    let shards = write_shards(array, (layout, layout.shards()), (ledger, task), there, fill)?;
    Ok(Written { layout: *layout, shards })
}

/// Writes some shards of an array that was begun, by view and position, but for those that the ledger knows; `fill` is as
/// in [`write_array`]. What lies there without being known may be of another machine: it is written again.
///
/// # Errors
/// When `fill` fails, the disk refuses or the ledger does not admit a shard.
pub(super) fn write_part(
    array: &Path,
    layout: &Layout,
    places: &[(usize, usize)],
    (ledger, task): (&dyn Ledger, &dyn Task),
    fill: impl FnMut(usize, Range<usize>, &mut ShardWriter) -> Result<()>,
) -> Result<()> {
    let there = |place, _| Ok(known_shard(array, layout, place, ledger));
    write_shards(array, (layout, places.iter().copied()), (ledger, task), there, fill).map(drop)
}

/// Writes those of some shards that are not there yet; gives the sums of all.
fn write_shards(
    array: &Path,
    (layout, places): (&Layout, impl Iterator<Item = (usize, usize)>),
    (ledger, task): (&dyn Ledger, &dyn Task),
    there: impl Fn((usize, usize), usize) -> Result<Option<ShardSum>>,
    mut fill: impl FnMut(usize, Range<usize>, &mut ShardWriter) -> Result<()>,
) -> Result<Vec<ShardSum>> {
    let mut shards = Vec::new();
    thread::scope(|scope| {
        // The disk takes a shard while the next one is made.
        let mut last: Option<ScopedJoinHandle<'_, Result<()>>> = None;
        for (view, at) in places {
            let samples = layout.samples_of(at);
            if let Some(shard) = there((view, at), samples.len())? {
                task.skip(samples.len() as u64);
                ledger.note(&shard)?;
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
            let shard = ShardSum { key: layout.shard_key((view, at)), bytes, blake3: hash.to_hex().to_string() };
            shards.push(shard.clone());
            last.take().map_or(Ok(()), join)?;
            last = Some(scope.spawn(move || {
                if ledger.admit(array, &shard)? {
                    file.finish()?;
                }
                ledger.note(&shard)
            }));
        }
        last.map_or(Ok(()), join)
    })?;
    Ok(shards)
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
pub(super) fn describe(array: &Path, layout: &Layout) -> Result<()> {
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

/// A shard that a ledger knows, if it is on the disk with the length that the ledger says. It is opened for that: on a disk
/// of the network the length of a file by its name may be an earlier one.
pub(super) fn known_shard(
    array: &Path,
    layout: &Layout,
    place: (usize, usize),
    ledger: &dyn Ledger,
) -> Option<ShardSum> {
    let shard = ledger.known(&layout.shard_key(place))?;
    let found = File::open(array.join(&shard.key)).and_then(|file| file.metadata());
    found.is_ok_and(|found| found.is_file() && found.len() == shard.bytes).then_some(shard)
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
