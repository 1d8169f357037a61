//! MNIST-style IDX files, plain or `.gz`: gray images of one size and a file of labels for each split.

use super::file::OpenFile;
use super::{Content, Fault, Found, Store};
use crate::error::{Error, Result};
use crate::text::shown;
use flate2::read::MultiGzDecoder;
use image::{DynamicImage, GrayImage};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Finds the images of a folder with `train-images-idx3-ubyte` and the three files that go with it.
pub(super) fn open(folder: &Path) -> Result<Found> {
    let (train, val) = (Images::open(folder, "train")?, Images::open(folder, "t10k")?);
    let classes = 1 + usize::from(train.labels.iter().copied().max().unwrap_or(0));
    if let Some(odd) = val.labels.iter().find(|&&label| usize::from(label) >= classes) {
        let path = shown(folder);
        return Err(Error::failed(format!("`{path}`: class `{odd}` has images in `t10k`, but none in `train`")));
    }
    let classes = (0..classes).map(|label| label.to_string()).collect();
    Ok(Found::images(classes, Box::new(train), Box::new(val)))
}

/// The files that a data set consists of.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    [("train", "images", 3), ("train", "labels", 1), ("t10k", "images", 3), ("t10k", "labels", 1)]
        .into_iter()
        .map(|(split, kind, dimensions)| find(folder, split, kind, dimensions))
        .collect()
}

fn find(folder: &Path, split: &str, kind: &str, dimensions: u8) -> Result<PathBuf> {
    let spellings = ["-", "."].map(|dot| format!("{split}-{kind}{dot}idx{dimensions}-ubyte"));
    let found = spellings.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    found.into_iter().find(|path| path.exists()).ok_or_else(|| {
        let name = &spellings[0];
        Error::failed(format!("`{}`: no `{name}` or `{name}.gz` in it", shown(folder)))
            .hint("the four files train-images, train-labels, t10k-images and t10k-labels are needed")
    })
}

/// An IDX file of unsigned bytes.
struct Idx {
    file: OpenFile,
    /// Its dimensions.
    shape: Vec<usize>,
    /// All its values where it is compressed: such a file cannot be read from any other place than its start.
    unzipped: Option<Vec<u8>>,
}

impl Idx {
    /// Opens a file and holds its length against its header.
    fn open(path: &Path, dimensions: usize) -> Result<Self> {
        let file = OpenFile::open(path)?;
        let failed = |error| Error::io("read", path, &error);
        let fault = |fault: &str| Error::failed(format!("`{}` {fault}", shown(path)));
        let compressed = file.read(0..file.len().min(2))? == [0x1f, 0x8b];
        let mut reader: Box<dyn Read + '_> = match compressed {
            true => Box::new(MultiGzDecoder::new(BufReader::new(file.stream()))),
            false => Box::new(file.stream()),
        };
        let mut header = Vec::new();
        reader.by_ref().take(header_bytes(dimensions)).read_to_end(&mut header).map_err(failed)?;
        let shape = shape(&header, dimensions)
            .ok_or_else(|| fault(&format!("is no IDX file of unsigned bytes in {dimensions} dimensions")))?;
        let expected = shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side as u64));
        let expected =
            expected.filter(|&count| count > 0).ok_or_else(|| fault("has an impossible size in its header"))?;
        let mut unzipped = compressed.then(Vec::new);
        let found = match &mut unzipped {
            // One more than expected, so that a file that is too long is told from a good one.
            Some(values) => {
                reader.by_ref().take(expected.saturating_add(1)).read_to_end(values).map_err(failed)? as u64
            }
            None => file.len() - header_bytes(dimensions),
        };
        drop(reader);
        if found != expected {
            let order = if found < expected { "fewer" } else { "more" };
            return Err(fault(&format!("has {order} values than the {expected} that its header announces"))
                .hint("compare its length with the original's"));
        }
        Ok(Self { file, shape, unzipped })
    }

    /// `count` values from the one numbered `start`.
    fn read(&self, start: usize, count: usize) -> Result<Vec<u8>> {
        if let Some(values) = &self.unzipped {
            return Ok(values[start..start + count].to_vec());
        }
        let start = header_bytes(self.shape.len()) + start as u64;
        self.file.read(start..start + count as u64)
    }
}

/// Bytes before the values: the kind, and 4 bytes for each dimension.
fn header_bytes(dimensions: usize) -> u64 {
    4 + 4 * dimensions as u64
}

fn shape(header: &[u8], dimensions: usize) -> Option<Vec<usize>> {
    let sides = header.strip_prefix(&[0, 0, 8, dimensions as u8])?;
    let (sides, rest) = sides.as_chunks::<4>();
    let whole = rest.is_empty() && sides.len() == dimensions;
    whole.then(|| sides.iter().map(|&side| u32::from_be_bytes(side) as usize).collect())
}

struct Images {
    pixels: Idx,
    height: usize,
    width: usize,
    labels: Vec<u8>,
}

