//! How the values of a stage's features are stored, beyond what the settings say: as its arrays were begun, or else as
//! is found out on the first samples.

use super::array::{Layout, Order, Split};
use super::encoding::encode_sample;
use super::packing::unpack;
use super::scale::Scale;
use super::shard::StoredSamples;
use crate::disk::{self, NO_LINK};
use crate::error::{Error, Result};
use crate::ops::Maps;
use crate::pipeline::{Codec, CodecChoice, Dtype, Encoding};
use crate::size;
use crate::temporary::unfinished;
use rayon::prelude::*;
use rustix::fs::{Advice, fadvise};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// The codecs that are tried where one is to be found.
const TRIED: [Codec; 4] = [Codec::None, Codec::Lz4, Codec::Huffman, Codec::Zstd(1)];
/// How long each is tried at least.
const TRIAL: Duration = Duration::from_millis(30);
/// Bytes that the disk's speed is measured by.
const PROBE: usize = 32 << 20;
/// What the file of these bytes is called until it loses its name.
pub const PROBE_NAME: &str = "probe";
/// What an array takes beside the training samples as the first of them compress: others, validation samples, indexes.
const MORE: f64 = 1.1;

/// What the arrays of a stage have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Form {
    pub order: Order,
    pub codec: Codec,
    pub scale: Option<Scale>,
}

impl Form {
    /// The form of what lies in a stage's folder, be it written by an earlier version; nothing where there is nothing
    /// of these settings, or its metadata are damaged.
    ///
    /// # Errors
    /// When metadata are there but cannot be read.
    pub fn begun(stage: &Path, encoding: Encoding) -> Result<Option<Self>> {
        for split in Split::BOTH {
            let path = split.array(stage, "features").join("zarr.json");
            let Some(text) = disk::read_text(&path)? else { continue };
            let fits = |found: &Layout| {
                found.dtype == encoding.dtype
                    && [CodecChoice::Fixed(found.codec), CodecChoice::Fastest].contains(&encoding.codec)
                    && !found.holds_images()
            };
            if let Some(found) = Layout::described(&path, &text).ok().filter(fits) {
                return Ok(Some(Self { order: found.order, codec: found.codec, scale: found.scale }));
            }
        }
        Ok(None)
    }

    /// All forms that arrays of these settings may have.
    pub fn possible(encoding: Encoding, scale: Option<Scale>) -> Vec<Self> {
        let codecs = match encoding.codec {
            CodecChoice::Fixed(codec) => vec![codec],
            CodecChoice::Fastest => TRIED.to_vec(),
        };
        let orders =
            [Order::Pixels, Order::Planes].into_iter().filter(|&order| scale.is_none() || order == Order::Pixels);
        orders.flat_map(|order| codecs.iter().map(move |&codec| Self { order, codec, scale })).collect()
    }

    /// The form for features of which the first samples have these values \[y, x, channel\], all of which may take so many
    /// bytes of the disk, where that is limited.
    ///
    /// # Errors
    /// When a value does not fit the type, or the disk cannot be tried.
    pub fn find(
        stage: &Path,
        (encoding, disk): (Encoding, Option<u64>),
        layout: &Layout,
        values: &[f32],
    ) -> Result<Self> {
        let scale = match encoding.dtype {
            Dtype::U8 => Some(Scale::of(values)?),
            _ => None,
        };
        let layout = Layout { order: Order::Pixels, codec: Codec::None, scale, ..*layout };
        let codec = match encoding.codec {
            CodecChoice::Fastest => fastest(stage, disk, &layout, values)?,
            CodecChoice::Fixed(codec) => codec,
        };
        Ok(Self { order: Order::Pixels, codec, scale })
    }
}

/// What a codec makes of the first samples.
struct Trial {
    codec: Codec,
    /// Stored bytes of a byte of values.
    ratio: f64,
    /// Seconds that a byte of values takes to decode, on all threads.
    seconds: f64,
}

/// The codec that is read fastest where the disk is the source, of those whose array fits the disk; the one that
/// takes least where none does.
fn fastest(stage: &Path, disk: Option<u64>, layout: &Layout, values: &[f32]) -> Result<Codec> {
    let trials = TRIED.iter().map(|&codec| trial(&Layout { codec, ..*layout }, values)).collect::<Result<Vec<_>>>()?;
    let free = size::free(stage).unwrap_or(u64::MAX);
    let limit = disk.map_or(free, |disk| disk.min(free)) as f64;
    let rate = reading_rate(stage)?;
    let fits = |trial: &&Trial| layout.logical_bytes() as f64 * trial.ratio * MORE <= limit;
    let cost = |trial: &&Trial| trial.seconds + trial.ratio / rate;
    let quickest = trials.iter().filter(fits).min_by(|a, b| cost(a).total_cmp(&cost(b)));
    let smallest = || trials.iter().min_by(|a, b| a.ratio.total_cmp(&b.ratio));
    Ok(quickest.or_else(smallest).map_or(Codec::None, |trial| trial.codec))
}

fn trial(layout: &Layout, values: &[f32]) -> Result<Trial> {
    let each = layout.shape.values();
    let count = values.len() / each;
    let mut stored = StoredSamples::new(layout);
    stored.fill(count, |at, out| encode_sample(Maps::F32(&values[at * each..][..each]), layout, out))?;
    let samples: Vec<&[u8]> = stored.iter().collect();
    let bytes = (count * layout.sample_bytes()) as f64;
    let (started, mut best) = (Instant::now(), f64::INFINITY);
    while best.is_infinite() || started.elapsed() < TRIAL {
        let round = Instant::now();
        samples.par_iter().try_for_each_init(Vec::new, |out, sample| unpack(layout, sample, out))?;
        best = best.min(round.elapsed().as_secs_f64());
    }
    Ok(Trial { codec: layout.codec, ratio: stored.len() as f64 / bytes, seconds: best / bytes })
}

/// Bytes a second that a file in a folder is read at when it is not in memory. The file has no name: it goes with the
/// process.
fn reading_rate(folder: &Path) -> Result<f64> {
    let path = unfinished(&folder.join(PROBE_NAME));
    disk::create_folder(folder)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).custom_flags(NO_LINK);
    let fault = |e: std::io::Error| Error::io("try the disk with", &path, &e);
    let file = options.open(&path).map_err(fault)?;
    disk::remove(&path)?;
    let mut piece = vec![0x5a; 1 << 20];
    let places = || (0..PROBE as u64).step_by(1 << 20);
    places().try_for_each(|at| file.write_all_at(&piece, at)).and_then(|()| file.sync_all()).map_err(fault)?;
    // Where the system does not forget what it holds, reading from memory is what training will meet as well.
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    let started = Instant::now();
    places().try_for_each(|at| file.read_exact_at(&mut piece, at)).map_err(fault)?;
    Ok(PROBE as f64 / started.elapsed().as_secs_f64().max(1e-9))
}
