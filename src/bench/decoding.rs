//! Decoding images, from the built-in set or from data sets of one's own.

use super::Bench;
use crate::error::{Error, Result};
use crate::images::{ImageSet, decode_file};
use crate::pipeline::{Data, Recipe};
use crate::text::shown;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use rayon::prelude::*;
use std::path::Path;

/// Images that are decoded at a time.
const IMAGES: usize = 64;
/// Images of one's own that are decoded at most.
const OWN_IMAGES: usize = 512;

/// Times decoding, scaling and cropping images to 224 x 224: a JPEG of 500 x 375 pixels made here, or those of data sets,
/// each written as `SOURCE=PLACE` (a place alone is a folder). Of these it is also timed how long only reading their
/// bytes takes. Each run finds its images anew, as it is when they are decoded once for all.
///
/// # Errors
/// When there are no images, or one of them is damaged.
pub fn decoding(bench: &mut Bench<'_>, sets: &[String]) -> Result<()> {
    if sets.is_empty() {
        let data = data("source = \"builtin\"")?;
        let file = photograph(&data)?;
        let case = format!("a JPEG of 500 x 375, {} KiB", file.len() / 1024);
        let images = (IMAGES as f64, "images/s");
        return bench.measure(("decoding", &case), images, None, || decode_often(&file, &data));
    }
    for set in sets {
        let (source, place) = set.split_once('=').unwrap_or(("folder", set));
        let (source_text, place_text) = (toml::Value::from(source), toml::Value::from(place));
        let data = data(&format!("source = {source_text}\npath = {place_text}"))?;
        let count = ImageSet::open(&data, 0)?.train.len().min(OWN_IMAGES);
        let case = format!("{count} images of {source} `{}`", shown(Path::new(place)));
        let amount = (count as f64, "images/s");
        bench.measure(("reading their bytes", &case), amount, None, || read_all(&data, count))?;
        bench.measure(("decoding", &case), amount, None, || decode_all(&data, count))?;
    }
    Ok(())
}

fn read_all(data: &Data, count: usize) -> Result<()> {
    let images = ImageSet::open(data, 0)?.train;
    (0..count).into_par_iter().try_for_each(|at| images.bytes(at).map(drop))
}

fn decode_all(data: &Data, count: usize) -> Result<()> {
    let images = ImageSet::open(data, 0)?.train;
    let decode = |at: usize| Ok(images.decode(at, &mut Vec::new()).map(drop)?);
    (0..count).into_par_iter().try_for_each(decode)
}

/// Seconds to decode a photograph of the usual size.
pub(super) fn seconds(bench: &Bench<'_>) -> Result<f64> {
    let data = data("source = \"builtin\"")?;
    let file = photograph(&data)?;
    Ok(bench.seconds(|| decode_often(&file, &data))? / IMAGES as f64)
}

fn decode_often(file: &[u8], data: &Data) -> Result<()> {
    (0..IMAGES).into_par_iter().try_for_each(|_| decode_file(file, data, &mut Vec::new()).map(drop))
}

fn data(source: &str) -> Result<Data> {
    let text = format!("[data]\n{source}\nsize = 224\n");
    Ok(Recipe::parse("bench", "bench", &text, &[])?.data)
}

/// A built-in picture as a camera's file of the usual size.
fn photograph(data: &Data) -> Result<Vec<u8>> {
    let mut square = Vec::new();
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
