//! BETWEEN: feature arrays on the disk, how they are written from images or a frozen block, and how batches are read.
//!
//! The only folder that knows the Zarr format.

mod array;
mod decoding;
mod draw;
mod encoding;
mod extraction;
mod form;
mod kept;
mod loader;
mod metadata;
mod on_device;
mod order;
mod packing;
mod reader;
mod renewal;
#[cfg(test)]
mod roads;
mod samples;
mod scale;
mod shard;
mod small;
mod source;
mod writer;

pub use array::{Files, Layout, Order, Subset, group_files, write_files};
pub use decoding::{Decoded, Redecoding, decode, note_skipped};
pub use draw::Draw;
pub use encoding::{decode_sample, encode_sample};
pub use extraction::Extraction;
pub(crate) use extraction::{at_once, processor};
pub use form::PROBE_NAME as PROBE;
pub use kept::NAME as KEPT;
pub use loader::{Batch, Loader};
pub use order::{pixels_to_planes, planes_to_pixels};
pub use reader::Reader;
pub use renewal::Renewal;
pub use scale::Scale;
pub use shard::{ShardWriter, StoredSamples};
pub use small::{has_logits, label_files, logit_files, read_labels, read_logits};
pub use writer::{ShardSum, Written, write_array};
