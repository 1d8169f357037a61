//! The binary files of CIFAR-10 and CIFAR-100: records of label bytes and three planes of 32x32.

use super::file::OpenFile;
use super::{Content, Fault, Found, Store, numbered};
use crate::error::{Error, Result};
use crate::text::shown;
use image::{DynamicImage, RgbImage};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

/// One of the two data sets.
pub(super) struct Variant {
    /// The folder that its archive unpacks to.
    folder: &'static str,
    /// The archive's name.
    archive: &'static str,
    train: &'static [&'static str],
    val: &'static [&'static str],
    /// The file with the names of the classes, one a line.
    names: &'static str,
    classes: usize,
    /// Bytes before the planes; the last of them is the label.
    label_bytes: usize,
}

pub(super) const CIFAR10: Variant = Variant {
    folder: "cifar-10-batches-bin",
    archive: "cifar-10-binary.tar.gz",
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    val: &["test_batch.bin"],
    names: "batches.meta.txt",
    classes: 10,
    label_bytes: 1,
};

pub(super) const CIFAR100: Variant = Variant {
    folder: "cifar-100-binary",
    archive: "cifar-100-binary.tar.gz",
    train: &["train.bin"],
    val: &["test.bin"],
    names: "fine_label_names.txt",
    classes: 100,
    label_bytes: 2,
};

/// Finds the images of a folder with the files of a data set, or of the folder that their archive unpacks to there.
pub(super) fn open(path: &Path, variant: &'static Variant) -> Result<Found> {
    let folder = folder(path, variant)?;
    let open = |files| Ok::<_, Error>(Box::new(Batches::open(&folder, files, variant)?));
    Ok(Found::images(
        numbered::names(&folder.join(variant.names), variant.classes, 0)?,
        open(variant.train)?,
        open(variant.val)?,
    ))
}

/// The files that a data set consists of.
pub(super) fn files(path: &Path, variant: &Variant) -> Result<Vec<PathBuf>> {
    let folder = folder(path, variant)?;
    Ok(variant.train.iter().chain(variant.val).map(|file| folder.join(file)).collect())
}

fn folder(path: &Path, variant: &Variant) -> Result<PathBuf> {
    let candidates = [path.to_path_buf(), path.join(variant.folder)];
    let found = candidates.into_iter().find(|folder| variant.train.iter().any(|file| folder.join(file).exists()));
    found.ok_or_else(|| {
        let (first, archive) = (variant.train.first().unwrap_or(&""), variant.archive);
        Error::failed(format!("`{}`: no `{first}` in it or in `{}`", shown(path), variant.folder))
            .hint(format!("unpack `{archive}` (the binary version) there"))
    })
}

struct Batch {
    file: OpenFile,
    /// The number of its first image in the split.
    start: usize,
    labels: Vec<u8>,
    label_bytes: usize,
}

impl Batch {
    fn open(path: &Path, start: usize, variant: &Variant) -> Result<Self> {
        let file = OpenFile::open(path)?;
        let record = variant.label_bytes + PIXELS;
        if file.len() == 0 || file.len() % record as u64 != 0 {
            let (path, len) = (shown(path), file.len());
            return Err(Error::failed(format!("`{path}` has {len} bytes, which is not a multiple of {record}"))
                .hint("is it the binary version, and as long as the original?"));
        }
        let mut reader = BufReader::with_capacity(1 << 18, file.stream());
        let mut bytes = vec![0; record];
        let mut labels = Vec::new();
        for image in 0..file.len() / record as u64 {
            reader.read_exact(&mut bytes).map_err(|e| Error::io("read", path, &e))?;
            let label = bytes[variant.label_bytes - 1];
            if usize::from(label) >= variant.classes {
                let (path, classes) = (shown(path), variant.classes);
                return Err(Error::failed(format!("`{path}`: image {image} has label {label}, not one of {classes}")));
            }
            labels.push(label);
        }
        Ok(Self { file, start, labels, label_bytes: variant.label_bytes })
    }
}

struct Batches(Vec<Batch>);

