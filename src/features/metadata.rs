//! The layout of a feature array as Zarr's metadata, and back.

use super::array::{Layout, Order};
use super::packing::{blosc, crc32c};
use super::scale::Scale;
use crate::disk;
use crate::error::{Error, Result};
use crate::pipeline::{Codec, Dtype, Shape};
use serde_json::{Map, Value, json};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use zarrs::array::codec::{
    Crc32cCodec, ShardingCodecBuilder, TransposeCodec, TransposeOrder, ZstdCodec, api::BytesToBytesCodecTraits,
};
use zarrs::array::{ArrayBuilder, DataType, FillValue, data_type};
use zarrs::storage::store::MemoryStore;

/// The names of the dimensions.
const DIMENSIONS: [&str; 5] = ["view", "sample", "channel", "y", "x"];
/// The name of the dimension of whole images, and the type of their bytes; this is what zarr-python calls it.
const SAMPLE: &str = "sample";
const ANY_LENGTH: &str = "variable_length_bytes";
/// The attributes of an array of whole images.
const CHANNELS: &str = "channels";
const SHORT_SIDE: &str = "short_side";
/// The dimensions in the order in which [`Order::Pixels`] stores them.
const PIXELS: [usize; 5] = [0, 1, 3, 4, 2];
/// Shards of an array at most: all of them are looked for whenever a stage is looked at.
const MOST_SHARDS: usize = 1 << 22;

/// Attributes that CF-aware readers decode by, and the checksum of the first.
const FACTOR: &str = "scale_factor";
const OFFSET: &str = "add_offset";
const CHECKSUM: &str = "scale_factor_crc32c";

impl Layout {
    /// The text of the array's `zarr.json`.
    pub(super) fn metadata(&self) -> Result<String> {
        if self.views.checked_mul(self.shards_in_view()).is_none_or(|shards| shards > MOST_SHARDS) {
            return Err(Error::failed(format!("a feature array cannot have more than {MOST_SHARDS} shards"))
                .hint("raise `features.shard_mib`"));
        }
        if self.order == Order::Ppm {
            return self.metadata_of_whole_images();
        }
        let size = self.shape.size as u64;
        let channels = self.shape.channels as u64;
        let chunk = |views: usize, samples: usize| vec![views as u64, samples as u64, channels, size, size];
        let (dtype, fill) = zarr_type(self.dtype);
        let one = chunk(1, 1).into_iter().map(|length| length.try_into()).collect::<Result<Vec<_>, _>>();
        let one = one.map_err(|_| Error::failed("a feature array needs at least one value a sample"))?;
        let fault = |e: &dyn std::fmt::Display| Error::failed(format!("cannot describe a feature array: {e}"));
        let mut sharding = ShardingCodecBuilder::new(one, &dtype);
        if self.order == Order::Pixels {
            let order = TransposeOrder::new(&PIXELS).map_err(|e| fault(&e))?;
            sharding.array_to_array_codecs(vec![Arc::new(TransposeCodec::new(order))]);
        }
        sharding.bytes_to_bytes_codecs(self.bytes_codecs()?);
        let array =
            ArrayBuilder::new(chunk(self.views, self.samples), chunk(1, self.samples_in_shard), dtype.clone(), fill)
                .array_to_bytes_codec(sharding.build_arc())
                .dimension_names(DIMENSIONS.into())
                .attributes(self.scale.map(attributes).unwrap_or_default())
                .build(Arc::new(MemoryStore::new()), "/array")
                .map_err(|e| fault(&e))?;
        Ok(array.metadata().to_string_pretty())
    }

    /// The same of whole images: \[sample\], each some bytes.
    fn metadata_of_whole_images(&self) -> Result<String> {
        let fault = |e: &dyn std::fmt::Display| Error::failed(format!("cannot describe an array of images: {e}"));
        let mut sharding = ShardingCodecBuilder::new(vec![NonZeroU64::MIN], &data_type::bytes());
        sharding.bytes_to_bytes_codecs(self.bytes_codecs()?);
        let shape = |samples: usize| vec![samples as u64];
        let sizes = [(CHANNELS, json!(self.shape.channels)), (SHORT_SIDE, json!(self.shape.size))];
        let nothing = FillValue::from(Vec::<u8>::new());
        let array = ArrayBuilder::new(shape(self.samples), shape(self.samples_in_shard), data_type::bytes(), nothing)
            .array_to_bytes_codec(sharding.build_arc())
            .dimension_names([SAMPLE].into())
            .attributes(Map::from_iter(sizes.map(|(name, value)| (name.to_string(), value))))
            .build(Arc::new(MemoryStore::new()), "/array")
            .map_err(|e| fault(&e))?;
        let mut metadata = serde_json::to_value(array.metadata()).map_err(|e| fault(&e))?;
        metadata["data_type"] = ANY_LENGTH.into();
        // Base64, of which this is nothing: the one form that zarr-python takes.
        metadata["fill_value"] = "".into();
        serde_json::to_string_pretty(&metadata).map_err(|e| fault(&e))
    }