impl Images {
    fn open(folder: &Path, split: &str) -> Result<Self> {
        let pixels = Idx::open(&find(folder, split, "images", 3)?, 3)?;
        let labels = Idx::open(&find(folder, split, "labels", 1)?, 1)?;
        let &[count, height, width] = &pixels.shape[..] else {
            return Err(Error::failed(format!("`{}` is not a file of images", shown(pixels.file.path()))));
        };
        if labels.shape != [count] {
            let (path, found) = (shown(labels.file.path()), labels.shape.iter().sum::<usize>());
            return Err(Error::failed(format!("`{path}` has {found} labels for {count} images")));
        }
        Ok(Self { labels: labels.read(0, count)?, pixels, height, width })
    }
}

impl Store for Images {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index].into()
    }

    fn name(&self, index: usize) -> String {
        format!("{}: image {index}", shown(self.pixels.file.path()))
    }

    fn place(&self, index: usize) -> String {
        format!("{}: image {index}", self.pixels.file.name())
    }

    fn read(&self, index: usize, most: u64) -> Result<Content, Fault> {
        let count = self.height * self.width;
        if count as u64 > most {
            return Err(Fault::Bad(Error::failed("it has more pixels than `data.max_pixels`")));
        }
        let pixels = self.pixels.read(index * count, count)?;
        let image = GrayImage::from_raw(self.width as u32, self.height as u32, pixels);
        let image = image.ok_or_else(|| Error::failed(format!("`{}` is not whole", self.name(index))))?;
        Ok(Content::Pixels(DynamicImage::ImageLuma8(image)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::fs;
    use std::io::Write;

    fn idx(shape: &[u32], values: &[u8]) -> Vec<u8> {
        let sides = shape.iter().flat_map(|side| side.to_be_bytes());
        [0, 0, 8, shape.len() as u8].into_iter().chain(sides).chain(values.iter().copied()).collect()
    }

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Three training images of 2x3, compressed, and one validation image, plain.
    fn write_set(folder: &Path) {
        let values: Vec<u8> = (0..18).collect();
        let write = |name: &str, bytes: Vec<u8>| fs::write(folder.join(name), bytes).unwrap();
        write("train-images-idx3-ubyte.gz", zipped(&idx(&[3, 2, 3], &values)));
        write("train-labels-idx1-ubyte.gz", zipped(&idx(&[3], &[0, 2, 1])));
        write("t10k-images.idx3-ubyte", idx(&[1, 2, 3], &[9; 6]));
        write("t10k-labels.idx1-ubyte", idx(&[1], &[2]));
    }

    fn pixels(store: &dyn Store, index: usize) -> Vec<u8> {
        let Content::Pixels(image) = store.read(index, 1000).unwrap() else { panic!("pixels are not encoded") };
        image.into_luma8().into_raw()
    }

    #[test]
    fn plain_and_compressed_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path());
        let found = open(folder.path()).unwrap();
        assert_eq!(found.classes, ["0", "1", "2"]);
        assert_eq!((found.train.label(1), found.val.label(0)), (2, 2));
        assert_eq!(pixels(&*found.train, 1), [6, 7, 8, 9, 10, 11]);
        assert_eq!(pixels(&*found.val, 0), [9; 6]);
        assert_eq!(files(folder.path()).unwrap().len(), 4);
    }

    #[test]
    fn a_header_that_does_not_fit_the_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path());
        let fault = |name: &str, bytes: Vec<u8>| {
            fs::write(folder.path().join(name), bytes).unwrap();
            open(folder.path()).err().unwrap().to_string()
        };
        let plain = "t10k-images.idx3-ubyte";
        assert!(fault(plain, idx(&[1, 2, 3], &[9; 5])).contains("fewer values than the 6"));
        assert!(fault(plain, idx(&[u32::MAX; 3], &[9; 5])).contains("impossible size"));
        assert!(fault(plain, idx(&[1, 2], &[9; 2])).contains("is no IDX file"));
        assert!(fault(plain, idx(&[2, 2, 3], &[9; 12])).contains("has 1 labels for 2 images"));
        let packed = "train-images-idx3-ubyte.gz";
        assert!(fault(packed, zipped(&idx(&[3, 2, 3], &[9; 19]))).contains("more values than the 18"));
        let whole = zipped(&idx(&[3, 2, 3], &[9; 18]));
        assert!(fault(packed, whole[..whole.len() - 4].to_vec()).contains("cannot read"));
    }

    #[test]
    fn a_missing_file_or_class_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path());
        fs::write(folder.path().join("t10k-labels.idx1-ubyte"), idx(&[1], &[3])).unwrap();
        assert!(open(folder.path()).err().unwrap().to_string().contains("class `3`"));
        fs::remove_file(folder.path().join("t10k-labels.idx1-ubyte")).unwrap();
        assert!(open(folder.path()).err().unwrap().to_string().contains("no `t10k-labels-idx1-ubyte`"));
    }
}
