//! TensorBoard's event files: what a stage's record, weights and features say, for its scalars, images and histograms.
//!
//! All of it comes from what lies on the disk after a stage is done, so that the same stage gives the same bytes.

use super::protobuf::Message;
use crate::disk;
use crate::error::Result;
use crate::inspect::{Features, Images, Picture, channel_grid};
use crate::pipeline::{Kind, Node, Probe};
use crate::run::{Figures, Part, Parts, Record, StageFolder};
use std::path::{Path, PathBuf};

/// The file in the folder of a node: its name is how TensorBoard knows it, and the end how it is known to be ours.
const FILE: &str = "events.out.tfevents.0000000000.greedy";
/// Bins of a histogram of weights.
const BINS: usize = 40;
/// The validation sample whose channels are shown.
const SAMPLE: usize = 0;

/// Fields of `Event`.
mod event {
    pub const WALL_TIME: u32 = 1;
    pub const STEP: u32 = 2;
    pub const FILE_VERSION: u32 = 3;
    pub const SUMMARY: u32 = 5;
}

/// Fields of `Summary.Value`; `Summary` itself has them as its first.
mod value {
    pub const TAG: u32 = 1;
    pub const SCALAR: u32 = 2;
    pub const IMAGE: u32 = 4;
    pub const HISTOGRAM: u32 = 5;
}

/// The folder of a node's events: `DIR/PIPELINE/stage3`.
pub fn events_folder(to: &Path, record: &Record) -> PathBuf {
    let plain = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    let pipeline: String = record.pipeline.chars().map(plain).collect();
    let node = match record.kind {
        Kind::Classifier => Probe::CLASSIFIER.into(),
        kind if kind.is_network() => Node::NETWORK.into(),
        _ => Node::stage_id(record.stage),
    };
    to.join(if pipeline.is_empty() { "pipeline" } else { &pipeline }).join(node)
}

/// Writes the events of a trained stage, or of a network that was trained as a whole, below a folder; gives the file's
/// path, and nothing for other nodes.
///
/// # Errors
/// When weights are damaged or the file cannot be written. Features that are out of reach are left out.
pub fn write_events(folder: &StageFolder, record: &Record, to: &Path) -> Result<Option<PathBuf>> {
    if matches!(record.kind, Kind::Images | Kind::Wide | Kind::Ensemble | Kind::Probe) {
        return Ok(None);
    }
    let mut file = EventFile::new();
    let epochs = record.figures.as_ref().map_or(0, |figures| figures.history.len());
    if let Some(figures) = &record.figures {
        scalars(&mut file, record.stage, figures);
    }
    for (name, values) in weights(folder, record)? {
        file.add(epochs, &format!("weights/{name}"), value::HISTOGRAM, histogram(&values));
    }
    if let Some(picture) = channels(folder, record) {
        file.add(epochs, &format!("channels of validation sample {SAMPLE}"), value::IMAGE, image(&picture)?);
    }
    let place = events_folder(to, record);
    disk::create_folder(&place)?;
    let path = place.join(FILE);
    disk::write(&path, &file.bytes)?;
    Ok(Some(path))
}

fn scalars(file: &mut EventFile, stage: usize, figures: &Figures) {
    for epoch in &figures.history {
        let all = [
            ("loss/train", Some(epoch.loss)),
            ("accuracy/train", Some(epoch.train_accuracy)),
            ("accuracy/validation", epoch.accuracy),
            ("learning_rate", Some(epoch.learning_rate)),
        ];
        all.into_iter().for_each(|(tag, figure)| file.scalar(epoch.epoch, tag, figure));
    }
    let last = [
        ("by_stage/accuracy", Some(figures.accuracy)),
        ("by_stage/top5", Some(figures.top5)),
        ("by_stage/loss", Some(figures.loss)),
        ("by_stage/ensemble_accuracy", figures.ensemble_accuracy),
    ];
    last.into_iter().for_each(|(tag, figure)| file.scalar(stage, tag, figure));
}

/// Names and values of all that was learned.
fn weights(folder: &StageFolder, record: &Record) -> Result<Vec<(String, Vec<f32>)>> {
    let (blocks, head) = match record.kind {
        Kind::EndToEnd | Kind::Decoupled | Kind::Imported => {
            let parts = Parts::read(folder)?;
            (parts.blocks, parts.head)
        }
        Kind::Classifier => (Vec::new(), Part::classifier(folder, record)?),
        _ => (vec![Part::block(folder, record)?], Part::head(folder, record)?),
    };
    let named = |number: usize| if blocks.len() == 1 { "block".into() } else { format!("block{number}") };
    let mut all: Vec<(String, &Part)> = (1..).map(named).zip(&blocks).collect();
    all.extend(head.iter().map(|head| ("auxiliary".into(), head)));
    let mut values = Vec::new();
    for (prefix, part) in all {
        for (name, variable) in part.variables.parameters() {
            values.push((format!("{prefix}.{name}"), variable.flatten_all()?.to_vec1()?));
        }
    }
    Ok(values)
}

