//! The layout of a feature array: `[view, sample, channel, y, x]`, one sample of one view a chunk, many chunks a shard.
//!
//! ```text
//! stage2/                     a Zarr v3 group
//!   train/                    a group
//!     features/zarr.json      sharding_indexed, bytes + crc32c, index at the end with crc32c
//!     features/c/0/3/0/0/0    the fourth shard of view 0
//!     labels/                 [sample]
//!   val/                      the same with one view
//! ```

use crate::disk;
use crate::error::{Error, Result};
use crate::pipeline::{Dtype, Shape};
use serde_json::{Map, Value};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zarrs::array::codec::{Crc32cCodec, ShardingCodecBuilder};
use zarrs::array::{ArrayBuilder, DataType, FillValue, data_type};
use zarrs::group::GroupBuilder;
use zarrs::storage::store::MemoryStore;

/// The training or the validation samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subset {
    /// Training samples.
    Train,
    /// Validation samples.
    Val,
}

impl Subset {
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

/// Sizes and type of a feature array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Augmented copies of each sample.
    pub views: usize,
    /// Samples.
    pub samples: usize,
    /// Channels, height and width of a sample.
    pub shape: Shape,
    /// The type of the values.
    pub dtype: Dtype,
    /// Samples in a shard.
    pub samples_in_shard: usize,
}

/// The names of the dimensions.
pub(super) const DIMENSIONS: [&str; 5] = ["view", "sample", "channel", "y", "x"];

/// Shards of an array at most: all of them are looked for whenever a stage is looked at.
const MOST_SHARDS: usize = 1 << 22;

