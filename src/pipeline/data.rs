//! `[data]` and `[augmentation]`: which images, and how they are cropped and flipped.

use super::Fault;
use super::section::Section;
use std::path::{Path, PathBuf};

/// Where the images come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The procedural data set that is part of the program.
    Builtin,
    /// A folder `{train,val|valid|validation|test}/<class>/*`.
    Folder(PathBuf),
    /// A `.tar` that holds such a folder.
    Tar(PathBuf),
    /// ImageNet as it is laid out by its archives, by Kaggle or in class folders.
    Imagenet(PathBuf),
    /// WebDataset: a folder of tars of samples, or a pattern of such tars.
    WebDataset(PathBuf),
    /// A folder of Parquet files as Hugging Face lays them out, or a pattern of such files.
    Parquet(PathBuf),
    /// A folder with the CIFAR-10 binary batches.
    Cifar10(PathBuf),
    /// A folder with the CIFAR-100 binary files.
    Cifar100(PathBuf),
    /// A folder with the binary files of STL-10.
    Stl10(PathBuf),
    /// A folder with MNIST-style IDX files, plain or `.gz`.
    Idx(PathBuf),
}

impl Source {
    /// The word for it in a pipeline file.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Folder(_) => "folder",
            Self::Tar(_) => "tar",
            Self::Imagenet(_) => "imagenet",
            Self::WebDataset(_) => "webdataset",
            Self::Parquet(_) => "parquet",
            Self::Cifar10(_) => "cifar10",
            Self::Cifar100(_) => "cifar100",
            Self::Stl10(_) => "stl10",
            Self::Idx(_) => "idx",
        }
    }

    /// The file or folder that `data.path` names; nothing for the built-in pictures. Of several files it is their pattern.
    pub fn place(&self) -> Option<&Path> {
        match self {
            Self::Builtin => None,
            Self::Folder(path) | Self::Tar(path) | Self::Imagenet(path) | Self::Cifar10(path) => Some(path),
            Self::Cifar100(path) | Self::Stl10(path) | Self::Idx(path) => Some(path),
            Self::WebDataset(place) | Self::Parquet(place) => Some(Path::new(place)),
        }
    }
}

/// What happens to an image that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadImage {
    /// The stage fails and names it.
    Fail,
    /// It is left out and listed.
    Skip,
}

/// What is done about the turn that a camera notes in a photograph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// The image is turned upright.
    Upright,
    /// It stays as it is stored, as torchvision reads it.
    Ignore,
}

/// What is kept of each decoded image, whose short side is scaled to a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The centre square.
    Square,
    /// All of it, up to [`Data::longest_side`].
    Whole,
}

impl Keep {
    /// The word for it in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Square => "square",
            Self::Whole => "whole",
        }
    }
}

/// How many times as long as its short side a whole image is at most.
pub const LONGEST: usize = 16;

/// The images of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// Where they come from.
    pub source: Source,
    /// The side in pixels of the decoded images: the short side is scaled to it.
    pub size: usize,
    /// What is kept of the long side.
    pub keep: Keep,
    /// 3 for colour, 1 for gray.
    pub channels: usize,
    /// A random subset of so many training images, or all.
    pub train_images: Option<usize>,
    /// A random subset of so many validation images, or all.
    pub val_images: Option<usize>,
    /// The folder that the decoded images lie in, where that is not the pipeline's own: pipelines over the same images
    /// share it.
    pub decoded: Option<String>,
    /// What happens to an image that cannot be decoded.
    pub on_bad_image: BadImage,
    /// An image with more pixels is bad; checked before it is decoded.
    pub max_pixels: u64,
    /// Whether images are turned upright.
    pub orientation: Orientation,
    /// Mean of each channel, in units of the full range.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, in units of the full range.
    pub std: Vec<f32>,
}

/// The mean and deviation that the paper's code uses for CIFAR-10.
const CIFAR: ([f64; 3], [f64; 3]) = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]);
/// The same for ImageNet.
const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

