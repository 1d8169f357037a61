//! The members of a tar archive and the places of their bytes, so that they are read without unpacking.
//!
//! Read are old, POSIX and GNU headers with long names and sparse files, archives put behind one another, and archives
//! within archives.

use super::Fault;
use super::file::OpenFile;
use crate::error::{Error, Result};
use crate::text::shown;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const BLOCK: u64 = 512;
/// Bytes of a name, a list of attributes or a map of holes at most.
const MOST_EXTRA: u64 = 1 << 20;
/// Parts of a sparse file at most.
const MOST_PARTS: usize = 1 << 16;
/// Bytes of a sparse file at most.
const MOST_SPARSE: u64 = 1 << 40;
/// Bytes in which the end of an archive is looked through.
const WINDOW: u64 = 1 << 20;

/// Something in an archive.
pub(super) struct Member {
    pub path: PathBuf,
    pub kind: Kind,
}

pub(super) enum Kind {
    File(Place),
    HardLink(PathBuf),
    SymbolicLink(PathBuf),
    Folder,
    Other,
}

/// Where the bytes of a file lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub bytes: Range<u64>,
    holes: Option<Box<Holes>>,
}

/// A file with holes: what is stored lies one behind the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holes {
    len: u64,
    /// Where each stored part belongs, and its length.
    parts: Vec<(u64, u64)>,
}

impl Place {
    /// Whether its parts fit together, as they do in all that was found in an archive.
    pub fn is_sound(&self) -> bool {
        let stored = self.bytes.end.checked_sub(self.bytes.start);
        stored.is_some() && self.holes.as_ref().is_none_or(|holes| Some(holes.stored()) == stored && holes.are_inside())
    }

    /// Reads an image file.
    ///
    /// # Errors
    /// Those of [`OpenFile::read_image`].
    pub fn read_image(&self, archive: &OpenFile, most: u64) -> Result<Vec<u8>, Fault> {
        match &self.holes {
            None => archive.read_image(self.bytes.clone(), most),
            Some(holes) if holes.len > most => {
                Err(Fault::Bad(Error::failed(format!("an image of {} bytes is too large", holes.len))))
            }
            Some(holes) => Ok(holes.fill(&archive.read(self.bytes.clone())?)),
        }
    }
}

impl Holes {
    /// Bytes that are stored.
    fn stored(&self) -> u64 {
        self.parts.iter().fold(0, |sum: u64, (_, part)| sum.saturating_add(*part))
    }

    /// Whether all parts lie within the file, one behind the other.
    fn are_inside(&self) -> bool {
        let mut reached = 0;
        self.len < MOST_SPARSE
            && self.parts.iter().all(|&(place, part)| {
                let fits = place >= reached && place.checked_add(part).is_some_and(|end| end <= self.len);
                reached = place.saturating_add(part);
                fits
            })
    }

    /// The whole file, from what is stored of it: parts lie within it and their lengths add up, as was checked.
    fn fill(&self, mut stored: &[u8]) -> Vec<u8> {
        let mut whole = vec![0; self.len as usize];
        for &(start, len) in &self.parts {
            let (part, rest) = stored.split_at(len as usize);
            whole[start as usize..(start + len) as usize].copy_from_slice(part);
            stored = rest;
        }
        whole
    }
}

/// What an archive holds.
pub(super) struct Members {
    pub all: Vec<Member>,
    /// Bytes behind its end that are no archive.
    pub behind: u64,
}

/// Finds all members of the archive that is a range of a file.
///
/// # Errors
/// When it is damaged or cut off, or of a kind that cannot be read in place.
pub(super) fn members(file: &OpenFile, range: Range<u64>) -> Result<Members> {
    let mut reader = Reader { file, at: range.start, end: range.end, extra: Extra::default() };
    let mut found = Members { all: Vec::new(), behind: 0 };
    let mut ended = false;
    loop {
        if reader.at.saturating_add(BLOCK) > reader.end {
            break;
        }
        let header = reader.block(reader.at)?;
        if header.iter().all(|&byte| byte == 0) {
            ended = true;
            reader.skip_zeros()?;
            continue;
        }
        if !is_header(&header) {
            if ended {
                found.behind = reader.end - reader.at;
                break;
            }
            let fault = format!("the header at byte {} is damaged", reader.at);
            return Err(Error::failed(format!("`{}` is no whole tar: {fault}", shown(file.path()))));
        }
        found.all.extend(reader.member(&header)?);
    }
    // Without the block of zeros that ends an archive, nobody knows how many images are missing.
    if !ended {
        return Err(cut_off(file, "before its end mark").hint(
            "compare its length with the original's; if it is whole, `head -c 1024 /dev/zero >> FILE` adds the mark",
        ));
    }
    Ok(found)
}

fn cut_off(file: &OpenFile, place: &str) -> Error {
    Error::failed(format!("`{}` is cut off {place}, at byte {}", shown(file.path()), file.len()))
        .hint("compare its length with the original's")
}

