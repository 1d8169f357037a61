//! The segments of a JPEG file: what strict decoders refuse though nothing of the image is missing is put right, and said.

use super::scan::{Frame, PROGRESSIVE, Segment};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::ops::Range;

const FIRST_RESTART: u8 = 0xd0;
const LAST_RESTART: u8 = 0xd7;
const START: u8 = 0xd8;
const END: u8 = 0xd9;
const SCAN: u8 = 0xda;
const LINES: u8 = 0xdc;

/// A JPEG file as a strict decoder wants it.
pub(super) struct Jpeg<'a> {
    /// The file up to its end mark, without what does not belong between segments.
    pub bytes: Cow<'a, [u8]>,
    /// What had to be put right.
    pub warnings: Vec<String>,
    /// Whether the file itself had an end mark.
    pub is_ended: bool,
    segments: Vec<Segment>,
}

impl<'a> Jpeg<'a> {
    /// Finds the segments of a file that begins with the start mark.
    ///
    /// # Errors
    /// When the file ends within a header, or there is no scan in it.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        let found = Found::in_file(file)?;
        if !found.segments.iter().any(|segment| segment.marker == SCAN) {
            return Err(Error::failed("the JPEG is cut off: there are no image data in it"));
        }
        let mut warnings = Vec::new();
        if found.stray > 0 {
            warnings.push(format!("{} stray bytes between its segments", found.stray));
        }
        let has_lines = found.segments.iter().any(|segment| segment.marker == LINES);
        if has_lines {
            warnings.push("a DNL segment".into());
        }
        if found.end.is_none() {
            warnings.push("no end mark".into());
        }
        let Some(end) = found.end.filter(|_| warnings.is_empty()) else {
            let (bytes, segments) = rebuild(file, &found.segments);
            return Ok(Self { bytes: bytes.into(), warnings, is_ended: found.end.is_some(), segments });
        };
        Ok(Self { bytes: file[..end].into(), warnings, is_ended: true, segments: found.segments })
    }

    /// The file with bits that are no code in the place of its end mark: what is asked for more than there is cannot
    /// be taken for data.
    pub fn without_end(&self) -> Vec<u8> {
        // No code consists of ones alone; the zeros only tell them from markers.
        const NO_CODE: [u8; 16] = [0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0];
        [self.bytes.strip_suffix(&[0xff, END]).unwrap_or(&self.bytes), &NO_CODE].concat()
    }

    /// Whether its pixels come in several passes of rising detail.
    pub fn is_progressive(&self) -> bool {
        self.segments.iter().any(|segment| segment.marker == PROGRESSIVE)
    }

    /// Walks through the coded data without making pixels of them.
    ///
    /// # Errors
    /// When some are missing or are no codes; a file of a kind that is not known passes.
    pub fn check_complete(&self) -> Result<()> {
        let Some(frame) = Frame::find(&self.bytes, &self.segments) else { return Ok(()) };
        // Where copying stopped within a file of the full length, zeros follow.
        let data = self.bytes.strip_suffix(&[0xff, END]).unwrap_or(&self.bytes);
        if !self.is_ended && data.ends_with(&[0; 16]) {
            return Err(Error::failed("the JPEG is cut off: it ends in zeros, with no end mark"));
        }
        frame.check(&self.bytes, &self.segments)
    }
}

/// What lies in a file; ranges count in the file.
struct Found {
    segments: Vec<Segment>,
    /// Bytes that belong to no segment.
    stray: usize,
    /// Where the end mark ends.
    end: Option<usize>,
}

impl Found {
    fn in_file(file: &[u8]) -> Result<Self> {
        let mut found = Self { segments: Vec::new(), stray: 0, end: None };
        let mut at = 2;
        while let Some((marker, skipped, body)) = next_marker(file, at) {
            found.stray += skipped;
            at = body;
            match marker {
                END => {
                    found.end = Some(body);
                    break;
                }
                FIRST_RESTART..=LAST_RESTART | START | 0x01 => found.stray += 2,
                _ => {
                    let length = file.get(at..at + 2).map(|pair| usize::from(pair[0]) << 8 | usize::from(pair[1]));
                    let body = length.filter(|&length| length >= 2).and_then(|length| {
                        let body = at + 2..at + length;
                        (body.end <= file.len()).then_some(body)
                    });
                    let body = body.ok_or_else(|| Error::failed("the JPEG is cut off within a header"))?;
                    at = if marker == SCAN { end_of_data(file, body.end) } else { body.end };
                    found.segments.push(Segment { marker, data: body.end..at, body });
                }
            }
        }
        Ok(found)
    }
}

/// The next marker from a place on, the bytes before it that belong to nothing, and where its parameters begin.
fn next_marker(file: &[u8], from: usize) -> Option<(u8, usize, usize)> {
    let mut stray = 0;
    let mut at = from;
    loop {
        let before = at;
        at += file.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        stray += at - before;
        // Any number of these fills the space before a marker.
        at += file[at..].iter().position(|&byte| byte != 0xff)?;
        match file[at] {
            0 => stray += 2,
            marker => return Some((marker, stray, at + 1)),
        }
        at += 1;
    }
}

/// Where the coded data of a scan end: at a marker that is no restart, or with the file.
fn end_of_data(file: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(offset) = file[at..].iter().position(|&byte| byte == 0xff) {
        at += offset;
        match file.get(at + 1) {
            Some(0 | FIRST_RESTART..=LAST_RESTART) => at += 2,
            Some(0xff) => at += 1,
            Some(_) => return at,
            None => return file.len(),
        }
    }
    file.len()
}

/// The file anew from its segments, without those that say the number of lines again.
fn rebuild(file: &[u8], segments: &[Segment]) -> (Vec<u8>, Vec<Segment>) {
    let mut bytes = vec![0xff, START];
    let mut moved = Vec::new();
    for segment in segments.iter().filter(|segment| segment.marker != LINES) {
        bytes.extend([0xff, segment.marker]);
        bytes.extend(((segment.body.len() + 2) as u16).to_be_bytes());
        let mut append = |range: &Range<usize>| {
            let start = bytes.len();
            bytes.extend_from_slice(&file[range.clone()]);
            start..bytes.len()
        };
        let (body, data) = (append(&segment.body), append(&segment.data));
        moved.push(Segment { marker: segment.marker, body, data });
    }
    bytes.extend([0xff, END]);
    (bytes, moved)
}
