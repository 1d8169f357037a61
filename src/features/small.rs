//! Small arrays of a stage, one chunk each: labels and logits.

use super::array::{Files, Subset, open_with_zarrs};
use crate::error::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use zarrs::array::codec::Crc32cCodec;
use zarrs::array::{Array, ArrayBuilder, DataType, ElementOwned, FillValue, IntoArrayBytes, data_type};
use zarrs::storage::store::MemoryStore;
use zarrs::storage::{ListableStorageTraits, ReadableStorageTraits, StoreKey};

/// Values of an array of ours at most: a hostile file may claim any size.
const MOST_VALUES: u64 = 1 << 32;

/// The files of a subset's labels: u32 \[sample\].
///
/// # Errors
/// When they cannot be encoded.
pub fn label_files(subset: Subset, labels: &[u32]) -> Result<Files> {
    let dtype = (data_type::uint32(), u32::MAX.into());
    encode(&format!("{}/labels", subset.name()), &[labels.len()], &["sample"], dtype, labels.to_vec())
}

/// Reads the labels of a subset.
///
/// # Errors
/// When they are missing or damaged.
pub fn read_labels(stage: &Path, subset: Subset) -> Result<Vec<u32>> {
    Ok(read(&subset.array(stage, "labels"), 1)?.1)
}

/// The files of the logits of a stage's auxiliary classifier: f32 \[sample, class\].
///
/// # Errors
/// When they cannot be encoded.
pub fn logit_files(subset: Subset, logits: &[f32], classes: usize) -> Result<Files> {
    let dtype = (data_type::float32(), f32::NAN.into());
    let shape = [logits.len() / classes, classes];
    encode(&format!("{}/logits", subset.name()), &shape, &["sample", "class"], dtype, logits.to_vec())
}

/// Reads logits and the number of classes.
///
/// # Errors
/// When they are missing or damaged.
pub fn read_logits(stage: &Path, subset: Subset) -> Result<(Vec<f32>, usize)> {
    let (shape, logits) = read(&subset.array(stage, "logits"), 2)?;
    Ok((logits, shape[1] as usize))
}

/// The files of an array of one chunk, encoded through zarrs.
fn encode<'a>(
    name: &str,
    shape: &[usize],
    dimensions: &[&str],
    (dtype, fill): (DataType, FillValue),
    values: impl IntoArrayBytes<'a>,
) -> Result<Files> {
    let fault = |e: &dyn std::fmt::Display| Error::failed(format!("cannot encode `{name}`: {e}"));
    let shape: Vec<u64> = shape.iter().map(|&length| length as u64).collect();
    let store = Arc::new(MemoryStore::new());
    let array: Array<MemoryStore> = ArrayBuilder::new(shape.clone(), shape.clone(), dtype, fill)
        .bytes_to_bytes_codecs(vec![Arc::new(Crc32cCodec::new())])
        .dimension_names(dimensions.iter().copied().into())
        .build(Arc::clone(&store), "/")
        .map_err(|e| fault(&e))?;
    array.store_metadata().map_err(|e| fault(&e))?;
    array.store_chunk(&vec![0; shape.len()], values).map_err(|e| fault(&e))?;
    let file = |key: StoreKey| {
        let bytes = store.get(&key).map_err(|e| fault(&e))?.unwrap_or_default();
        Ok((format!("{name}/{}", key.as_str()), bytes.to_vec()))
    };
    store.list().map_err(|e| fault(&e))?.into_iter().map(file).collect()
}

fn read<T: ElementOwned>(folder: &Path, dimensions: usize) -> Result<(Vec<u64>, Vec<T>)> {
    let fault = |e: &dyn std::fmt::Display| Error::failed(format!("cannot read array `{}`: {e}", folder.display()));
    let array = open_with_zarrs(folder)?;
    let shape = array.shape().to_vec();
    let count = shape.iter().try_fold(1u64, |all, &side| all.checked_mul(side));
    let one_chunk = array.chunk_grid_shape().iter().all(|&chunks| chunks == 1);
    if shape.len() != dimensions || !one_chunk || count.is_none_or(|count| count > MOST_VALUES) {
        return Err(fault(&format!("its shape {shape:?} is not one that this program writes")));
    }
    let values = array.retrieve_chunk_if_exists::<Vec<T>>(&vec![0; dimensions]).map_err(|e| fault(&e))?;
    Ok((shape, values.ok_or_else(|| fault(&"its chunk is missing"))?))
}
