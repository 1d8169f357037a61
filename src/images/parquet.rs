//! Parquet files as Hugging Face lays out data sets of images: a column of encoded images, and one of labels.
//!
//! Labels are read once; of the images, one group of rows after the other as it is needed.

use super::census::Census;
use super::file::OpenFile;
use super::numbered::{self, Numbered};
use super::webdataset::Shards;
use super::{Content, Fault, Found, Store, pattern};
use crate::error::{Error, Result};
use crate::text::{printable, shown, shown_name};
use bytes::Bytes;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use std::collections::VecDeque;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Names of the column of labels.
const LABELS: [&str; 4] = ["label", "labels", "cls", "fine_label"];
/// Bytes of a group of rows at most.
const MOST_GROUP: i64 = 4 << 30;
/// Bytes of groups that are kept at most, beside the one in use.
const KEPT: usize = 256 << 20;
/// Groups that are kept at most.
const MOST_KEPT: usize = 64;

/// Finds the files of a folder, or those that a pattern stands for.
///
/// # Errors
/// When there are none of one of the splits.
pub(super) fn files(place: &Path) -> Result<Shards> {
    numbered::splits(place, "parquet", if place.is_dir() { None } else { Some(pattern::files(place)?) })
}

/// Finds the images of the files.
pub(super) fn open(place: &Path) -> Result<Found> {
    let Shards { train, val } = files(place)?;
    let mut notes = Vec::new();
    for (name, files) in [("training", &train), ("validation", &val)] {
        notes.extend(numbered::gap(files).map(|note| format!("of the {name} files {note}")));
        if files.iter().any(|path| shown(path).contains("partial-")) {
            notes.push(format!("the {name} files are the part of the set that is converted by itself, not all of it"));
        }
    }
    let (train, names) = Rows::open(train)?;
    let (val, _) = Rows::open(val)?;
    let Numbered { classes, words, note } = Numbered::of((&train.labels, &val.labels), names)?;
    notes.push(note);
    let census = Census { notes, ..Census::of(train.labels.len() + val.labels.len()) };
    Ok(Found { words, ..Found::new(classes, Box::new(train), Box::new(val), census) })
}

/// The rows of all files of a split.
struct Rows {
    tables: Vec<Table>,
    groups: Vec<Group>,
    labels: Vec<u32>,
    /// Groups that were read lately, by their numbers.
    kept: Mutex<VecDeque<(usize, Arc<OnceLock<Images>>)>>,
}

/// The images of a group of rows; nothing where a row has none.
type Images = Result<Vec<Option<ByteArray>>>;

/// A file.
struct Table {
    path: PathBuf,
    /// The column of images.
    image: Column,
}

/// A column of a file.
#[derive(Clone, Copy)]
struct Column {
    at: usize,
    /// The level that a value which is there has.
    present: i16,
}

/// Rows that are stored together.
struct Group {
    table: usize,
    /// Its number in the file.
    at: usize,
    /// The numbers of its rows in the split.
    rows: Range<usize>,
    /// The number of its first row in the file.
    before: usize,
}

impl Rows {
    /// Reads the labels of some files, and the names of the classes where they are told.
    fn open(paths: Vec<PathBuf>) -> Result<(Self, Option<Vec<String>>)> {
        let mut rows = Self { tables: Vec::new(), groups: Vec::new(), labels: Vec::new(), kept: Mutex::default() };
        let mut names = None;
        for path in paths {
            let own = guarded(&path, || rows.add(&path))?;
            names = names.or(own);
        }
        Ok((rows, names))
    }

