//! The bytes of a sample as they lie in a shard: compressed or not, with a checksum; and back.
//!
//! | codec | a sample in a shard |
//! |---|---|
//! | none | the values (little endian), their CRC-32C; before a whole image a 1 and its length, 32 bits each |
//! | lz4 | a Blosc frame (bits shuffled, LZ4), its CRC-32C |
//! | huffman, zstd | a Zstandard frame with its own checksum |

use super::array::{Layout, Order};
use crate::error::{Error, Result};
use crate::pipeline::{Codec, Dtype, LONGEST, Shape};
use crate::room;
use std::cell::RefCell;
use zarrs::array::codec::{
    BloscCodec, BloscCompressionLevel, BloscCompressor, BloscShuffleMode, blosc_compress_bytes, blosc_decompress_bytes,
    blosc_validate,
};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{self, CParameter, ParamSwitch};

/// Bytes of a CRC-32C.
const CHECKSUM: usize = 4;
/// Bytes before a whole image, as Zarr's codec `vlen-bytes` has them: how many samples (one), and its length.
const LENGTH: usize = 8;
/// Bytes of the header of a whole image at most: as many digits as there are.
const MOST_HEADER: usize = 32;
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
    if layout.order == Order::Ppm {
        let Shape { channels, size } = layout.shape;
        return (LENGTH + CHECKSUM, LENGTH + MOST_HEADER + channels * size * size * LONGEST + CHECKSUM);
    }
    match layout.codec {
        Codec::None => (bytes + CHECKSUM, bytes + CHECKSUM),
        Codec::Lz4 => (CHECKSUM + 1, bytes + BLOSC_HEADER + CHECKSUM),
        Codec::Huffman | Codec::Zstd(_) => (CHECKSUM + 1, zstd_safe::compress_bound(bytes) + CHECKSUM),
    }
}