impl Data {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Fault> {
        let source = read_source(section)?;
        // Where all images are of one size, that is the default.
        let side = match source.word() {
            "builtin" | "cifar10" | "cifar100" => Some(32),
            "stl10" => Some(96),
            "idx" => Some(28),
            _ => None,
        };
        if side.is_none() && !section.has("size") {
            return Err(section.fault("size", "is missing: the side in pixels that images are scaled and cropped to"));
        }
        let gray = section.choice("color", source.word() == "idx", &[("rgb", false), ("gray", true)])?;
        let channels = if gray { 1 } else { 3 };
        let (mean, std) = match source.word() {
            _ if gray => ([0.1307; 3], [0.3081; 3]),
            "cifar10" | "cifar100" => CIFAR,
            "builtin" => ([0.5; 3], [0.25; 3]),
            _ => IMAGENET,
        };
        Ok(Self {
            size: section.within("size", side.unwrap_or(32), 4..=2048)?,
            keep: section.choice("keep", Keep::Square, &[("square", Keep::Square), ("whole", Keep::Whole)])?,
            channels,
            train_images: read_limit(section, "train_images")?,
            val_images: read_limit(section, "val_images")?,
            decoded: read_place(section, "decoded")?,
            on_bad_image: section.choice(
                "on_bad_image",
                BadImage::Fail,
                &[("fail", BadImage::Fail), ("skip", BadImage::Skip)],
            )?,
            max_pixels: section.within("max_pixels", 100_000_000, 1..=1 << 32)?,
            orientation: section.choice(
                "orientation",
                Orientation::Upright,
                &[("upright", Orientation::Upright), ("ignore", Orientation::Ignore)],
            )?,
            mean: read_channels(section, "mean", &mean[..channels], -10.0)?,
            std: read_channels(section, "std", &std[..channels], 1e-6)?,
            source,
        })
    }

    /// The most pixels of the long side of a whole image; of a longer one the centre is kept. Where an image is longer
    /// than 16.7 times its short side, even the default random resized crop always falls back to the centre.
    pub fn longest_side(&self) -> usize {
        LONGEST * self.size
    }

    /// Bytes of a decoded image: for a whole one those of four by three, as most photographs are.
    pub fn image_bytes(&self) -> usize {
        let square = self.channels * self.size * self.size;
        if self.keep == Keep::Whole { square.div_ceil(3) * 4 } else { square }
    }
}

fn read_source(section: &mut Section<'_>) -> Result<Source, Fault> {
    type Make = fn(PathBuf) -> Source;
    let kinds: [(&str, Option<Make>); 10] = [
        ("builtin", None),
        ("folder", Some(Source::Folder)),
        ("tar", Some(Source::Tar)),
        ("imagenet", Some(Source::Imagenet)),
        ("webdataset", Some(Source::WebDataset)),
        ("parquet", Some(Source::Parquet)),
        ("cifar10", Some(Source::Cifar10)),
        ("cifar100", Some(Source::Cifar100)),
        ("stl10", Some(Source::Stl10)),
        ("idx", Some(Source::Idx)),
    ];
    if !section.has("source") {
        return Err(section.fault("source", "is missing").hint("`source = \"builtin\"` needs no files"));
    }
    let make = section.choice("source", None, &kinds)?;
    let path = read_place(section, "path")?;
    match (make, path) {
        (None, None) => Ok(Source::Builtin),
        (None, Some(_)) => Err(section.fault("path", "has no meaning for the built-in data")),
        (Some(make), Some(path)) => Ok(make(path.into())),
        (Some(_), None) => Err(section.fault("path", "is missing")),
    }
}

/// A path on this machine; one that begins with `~` lies in the user's home, as a shell would have it.
pub(super) fn read_place(section: &mut Section<'_>, key: &str) -> Result<Option<String>, Fault> {
    let Some(text) = section.optional::<String>(key)? else { return Ok(None) };
    if text.is_empty() {
        return Err(section.fault(key, "is empty"));
    }
    if text.starts_with('$') {
        let fault = section.fault(key, format!("is \"{text}\", but variables are not expanded here"));
        return Err(fault.hint("write the path itself, or one that begins with `~/`"));
    }
    let Some(below) = text.strip_prefix('~') else { return Ok(Some(text)) };
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    match home.as_ref().and_then(|home| home.to_str()) {
        Some(home) if below.is_empty() || below.starts_with('/') => Ok(Some(format!("{home}{below}"))),
        Some(_) => Err(section.fault(key, format!("is \"{text}\", but other users' homes are not known here"))),
        None => Err(section.fault(key, format!("is \"{text}\", but nothing says where the home is (`HOME`)"))),
    }
}