    /// What is done to the bytes of a sample. Each way of storing them has a checksum that readers check.
    fn bytes_codecs(&self) -> Result<Vec<Arc<dyn BytesToBytesCodecTraits>>> {
        Ok(match self.codec {
            Codec::None => vec![Arc::new(Crc32cCodec::new())],
            Codec::Lz4 => vec![Arc::new(blosc(self.dtype)?), Arc::new(Crc32cCodec::new())],
            Codec::Huffman | Codec::Zstd(_) => {
                vec![Arc::new(ZstdCodec::new(self.codec.zstd_level().unwrap_or_default(), true))]
            }
        })
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
        Self::described(&path, &text)
    }

    /// The layout that the text of a `zarr.json` describes.
    ///
    /// # Errors
    /// When this program would not have written it.
    pub(super) fn described(path: &Path, text: &str) -> Result<Self> {
        let foreign = || Error::failed(format!("`{}` describes no feature array of this program", path.display()));
        let found: Value = serde_json::from_str(text).map_err(|e| foreign().context(e))?;
        let layout = Self::from_metadata(&found).ok_or_else(foreign)?;
        // The rest of the metadata (codecs, dimension names, fill value) has to be what the layout implies.
        let expected = layout.metadata().map_err(|e| foreign().context(e))?;
        let expected: Value = serde_json::from_str(&expected).map_err(|_| foreign())?;
        if without_notes(found) == without_notes(expected) { Ok(layout) } else { Err(foreign()) }
    }

    fn from_metadata(metadata: &Value) -> Option<Self> {
        if metadata.get("data_type")? == ANY_LENGTH {
            return Self::of_whole_images(metadata);
        }
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
        let (order, codec) = form(metadata.pointer("/codecs/0/configuration/codecs")?)?;
        let scale = match metadata.get("attributes").filter(|all| all.get(FACTOR).is_some()) {
            Some(attributes) => Some(scale(attributes)?),
            None => None,
        };
        // Features as whole numbers have a scale, images lie in planes: neither passes for the other.
        let whole = dtype == Dtype::U8 && order == Order::Pixels;
        let possible = size == width && (1..=1024).contains(&views) && shard[1] > 0 && bytes > 0 && bytes <= 1 << 30;
        let layout = Self { views, samples, shape, dtype, order, codec, scale, samples_in_shard: shard[1] };
        (possible && scale.is_some() == whole).then_some(layout)
    }

    fn of_whole_images(metadata: &Value) -> Option<Self> {
        let number = |place: &str| Some(u32::try_from(metadata.pointer(place)?.as_u64()?).ok()? as usize);
        let size = |name: &str| number(&format!("/attributes/{name}")).filter(|&size| (1..=1 << 14).contains(&size));
        let shape = Shape { channels: size(CHANNELS).filter(|&channels| channels <= 3)?, size: size(SHORT_SIDE)? };
        let samples = number("/shape/0")?;
        let samples_in_shard = number("/chunk_grid/configuration/chunk_shape/0").filter(|&samples| samples > 0)?;
        let (dtype, order, codec) = (Dtype::U8, Order::Ppm, Codec::None);
        Some(Self { views: 1, samples, shape, dtype, order, codec, scale: None, samples_in_shard })
    }
}

/// Order and codec that a list of codecs stands for; whether it is just that list, the caller sees.
fn form(codecs: &Value) -> Option<(Order, Codec)> {
    let codecs = codecs.as_array()?;
    let named = |name: &str| codecs.iter().find(|codec| codec.get("name").is_some_and(|found| found == name));
    let order = if named("transpose").is_some() { Order::Pixels } else { Order::Planes };
    let codec = match (named("zstd"), named("blosc")) {
        (Some(zstd), _) => {
            let level = i32::try_from(zstd.pointer("/configuration/level")?.as_i64()?).ok()?;
            let possible = |codec: &Codec| codec.zstd_level() == Some(level);
            Some(Codec::Huffman).filter(possible).or((1..=22).contains(&level).then_some(Codec::Zstd(level)))?
        }
        (None, Some(_)) => Codec::Lz4,
        (None, None) => Codec::None,
    };
    Some((order, codec))
}

/// The attributes of an array with a scale. Nothing else would notice a flipped bit in it: it has a checksum.
fn attributes(scale: Scale) -> Map<String, Value> {
    let factor = f64::from(scale.factor());
    let fields = [(FACTOR, json!(factor)), (OFFSET, json!(0.0)), (CHECKSUM, json!(checksum(factor)))];
    Map::from_iter(fields.map(|(name, value)| (name.to_string(), value)))
}