    fn add(&mut self, path: &Path) -> Result<Option<Vec<String>>> {
        let reader = reader(path)?;
        let metadata = reader.metadata();
        let (image, label, name) = columns(path, metadata)?;
        let mut before = 0;
        for at in 0..metadata.num_row_groups() {
            let group = metadata.row_group(at);
            let count =
                usize::try_from(group.num_rows()).map_err(|_| fault(path, "a group has a wrong number of rows"))?;
            if !(0..=MOST_GROUP).contains(&group.column(image.at).uncompressed_size()) {
                return Err(fault(path, &format!("group {at} of rows is too large to be read at once")));
            }
            let labels = read_labels(path, &reader, at, label, count)?;
            if let Some(odd) = labels.iter().position(|label| label.and_then(numbered::label).is_none()) {
                let (row, label) = (before + odd, labels[odd].map_or("none".into(), |label| label.to_string()));
                let error = fault(path, &format!("the label of row {row} is {label}"));
                return Err(error.hint("a split without labels, as `test` often is, cannot be learned from"));
            }
            let start = self.labels.len();
            self.labels.extend(labels.into_iter().flatten().filter_map(numbered::label));
            self.groups.push(Group { table: self.tables.len(), at, rows: start..start + count, before });
            before += count;
        }
        let names = names(metadata, &name);
        self.tables.push(Table { path: path.to_path_buf(), image });
        Ok(names)
    }

    /// The number of the group that a row lies in.
    fn group(&self, index: usize) -> usize {
        self.groups.partition_point(|group| group.rows.end <= index)
    }

    /// The row of an image in its file, and the file.
    fn row(&self, index: usize) -> (usize, &Path) {
        let group = &self.groups[self.group(index)];
        (group.before + index - group.rows.start, &self.tables[group.table].path)
    }

    /// The images of a group: several threads that ask for one at once wait for the first of them.
    fn images(&self, number: usize) -> Arc<OnceLock<Images>> {
        let slot = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = |slot: &OnceLock<Images>| match slot.get() {
                Some(Ok(images)) => images.iter().flatten().map(ByteArray::len).sum(),
                _ => 0,
            };
            match kept.iter().find(|(own, _)| *own == number) {
                Some((_, slot)) => Arc::clone(slot),
                None => {
                    while kept.iter().map(|(_, slot)| bytes(slot)).sum::<usize>() > KEPT {
                        kept.pop_front();
                    }
                    if kept.len() >= MOST_KEPT {
                        kept.pop_front();
                    }
                    let slot = Arc::default();
                    kept.push_back((number, Arc::clone(&slot)));
                    slot
                }
            }
        };
        slot.get_or_init(|| {
            let group = &self.groups[number];
            let table = &self.tables[group.table];
            guarded(&table.path, || read_images(&table.path, group.at, table.image, group.rows.len()))
        });
        slot
    }
}

impl Store for Rows {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn name(&self, index: usize) -> String {
        let (row, path) = self.row(index);
        format!("{}: row {row}", shown(path))
    }

    fn place(&self, index: usize) -> String {
        let (row, path) = self.row(index);
        format!("{}: row {row}", shown_name(path.file_name().unwrap_or_default()))
    }

    fn read(&self, index: usize, most: u64) -> Result<Content, Fault> {
        let number = self.group(index);
        let images = self.images(number);
        let images = match images.get() {
            Some(Ok(images)) => images,
            Some(Err(error)) => return Err(error.clone().into()),
            None => return Err(Error::failed("a group of rows was not read").into()),
        };
        match images.get(index - self.groups[number].rows.start) {
            Some(Some(image)) if image.len() as u64 > most => {
                Err(Fault::Bad(Error::failed(format!("an image of {} bytes is too large", image.len()))))
            }
            Some(Some(image)) => Ok(Content::File(image.data().to_vec())),
            _ => Err(Fault::Bad(Error::failed("the row holds no image"))),
        }
    }
}

fn fault(path: &Path, fault: &str) -> Error {
    Error::failed(format!("`{}`: {fault}", shown(path)))
}

/// Does something with a file; a reader that panics on what is no Parquet must not take the program down with it.
fn guarded<T>(path: &Path, act: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| Err(fault(path, "it is damaged")))
}

fn reader(path: &Path) -> Result<SerializedFileReader<Handle>> {
    let file = Arc::new(OpenFile::open(path)?);
    SerializedFileReader::new(Handle { file }).map_err(|e| damaged(path, &e))
}

/// An error in the words of the reader.
fn damaged(path: &Path, error: &ParquetError) -> Error {
    let text = printable(&error.to_string(), &[]);
    fault(path, &format!("it cannot be read as Parquet ({})", text.trim_start_matches("Parquet error: ")))
}

