//! The arrays of a stage, described from their Zarr metadata.

use crate::disk;
use crate::error::{Error, Result};
use crate::features::Split;
use serde_json::Value;
use std::path::Path;

/// One array, as its metadata describes it and the disk holds it.
#[derive(Clone, Debug)]
pub struct ArraySummary {
    /// Its path in the stage's folder.
    pub name: String,
    /// The length of each dimension.
    pub shape: Vec<u64>,
    /// The name of each dimension.
    pub dimension_names: Vec<String>,
    /// The Zarr data type.
    pub dtype: String,
    /// What is encoded and checked as one.
    pub chunk: Vec<u64>,
    /// What lies in one file.
    pub shard: Vec<u64>,
    /// The codecs of a chunk, first to last.
    pub codecs: Vec<String>,
    /// Bytes of the values; of samples of any length those of the files.
    pub logical_bytes: u64,
    /// Bytes of the files.
    pub stored_bytes: u64,
    /// Files of values.
    pub files: usize,
}

/// Describes the arrays in a stage's folder, by name.
///
/// # Errors
/// When the metadata of one is damaged.
pub fn arrays(stage: &Path) -> Result<Vec<ArraySummary>> {
    let mut found = Vec::new();
    for split in Split::BOTH {
        for name in ["features", "labels", "logits"] {
            let folder = split.array(stage, name);
            let path = folder.join("zarr.json");
            let Some(text) = disk::read_text(&path)? else { continue };
            let metadata: Option<Value> = serde_json::from_str(&text).ok();
            let summary = metadata.and_then(|metadata| describe(&metadata));
            let summary = summary.ok_or_else(|| Error::failed(format!("`{}` describes no array", path.display())))?;
            let (stored_bytes, files) = stored(&folder.join("c"));
            let logical_bytes = if summary.logical_bytes == 0 { stored_bytes } else { summary.logical_bytes };
            let name = format!("{}/{name}", split.name());
            found.push(ArraySummary { name, logical_bytes, stored_bytes, files, ..summary });
        }
    }
    Ok(found)
}

fn describe(metadata: &Value) -> Option<ArraySummary> {
    let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
    let names = |value: &Value, key: &str| -> Option<Vec<String>> {
        let name = |item: &Value| Some(item.get(key).unwrap_or(item).as_str()?.to_string());
        value.as_array()?.iter().map(name).collect()
    };
    let shape = numbers(metadata.get("shape")?)?;
    let shard = numbers(metadata.pointer("/chunk_grid/configuration/chunk_shape")?)?;
    let outer = metadata.get("codecs")?;
    let sharding = outer.as_array()?.iter().find(|codec| codec.get("name").is_some_and(|n| n == "sharding_indexed"));
    let (chunk, codecs) = match sharding.and_then(|codec| codec.get("configuration")) {
        Some(inner) => (numbers(inner.get("chunk_shape")?)?, names(inner.get("codecs")?, "name")?),
        None => (shard.clone(), names(outer, "name")?),
    };
    let dtype = metadata.get("data_type")?.as_str()?.to_string();
    // Samples of any length have no size that the metadata tells.
    let bits: u64 = match dtype.trim_start_matches(|c: char| !c.is_ascii_digit()) {
        "" => 0,
        bits => bits.parse().ok()?,
    };
    let values = shape.iter().try_fold(1u64, |all, &length| all.checked_mul(length))?;
    Some(ArraySummary {
        name: String::new(),
        dimension_names: metadata.get("dimension_names").and_then(|list| names(list, "")).unwrap_or_default(),
        logical_bytes: values.checked_mul(bits / 8)?,
        shape,
        dtype,
        chunk,
        shard,
        codecs,
        stored_bytes: 0,
        files: 0,
    })
}

/// Bytes and number of the files below a folder.
fn stored(folder: &Path) -> (u64, usize) {
    let Ok(entries) = std::fs::read_dir(folder) else { return (0, 0) };
    entries.flatten().fold((0, 0), |(bytes, files), entry| match entry.metadata() {
        Ok(found) if found.is_dir() => {
            let (more, count) = stored(&entry.path());
            (bytes + more, files + count)
        }
        Ok(found) => (bytes + found.len(), files + 1),
        Err(_) => (bytes, files),
    })
}
