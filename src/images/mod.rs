//! IN: images of folders, archives, binary files and the built-in set become u8 planes, and those network inputs.

mod augment;
mod builtin;
mod census;
mod cifar;
mod classes;
mod decode;
mod file;
mod fingerprint;
mod folder;
#[cfg(test)]
mod forms;
mod idx;
mod imagenet;
mod index;
mod jpeg;
mod labels;
mod layout;
mod members;
mod memory;
mod numbered;
mod parquet;
mod pattern;
mod placed;
mod resample;
mod scan;
mod shapes;
mod stl10;
mod tar;
mod webdataset;
mod whole;

pub use augment::{Augmenter, CropBox, Image};
pub use census::{Census, Passed, is_litter};
pub use classes::words;
pub use decode::decode_file;
pub use file::read_image;
pub use fingerprint::{Fingerprint, look};
pub use index::INDEX;
pub use memory::Memory;
pub use whole::parse as whole_image;

use crate::error::{Error, Result};
use crate::pipeline::{Data, Source};
use crate::random::{Purpose, Stream};
use image::DynamicImage;
use std::path::Path;

/// All images of a pipeline, found but not decoded.
pub struct ImageSet {
    /// The names of the classes; a label is an index into them.
    pub classes: Vec<String>,
    /// What the classes are called by people, where the data set or the program knows; else an empty text.
    pub words: Vec<String>,
    /// The training images.
    pub train: SplitImages,
    /// The validation images.
    pub val: SplitImages,
    /// What was found and what of it was taken.
    pub census: Census,
}

impl ImageSet {
    /// Finds the images of `[data]`.
    ///
    /// Where `train_images` or `val_images` is set, a random subset of that size is taken: a function of `seed` and
    /// the split, listed in the original order.
    ///
    /// # Errors
    /// When the files are missing, damaged or not laid out as their source demands, or fewer than asked for.
    pub fn open(data: &Data, seed: u64) -> Result<Self> {
        Self::choose(find(&data.source)?, data, seed)
    }

    /// The same, where what is found in large archives is kept in a folder.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_keeping(data: &Data, seed: u64, folder: &Path) -> Result<Self> {
        Self::choose(index::through(folder, &data.source, || find(&data.source))?, data, seed)
    }

    fn choose(found: Found, data: &Data, seed: u64) -> Result<Self> {
        if let [class] = &found.classes[..] {
            return Err(one_class(class, &found.train.place(0)));
        }
        let train = choose(found.train.len(), data.train_images, "train_images", (seed, 0))?;
        let val = choose(found.val.len(), data.val_images, "val_images", (seed, 1))?;
        let known = |class: &String| words(class).unwrap_or_default().to_string();
        let mut set = Self {
            words: found.words.unwrap_or_else(|| found.classes.iter().map(known).collect()),
            classes: found.classes,
            train: SplitImages { store: found.train, chosen: train, data: data.clone() },
            val: SplitImages { store: found.val, chosen: val, data: data.clone() },
            census: found.census,
        };
        for (name, split) in [("train", &set.train), ("val", &set.val)] {
            if let Some(note) = split.empty_classes(&set.classes, 0..split.len()) {
                set.census.notes.push(format!("{note} among the {} {name} images chosen", split.len()));
            }
        }
        Ok(set)
    }
}

/// Finds all images of a source.
fn find(source: &Source) -> Result<Found> {
    Ok(match source {
        Source::Builtin => builtin::open(),
        Source::Folder(path) => folder::open(path)?,
        Source::Tar(path) => tar::open(path)?,
        Source::Imagenet(path) => imagenet::open(path)?,
        Source::WebDataset(place) => webdataset::open(place)?,
        Source::Parquet(place) => parquet::open(place)?,
        Source::Cifar10(path) => cifar::open(path, &cifar::CIFAR10)?,
        Source::Cifar100(path) => cifar::open(path, &cifar::CIFAR100)?,
        Source::Stl10(path) => stl10::open(path)?,
        Source::Idx(path) => idx::open(path)?,
    })
}