fn read_limit(section: &mut Section<'_>, key: &str) -> Result<Option<usize>, Fault> {
    match section.optional(key)? {
        Some(0) => Err(section.fault(key, "is 0; leave it out to take all images")),
        limit => Ok(limit),
    }
}

fn read_channels(section: &mut Section<'_>, key: &str, default: &[f64], least: f64) -> Result<Vec<f32>, Fault> {
    let values = section.get(key, default.to_vec())?;
    if values.len() != default.len() {
        return Err(section.fault(key, format!("needs {} values, one for each channel", default.len())));
    }
    if values.iter().any(|&value| !(least..=10.0).contains(&value)) {
        return Err(section.fault(key, format!("must hold values between {least} and 10")));
    }
    Ok(values.into_iter().map(|value| value as f32).collect())
}

/// How training images are cropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crop {
    /// Always the centre.
    Centre,
    /// Anywhere in the image after zero padding by so many pixels on each side.
    Padded {
        /// Pixels of zero padding.
        padding: usize,
    },
    /// A random part of the image, scaled: area in `scale` (fraction of the image's), width over height in `ratio`.
    Resized {
        /// Least and greatest fraction of the area.
        scale: (f64, f64),
        /// Least and greatest width over height.
        ratio: (f64, f64),
    },
}

/// How an image becomes an input of the network. Validation images are cropped at the centre and never flipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// The side in pixels of the network's input.
    pub size: usize,
    /// How training images are cropped.
    pub crop: Crop,
    /// Whether half the training images are mirrored.
    pub flip: bool,
}

impl Augmentation {
    /// Whether a training image looks different each time.
    pub fn is_random(&self) -> bool {
        self.flip || self.crop != Crop::Centre
    }

    pub(super) fn read(section: &mut Section<'_>, data: &Data) -> Result<Self, Fault> {
        let size = section.within("size", data.size, 4..=data.size)?;
        let word = section.get("crop", "centre".to_string())?;
        let crop = match word.as_str() {
            "centre" | "padded" if section.has("scale") || section.has("ratio") => {
                let key = if section.has("scale") { "scale" } else { "ratio" };
                return Err(section.fault(key, "has a meaning only with `crop = \"resized\"`"));
            }
            "centre" | "resized" if section.has("padding") => {
                return Err(section.fault("padding", "has a meaning only with `crop = \"padded\"`"));
            }
            "padded" if data.keep == Keep::Whole => {
                let fault =
                    section.fault("crop", "is \"padded\", but `data.keep = \"whole\"` keeps images of any shape");
                return Err(fault.hint("`crop = \"resized\"` crops whole images; padding needs `keep = \"square\"`"));
            }
            "centre" => Crop::Centre,
            "padded" => Crop::Padded { padding: section.within("padding", 4, 0..=size)? },
            "resized" => Crop::Resized {
                scale: read_span(section, "scale", (0.08, 1.0), (0.001, 1.0))?,
                ratio: read_span(section, "ratio", (3.0 / 4.0, 4.0 / 3.0), (0.1, 10.0))?,
            },
            _ => {
                let fault =
                    section.fault("crop", format!("is \"{word}\", but must be \"centre\", \"padded\" or \"resized\""));
                return Err(fault.suggest(&word, ["centre", "padded", "resized"].into_iter()));
            }
        };
        Ok(Self { size, crop, flip: section.get("flip", false)? })
    }
}

fn read_span(
    section: &mut Section<'_>,
    key: &str,
    default: (f64, f64),
    (least, most): (f64, f64),
) -> Result<(f64, f64), Fault> {
    match section.get(key, vec![default.0, default.1])?[..] {
        [low, high] if least <= low && low <= high && high <= most => Ok((low, high)),
        _ => Err(section.fault(key, format!("must be two numbers, the least first, between {least} and {most}"))),
    }
}