fn scale(attributes: &Value) -> Option<Scale> {
    let number = |name: &str| attributes.get(name)?.as_f64();
    let factor = number(FACTOR)?;
    let ours = attributes.get(CHECKSUM)?.as_u64()? == u64::from(checksum(factor)) && number(OFFSET)? == 0.0;
    // Rounding: a factor of ours is an f32.
    Scale::new(factor as f32).filter(|scale| ours && f64::from(scale.factor()) == factor)
}

fn checksum(factor: f64) -> u32 {
    crc32c(&factor.to_le_bytes())
}

/// The metadata without what says nothing about the stored bytes: attributes, and notes of the writing library.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dtype: Dtype) -> Layout {
        let shape = Shape { channels: 1, size: 1 };
        let (order, codec) = (Order::Planes, Codec::None);
        Layout { views: 1, samples: 9, shape, dtype, order, codec, scale: None, samples_in_shard: 2 }
    }

    /// What is read where this is the metadata.
    fn open(metadata: &str) -> Result<Layout> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("zarr.json"), metadata).unwrap();
        Layout::open(folder.path())
    }

    #[test]
    fn metadata_that_claim_countless_shards_are_refused_at_once() {
        let layout = layout(Dtype::U8);
        let mut metadata: Value = serde_json::from_str(&layout.metadata().unwrap()).unwrap();
        let mut open = |views: u64, samples: u64| {
            metadata["shape"] = json!([views, samples, 1, 1, 1]);
            open(&metadata.to_string())
        };
        assert_eq!(open(1, 9).unwrap(), layout);
        for (views, samples) in [(u64::from(u32::MAX), u64::from(u32::MAX)), (1 << 22, 3), (1, 1 << 31)] {
            assert!(open(views, samples).is_err(), "{views} views of {samples} samples");
        }
    }

    #[test]
    fn every_form_is_read_back() {
        for order in [Order::Planes, Order::Pixels] {
            for codec in [Codec::None, Codec::Lz4, Codec::Huffman, Codec::Zstd(1), Codec::Zstd(22)] {
                for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32] {
                    let layout = Layout { order, codec, ..layout(dtype) };
                    assert_eq!(open(&layout.metadata().unwrap()).unwrap(), layout);
                }
            }
        }
        let other = Layout { codec: Codec::Zstd(1), ..layout(Dtype::F16) }.metadata().unwrap();
        for (from, to) in [("\"level\": 1", "\"level\": 23"), ("\"checksum\": true", "\"checksum\": false")] {
            assert!(other.contains(from) && open(&other.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn arrays_of_whole_images_are_read_back_or_refused() {
        let whole = Layout { order: Order::Ppm, shape: Shape { channels: 3, size: 8 }, ..layout(Dtype::U8) };
        let text = whole.metadata().unwrap();
        assert_eq!(open(&text).unwrap(), whole);
        assert!(whole.holds_images());
        for (from, to) in [
            ("\"channels\": 3", "\"channels\": 4"),
            ("\"short_side\": 8", "\"short_side\": 4294967295"),
            ("\"short_side\": 8", "\"short_side\": 0"),
            ("\"short_side\"", "\"long_side\""),
            ("vlen-bytes", "vlen-utf8"),
            ("crc32c", "gzip"),
        ] {
            assert!(text.contains(from) && open(&text.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn a_scale_is_read_back_or_refused_and_tells_features_from_images() {
        let scale = Scale::new(0.0123);
        let features = Layout { order: Order::Pixels, scale, ..layout(Dtype::U8) };
        assert!(!features.holds_images() && layout(Dtype::U8).holds_images());
        let text = features.metadata().unwrap();
        assert_eq!(open(&text).unwrap(), features);
        let metadata: Value = serde_json::from_str(&text).unwrap();
        let factor = metadata["attributes"][FACTOR].as_f64().unwrap();
        for (name, value) in [
            (FACTOR, json!(factor * 2.0)),
            (FACTOR, json!("0.0123")),
            (OFFSET, json!(1.0)),
            (CHECKSUM, json!(0)),
            ("other", json!(1)),
        ] {
            let mut changed = metadata.clone();
            changed["attributes"][name] = value;
            assert_eq!(open(&changed.to_string()).is_ok(), name == "other", "{name}");
        }
        for factor in [0.0, -1.0, 1e300, f64::MIN_POSITIVE] {
            let mut changed = metadata.clone();
            changed["attributes"] = json!({ FACTOR: factor, OFFSET: 0.0, CHECKSUM: checksum(factor) });
            assert!(open(&changed.to_string()).is_err(), "{factor}");
        }
        let mut unscaled = metadata;
        unscaled["attributes"] = json!({});
        assert!(open(&unscaled.to_string()).is_err());
    }
}