/// The error about a single class, with what may have been meant.
fn one_class(class: &str, first: &str) -> Error {
    let error = Error::failed(format!("all images are of one class, `{class}`: there is nothing to tell apart"));
    let names: Vec<&str> = first.split('/').collect();
    let below = names.iter().position(|name| *name == class).and_then(|at| names.get(at + 1..names.len() - 1));
    match below.and_then(|below| below.first()) {
        Some(folder) => error.hint(format!(
            "the layout expected is `train/<class>/<image>`; if `{folder}` is a class, `{class}` is one folder too many"
        )),
        None => error.hint("the layout expected is `train/<class>/<image>`, with at least two classes"),
    }
}

/// The images of one split; any of them can be decoded at any time, by several threads at once.
pub struct SplitImages {
    store: Box<dyn Store>,
    /// The images of the store that belong to the split; absent where all do.
    chosen: Option<Vec<u32>>,
    data: Data,
}

impl SplitImages {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.chosen.as_ref().map_or_else(|| self.store.len(), Vec::len)
    }

    /// Whether there are no images; a split that was opened has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of an image.
    ///
    /// # Panics
    /// Here and below, when `index` is not less than `len()`.
    pub fn label(&self, index: usize) -> u32 {
        self.store.label(self.original(index))
    }

    /// What errors call an image: its path, or its place in an archive or a binary file.
    pub fn name(&self, index: usize) -> String {
        self.store.name(self.original(index))
    }

    /// Where the source has an image: the same wherever the source lies.
    pub fn place(&self, index: usize) -> String {
        self.store.place(self.original(index))
    }

    /// Decodes an image to the bytes of its pixels, scaled and cropped as [`decode_file`] says. Gives what had to be
    /// overlooked, if anything had.
    ///
    /// # Errors
    /// When it is bad, or cannot be read, which says nothing about the image; the message names it.
    pub fn decode(&self, index: usize, out: &mut Vec<u8>) -> Result<Option<String>, Fault> {
        let index = self.original(index);
        let decoded = self.store.read(index, most_bytes(&self.data)).and_then(|content| match content {
            Content::File(bytes) => decode_file(&bytes, &self.data, out).map_err(Fault::Bad),
            Content::Pixels(image) => {
                decode::fit(image, &self.data, out);
                Ok(None)
            }
        });
        let name = || self.store.name(index);
        match decoded {
            Ok(warning) => Ok(warning.map(|warning| format!("`{}`: {warning}", name()))),
            Err(Fault::Bad(error)) => Err(Fault::Bad(error.context(format_args!("cannot decode `{}`", name())))),
            Err(unreadable) => Err(unreadable),
        }
    }

    /// Reads the encoded bytes of an image; nothing where the source has pixels.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        match self.store.read(self.original(index), most_bytes(&self.data))? {
            Content::File(bytes) => Ok(bytes),
            Content::Pixels(_) => Ok(Vec::new()),
        }
    }

    /// Says which classes have no image among some of the split's.
    pub fn empty_classes(&self, classes: &[String], of: impl Iterator<Item = usize>) -> Option<String> {
        const NAMED: usize = 5;
        let mut has = vec![false; classes.len()];
        of.for_each(|index| has[self.label(index) as usize] = true);
        let empty: Vec<&String> = classes.iter().zip(has).filter(|(_, has)| !has).map(|(class, _)| class).collect();
        let named: Vec<String> = empty.iter().take(NAMED).map(|class| format!("`{class}`")).collect();
        let more = if empty.len() > NAMED { ", …" } else { "" };
        let (count, all) = (empty.len(), classes.len());
        (count > 0).then(|| format!("{count} of {all} classes ({}{more}) have no image", named.join(", ")))
    }

    fn original(&self, index: usize) -> usize {
        self.chosen.as_ref().map_or(index, |chosen| chosen[index] as usize)
    }
}