/// The columns of images and of labels, and the name of the latter.
fn columns(path: &Path, metadata: &ParquetMetaData) -> Result<(Column, Column, String)> {
    let schema = metadata.file_metadata().schema_descr();
    let all = || {
        schema.columns().iter().enumerate().map(|(at, column)| {
            (
                column.path().string(),
                Column { at, present: column.max_def_level() },
                column.physical_type(),
                column.max_rep_level(),
            )
        })
    };
    let image =
        all().find(|(name, _, kind, repeats)| name.ends_with(".bytes") && *kind == Type::BYTE_ARRAY && *repeats == 0);
    let label = LABELS.iter().find_map(|wanted| {
        all().find(|(name, _, kind, repeats)| {
            name == wanted && matches!(kind, Type::INT32 | Type::INT64) && *repeats == 0
        })
    });
    match (image, label) {
        (Some((_, image, ..)), Some((name, label, ..))) => Ok((image, label, name)),
        _ => {
            let names: Vec<String> = all().map(|(name, ..)| printable(&name, &[])).take(20).collect();
            let error = fault(path, &format!("there are no columns of images and labels among {}", names.join(", ")));
            Err(error.hint("expected are `image` with `bytes` in it, and `label`"))
        }
    }
}

fn read_labels(
    path: &Path,
    reader: &SerializedFileReader<Handle>,
    group: usize,
    column: Column,
    count: usize,
) -> Result<Vec<Option<i64>>> {
    let failed = |e: ParquetError| damaged(path, &e);
    let group = reader.get_row_group(group).map_err(failed)?;
    match group.get_column_reader(column.at).map_err(failed)? {
        ColumnReader::Int64ColumnReader(reader) => values(path, reader, column, count),
        ColumnReader::Int32ColumnReader(reader) => {
            Ok(values(path, reader, column, count)?.into_iter().map(|label| label.map(i64::from)).collect())
        }
        _ => Err(fault(path, "labels are no whole numbers")),
    }
}

fn read_images(path: &Path, group: usize, column: Column, count: usize) -> Images {
    let failed = |e: ParquetError| damaged(path, &e);
    let group = reader(path)?.get_row_group(group).map_err(failed)?.get_column_reader(column.at).map_err(failed)?;
    match group {
        ColumnReader::ByteArrayColumnReader(reader) => values(path, reader, column, count),
        _ => Err(fault(path, "images are no bytes")),
    }
}

/// The values of so many rows.
fn values<T: DataType>(
    path: &Path,
    mut reader: ColumnReaderImpl<T>,
    column: Column,
    count: usize,
) -> Result<Vec<Option<T::T>>> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut read = 0;
    while read < count {
        let more = reader.read_records(count - read, Some(&mut levels), None, &mut values);
        match more.map_err(|e| damaged(path, &e))?.0 {
            0 => return Err(fault(path, &format!("a group ends after {read} of {count} rows"))),
            more => read += more,
        }
    }
    let mut values = values.into_iter();
    let is_there = |row: usize| column.present == 0 || levels.get(row).is_some_and(|&level| level == column.present);
    Ok((0..count).map(|row| is_there(row).then(|| values.next()).flatten()).collect())
}

/// The names of the classes, which Hugging Face writes beside the schema.
fn names(metadata: &ParquetMetaData, label: &str) -> Option<Vec<String>> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    let text = entries.iter().find(|entry| entry.key == "huggingface")?.value.as_ref()?;
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let names = &json["info"]["features"][label]["names"];
    let listed = names.as_array()?.iter().map(|name| name.as_str().map(|name| printable(name, &[])));
    listed.collect::<Option<Vec<_>>>().filter(|names| !names.is_empty())
}

/// A file as the reader of Parquet takes it: threads read at places of their own.
struct Handle {
    file: Arc<OpenFile>,
}

impl Length for Handle {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl ChunkReader for Handle {
    type T = BufReader<Stream>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(Stream { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.file.read(start..start.saturating_add(length as u64));
        bytes.map(Bytes::from).map_err(|e| ParquetError::General(e.to_string()))
    }
}

/// A file from some place on.
struct Stream {
    file: Arc<OpenFile>,
    at: u64,
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.stream().read_at(out, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