impl Batches {
    fn open(folder: &Path, files: &[&str], variant: &Variant) -> Result<Self> {
        let mut batches = Vec::new();
        let mut start = 0;
        for file in files {
            let batch = Batch::open(&folder.join(file), start, variant)?;
            start += batch.labels.len();
            batches.push(batch);
        }
        Ok(Self(batches))
    }

    /// The batch that holds an image, and the image's place in it.
    fn find(&self, index: usize) -> (&Batch, usize) {
        let after = self.0.partition_point(|batch| batch.start <= index);
        let batch = &self.0[after - 1];
        (batch, index - batch.start)
    }
}

impl Store for Batches {
    fn len(&self) -> usize {
        self.0.iter().map(|batch| batch.labels.len()).sum()
    }

    fn label(&self, index: usize) -> u32 {
        let (batch, index) = self.find(index);
        batch.labels[index].into()
    }

    fn name(&self, index: usize) -> String {
        let (batch, index) = self.find(index);
        format!("{}: image {index}", shown(batch.file.path()))
    }

    fn place(&self, index: usize) -> String {
        let (batch, index) = self.find(index);
        format!("{}: image {index}", batch.file.name())
    }

    fn read(&self, index: usize, _most: u64) -> Result<Content, Fault> {
        let (batch, index) = self.find(index);
        let start = index * (batch.label_bytes + PIXELS) + batch.label_bytes;
        let planes = batch.file.read(start as u64..(start + PIXELS) as u64)?;
        let pixel = |x: u32, y: u32| {
            let at = y as usize * SIDE + x as usize;
            image::Rgb([planes[at], planes[at + SIDE * SIDE], planes[at + 2 * SIDE * SIDE]])
        };
        Ok(Content::Pixels(DynamicImage::ImageRgb8(RgbImage::from_fn(SIDE as u32, SIDE as u32, pixel))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A record whose planes count up from the label.
    fn record(labels: &[u8]) -> Vec<u8> {
        let pixels = (0..PIXELS).map(|at| (at + usize::from(labels[labels.len() - 1])) as u8);
        labels.iter().copied().chain(pixels).collect()
    }

    fn write_cifar10(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        for (number, name) in CIFAR10.train.iter().chain(CIFAR10.val).enumerate() {
            fs::write(folder.join(name), [record(&[number as u8]), record(&[9])].concat()).unwrap();
        }
    }

    #[test]
    fn images_are_found_across_batches() {
        let root = tempfile::tempdir().unwrap();
        write_cifar10(&root.path().join(CIFAR10.folder));
        let found = open(root.path(), &CIFAR10).unwrap();
        assert_eq!((found.train.len(), found.val.len(), found.classes.len()), (10, 2, 10));
        assert_eq!((found.train.label(4), found.train.label(5)), (2, 9));
        assert!(found.train.name(5).ends_with("data_batch_3.bin: image 1"));
        let Content::Pixels(image) = found.train.read(4, 0).unwrap() else { panic!("pixels are not encoded") };
        assert_eq!(image.to_rgb8().get_pixel(1, 2).0, [67, 67, 67]);
    }

    #[test]
    fn the_fine_label_of_cifar_100_counts() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("train.bin"), record(&[3, 77])).unwrap();
        fs::write(root.path().join("test.bin"), record(&[1, 2])).unwrap();
        assert_eq!(open(root.path(), &CIFAR100).unwrap().train.label(0), 77);
    }

    #[test]
    fn wrong_sizes_labels_and_folders_are_named() {
        let root = tempfile::tempdir().unwrap();
        let fault = || open(root.path(), &CIFAR10).err().unwrap().to_string();
        assert!(fault().contains("no `data_batch_1.bin` in it"));
        write_cifar10(root.path());
        fs::write(root.path().join("data_batch_2.bin"), record(&[10])).unwrap();
        assert!(fault().contains("data_batch_2.bin`: image 0 has label 10"));
        fs::write(root.path().join("data_batch_2.bin"), [0; 100]).unwrap();
        assert!(fault().contains("has 100 bytes"));
        fs::remove_file(root.path().join("data_batch_2.bin")).unwrap();
        assert!(fault().contains("data_batch_2.bin`: no such file"));
    }
}
