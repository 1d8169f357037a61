//! The binary files of STL-10: planes of 96x96, each written column by column, and labels from 1 in files of their own.

use super::file::OpenFile;
use super::{Content, Fault, Found, Store, numbered};
use crate::error::{Error, Result};
use crate::text::shown;
use image::{DynamicImage, RgbImage};
use std::path::{Path, PathBuf};

const SIDE: usize = 96;
const PIXELS: usize = 3 * SIDE * SIDE;
const CLASSES: usize = 10;
/// The folder that the archive unpacks to.
const FOLDER: &str = "stl10_binary";
/// The file with the names of the classes, one a line.
const NAMES: &str = "class_names.txt";
/// Images and labels of each split.
const TRAIN: [&str; 2] = ["train_X.bin", "train_y.bin"];
const VAL: [&str; 2] = ["test_X.bin", "test_y.bin"];

/// Finds the labelled images of a folder with the files, or of the folder that their archive unpacks to there.
pub(super) fn open(path: &Path) -> Result<Found> {
    let folder = folder(path)?;
    let open = |names| Ok::<_, Error>(Box::new(Images::open(&folder, names)?));
    Ok(Found::images(numbered::names(&folder.join(NAMES), CLASSES, 1)?, open(TRAIN)?, open(VAL)?))
}

/// The files that the data set consists of.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder(path)?;
    Ok(TRAIN.iter().chain(&VAL).map(|file| folder.join(file)).collect())
}

fn folder(path: &Path) -> Result<PathBuf> {
    let found = [path.to_path_buf(), path.join(FOLDER)].into_iter().find(|folder| folder.join(TRAIN[0]).exists());
    found.ok_or_else(|| {
        Error::failed(format!("`{}`: no `{}` in it or in `{FOLDER}`", shown(path), TRAIN[0]))
            .hint("unpack `stl10_binary.tar.gz` there")
    })
}

struct Images {
    file: OpenFile,
    labels: Vec<u32>,
}

impl Images {
    fn open(folder: &Path, [images, labels]: [&str; 2]) -> Result<Self> {
        let (file, labels) = (OpenFile::open(&folder.join(images))?, OpenFile::open(&folder.join(labels))?);
        if file.len() == 0 || file.len() != labels.len().saturating_mul(PIXELS as u64) {
            let (images, bytes, count) = (shown(file.path()), file.len(), labels.len());
            let expected = format!("{count} labels go with {PIXELS} bytes each");
            return Err(Error::failed(format!("`{images}` has {bytes} bytes, but its {expected}"))
                .hint("is it the binary version, and as long as the original?"));
        }
        let bytes =
            labels.read(0..labels.len()).map_err(|e| Error::failed(format!("`{}`: {e}", shown(labels.path()))))?;
        let label = |(image, byte): (usize, u8)| match usize::from(byte) {
            label @ 1..=CLASSES => Ok(label as u32 - 1),
            other => {
                let path = shown(labels.path());
                Err(Error::failed(format!("`{path}`: image {image} has label {other}, not one of 1 to {CLASSES}")))
            }
        };
        Ok(Self { labels: bytes.into_iter().enumerate().map(label).collect::<Result<_>>()?, file })
    }
}

impl Store for Images {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn name(&self, index: usize) -> String {
        format!("{}: image {index}", shown(self.file.path()))
    }

    fn place(&self, index: usize) -> String {
        format!("{}: image {index}", self.file.name())
    }

    fn read(&self, index: usize, _most: u64) -> Result<Content, Fault> {
        let planes = self.file.read((index * PIXELS) as u64..((index + 1) * PIXELS) as u64)?;
        let pixel = |x: u32, y: u32| {
            let at = x as usize * SIDE + y as usize;
            image::Rgb([planes[at], planes[at + SIDE * SIDE], planes[at + 2 * SIDE * SIDE]])
        };
        Ok(Content::Pixels(DynamicImage::ImageRgb8(RgbImage::from_fn(SIDE as u32, SIDE as u32, pixel))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Two training images and one of validation; in each pixel its channel, column and row.
    fn write(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let image = (0..PIXELS).map(|at| (100 * (at / (SIDE * SIDE)) + at / SIDE % SIDE / 2 + at % SIDE) as u8);
        let image: Vec<u8> = image.collect();
        fs::write(folder.join("train_X.bin"), [&image[..], &image[..]].concat()).unwrap();
        fs::write(folder.join("train_y.bin"), [10, 1]).unwrap();
        fs::write(folder.join("test_X.bin"), image).unwrap();
        fs::write(folder.join("test_y.bin"), [3]).unwrap();
    }

    #[test]
    fn planes_are_read_by_columns_and_labels_from_one() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join(FOLDER));
        let found = open(root.path()).unwrap();
        assert_eq!((found.train.len(), found.val.len(), found.classes.len()), (2, 1, 10));
        assert_eq!([found.train.label(0), found.train.label(1), found.val.label(0)], [9, 0, 2]);
        let Content::Pixels(image) = found.train.read(1, 0).unwrap() else { panic!("pixels are not encoded") };
        // Column 8, row 5.
        assert_eq!(image.to_rgb8().get_pixel(8, 5).0, [9, 109, 209]);
    }

    #[test]
    fn wrong_sizes_labels_and_folders_are_named() {
        let root = tempfile::tempdir().unwrap();
        let fault = || open(root.path()).err().unwrap().to_string();
        assert!(fault().contains("no `train_X.bin` in it"), "{}", fault());
        write(root.path());
        fs::write(root.path().join("train_y.bin"), [1, 0]).unwrap();
        assert!(fault().contains("train_y.bin`: image 1 has label 0, not one of 1 to 10"), "{}", fault());
        fs::write(root.path().join("train_y.bin"), [1, 2, 3]).unwrap();
        assert!(fault().contains("has 55296 bytes, but its 3 labels go with 27648 bytes each"), "{}", fault());
        fs::remove_file(root.path().join("train_y.bin")).unwrap();
        assert!(fault().contains("train_y.bin`: no such file"), "{}", fault());
        write(root.path());
        fs::write(root.path().join(NAMES), "cat\ndog\n").unwrap();
        assert!(fault().contains("names 2 classes instead of 10"), "{}", fault());
    }
}
