//! BETWEEN: feature arrays on the disk, how they are written from images or a frozen block, and how batches are read.
//!
//! The only folder that knows the Zarr format.

mod array;
mod decoding;
mod encoding;
mod extraction;
mod loader;
mod order;
mod reader;
mod shard;
mod small;
mod writer;

pub use array::{Layout, Subset, stage_group};
pub use decoding::{Decoded, decode, note_skipped};
pub use encoding::{decode_values, encode_values};
pub use extraction::Extraction;
pub use loader::{Batch, Draw, Loader};
pub use order::{pixels_to_planes, planes_to_pixels};
pub use reader::Reader;
pub use small::{has_logits, read_labels, read_logits, write_labels, write_logits};
pub use writer::{ShardSum, Written};
