//! The bytes of one shard: encoded samples one after the other, then the index of their places.
//!
//! The index holds offset and length of every sample as 64-bit numbers, then its own CRC-32C; samples beyond the end of
//! the array have all bits set. This is Zarr v3's `sharding_indexed` codec, so other readers understand it. Ours checks
//! every checksum.

use super::array::Layout;
use super::packing::{crc32c, pack, seal, seal_any, sealed_bytes, stored_bytes, unpack, unpack_in_place};
use crate::disk::NewFile;
use crate::error::{Error, Result};
use crate::pipeline::Codec;
use crate::room;
use rayon::prelude::*;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

/// Bytes of the checksum of the index.
const CHECKSUM: usize = 4;
/// Batches of samples that are in memory at most where another thread appends them: one is made, one waits, one is written.
const BUFFERS: usize = 3;
/// Offset and length of a sample that is not there.
const ABSENT: u64 = u64::MAX;

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

impl ShardSum {
    /// Whether these bytes lie in an array's folder.
    pub fn lies_in(&self, array: &Path) -> bool {
        let Ok(file) = File::open(array.join(&self.key)) else { return false };
        let mut hasher = blake3::Hasher::new();
        let same_length = file.metadata().is_ok_and(|found| found.is_file() && found.len() == self.bytes);
        same_length && hasher.update_reader(&file).is_ok_and(|read| read.finalize().to_hex().as_str() == self.blake3)
    }
}

/// Writes a shard from its first sample to its last, in bounded memory.
pub struct ShardWriter {
    file: NewFile,
    hasher: blake3::Hasher,
    capacity: usize,
    index: Vec<u8>,
    written: u64,
}

impl ShardWriter {
    /// Begins the shard of `capacity` samples at a path.
    pub(super) fn create(path: &Path, capacity: usize) -> Result<Self> {
        let file = NewFile::create(path)?;
        Ok(Self { file, hasher: blake3::Hasher::new(), capacity, index: Vec::new(), written: 0 })
    }

    /// Samples that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.index.len() / 16
    }

    /// Appends samples.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn append(&mut self, samples: &StoredSamples) -> Result<()> {
        for &length in &samples.lengths {
            self.index.extend(self.written.to_le_bytes());
            self.index.extend((length as u64).to_le_bytes());
            self.written += length as u64;
        }
        self.put(&samples.bytes)
    }

    /// Appends, in order, what `make` hands over, on a thread of its own: a disk that is slow at times keeps none of those
    /// waiting that compute.
    ///
    /// # Errors
    /// When the disk refuses, or with the error of `make`.
    pub fn append_aside(&mut self, layout: &Layout, make: impl FnOnce(&Aside) -> Result<()>) -> Result<()> {
        let (give, full) = sync_channel::<StoredSamples>(1);
        let (give_back, empty) = channel();
        (0..BUFFERS).try_for_each(|_| give_back.send(StoredSamples::new(layout))).map_err(|_| ended())?;
        thread::scope(|scope| {
            let append = scope.spawn(move || {
                full.into_iter().try_for_each(|samples| {
                    self.append(&samples)?;
                    // In the end nobody takes it back.
                    let _ = give_back.send(samples);
                    Ok(())
                })
            });
            let made = make(&Aside { empty, give });
            append.join().unwrap_or_else(|_| Err(ended())).and(made)
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write(bytes)
    }

    /// Writes the index; gives length and BLAKE3 hash of the shard, and the file that is left to be put in its place.
    pub(super) fn close(mut self) -> Result<(u64, blake3::Hash, NewFile)> {
        let (bytes, hash) = self.put_index()?;
        Ok((bytes, hash, self.file))
    }

    /// The same for a shard that is written again.
    ///
    /// # Errors
    /// When its length or hash is another one than before. The file in its place then stays as it is.
    pub fn finish_as(mut self, (bytes, blake3): (u64, &str)) -> Result<()> {
        let (found, hash) = self.put_index()?;
        if (found, hash.to_hex().as_str()) != (bytes, blake3) {
            return Err(Error::failed("it came out with other bytes than the recorded ones"));
        }
        self.file.finish()
    }

    fn put_index(&mut self) -> Result<(u64, blake3::Hash)> {
        let mut index = std::mem::take(&mut self.index);
        let held = index.len();
        room::resize(&mut index, self.capacity * 16)?;
        index[held..].fill(0xff);
        index.extend(crc32c(&index).to_le_bytes());
        self.put(&index)?;
        Ok((self.written + index.len() as u64, self.hasher.finalize()))
    }
}

/// What takes samples that are appended to a shard by another thread.
pub struct Aside {
    empty: Receiver<StoredSamples>,
    give: SyncSender<StoredSamples>,
}

impl Aside {
    /// Appends what `fill` makes, in the place of what was there.
    ///
    /// # Errors
    /// With the error of `fill`, or when appending has failed: that fault is the one to be reported.
    pub fn append(&self, fill: impl FnOnce(&mut StoredSamples) -> Result<()>) -> Result<()> {
        let mut samples = self.empty.recv().map_err(|_| ended())?;
        fill(&mut samples)?;
        self.give.send(samples).map_err(|_| ended())
    }
}

fn ended() -> Error {
    Error::failed("the thread that writes a shard has ended")
}

/// Samples as they are stored, one after the other; the memory is used again and again.
pub struct StoredSamples {
    layout: Layout,
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl StoredSamples {
    /// None yet, of an array of this layout.
    pub fn new(layout: &Layout) -> Self {
        Self { layout: *layout, bytes: Vec::new(), lengths: Vec::new() }
    }

    /// Takes samples as they are, in the place of what was there.
    ///
    /// # Errors
    /// When their length is no multiple of a sample's.
    pub fn copy(&mut self, samples: &[u8]) -> Result<()> {
        let sample_bytes = self.layout.sample_bytes();
        if !samples.len().is_multiple_of(sample_bytes) {
            return Err(Error::failed(format!("{} bytes are no whole samples", samples.len())));
        }
        self.fill(samples.len() / sample_bytes, |at, out| {
            out.copy_from_slice(&samples[at * sample_bytes..][..sample_bytes]);
            Ok(())
        })
    }

    /// Takes samples of a length of their own, as they are, in the place of what was there.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn copy_any(&mut self, samples: &[Vec<u8>]) -> Result<()> {
        let most = samples.iter().map(|sample| sealed_bytes(sample)).max().unwrap_or(1);
        self.store(samples.len(), most, |at, out| seal_any(&samples[at], out))
    }

    /// Takes the place of what was there: `encode` writes the bytes of each of `count` samples, in parallel.
    ///
    /// # Errors
    /// With an error of `encode`, or when there is no memory.
    pub fn fill(&mut self, count: usize, encode: impl Fn(usize, &mut [u8]) -> Result<()> + Sync) -> Result<()> {
        let layout = self.layout;
        let (sample_bytes, (_, most)) = (layout.sample_bytes(), stored_bytes(&layout));
        self.store(count, most, |at, out| {
            if layout.codec == Codec::None {
                encode(at, &mut out[..sample_bytes])?;
                return Ok(seal(out, sample_bytes));
            }
            SCRATCH.with_borrow_mut(|sample| {
                room::resize(sample, sample_bytes)?;
                encode(at, sample)?;
                pack(&layout, sample, out)
            })
        })
    }

    /// Lets `pack` write each of `count` samples into its own `most` bytes, in parallel; it gives how many that took.
    fn store(
        &mut self,
        count: usize,
        most: usize,
        pack: impl Fn(usize, &mut [u8]) -> Result<usize> + Sync,
    ) -> Result<()> {
        room::resize(&mut self.bytes, count.saturating_mul(most))?;
        let rows = self.bytes.par_chunks_exact_mut(most).enumerate();
        self.lengths = rows.map(|(at, out)| pack(at, out)).collect::<Result<_>>()?;
        self.close_gaps(most);
        Ok(())
    }

    /// Moves samples that took less than the most together.
    fn close_gaps(&mut self, most: usize) {
        let mut end = 0;
        for (at, &length) in self.lengths.iter().enumerate() {
            // What is not compressed leaves no gaps, and is not to be copied onto itself.
            if at * most != end {
                self.bytes.copy_within(at * most..at * most + length, end);
            }
            end += length;
        }
        self.bytes.truncate(end);
    }

    /// Bytes of all.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Each, as it lies in a shard.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.lengths.iter().scan(&self.bytes[..], |rest, &length| rest.split_off(..length))
    }
}