impl Layout {
    /// Bytes of one sample, without its checksum.
    pub fn sample_bytes(&self) -> usize {
        self.shape.values() * self.dtype.bytes()
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
    pub fn shard_key(view: usize, at: usize) -> String {
        format!("c/{view}/{at}/0/0/0")
    }

    /// The text of the array's `zarr.json`.
    pub(super) fn metadata(&self) -> Result<String> {
        if self.views.checked_mul(self.shards_in_view()).is_none_or(|shards| shards > MOST_SHARDS) {
            return Err(Error::failed(format!("a feature array cannot have more than {MOST_SHARDS} shards"))
                .hint("raise `features.shard_mib`"));
        }
        let size = self.shape.size as u64;
        let channels = self.shape.channels as u64;
        let chunk = |views: usize, samples: usize| vec![views as u64, samples as u64, channels, size, size];
        let (dtype, fill) = zarr_type(self.dtype);
        let one = chunk(1, 1).into_iter().map(|length| length.try_into()).collect::<Result<Vec<_>, _>>();
        let one = one.map_err(|_| Error::failed("a feature array needs at least one value a sample"))?;
        let mut sharding = ShardingCodecBuilder::new(one, &dtype);
        sharding.bytes_to_bytes_codecs(vec![Arc::new(Crc32cCodec::new())]);
        let array =
            ArrayBuilder::new(chunk(self.views, self.samples), chunk(1, self.samples_in_shard), dtype.clone(), fill)
                .array_to_bytes_codec(sharding.build_arc())
                .dimension_names(DIMENSIONS.into())
                .build(Arc::new(MemoryStore::new()), "/array")
                .map_err(|e| Error::failed(format!("cannot describe a feature array: {e}")))?;
        Ok(array.metadata().to_string_pretty())
    }

    /// The metadata file of a subset's features.
    pub(super) fn file(&self, subset: Subset) -> Result<(String, Vec<u8>)> {
        Ok((format!("{}/features/zarr.json", subset.name()), self.metadata()?.into_bytes()))
    }

    /// Reads the layout of an array back from its `zarr.json`.
    ///
    /// # Errors
    /// When the file is missing or describes an array that this program would not have written.
    pub fn open(array: &Path) -> Result<Self> {
        let path = array.join("zarr.json");
        let text = disk::read_text(&path)?.ok_or_else(|| {
            Error::failed(format!("`{}` is no feature array: it has no `zarr.json`", array.display()))
        })?;
        let foreign = || Error::failed(format!("`{}` describes no feature array of this program", path.display()));
        let found: Value = serde_json::from_str(&text).map_err(|e| foreign().context(e))?;
        let layout = Self::from_metadata(&found).ok_or_else(foreign)?;
        // The rest of the metadata (codecs, dimension names, fill value) has to be what the layout implies.
        let expected = layout.metadata().map_err(|e| foreign().context(e))?;
        let expected: Value = serde_json::from_str(&expected).map_err(|_| foreign())?;
        if without_notes(found) == without_notes(expected) { Ok(layout) } else { Err(foreign()) }
    }

    fn from_metadata(metadata: &Value) -> Option<Self> {
        let numbers = |value: &Value| -> Option<[usize; 5]> {
            let list = value.as_array()?.iter().map(|number| Some(u32::try_from(number.as_u64()?).ok()? as usize));
            list.collect::<Option<Vec<_>>>()?.try_into().ok()
        };
        let [views, samples, channels, size, width] = numbers(metadata.get("shape")?)?;
        let shard = numbers(metadata.pointer("/chunk_grid/configuration/chunk_shape")?)?;
        let dtype = match metadata.get("data_type")?.as_str()? {
            "uint8" => Dtype::U8,
            "float16" => Dtype::F16,
            "bfloat16" => Dtype::Bf16,
            "float32" => Dtype::F32,
            _ => return None,
        };
        let shape = Shape { channels, size };
        // A hostile file may claim any size; none of ours has samples beyond a gigabyte.
        let product = |sides: &[usize]| sides.iter().try_fold(1usize, |all, &side| all.checked_mul(side));
        let bytes = product(&[channels, size, size, dtype.bytes()])?;
        product(&[views, samples, bytes])?;
        let possible = size == width && views > 0 && shard[1] > 0 && bytes > 0 && bytes <= 1 << 30;
        possible.then_some(Self { views, samples, shape, dtype, samples_in_shard: shard[1] })
    }
}

/// The metadata without what says nothing about the values: attributes, and notes of the writing library.
pub(super) fn without_notes(mut metadata: Value) -> Value {
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|name, _| name != "attributes" && !name.starts_with('_'));
    }
    metadata
}

/// The Zarr data type, and a fill value that is no plausible feature where the type has one: what is missing must not
/// pass for zeros.
fn zarr_type(dtype: Dtype) -> (DataType, FillValue) {
    match dtype {
        Dtype::U8 => (data_type::uint8(), FillValue::from(0u8)),
        Dtype::Bf16 => (data_type::bfloat16(), FillValue::from(half::bf16::NAN)),
        Dtype::F16 => (data_type::float16(), FillValue::from(half::f16::NAN)),
        Dtype::F32 => (data_type::float32(), FillValue::from(f32::NAN)),
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
    for subset in Subset::BOTH {
        files.push((format!("{}/zarr.json", subset.name()), group_metadata(Map::new())?));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_claim_countless_shards_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape { channels: 1, size: 1 };
        let layout = Layout { views: 1, samples: 9, shape, dtype: Dtype::U8, samples_in_shard: 2 };
        let mut metadata: Value = serde_json::from_str(&layout.metadata().unwrap()).unwrap();
        let mut open = |views: u64, samples: u64| {
            metadata["shape"] = serde_json::json!([views, samples, 1, 1, 1]);
            std::fs::write(folder.path().join("zarr.json"), metadata.to_string()).unwrap();
            Layout::open(folder.path())
        };
        assert_eq!(open(1, 9).unwrap(), layout);
        for (views, samples) in [(u64::from(u32::MAX), u64::from(u32::MAX)), (1 << 22, 3), (1, 1 << 31)] {
            assert!(open(views, samples).is_err(), "{views} views of {samples} samples");
        }
    }
}