/// Goes through an archive.
struct Reader<'a> {
    file: &'a OpenFile,
    at: u64,
    end: u64,
    extra: Extra,
}

/// What headers of their own say of the next member.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: Sparse,
}

/// What attributes say of a sparse file.
#[derive(Default)]
struct Sparse {
    name: Option<Vec<u8>>,
    len: Option<u64>,
    /// Numbers, by turns a place and a length.
    map: Vec<u64>,
    /// Whether the map stands before the data.
    is_before_data: bool,
    is_present: bool,
}

impl Reader<'_> {
    fn block(&self, at: u64) -> Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        block.copy_from_slice(&self.file.read(at..at + BLOCK)?);
        Ok(block)
    }

    fn skip_zeros(&mut self) -> Result<()> {
        loop {
            let window = self.at..self.end.min(self.at + WINDOW);
            let bytes = self.file.read(window.clone())?;
            match bytes.iter().position(|&byte| byte != 0) {
                Some(place) => {
                    self.at += place as u64 / BLOCK * BLOCK;
                    return Ok(());
                }
                None if window.end == self.end => {
                    self.at = self.end;
                    return Ok(());
                }
                None => self.at = window.end,
            }
        }
    }

    fn damaged(&self, fault: &str) -> Error {
        Error::failed(format!("`{}` is no whole tar: {fault} at byte {}", shown(self.file.path()), self.at))
    }

    /// Reads the member at a header; nothing where it speaks of the next one.
    fn member(&mut self, header: &[u8; 512]) -> Result<Option<Member>> {
        let kind = header[156];
        let size = number(&header[124..136]).ok_or_else(|| self.damaged("there is no length"))?;
        let is_extra = matches!(kind, b'x' | b'X' | b'g' | b'L' | b'K');
        let size = if is_extra { size } else { self.extra.size.unwrap_or(size) };
        let data = self.at + BLOCK;
        let name = name(header);
        let end = data.checked_add(size).filter(|&end| end <= self.end);
        let end = end.ok_or_else(|| {
            let name = self.extra.path.as_ref().unwrap_or(&name);
            cut_off(self.file, &format!("in `{}`", shown(Path::new(OsStr::from_bytes(name)))))
        })?;
        if is_extra {
            if size > MOST_EXTRA {
                return Err(self.damaged("a name is too long"));
            }
            let bytes = self.file.read(data..end)?;
            match kind {
                b'L' => self.extra.path = Some(until_zero(&bytes)),
                b'K' => self.extra.link = Some(until_zero(&bytes)),
                b'g' => {}
                _ => self.attributes(&bytes)?,
            }
            self.at = end.next_multiple_of(BLOCK);
            return Ok(None);
        }
        let extra = std::mem::take(&mut self.extra);
        let mut data = data..end;
        let holes = match kind {
            b'S' => Some(self.old_sparse(header, &mut data)?),
            _ if extra.sparse.is_present => Some(self.new_sparse(&extra.sparse, &mut data)?),
            _ => None,
        };
        self.at = data.end.next_multiple_of(BLOCK);
        let path = extra.sparse.name.or(extra.path).unwrap_or(name);
        let link = || PathBuf::from(OsStr::from_bytes(extra.link.as_deref().unwrap_or(&until_zero(&header[157..257]))));
        let kind = match kind {
            b'0' | 0 if path.ends_with(b"/") => Kind::Folder,
            b'0' | 0 | b'7' | b'S' => Kind::File(Place { bytes: data, holes: holes.map(Box::new) }),
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::SymbolicLink(link()),
            b'5' | b'D' => Kind::Folder,
            b'M' => return Err(self.damaged("it is a part of an archive of several volumes,")),
            _ => Kind::Other,
        };
        Ok(Some(Member { path: OsStr::from_bytes(&path).into(), kind }))
    }

    /// Reads attributes, each written as its length, a space, its name, `=` and its value.
    fn attributes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while bytes.first().is_some_and(|&byte| byte != 0) {
            let fault = || self.damaged("an attribute cannot be read");
            let space = bytes.iter().position(|&byte| byte == b' ').ok_or_else(fault)?;
            let length = decimal(&bytes[..space]).filter(|&length| length > space as u64 + 1).ok_or_else(fault)?;
            let (record, rest) =
                usize::try_from(length).ok().and_then(|at| bytes.split_at_checked(at)).ok_or_else(fault)?;
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(fault)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(fault)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let (extra, whole) = (&mut self.extra, decimal(value));
            match key {
                b"path" => extra.path = Some(value.to_vec()),
                b"linkpath" => extra.link = Some(value.to_vec()),
                b"size" => extra.size = whole,
                b"GNU.sparse.name" => extra.sparse.name = Some(value.to_vec()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => extra.sparse.len = whole,
                b"GNU.sparse.major" => extra.sparse.is_before_data = whole == Some(1),
                b"GNU.sparse.map" => extra.sparse.map = value.split(|&byte| byte == b',').filter_map(decimal).collect(),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => extra.sparse.map.extend(whole),
                _ => {}
            }
            extra.sparse.is_present |= key.starts_with(b"GNU.sparse.");
            bytes = rest;
        }
        Ok(())
    }

    /// The map of a sparse file in the form that only GNU tar has.
    fn old_sparse(&self, header: &[u8; 512], data: &mut Range<u64>) -> Result<Holes> {
        let mut parts = Vec::new();
        let mut collect = |entries: &[u8]| {
            for entry in entries.chunks_exact(24) {
                match (number(&entry[..12]), number(&entry[12..])) {
                    (Some(place), Some(len)) if entry[0] != 0 => parts.extend([place, len]),
                    _ => {}
                }
            }
            parts.len() / 2 <= MOST_PARTS
        };
        let mut fine = collect(&header[386..482]);
        let mut goes_on = header[482] != 0;
        // More of the map stands before the data, which the length does not count.
        let size = data.end - data.start;
        while goes_on && fine {
            let place = data.start..data.start + BLOCK;
            if place.end > self.end {
                return Err(cut_off(self.file, "in a sparse file"));
            }
            let block = self.block(place.start)?;
            fine = collect(&block[..504]);
            goes_on = block[504] != 0;
            data.start = place.end;
        }
        data.end = data.start.saturating_add(size);
        if data.end > self.end {
            return Err(cut_off(self.file, "in a sparse file"));
        }
        let len = number(&header[483..495]);
        self.holes(len, &parts, data).filter(|_| fine).ok_or_else(|| self.damaged("the map of a sparse file is wrong"))
    }

    /// The map of a sparse file in one of the three forms that attributes tell.
    fn new_sparse(&self, sparse: &Sparse, data: &mut Range<u64>) -> Result<Holes> {
        let fault = || self.damaged("the map of a sparse file is wrong");
        if !sparse.is_before_data {
            return self.holes(sparse.len, &sparse.map, data).ok_or_else(fault);
        }
        let bytes = self.file.read(data.start..data.end.min(data.start + MOST_EXTRA))?;
        let mut numbers = Vec::new();
        let (mut at, mut count) = (0, None);
        while count.is_none_or(|count| numbers.len() < count) {
            let length = bytes[at..].iter().position(|&byte| byte == b'\n').ok_or_else(fault)?;
            let number = decimal(&bytes[at..at + length]).ok_or_else(fault)?;
            at += length + 1;
            match count {
                None if number > MOST_PARTS as u64 => return Err(fault()),
                None => count = Some(2 * number as usize),
                Some(_) => numbers.push(number),
            }
        }
        data.start += (at as u64).next_multiple_of(BLOCK);
        self.holes(sparse.len, &numbers, data).ok_or_else(fault)
    }

    /// A map whose parts lie within the file, in order, and add up to what is stored.
    fn holes(&self, len: Option<u64>, map: &[u64], data: &Range<u64>) -> Option<Holes> {
        let parts = map.as_chunks::<2>().0.iter().map(|&[place, len]| (place, len)).collect();
        let holes = Holes { len: len?, parts };
        (holes.are_inside() && Some(holes.stored()) == data.end.checked_sub(data.start)).then_some(holes)
    }
}

