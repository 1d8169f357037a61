//! Decoding images, from the built-in set or from a folder of one's own.

use super::Bench;
use crate::error::{Error, Result};
use crate::images::{ImageSet, SplitImages, decode_file};
use crate::pipeline::{Data, Recipe};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use rayon::prelude::*;
use std::path::Path;

/// Images that are decoded at a time.
const IMAGES: usize = 64;

/// Times decoding, scaling and cropping images to 224 x 224: those of a folder, or a JPEG of 500 x 375 pixels made here.
///
/// # Errors
/// When the folder holds no images, or one of them is damaged.
pub fn decoding(bench: &mut Bench<'_>, folder: Option<&Path>) -> Result<()> {
    let Some(folder) = folder else {
        let data = data("source = \"builtin\"")?;
        let file = photograph(&data)?;
        let case = format!("a JPEG of 500 x 375, {} KiB", file.len() / 1024);
        let images = (IMAGES as f64, "images/s");
        return bench.measure(("decoding", &case), images, None, || decode_often(&file, &data));
    };
    let path = folder.to_str().ok_or_else(|| Error::usage(format!("`{}` is not UTF-8", folder.display())))?;
    let data = data(&format!("source = \"folder\"\npath = {}", toml::Value::from(path)))?;
    let images = ImageSet::open(&data, 0)?.train;
    let count = images.len().min(IMAGES);
    let case = format!("{count} images of `{}`", folder.display());
    bench.measure(("decoding", &case), (count as f64, "images/s"), None, || decode_spread(&images, count, &data))
}

/// Seconds to decode a photograph of the usual size.
pub(super) fn seconds(bench: &Bench<'_>) -> Result<f64> {
    let data = data("source = \"builtin\"")?;
    let file = photograph(&data)?;
    Ok(bench.seconds(|| decode_often(&file, &data))? / IMAGES as f64)
}

fn decode_often(file: &[u8], data: &Data) -> Result<()> {
    (0..IMAGES).into_par_iter().try_for_each(|_| decode_file(file, data, &mut vec![0; planes(data)]).map(drop))
}

/// Decodes images that are spread evenly over a split.
fn decode_spread(images: &SplitImages, count: usize, data: &Data) -> Result<()> {
    let decode = |at: usize| Ok(images.decode(at * images.len() / count, &mut vec![0; planes(data)]).map(drop)?);
    (0..count).into_par_iter().try_for_each(decode)
}

fn data(source: &str) -> Result<Data> {
    let text = format!("[data]\n{source}\nsize = 224\n");
    Ok(Recipe::parse("bench", "bench", &text, &[])?.data)
}

fn planes(data: &Data) -> usize {
    data.channels * data.size * data.size
}

/// A built-in picture as a camera's file of the usual size.
fn photograph(data: &Data) -> Result<Vec<u8>> {
    let mut square = vec![0; planes(data)];
    ImageSet::open(data, 0)?.train.decode(0, &mut square)?;
    let pixel = |x: u32, y: u32| {
        let at = y as usize * data.size + x as usize;
        image::Rgb([0, 1, 2].map(|channel| square[channel * data.size * data.size + at]))
    };
    let picture = image::RgbImage::from_fn(data.size as u32, data.size as u32, pixel);
    let picture = image::imageops::resize(&picture, 500, 375, FilterType::Triangle);
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, 90);
    picture.write_with_encoder(encoder).map_err(|e| Error::failed(format!("cannot make a JPEG: {e}")))?;
    Ok(file)
}
