//! BETWEEN: feature arrays on the disk, how they are written from images or a frozen block, and how batches are read.
//!
//! The only folder that knows the Zarr format.

mod array;
mod crops;
mod decoding;
mod encoding;
mod extraction;
mod labels;
mod loader;
mod metadata;
mod on_device;
mod order;
mod packing;
#[cfg(test)]
mod parity;
mod portion;
mod reader;
mod redecoding;
mod refresh;
mod samples;
mod scale;
mod schedule;
mod shard;
mod source;
mod storage_format;
mod view_cache;
mod writer;

pub use crate::images::whole_image;
pub use array::{Files, Layout, Order, Split, group_files, write_files};
pub use decoding::{Decoded, Hindrances, Listed, decode, decode_noting, list_skipped, note_skipped};
pub use encoding::{centre_square, decode_sample, encode_sample};
pub use extraction::Extraction;
pub(crate) use extraction::{at_once, processor};
pub use labels::{has_logits, label_files, logit_files, read_labels, read_logits};
pub use loader::{Batch, Loader};
pub use order::{chw_to_hwc, hwc_to_chw};
pub use portion::{Ledger, Portion, Sums};
pub use reader::Reader;
pub use redecoding::{Checked, Redecoding, check_images};
pub use refresh::Refresh;
pub use scale::Scale;
pub use schedule::View;
pub use shard::{ShardSum, ShardWriter, StoredSamples};
pub use storage_format::PROBE_NAME as PROBE;
pub use view_cache::NAME as VIEW_CACHE;
pub use writer::{Written, write_array};