/// The channels of one sample's features, where they are within reach.
fn channels(folder: &StageFolder, record: &Record) -> Option<Picture> {
    let features = Features::open(folder, record).ok()?;
    let mut sample = Vec::new();
    features.for_each(&[SAMPLE], |_, values| sample = values.to_vec()).ok()?;
    let image = Images::open(folder, record).and_then(|images| images.picture(SAMPLE)).ok();
    Some(channel_grid(&sample, features.shape(), image.as_ref()))
}

/// `Summary.Image`
fn image(picture: &Picture) -> Result<Message> {
    let channels = if picture.is_grey() { 1 } else { 3 };
    let size = Message::new().integer(1, picture.height as i64).integer(2, picture.width as i64);
    Ok(size.integer(3, channels).raw(4, &picture.png()?))
}

/// `HistogramProto`, with bins of one width between the smallest and the largest value.
fn histogram(values: &[f32]) -> Message {
    let wide = || values.iter().map(|&value| f64::from(value));
    let (least, most) = (wide().fold(f64::INFINITY, f64::min), wide().fold(f64::NEG_INFINITY, f64::max));
    let (least, most) = if values.is_empty() { (0.0, 0.0) } else { (least, most) };
    let width = ((most - least) / BINS as f64).max(f64::MIN_POSITIVE);
    let mut counts = [0.0; BINS];
    wide().for_each(|value| counts[(((value - least) / width) as usize).min(BINS - 1)] += 1.0);
    let limit = |bin: usize| if bin + 1 == BINS { most } else { least + width * (bin + 1) as f64 };
    let limits: Vec<f64> = (0..BINS).map(limit).collect();
    Message::new()
        .double(1, least)
        .double(2, most)
        .double(3, values.len() as f64)
        .double(4, wide().sum())
        .double(5, wide().map(|value| value * value).sum())
        .doubles(6, &limits)
        .doubles(7, &counts)
}

/// The records of an event file.
struct EventFile {
    bytes: Vec<u8>,
}

impl EventFile {
    fn new() -> Self {
        let mut file = Self { bytes: Vec::new() };
        file.record(
            &Message::new().double(event::WALL_TIME, 0.0).text(event::FILE_VERSION, "brain.Event:2").into_bytes(),
        );
        file
    }

    fn scalar(&mut self, step: usize, tag: &str, figure: Option<f64>) {
        if let Some(figure) = figure {
            let summary = Message::new().text(value::TAG, tag).float(value::SCALAR, figure as f32);
            self.summary(step, summary);
        }
    }

    fn add(&mut self, step: usize, tag: &str, field: u32, content: Message) {
        self.summary(step, Message::new().text(value::TAG, tag).message(field, content));
    }

    /// The step stands for the time too: clocks would give other bytes at every run.
    fn summary(&mut self, step: usize, value: Message) {
        let summary = Message::new().message(1, value);
        let event = Message::new().double(event::WALL_TIME, step as f64).integer(event::STEP, step as i64);
        self.record(&event.message(event::SUMMARY, summary).into_bytes());
    }

    /// A length and some bytes, each with its masked CRC-32C.
    fn record(&mut self, data: &[u8]) {
        let length = (data.len() as u64).to_le_bytes();
        self.bytes.extend(length);
        self.bytes.extend(masked_crc(&length).to_le_bytes());
        self.bytes.extend(data);
        self.bytes.extend(masked_crc(data).to_le_bytes());
    }
}

/// CRC-32C, turned and shifted as TFRecord has it.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_tensorflow_frames_them() {
        // The first bytes of every event file: a record of 24 bytes.
        let file = EventFile::new();
        assert_eq!(file.bytes[..8], 24u64.to_le_bytes());
        // CRC-32C of "123456789" is 0xe3069283 (RFC 3720's catalogue), masked with another program.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
        assert_eq!(file.bytes.len(), 8 + 4 + 24 + 4);
        assert!(file.bytes[12..].starts_with(b"\x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2"));
    }

    #[test]
    fn a_histogram_counts_all_values_between_the_smallest_and_the_largest() {
        let bytes = histogram(&[-1.0, 0.0, 0.5, 1.0]).into_bytes();
        let double = |at: usize| f64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!([double(1), double(10), double(19), double(28), double(37)], [-1.0, 1.0, 4.0, 0.5, 2.25]);
        // Two packed lists of 320 bytes, each behind a key and a length of two bytes.
        let list = |first: usize| (0..BINS).map(move |bin| double(first + 8 * bin)).collect::<Vec<_>>();
        let (limits, counts) = (list(48), list(48 + 320 + 3));
        assert_eq!((limits[39], counts[0], counts[20], counts[30], counts[39]), (1.0, 1.0, 1.0, 1.0, 1.0));
        assert_eq!(counts.iter().sum::<f64>(), 4.0);
        histogram(&[]);
        histogram(&[2.0; 3]);
    }
}
