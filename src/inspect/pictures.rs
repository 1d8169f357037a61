//! The pictures of a stage, as files: channels of a sample, kernels, nearest images, classes in a plane.

use super::kernels::kernels;
use super::maps::channel_grid;
use super::nearest::{Neighbour, nearest, strip};
use super::pca::principal;
use super::picture::{Picture, is_own_png};
use super::sampling::spread;
use super::scatter::{MARK, scatter};
use super::validation::{Features, Matrix, averages, channel_by_channel};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{Reader, Split, centre_square, read_labels};
use crate::pipeline::{Kind, Shape};
use crate::progress::Progress;
use crate::run::{Part, Record, StageFolder, TrainedNetwork};
use candle_core::Device;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Neighbours that are shown.
const NEIGHBOURS: usize = 10;
/// Points of the scatter plot at most.
const MOST_POINTS: usize = 2000;
/// Bytes by which a file is known to be of this program.
const HEAD: u64 = 512;

/// The sample whose features are shown.
#[derive(Clone, Debug)]
pub enum Query {
    /// One of the validation samples.
    Sample(usize),
    /// An image file, which is cropped as validation images are and sent through the frozen network.
    Image(PathBuf),
}

/// What was written.
pub struct Pictures {
    /// The files, in the order in which they were made, and what each shows.
    pub files: Vec<(PathBuf, &'static str)>,
    /// The validation samples whose features are nearest, nearest first, with their labels and distances.
    pub nearest: Vec<(usize, u32, f64)>,
    /// Samples among which neighbours were looked for.
    pub samples: usize,
    /// What could not be shown, and why.
    pub missing: Vec<String>,
}

/// The decoded validation images that a stage's features come from.
pub struct Images {
    reader: Reader,
}

impl Images {
    /// Those of the stage's images, where they are still there.
    ///
    /// # Errors
    /// When a stage before is missing, is no longer what this one was made of, or holds no images.
    pub fn open(folder: &StageFolder, record: &Record) -> Result<Self> {
        let (mut folder, mut record) = (folder.clone(), record.clone());
        while let Some(parent) = folder.parent(&record)? {
            (folder, record) = parent;
        }
        let reader = Reader::open(&Split::Val.array(folder.path(), "features"))?;
        match reader.layout().holds_images() && matches!(reader.layout().shape.channels, 1 | 3) {
            true => Ok(Self { reader }),
            false => Err(Error::failed(format!("`{}` holds no images", folder.path().display()))),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.reader.layout().samples
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them, as it is stored.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn picture(&self, sample: usize) -> Result<Picture> {
        let layout = self.reader.layout();
        let mut bytes = Vec::new();
        self.reader.read(0, sample, &mut bytes)?;
        Ok(Picture::of_image(&centre_square(&bytes, layout.keep(), layout.shape)?, layout.shape.size))
    }
}

/// What is known of the sample that is shown.
struct Shown {
    /// The end of its files' names.
    name: String,
    /// Its features \[channel, y, x\].
    values: Vec<f32>,
    image: Option<Picture>,
    label: Option<u32>,
    sample: Option<usize>,
}

/// Writes all pictures of a finished stage into a folder: `channels-SAMPLE.png`, `kernels.png`, `nearest-SAMPLE.png` and
/// `classes.svg`. Neighbours and classes are shown of at most so many validation samples. The same stage and sample give the
/// same bytes.
///
/// # Errors
/// When features or weights are missing or damaged, there is no such sample, a file of somebody else is in the way
/// and `force` is not set, or the user interrupts.
pub fn pictures(
    stage: &StageFolder,
    record: &Record,
    (query, most): (&Query, usize),
    (to, force): (&Path, bool),
    progress: &dyn Progress,
) -> Result<Pictures> {
    let features = Features::open(stage, record)?;
    let labels = read_labels(stage.path(), Split::Val)?;
    let images = Images::open(stage, record);
    let mut missing = Vec::new();
    if let Err(e) = &images {
        missing.push(format!("the images: {e}"));
    }
    let images = images.ok();
    let shown = match query {
        Query::Sample(sample) => stored_sample(*sample, &features, &labels, images.as_ref())?,
        Query::Image(path) => image_file(path, stage)?,
    };
    let mut out = Files { folder: to, force, written: Vec::new() };
    let grid = channel_grid(&shown.values, features.shape(), shown.image.as_ref());
    out.png(&format!("channels-{}.png", shown.name), &grid, "every channel of the sample's features")?;
    if record.kind != Kind::Images {
        match kernels(&Part::block(stage, record)?)? {
            Some(picture) => out.png("kernels.png", &picture, "the kernels of the block's first convolution")?,
            None => missing.push("kernels: the block has no convolution".into()),
        }
    }
    let rows = features.spread(most);
    let averaged = features.averaged(&rows, progress)?;
    let own = shown.sample.and_then(|sample| rows.binary_search(&sample).ok());
    let around = nearest(&averages(&shown.values, features.shape()), &averaged, NEIGHBOURS, own);
    let found: Vec<(usize, u32, f64)> = around
        .iter()
        .map(|&Neighbour { row, distance }| (rows[row], labels.get(rows[row]).copied().unwrap_or(0), distance))
        .collect();
    match (&images, &shown.image) {
        (Some(images), Some(image)) if !found.is_empty() => {
            let thumbnail = |&(sample, label, _): &(usize, u32, f64)| Ok((images.picture(sample)?, label));
            let neighbours = found.iter().map(thumbnail).collect::<Result<Vec<_>>>()?;
            let strip = strip((image, shown.label), &neighbours);
            out.png(&format!("nearest-{}.png", shown.name), &strip, "the images nearest in averaged features")?;
        }
        _ => missing.push("nearest images: they are not within reach".into()),
    }
    let points = thinned(&averaged, MOST_POINTS);
    let point_labels: Vec<u32> = points.1.iter().map(|&row| labels.get(rows[row]).copied().unwrap_or(0)).collect();
    let marked = own.and_then(|own| points.1.binary_search(&own).ok());
    let names: Vec<String> =
        record.classes.iter().enumerate().map(|(at, class)| named(class, record.words(at))).collect();
    let title = format!("{} of `{}`: {} validation images", record.title(), record.pipeline, point_labels.len());
    let svg = scatter(&principal(&points.0), &point_labels, &names, (&title, marked));
    out.write("classes.svg", svg.as_bytes(), "averaged features along two principal components, by class")?;
    Ok(Pictures { files: out.written, nearest: found, samples: rows.len(), missing })
}

/// A class as people call it.
fn named(class: &str, words: Option<&str>) -> String {
    words.map_or_else(|| class.to_string(), |words| words.split(',').next().unwrap_or(words).to_string())
}

/// At most so many rows, spread evenly, and which they are.
fn thinned(all: &Matrix, most: usize) -> (Matrix, Vec<usize>) {
    let chosen = spread(all.rows().len(), most);
    let rows: Vec<&[f32]> = all.rows().collect();
    let values = chosen.iter().flat_map(|&row| rows[row]).copied().collect();
    (Matrix { columns: all.columns, values }, chosen)
}

fn stored_sample(sample: usize, features: &Features, labels: &[u32], images: Option<&Images>) -> Result<Shown> {
    if sample >= features.samples() {
        let last = features.samples().saturating_sub(1);
        return Err(Error::usage(format!("there is no validation sample {sample}; they are 0 to {last}")));
    }
    let mut values = Vec::new();
    features.for_each(&[sample], |_, found| values = found.to_vec())?;
    let image = images.map(|images| images.picture(sample)).transpose()?;
    Ok(Shown { name: format!("val-{sample}"), values, image, label: labels.get(sample).copied(), sample: Some(sample) })
}

fn image_file(path: &Path, stage: &StageFolder) -> Result<Shown> {
    let network = TrainedNetwork::open_blocks(stage, &Device::Cpu)?;
    let decoded = network.decode(path)?;
    let (data, side) = (&network.pipeline.data, network.pipeline.data.size);
    let square = centre_square(&decoded, data.keep, Shape { channels: data.channels, size: side })?;
    let pixels: Vec<f32> = network.features(network.input_of(&decoded)?)?.flatten_all()?.to_vec1()?;
    let Shape { channels, size } = network.features_shape();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    Ok(Shown {
        name: stem.chars().take(64).map(plain).collect(),
        values: channel_by_channel(&pixels, Shape { channels, size }),
        image: Some(Picture::of_image(&square, side)),
        label: None,
        sample: None,
    })
}

/// Files of pictures in one folder.
struct Files<'a> {
    folder: &'a Path,
    force: bool,
    written: Vec<(PathBuf, &'static str)>,
}

impl Files<'_> {
    fn png(&mut self, name: &str, picture: &Picture, what: &'static str) -> Result<()> {
        self.write(name, &picture.png()?, what)
    }

    fn write(&mut self, name: &str, bytes: &[u8], what: &'static str) -> Result<()> {
        let path = self.folder.join(name);
        if !self.force && path.symlink_metadata().is_ok() && !is_own(&path) {
            return Err(Error::usage(format!("`{}` is there already, and no picture of this program", path.display()))
                .hint("name another folder, or `--force` writes over it"));
        }
        disk::create_folder(self.folder)?;
        disk::write(&path, bytes)?;
        self.written.push((path, what));
        Ok(())
    }
}

/// Whether a file is one that this program wrote, by its beginning.
fn is_own(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut start));
    read.is_ok() && (is_own_png(&start) || String::from_utf8_lossy(&start).contains(MARK))
}
