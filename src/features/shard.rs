//! The bytes of one shard: encoded samples one after the other, then the index of their places.
//!
//! A sample is its values (little endian) and their CRC-32C. The index holds offset and length of every sample as
//! 64-bit numbers, then its own CRC-32C; samples beyond the end of the array have all bits set. This is Zarr v3's
//! `sharding_indexed` codec, so other readers understand it. Ours checks every checksum.

use crate::disk::NewFile;
use crate::error::{Error, Result};
use crate::room;
use rayon::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a checksum.
const CHECKSUM: usize = 4;
/// Offset and length of a sample that is not there.
const ABSENT: u64 = u64::MAX;

/// Writes a shard from its first sample to its last, in bounded memory.
pub struct ShardWriter {
    file: NewFile,
    hasher: blake3::Hasher,
    sample_bytes: usize,
    capacity: usize,
    index: Vec<u8>,
    written: u64,
}

impl ShardWriter {
    /// Begins the shard of `capacity` samples at a path.
    pub(super) fn create(path: &Path, sample_bytes: usize, capacity: usize) -> Result<Self> {
        let file = NewFile::create(path)?;
        Ok(Self { file, hasher: blake3::Hasher::new(), sample_bytes, capacity, index: Vec::new(), written: 0 })
    }

    /// Samples that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.index.len() / 16
    }

    /// Appends samples.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, samples: &StoredSamples) -> Result<()> {
        let stored = self.sample_bytes + CHECKSUM;
        for at in 0..samples.bytes.len() / stored {
            self.index.extend((self.written + (at * stored) as u64).to_le_bytes());
            self.index.extend((stored as u64).to_le_bytes());
        }
        self.written += samples.bytes.len() as u64;
        self.put(&samples.bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update_rayon(bytes);
        self.file.write(bytes)
    }

    /// Writes the index and puts the shard in its place; gives its length and BLAKE3 hash.
    pub fn finish(mut self) -> Result<(u64, blake3::Hash)> {
        let sum = self.put_index()?;
        self.file.finish()?;
        Ok(sum)
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
        index.extend(crc32c::crc32c(&index).to_le_bytes());
        self.put(&index)?;
        Ok((self.written + index.len() as u64, self.hasher.finalize()))
    }
}

/// Samples as they are stored, one after the other, each with its checksum; the memory is used again and again.
pub struct StoredSamples {
    bytes: Vec<u8>,
    sample_bytes: usize,
}

impl StoredSamples {
    /// None yet, of so many bytes each.
    pub fn new(sample_bytes: usize) -> Self {
        Self { bytes: Vec::new(), sample_bytes }
    }

    /// Takes samples as they are, in the place of what was there.
    ///
    /// # Errors
    /// When their length is no multiple of a sample's.
    pub fn copy(&mut self, samples: &[u8]) -> Result<()> {
        if !samples.len().is_multiple_of(self.sample_bytes) {
            return Err(Error::failed(format!("{} bytes are no whole samples", samples.len())));
        }
        let sample_bytes = self.sample_bytes;
        self.fill(samples.len() / sample_bytes, |at, out| {
            out.copy_from_slice(&samples[at * sample_bytes..][..sample_bytes]);
            Ok(())
        })
    }

    /// Takes the place of what was there: `encode` writes the bytes of each of `count` samples, in parallel.
    ///
    /// # Errors
    /// With an error of `encode`.
    pub fn fill(&mut self, count: usize, encode: impl Fn(usize, &mut [u8]) -> Result<()> + Sync) -> Result<()> {
        let stored = self.sample_bytes + CHECKSUM;
        room::resize(&mut self.bytes, count.saturating_mul(stored))?;
        self.bytes.par_chunks_exact_mut(stored).enumerate().try_for_each(|(at, bytes)| {
            let (sample, checksum) = bytes.split_at_mut(self.sample_bytes);
            encode(at, sample)?;
            checksum.copy_from_slice(&crc32c::crc32c(sample).to_le_bytes());
            Ok(())
        })
    }
}

/// Reads and checks the index of a shard that holds `count` samples: the offset of each.
///
/// # Errors
/// When the index is damaged, a sample is missing or lies outside the file, or there are more samples.
pub(super) fn read_index(file: &File, capacity: usize, count: usize, sample_bytes: usize) -> Result<Vec<u64>> {
    let length = capacity * 16 + CHECKSUM;
    let end = file.metadata().map_err(|e| Error::failed(e.to_string()))?.len();
    let start = end.checked_sub(length as u64).ok_or_else(|| Error::failed("it is too short for its index"))?;
    let mut bytes = Vec::new();
    room::resize(&mut bytes, length)?;
    file.read_exact_at(&mut bytes, start).map_err(|e| Error::failed(e.to_string()))?;
    let (index, checksum) = bytes.split_at(length - CHECKSUM);
    if crc32c::crc32c(index).to_le_bytes() != *checksum {
        return Err(Error::failed("the checksum of its index is wrong"));
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |all, &byte| all << 8 | u64::from(byte));
    let stored = (sample_bytes + CHECKSUM) as u64;
    let place = |(at, entry): (usize, &[u8])| {
        let (offset, length) = (number(&entry[..8]), number(&entry[8..]));
        let whole = offset != ABSENT && length == stored && offset.checked_add(length).is_some_and(|end| end <= start);
        if whole { Ok(offset) } else { Err(Error::failed(format!("sample {at} of it is missing"))) }
    };
    if index.chunks_exact(16).skip(count).any(|entry| number(&entry[..8]) != ABSENT) {
        return Err(Error::failed(format!("it holds more than {count} samples")));
    }
    index.chunks_exact(16).take(count).enumerate().map(place).collect()
}

/// Reads the values of a sample at an offset and checks them.
///
/// # Errors
/// When the file is too short or the checksum is wrong.
pub(super) fn read_sample(file: &File, offset: u64, sample_bytes: usize, out: &mut Vec<u8>) -> Result<()> {
    room::resize(out, sample_bytes + CHECKSUM)?;
    file.read_exact_at(out, offset).map_err(|e| Error::failed(e.to_string()))?;
    let checksum = out.split_off(sample_bytes);
    if crc32c::crc32c(out).to_le_bytes() == *checksum { Ok(()) } else { Err(Error::failed("the checksum is wrong")) }
}