thread_local! {
    /// A sample before it is compressed, or before it is decompressed.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where a sample lies in its shard.
#[derive(Clone, Copy)]
pub(super) struct Place {
    offset: u64,
    length: u32,
}

/// Reads and checks the index of a shard that holds `count` samples: the place of each.
///
/// # Errors
/// When the index is damaged, a sample is missing, lies outside the file or has a length that no sample has, or there
/// are more samples.
pub(super) fn read_index(file: &File, layout: &Layout, count: usize) -> Result<Vec<Place>> {
    let length = layout.samples_in_shard * 16 + CHECKSUM;
    let end = file.metadata().map_err(|e| Error::failed(e.to_string()))?.len();
    let start = end.checked_sub(length as u64).ok_or_else(|| Error::failed("it is too short for its index"))?;
    let mut bytes = Vec::new();
    room::resize(&mut bytes, length)?;
    file.read_exact_at(&mut bytes, start).map_err(|e| Error::failed(e.to_string()))?;
    let (index, checksum) = bytes.split_at(length - CHECKSUM);
    if crc32c(index).to_le_bytes() != *checksum {
        return Err(Error::failed("the checksum of its index is wrong"));
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, &byte| all << 8 | u64::from(byte));
    let (least, most) = stored_bytes(layout);
    let place = |(at, entry): (usize, &[u8])| {
        let (offset, length) = (number(&entry[..8]), number(&entry[8..]));
        let inside = offset != ABSENT && offset.checked_add(length).is_some_and(|end| end <= start);
        let possible = (least as u64..=most as u64).contains(&length);
        match u32::try_from(length) {
            Ok(length) if inside && possible => Ok(Place { offset, length }),
            _ => Err(Error::failed(format!("sample {at} of it is missing"))),
        }
    };
    if index.chunks_exact(16).skip(count).any(|entry| number(&entry[..8]) != ABSENT) {
        return Err(Error::failed(format!("it holds more than {count} samples")));
    }
    index.chunks_exact(16).take(count).enumerate().map(place).collect()
}

/// Reads the bytes of a sample and checks them: as many as its values take, however they are stored.
///
/// # Errors
/// When the file is too short, the checksum is wrong or the sample has another length.
pub(super) fn read_sample(file: &File, place: Place, layout: &Layout, out: &mut Vec<u8>) -> Result<()> {
    let read = |stored: &mut Vec<u8>| {
        room::resize(stored, place.length as usize)?;
        file.read_exact_at(stored, place.offset).map_err(|e| Error::failed(e.to_string()))
    };
    if layout.codec == Codec::None {
        read(out)?;
        return unpack_in_place(layout, out);
    }
    SCRATCH.with_borrow_mut(|stored| {
        read(stored)?;
        unpack(layout, stored, out)
    })
}
