//! The bytes of a sample as they lie in a shard: compressed or not, with a checksum; and back.
//!
//! | codec | a sample in a shard |
//! |---|---|
//! | none | the values (little endian), their CRC-32C |
//! | lz4 | a Blosc frame (bits shuffled, LZ4), its CRC-32C |
//! | zstd | a Zstandard frame with its own checksum |

use super::array::Layout;
use crate::error::{Error, Result};
use crate::pipeline::{Codec, Dtype};
use crate::room;
use std::cell::RefCell;
use zarrs::array::codec::{
    BloscCodec, BloscCompressionLevel, BloscCompressor, BloscShuffleMode, blosc_compress_bytes, blosc_decompress_bytes,
    blosc_validate,
};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

/// Bytes of a CRC-32C.
const CHECKSUM: usize = 4;
/// Bytes that a Blosc frame is longer than its values at most.
const BLOSC_HEADER: usize = 16;
/// How hard LZ4 tries, from 1 to 9.
const BLOSC_LEVEL: u8 = 5;

/// The CRC-32C (Castagnoli) of bytes.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm's sums have 32 bits.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The codec that Zarr's metadata name for LZ4.
pub(super) fn blosc(dtype: Dtype) -> Result<BloscCodec> {
    let (level, shuffle) = (blosc_level()?, BloscShuffleMode::BitShuffle);
    BloscCodec::new(BloscCompressor::LZ4, level, None, shuffle, Some(dtype.bytes()))
        .map_err(|e| Error::failed(format!("cannot describe a codec: {e}")))
}

fn blosc_level() -> Result<BloscCompressionLevel> {
    BLOSC_LEVEL.try_into().map_err(|_| Error::failed("Blosc has no such level"))
}

/// Bytes that a sample takes in a shard: at least, and at most. Other lengths are nobody's.
pub(super) fn stored_bytes(layout: &Layout) -> (usize, usize) {
    let bytes = layout.sample_bytes();
    match layout.codec {
        Codec::None | Codec::Auto => (bytes + CHECKSUM, bytes + CHECKSUM),
        Codec::Lz4 => (CHECKSUM + 1, bytes + BLOSC_HEADER + CHECKSUM),
        Codec::Zstd(_) => (CHECKSUM + 1, zstd_safe::compress_bound(bytes) + CHECKSUM),
    }
}

/// Puts a sample's bytes into the form that a shard holds; gives how many of the bytes of `out` that took, which needs
/// the most of [`stored_bytes`].
///
/// # Errors
/// When there is no memory.
pub(super) fn pack(layout: &Layout, sample: &[u8], out: &mut [u8]) -> Result<usize> {
    let length = match layout.codec {
        Codec::Zstd(level) => return zstd_pack(level, sample, out),
        Codec::Lz4 => {
            let (level, shuffle) = (blosc_level()?, BloscShuffleMode::BitShuffle);
            let width = layout.dtype.bytes();
            let packed = blosc_compress_bytes(sample, level, shuffle, width, BloscCompressor::LZ4, 0, 1)
                .map_err(|e| Error::failed(format!("cannot compress a sample: {e}")))?;
            out[..packed.len()].copy_from_slice(&packed);
            packed.len()
        }
        Codec::None | Codec::Auto => {
            out[..sample.len()].copy_from_slice(sample);
            sample.len()
        }
    };
    Ok(seal(out, length))
}

/// Puts the checksum behind the first `length` bytes; gives the length of both.
pub(super) fn seal(out: &mut [u8], length: usize) -> usize {
    let checksum = crc32c(&out[..length]).to_le_bytes();
    out[length..length + CHECKSUM].copy_from_slice(&checksum);
    length + CHECKSUM
}

/// The bytes before a checksum that is right.
///
/// # Errors
/// When it is wrong.
fn unseal(stored: &[u8]) -> Result<&[u8]> {
    match stored.split_last_chunk::<CHECKSUM>() {
        Some((bytes, checksum)) if crc32c(bytes).to_le_bytes() == *checksum => Ok(bytes),
        _ => Err(Error::failed("the checksum is wrong")),
    }
}

/// Checks a stored sample that is not compressed and cuts its checksum off.
///
/// # Errors
/// When the checksum is wrong.
pub(super) fn unpack_in_place(stored: &mut Vec<u8>) -> Result<()> {
    let length = unseal(stored)?.len();
    stored.truncate(length);
    Ok(())
}

/// Checks a stored sample and gives its bytes in `out`, whatever the stored bytes claim of their number.
///
/// # Errors
/// When the checksum is wrong or the sample has another length.
pub(super) fn unpack(layout: &Layout, stored: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let wrong = || Error::failed("it is compressed to another length");
    match layout.codec {
        Codec::Zstd(_) => zstd_unpack(stored, layout.sample_bytes(), out),
        Codec::Lz4 => {
            let frame = unseal(stored)?;
            // Blosc trusts the lengths in the frame's header unless they were looked at before.
            if blosc_validate(frame) != Some(layout.sample_bytes()) {
                return Err(wrong());
            }
            *out = blosc_decompress_bytes(frame, layout.sample_bytes(), 1)
                .map_err(|e| Error::failed(format!("it cannot be decompressed: {e}")))?;
            if out.len() == layout.sample_bytes() { Ok(()) } else { Err(wrong()) }
        }
        Codec::None | Codec::Auto => {
            out.clear();
            out.extend_from_slice(unseal(stored)?);
            Ok(())
        }
    }
}

thread_local! {
    /// Zstandard's memory, of a level, and for the way back.
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn zstd_pack(level: i32, sample: &[u8], out: &mut [u8]) -> Result<usize> {
    let fault = |e: std::io::Error| Error::failed(format!("cannot compress a sample: {e}"));
    COMPRESSOR.with_borrow_mut(|slot| {
        let mut own = match slot.take() {
            Some((at, compressor)) if at == level => compressor,
            _ => Compressor::new(level).map_err(fault)?,
        };
        own.include_checksum(true).map_err(fault)?;
        let length = own.compress_to_buffer(sample, out).map_err(fault);
        *slot = Some((level, own));
        length
    })
}

fn zstd_unpack(stored: &[u8], sample_bytes: usize, out: &mut Vec<u8>) -> Result<()> {
    let fault = |e: std::io::Error| Error::failed(format!("it cannot be decompressed: {e}"));
    room::resize(out, sample_bytes)?;
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let own = match slot {
            Some(own) => own,
            None => slot.insert(Decompressor::new().map_err(fault)?),
        };
        let length = own.decompress_to_buffer(stored, &mut out[..]).map_err(fault)?;
        if length == sample_bytes { Ok(()) } else { Err(Error::failed("it is compressed to another length")) }
    })
}