/// Puts a sample's bytes into the form that a shard holds; gives how many of the bytes of `out` that took, which needs
/// the most of [`stored_bytes`].
///
/// # Errors
/// When there is no memory.
pub(super) fn pack(layout: &Layout, sample: &[u8], out: &mut [u8]) -> Result<usize> {
    if let Some(level) = layout.codec.zstd_level() {
        return zstd_pack(level, sample, out);
    }
    let length = match layout.codec {
        Codec::Lz4 => {
            let (level, shuffle) = (blosc_level()?, BloscShuffleMode::BitShuffle);
            let width = layout.dtype.bytes();
            let packed = blosc_compress_bytes(sample, level, shuffle, width, BloscCompressor::LZ4, 0, 1)
                .map_err(|e| Error::failed(format!("cannot compress a sample: {e}")))?;
            out[..packed.len()].copy_from_slice(&packed);
            packed.len()
        }
        Codec::None | Codec::Huffman | Codec::Zstd(_) => {
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

/// Bytes that a sample of values of any length takes in a shard.
pub(super) fn sealed_bytes(sample: &[u8]) -> usize {
    LENGTH + sample.len() + CHECKSUM
}

/// Puts a sample of any length into the form that a shard holds; gives how many of the bytes of `out` that took.
///
/// # Errors
/// When it is too long.
pub(super) fn seal_any(sample: &[u8], out: &mut [u8]) -> Result<usize> {
    let length = u32::try_from(sample.len()).map_err(|_| Error::failed("a sample is too long"))?;
    out[..4].copy_from_slice(&1u32.to_le_bytes());
    out[4..LENGTH].copy_from_slice(&length.to_le_bytes());
    out[LENGTH..LENGTH + sample.len()].copy_from_slice(sample);
    Ok(seal(out, LENGTH + sample.len()))
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
pub(super) fn unpack_in_place(layout: &Layout, stored: &mut Vec<u8>) -> Result<()> {
    let length = unseal(stored)?.len();
    stored.truncate(length);
    if layout.order == Order::Ppm {
        let long = u32::try_from(length - LENGTH.min(length)).unwrap_or_default();
        if stored.get(..LENGTH) != Some(&[1u32.to_le_bytes(), long.to_le_bytes()].concat()) {
            return Err(Error::failed("its length is another than it says"));
        }
        stored.drain(..LENGTH);
    }
    Ok(())
}

/// Checks a stored sample and gives its bytes in `out`, whatever the stored bytes claim of their number.
///
/// # Errors
/// When the checksum is wrong or the sample has another length.
pub(super) fn unpack(layout: &Layout, stored: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let wrong = || Error::failed("it is compressed to another length");
    match layout.codec {
        Codec::Huffman | Codec::Zstd(_) => zstd_unpack(stored, layout.sample_bytes(), out),
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
        Codec::None => {
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
        // What is no repetition is coded at every level: those below 0 would leave it as it is.
        own.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable)).map_err(fault)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Order, Scale};
    use crate::pipeline::Shape;
    use crate::random::{Purpose, Stream};

    /// Every type with every codec, of samples of 3 x 5 x 5 values.
    fn layouts() -> Vec<Layout> {
        let mut all = Vec::new();
        for dtype in [Dtype::U8, Dtype::F16, Dtype::Bf16, Dtype::F32] {
            for codec in [Codec::None, Codec::Lz4, Codec::Huffman, Codec::Zstd(1), Codec::Zstd(19)] {
                let (shape, order) = (Shape { channels: 3, size: 5 }, Order::Pixels);
                let scale = Scale::new(0.1).filter(|_| dtype == Dtype::U8);
                all.push(Layout { views: 1, samples: 1, shape, dtype, order, codec, scale, samples_in_shard: 1 });
            }
        }
        all
    }

    /// Half zeros, as after a ReLU, or bits without any order.
    fn sample(layout: &Layout, random: bool) -> Vec<u8> {
        let mut rng = Stream::new(Purpose::Bench, 3, (0, 0));
        (0..layout.sample_bytes()).map(|at| if random || at % 8 < 4 { rng.bits() as u8 } else { 0 }).collect()
    }

    fn packed(layout: &Layout, sample: &[u8]) -> Vec<u8> {
        let (least, most) = stored_bytes(layout);
        let mut out = vec![0xaa; most];
        let length = pack(layout, sample, &mut out).unwrap();
        assert!((least..=most).contains(&length), "{layout:?}: {length}");
        out.truncate(length);
        out
    }

    #[test]
    fn samples_come_back_of_every_type_through_every_codec() {
        for layout in layouts() {
            for sample in [sample(&layout, false), sample(&layout, true), vec![0; layout.sample_bytes()]] {
                let mut back = vec![7];
                unpack(&layout, &packed(&layout, &sample), &mut back).unwrap();
                assert_eq!(back, sample, "{layout:?}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_found_or_changes_nothing() {
        for layout in layouts() {
            let sample = sample(&layout, false);
            let whole = packed(&layout, &sample);
            let (mut found, mut back) = (0, Vec::new());
            for bit in 0..8 * whole.len() {
                let mut changed = whole.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                match unpack(&layout, &changed, &mut back) {
                    Ok(()) => assert_eq!(back, sample, "{layout:?}, bit {bit}"),
                    Err(_) => found += 1,
                }
            }
            // Zstandard looks at neither the bit that is kept for later, nor what pads its bit streams.
            let unseen = if layout.codec.zstd_level().is_some() { 24 } else { 0 };
            assert!(found + unseen >= 8 * whole.len(), "{layout:?}: {found} of {}", 8 * whole.len());
            for length in 0..whole.len() {
                assert!(unpack(&layout, &whole[..length], &mut back).is_err(), "{layout:?}, {length} bytes");
            }
        }
    }

    #[test]
    fn samples_of_other_lengths_are_refused_whatever_they_claim() {
        let shape = Shape { channels: 3, size: 64 };
        for layout in layouts().into_iter().filter(|layout| layout.codec != Codec::None) {
            for other in [Layout { shape, ..layout }, Layout { shape: Shape { channels: 1, size: 1 }, ..layout }] {
                let stored = packed(&other, &vec![0; other.sample_bytes()]);
                let mut back = Vec::new();
                assert!(unpack(&layout, &stored, &mut back).is_err(), "{layout:?}");
                assert!(back.capacity() <= layout.sample_bytes(), "{layout:?}");
            }
            // A Blosc frame whose header claims four gigabytes, with a checksum that is right.
            if layout.codec == Codec::Lz4 {
                let mut frame = packed(&layout, &sample(&layout, false));
                frame[4..8].fill(0xff);
                let length = frame.len() - CHECKSUM;
                seal(&mut frame, length);
                assert!(unpack(&layout, &frame, &mut Vec::new()).is_err());
            }
        }
    }
}