/// Why there is no image.
#[derive(Clone, Debug)]
pub enum Fault {
    /// What was read is no whole image.
    Bad(Error),
    /// It could not be read: that says nothing about the image.
    Unreadable(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Unreadable(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let (Fault::Bad(error) | Fault::Unreadable(error)) = fault;
        error
    }
}

/// The most bytes that a file of an image may have: 16 a pixel, and room for metadata.
pub fn most_bytes(data: &Data) -> u64 {
    data.max_pixels.saturating_mul(16).saturating_add(64 << 20)
}

/// What a source finds.
struct Found {
    classes: Vec<String>,
    train: Box<dyn Store>,
    val: Box<dyn Store>,
    census: Census,
    /// Words for each class, from the data set's own files.
    words: Option<Vec<String>>,
}

impl Found {
    fn new(classes: Vec<String>, train: Box<dyn Store>, val: Box<dyn Store>, census: Census) -> Self {
        Self { classes, train, val, census, words: None }
    }

    /// The same where nothing but images was found.
    fn images(classes: Vec<String>, train: Box<dyn Store>, val: Box<dyn Store>) -> Self {
        let census = Census::of(train.len() + val.len());
        Self::new(classes, train, val, census)
    }
}

/// The images of one split as they lie in a source.
trait Store: Send + Sync {
    /// The number of images.
    fn len(&self) -> usize;

    /// The class of an image.
    fn label(&self, index: usize) -> u32;

    /// What errors call an image.
    fn name(&self, index: usize) -> String;

    /// Its path from the folder or in the archive, or its number.
    fn place(&self, index: usize) -> String;

    /// The images, where they lie in files and archives.
    fn placed(&self) -> Option<&placed::Placed> {
        None
    }

    /// Reads an image; a file of more than `most` bytes is bad.
    fn read(&self, index: usize, most: u64) -> Result<Content, Fault>;
}

/// What a store holds of an image.
enum Content {
    /// An image file that is still to be decoded.
    File(Vec<u8>),
    /// Its pixels.
    Pixels(DynamicImage),
}

/// A random subset of `limit` out of `count` images, in ascending order.
fn choose(count: usize, limit: Option<usize>, key: &str, (seed, split): (u64, u64)) -> Result<Option<Vec<u32>>> {
    match limit {
        None => Ok(None),
        Some(limit) if (1..=count).contains(&limit) => {
            let mut chosen = Stream::new(Purpose::Split, seed, (split, 0)).permutation(count);
            chosen.truncate(limit);
            chosen.sort_unstable();
            Ok(Some(chosen))
        }
        Some(limit) => Err(Error::usage(format!(
            "`data.{key}` is {limit}, but must lie between 1 and the {count} images there are"
        ))
        .hint("leave it out to take all")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{BadImage, Keep, Orientation};

    /// The built-in images, stored as squares of 32 pixels with three channels.
    pub(super) fn data() -> Data {
        Data {
            source: Source::Builtin,
            size: 32,
            keep: Keep::Square,
            channels: 3,
            train_images: None,
            val_images: None,
            decoded: None,
            on_bad_image: BadImage::Fail,
            max_pixels: 1 << 20,
            orientation: Orientation::Upright,
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
        }
    }

    #[test]
    fn a_subset_depends_on_the_seed_and_keeps_the_order() {
        let labels = |seed| {
            let set = ImageSet::open(&Data { train_images: Some(50), ..data() }, seed).unwrap();
            (0..set.train.len()).map(|index| set.train.name(index)).collect::<Vec<_>>()
        };
        assert_eq!(labels(1).len(), 50);
        assert_eq!(labels(1), labels(1));
        assert_ne!(labels(1), labels(2));
    }

    #[test]
    fn more_images_than_there_are_cannot_be_asked_for() {
        let error = ImageSet::open(&Data { val_images: Some(1_000_000), ..data() }, 0).err().unwrap().to_string();
        assert!(error.contains("`data.val_images` is 1000000"), "{error}");
    }

    #[test]
    fn an_image_is_the_same_in_the_subset_and_in_the_whole() {
        let whole = ImageSet::open(&data(), 3).unwrap().val;
        let part = ImageSet::open(&Data { val_images: Some(5), ..data() }, 3).unwrap().val;
        let at = (0..whole.len()).find(|&index| whole.name(index) == part.name(4)).unwrap();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        whole.decode(at, &mut a).unwrap();
        part.decode(4, &mut b).unwrap();
        assert_eq!((a, whole.label(at)), (b, part.label(4)));
    }
}