/// Whether a block is a header: the sum of its bytes stands in it.
fn is_header(block: &[u8; 512]) -> bool {
    let own = |at: usize| (148..156).contains(&at);
    let sum: u64 = block.iter().enumerate().map(|(at, &byte)| if own(at) { 32 } else { u64::from(byte) }).sum();
    // Old programs took bytes for signed ones.
    let signed: i64 =
        block.iter().enumerate().map(|(at, &byte)| if own(at) { 32 } else { i64::from(byte as i8) }).sum();
    number(&block[148..156]).is_some_and(|found| found == sum || i64::try_from(found) == Ok(signed))
}

/// The name in a header, with what POSIX puts before it.
fn name(header: &[u8; 512]) -> Vec<u8> {
    let name = until_zero(&header[..100]);
    let before = until_zero(&header[345..500]);
    match &header[257..263] == b"ustar\0" && !before.is_empty() {
        true => [&before[..], b"/", &name].concat(),
        false => name,
    }
}

fn until_zero(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}

/// A number as headers have it: octal digits, or where those are too few, bytes.
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let bytes = field.iter().enumerate().map(|(at, &byte)| if at == 0 { byte & 0x7f } else { byte });
        return bytes.into_iter().try_fold(0u64, |value, byte| value.checked_mul(256)?.checked_add(byte.into()));
    }
    let digits = field.split(|byte| *byte == 0).next()?.trim_ascii();
    let digit = |value: u64, &byte: &u8| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    };
    digits.iter().try_fold(0u64, digit)
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
