//! What the fuzz targets share: a folder for the files that they write, and inputs of several files.

use greedy::error::Result;
use greedy::images::{ImageSet, SplitImages};
use greedy::pipeline::{BadImage, Data, Keep, Orientation, Source};
use std::path::Path;
use std::sync::OnceLock;

/// A folder of this process's own; it is quick where `TMPDIR` lies in memory.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path()
}

/// Splits an input into `N` files: each but the last begins with its length (u32, little endian).
pub fn split<const N: usize>(mut input: &[u8]) -> [&[u8]; N] {
    std::array::from_fn(|at| {
        if at + 1 == N {
            return input;
        }
        let Some((length, rest)) = input.split_first_chunk::<4>() else { return std::mem::take(&mut input) };
        let length = (u32::from_le_bytes(*length) as usize).min(rest.len());
        let (file, rest) = rest.split_at(length);
        input = rest;
        file
    })
}

/// The inverse of [`split`].
pub fn join(files: &[&[u8]]) -> Vec<u8> {
    let mut input = Vec::new();
    for (at, file) in files.iter().enumerate() {
        if at + 1 < files.len() {
            input.extend((file.len() as u32).to_le_bytes());
        }
        input.extend_from_slice(file);
    }
    input
}

/// Small pictures from a source.
pub fn data(source: Source) -> Data {
    Data {
        source,
        size: 8,
        keep: Keep::Square,
        channels: 3,
        train_images: None,
        val_images: None,
        decoded: None,
        on_bad_image: BadImage::Skip,
        max_pixels: 1 << 16,
        orientation: Orientation::Upright,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
    }
}

/// Opens a source and decodes its first and last images.
pub fn open_and_decode(source: Source) -> Result<()> {
    let data = data(source);
    let set = ImageSet::open(&data, 0)?;
    for split in [&set.train, &set.val] {
        decode(split, set.classes.len());
    }
    Ok(())
}

fn decode(split: &SplitImages, classes: usize) {
    let mut out = Vec::new();
    for index in (0..split.len()).take(4).chain(split.len().checked_sub(1)) {
        assert!((split.label(index) as usize) < classes, "a label without a class");
        assert!(!split.name(index).is_empty());
        let _ = split.decode(index, &mut out);
    }
}
