//! Small arrays of a stage, one chunk each: labels and logits.

use super::array::{Files, Split};
use super::metadata::without_notes;
use crate::disk;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use zarrs::array::codec::Crc32cCodec;
use zarrs::array::{Array, ArrayBuilder, DataType, ElementOwned, FillValue, IntoArrayBytes, data_type};
use zarrs::storage::store::MemoryStore;
use zarrs::storage::{Bytes, ListableStorageTraits, ReadableStorageTraits, StoreKey, WritableStorageTraits};

/// Values of an array of ours at most: a hostile file may claim any size.
const MOST_VALUES: u64 = 1 << 32;
/// Bytes of a value of either array.
const VALUE: u64 = 4;
/// Bytes of the checksum of a chunk.
const CHECKSUM: u64 = 4;

/// One of the two arrays.
struct Kind {
    name: &'static str,
    /// The names of its dimensions.
    dimensions: &'static [&'static str],
    /// The file of its only chunk.
    chunk: &'static str,
    /// The type of its values, and one that none of them has.
    dtype: fn() -> (DataType, FillValue),
}

/// u32 \[sample\]
const LABELS: Kind =
    Kind { name: "labels", dimensions: &["sample"], chunk: "c/0", dtype: || (data_type::uint32(), u32::MAX.into()) };
/// f32 \[sample, class\]
const LOGITS: Kind = Kind {
    name: "logits",
    dimensions: &["sample", "class"],
    chunk: "c/0/0",
    dtype: || (data_type::float32(), f32::NAN.into()),
};

/// The files of a split's labels: u32 \[sample\].
///
/// # Errors
/// When they cannot be encoded.
pub fn label_files(split: Split, labels: &[u32]) -> Result<Files> {
    LABELS.encode(split, &[labels.len() as u64], labels.to_vec())
}

/// Reads the labels of a split.
///
/// # Errors
/// When they are missing or damaged.
pub fn read_labels(stage: &Path, split: Split) -> Result<Vec<u32>> {
    Ok(LABELS.read(&split.array(stage, LABELS.name))?.1)
}

/// The files of the logits of a stage's auxiliary classifier: f32 \[sample, class\].
///
/// # Errors
/// When they cannot be encoded.
pub fn logit_files(split: Split, logits: &[f32], classes: usize) -> Result<Files> {
    LOGITS.encode(split, &[logits.len() / classes, classes].map(|length| length as u64), logits.to_vec())
}

/// Whether there are logits, be they whole or not.
pub fn has_logits(stage: &Path, split: Split) -> bool {
    let folder = split.array(stage, LOGITS.name);
    ["zarr.json", LOGITS.chunk].iter().all(|file| folder.join(file).exists())
}

/// Reads logits and the number of classes.
///
/// # Errors
/// When they are missing or damaged.
pub fn read_logits(stage: &Path, split: Split) -> Result<(Vec<f32>, usize)> {
    let (shape, logits) = LOGITS.read(&split.array(stage, LOGITS.name))?;
    Ok((logits, shape[1] as usize))
}

impl Kind {
    /// An array of this kind in memory, described but without its chunk.
    fn in_memory(&self, shape: &[u64]) -> Result<(Array<MemoryStore>, Arc<MemoryStore>), String> {
        let store = Arc::new(MemoryStore::new());
        let (dtype, fill) = (self.dtype)();
        let array = ArrayBuilder::new(shape.to_vec(), shape.to_vec(), dtype, fill)
            .bytes_to_bytes_codecs(vec![Arc::new(Crc32cCodec::new())])
            .dimension_names(self.dimensions.iter().copied().into())
            .build(Arc::clone(&store), "/")
            .map_err(|e| e.to_string())?;
        Ok((array, store))
    }

    /// Its files, encoded through zarrs.
    fn encode<'a>(&self, split: Split, shape: &[u64], values: impl IntoArrayBytes<'a>) -> Result<Files> {
        let name = format!("{}/{}", split.name(), self.name);
        let fault = |e: &dyn std::fmt::Display| Error::failed(format!("cannot encode `{name}`: {e}"));
        let (array, store) = self.in_memory(shape).map_err(|e| fault(&e))?;
        array.store_metadata().map_err(|e| fault(&e))?;
        array.store_chunk(&vec![0; shape.len()], values).map_err(|e| fault(&e))?;
        let file = |key: StoreKey| {
            let bytes = store.get(&key).map_err(|e| fault(&e))?.unwrap_or_default();
            Ok((format!("{name}/{}", key.as_str()), bytes.to_vec()))
        };
        store.list().map_err(|e| fault(&e))?.into_iter().map(file).collect()
    }

    /// Shape and values, if the array is just what [`encode`](Self::encode) makes.
    fn read<T: ElementOwned>(&self, folder: &Path) -> Result<(Vec<u64>, Vec<T>)> {
        let metadata = disk::read_text(&folder.join("zarr.json"))?;
        let chunk = disk::read(&folder.join(self.chunk))?;
        self.decode(metadata.as_deref(), chunk).map_err(|fault| {
            Error::failed(format!("array `{}` is damaged: {fault}", folder.display()))
                .hint("remove that folder; `greedy run` then writes it again")
        })
    }

    fn decode<T: ElementOwned>(&self, metadata: Option<&str>, chunk: Vec<u8>) -> Result<(Vec<u64>, Vec<T>), String> {
        let foreign = "its `zarr.json` describes another array than this program writes";
        let found: Value = serde_json::from_str(metadata.ok_or("it has no `zarr.json`")?).map_err(|_| foreign)?;
        let sides = found.get("shape").and_then(Value::as_array).ok_or(foreign)?;
        let shape = sides.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>().ok_or(foreign)?;
        let count = shape.iter().try_fold(1u64, |all, &side| all.checked_mul(side));
        let count = count.filter(|count| (1..=MOST_VALUES).contains(count) && shape.len() == self.dimensions.len());
        if chunk.len() as u64 != count.ok_or(foreign)? * VALUE + CHECKSUM {
            return Err(format!("`{}` has {} bytes", self.chunk, chunk.len()));
        }
        let (array, store) = self.in_memory(&shape)?;
        let expected: Value = serde_json::from_str(&array.metadata().to_string_pretty()).map_err(|_| foreign)?;
        if without_notes(found) != without_notes(expected) {
            return Err(foreign.into());
        }
        let key = StoreKey::new(self.chunk).map_err(|e| e.to_string())?;
        store.set(&key, Bytes::from(chunk)).map_err(|e| e.to_string())?;
        let values = array.retrieve_chunk_if_exists::<Vec<T>>(&vec![0; shape.len()]).map_err(|e| e.to_string())?;
        Ok((shape, values.ok_or("its chunk is missing")?))
    }
}
