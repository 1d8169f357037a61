//! The layout of a feature array: `[view, sample, channel, y, x]`, one sample of one view a chunk, many chunks a shard; of
//! whole images, which differ in size, `[sample]`, each a PPM file.
//!
//! ```text
//! stage2/                     a Zarr v3 group
//!   train/                    a group
//!     features/zarr.json      sharding_indexed: transpose + bytes + codec + checksum, index at the end with crc32c
//!     features/c/0/3/0/0/0    the fourth shard of view 0
//!     labels/                 [sample]
//!   val/                      the same with one view
//! ```

use super::scale::Scale;
use crate::disk;
use crate::error::{Error, Result};
use crate::pipeline::{Codec, Dtype, Keep, Shape};
use serde_json::{Map, Value};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zarrs::group::GroupBuilder;
use zarrs::storage::store::MemoryStore;

/// The training or the validation samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Training samples.
    Train,
    /// Validation samples.
    Val,
}

impl Split {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Train, Self::Val];

    /// The name of its group.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }

    /// The folder of one of its arrays.
    pub fn array(self, stage: &Path, name: &str) -> PathBuf {
        stage.join(self.name()).join(name)
    }
}

/// The order in which the bytes of a sample hold its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// \[channel, y, x\], as images lie in files.
    Planes,
    /// \[y, x, channel\], as networks take them.
    Pixels,
    /// Rows and columns of their own, and pixels \[y, x, channel\]: a PPM file of a whole image (gray: PGM).
    Ppm,
}

/// Sizes, type and form of a feature array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Augmented copies of each sample.
    pub views: usize,
    /// Samples.
    pub samples: usize,
    /// Channels, height and width of a sample; of a whole image the short side.
    pub shape: Shape,
    /// The type of the values.
    pub dtype: Dtype,
    /// The order of the values of a sample.
    pub order: Order,
    /// How samples are compressed.
    pub codec: Codec,
    /// What a stored 1 stands for, where features are stored as whole numbers.
    pub scale: Option<Scale>,
    /// Samples in a shard.
    pub samples_in_shard: usize,
}

impl Layout {
    /// Whether it holds decoded images and no features: they alone are whole numbers without a scale.
    pub fn holds_images(&self) -> bool {
        self.dtype == Dtype::U8 && self.scale.is_none()
    }

    /// What is kept of each image, where it holds images.
    pub fn keep(&self) -> Keep {
        if self.order == Order::Ppm { Keep::Whole } else { Keep::Square }
    }

    /// Bytes of the values of one sample; of a whole image what is usual.
    pub fn sample_bytes(&self) -> usize {
        let values = self.shape.values() * self.dtype.bytes();
        if self.order == Order::Ppm { values.div_ceil(3) * 4 } else { values }
    }

    /// Bytes of all values.
    pub fn logical_bytes(&self) -> u64 {
        (self.views * self.samples * self.sample_bytes()) as u64
    }

    /// Shards of one view.
    pub fn shards_in_view(&self) -> usize {
        self.samples.div_ceil(self.samples_in_shard)
    }

    /// View and position of every shard.
    pub fn shards(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let in_view = self.shards_in_view();
        (0..self.views).flat_map(move |view| (0..in_view).map(move |at| (view, at)))
    }

    /// The samples that belong into a shard of a view.
    pub(super) fn samples_of(&self, at: usize) -> Range<usize> {
        at * self.samples_in_shard..((at + 1) * self.samples_in_shard).min(self.samples)
    }

    /// The key of a shard below the array's folder.
    pub fn shard_key(&self, (view, at): (usize, usize)) -> String {
        if self.order == Order::Ppm { format!("c/{at}") } else { format!("c/{view}/{at}/0/0/0") }
    }

    /// The metadata file of a split's features.
    pub(super) fn file(&self, split: Split) -> Result<(String, Vec<u8>)> {
        Ok((format!("{}/features/zarr.json", split.name()), self.metadata()?.into_bytes()))
    }
}

/// Files by their path in a stage's folder.
pub type Files = Vec<(String, Vec<u8>)>;

/// Puts files into a stage's folder.
///
/// # Errors
/// When the disk refuses.
pub fn write_files(stage: &Path, files: &Files) -> Result<()> {
    files.iter().try_for_each(|(name, bytes)| {
        let path = stage.join(name);
        path.parent().map_or(Ok(()), disk::create_folder)?;
        disk::write(&path, bytes)
    })
}

/// The metadata of a stage's group and of the groups in it.
///
/// # Errors
/// When the attributes cannot be stored.
pub fn group_files(attributes: Map<String, Value>) -> Result<Files> {
    let mut files = vec![("zarr.json".to_string(), group_metadata(attributes)?)];
    for split in Split::BOTH {
        files.push((format!("{}/zarr.json", split.name()), group_metadata(Map::new())?));
    }
    Ok(files)
}

fn group_metadata(attributes: Map<String, Value>) -> Result<Vec<u8>> {
    let fault = |e: &dyn std::fmt::Display| Error::failed(format!("cannot describe a group: {e}"));
    let mut group = GroupBuilder::new();
    group.attributes(attributes);
    let group = group.build(Arc::new(MemoryStore::new()), "/").map_err(|e| fault(&e))?;
    serde_json::to_vec_pretty(group.metadata()).map_err(|e| fault(&e))
}
