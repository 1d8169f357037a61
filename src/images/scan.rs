//! Walks through the Huffman-coded data of a JPEG, block by block, to know whether all of them are there.
//!
//! Decoders fill what is missing with gray and say nothing, least of all where an end mark was put behind the cut.

use crate::error::{Error, Result};
use std::ops::Range;

const BASELINE: u8 = 0xc0;
const EXTENDED: u8 = 0xc1;
pub(super) const PROGRESSIVE: u8 = 0xc2;
const HUFFMAN: u8 = 0xc4;
const SCAN: u8 = 0xda;
const RESTARTS: u8 = 0xdd;
/// Scans at most: each may walk over the whole image.
const MOST_SCANS: usize = 200;

/// A marker with its parameters, and the coded data behind those of a scan; ranges count in the file.
pub(super) struct Segment {
    pub marker: u8,
    pub body: Range<usize>,
    pub data: Range<usize>,
}

/// The sizes of a JPEG.
pub(super) struct Frame {
    is_progressive: bool,
    width: usize,
    height: usize,
    components: Vec<Component>,
}

struct Component {
    id: u8,
    /// Blocks of it in an interleaved unit, across and down.
    across: usize,
    down: usize,
}

/// What is wrong with coded data.
enum Fault {
    Short,
    NoCode,
}

type Walk<T> = std::result::Result<T, Fault>;

impl Frame {
    /// The frame of a file; nothing where it is of a kind that is not known here.
    pub fn find(bytes: &[u8], segments: &[Segment]) -> Option<Self> {
        let segment =
            segments.iter().find(|segment| matches!(segment.marker, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf))?;
        if !matches!(segment.marker, BASELINE | EXTENDED | PROGRESSIVE) {
            return None;
        }
        let body = bytes.get(segment.body.clone())?;
        let &[_, height_high, height_low, width_high, width_low, count, ref rest @ ..] = body else { return None };
        let side = |high: u8, low: u8| usize::from(high) << 8 | usize::from(low);
        let component = |part: &[u8; 3]| {
            let (across, down) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            ((1..=4).contains(&across) && (1..=4).contains(&down)).then_some(Component { id: part[0], across, down })
        };
        let (parts, _) = rest.as_chunks::<3>();
        let components = parts.get(..usize::from(count))?.iter().map(component).collect::<Option<Vec<_>>>()?;
        let (width, height) = (side(width_high, width_low), side(height_high, height_low));
        let fine = width > 0 && height > 0 && (1..=4).contains(&components.len());
        fine.then_some(Self { is_progressive: segment.marker == PROGRESSIVE, width, height, components })
    }

    /// Walks through all scans.
    ///
    /// # Errors
    /// When data are missing, are no codes, or whole passes over the image were never made.
    pub fn check(&self, bytes: &[u8], segments: &[Segment]) -> Result<()> {
        let mut tables = Tables::default();
        let mut passes: Vec<Pass> = self.components.iter().map(|component| Pass::new(self, component)).collect();
        let mut scans = 0;
        for segment in segments {
            let body = &bytes[segment.body.clone()];
            match segment.marker {
                HUFFMAN => tables.define(body),
                RESTARTS => {
                    tables.restart_interval = body.get(..2).map_or(0, |b| usize::from(b[0]) << 8 | usize::from(b[1]))
                }
                SCAN => {
                    scans += 1;
                    // What cannot be made sense of is the decoder's to refuse.
                    let Some(scan) = Scan::read(body, self) else { return Ok(()) };
                    if scans > MOST_SCANS {
                        return Err(Error::failed(format!("the JPEG has more than {MOST_SCANS} scans")));
                    }
                    let mut walker = Walker::new(self, &tables, &bytes[segment.data.clone()]);
                    walker.walk(&scan, &mut passes).map_err(|fault| walker.fault(&fault))?;
                }
                _ => {}
            }
        }
        match passes.iter().all(|pass| pass.is_complete(self.is_progressive)) {
            true => Ok(()),
            false => Err(Error::failed("the JPEG is cut off: its last scans are missing")),
        }
    }

    fn most(&self, side: impl Fn(&Component) -> usize) -> usize {
        self.components.iter().map(side).max().unwrap_or(1)
    }

    /// Interleaved units, across and down.
    fn units(&self) -> (usize, usize) {
        let (across, down) = (self.most(|c| c.across), self.most(|c| c.down));
        (self.width.div_ceil(8 * across), self.height.div_ceil(8 * down))
    }

    /// Blocks of a component alone, across and down.
    fn blocks(&self, component: &Component) -> (usize, usize) {
        let (across, down) = (self.most(|c| c.across), self.most(|c| c.down));
        let width = (self.width * component.across).div_ceil(across);
        let height = (self.height * component.down).div_ceil(down);
        (width.div_ceil(8), height.div_ceil(8))
    }
}

/// The Huffman tables and the restart interval that are in force.
#[derive(Default)]
struct Tables {
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart_interval: usize,
}

impl Tables {
    fn define(&mut self, mut body: &[u8]) {
        while let Some((&kind, rest)) = body.split_first() {
            let Some((counts, rest)) = rest.split_first_chunk::<16>() else { return };
            let symbols = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let Some((symbols, rest)) = rest.split_at_checked(symbols) else { return };
            let tables = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            tables[usize::from(kind & 3)] = Some(Huffman::new(counts, symbols));
            body = rest;
        }
    }
}

/// A Huffman table: short codes by a look, the others by their length.
struct Huffman {
    /// For each byte that a code may begin: its length (0 for none so short) and symbol.
    short: [(u8, u8); 256],
    /// For each length, one more than its last code, in the upper bits of 16, and what leads from a code to its symbol.
    ends: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Self {
        let (mut short, mut ends) = ([(0, 0); 256], [(0, 0); 17]);
        let (mut code, mut first) = (0u32, 0usize);
        for (length, &count) in (1u8..).zip(counts) {
            let (bits, count) = (u32::from(length), usize::from(count));
            ends[usize::from(length)] = ((code + count as u32) << (16 - bits), first as i32 - code as i32);
            for (at, &symbol) in symbols.iter().skip(first).take(count).enumerate() {
                if length <= 8 {
                    let start = ((code as usize + at) << (8 - bits)) & 255;
                    let end = (start + (1 << (8 - bits))).min(256);
                    short[start..end].fill((length, symbol));
                }
            }
            first += count;
            code = (code + count as u32) << 1;
        }
        Self { short, ends, symbols: symbols.to_vec() }
    }

    /// The length and symbol of the code that 16 bits begin with.
    #[inline]
    fn look(&self, bits: u16) -> Option<(u8, u8)> {
        let (length, symbol) = self.short[usize::from(bits >> 8)];
        if length > 0 {
            return Some((length, symbol));
        }
        let length = (9..=16u8).find(|&length| u32::from(bits) < self.ends[usize::from(length)].0)?;
        let code = i32::from(bits >> (16 - length));
        let symbol = self.symbols.get(usize::try_from(code + self.ends[usize::from(length)].1).ok()?)?;
        Some((length, *symbol))
    }
}

/// The header of a scan.
struct Scan {
    /// Component, and its tables for the first and the other coefficients.
    parts: Vec<(usize, usize, usize)>,
    first: usize,
    last: usize,
    /// Whether it makes coefficients more exact that were sent before, and the bit that it sends.
    refines: bool,
    bit: u8,
}

impl Scan {
    fn read(body: &[u8], frame: &Frame) -> Option<Self> {
        let (&count, rest) = body.split_first()?;
        let (parts, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let part = |pair: &[u8; 2]| {
            let component = frame.components.iter().position(|component| component.id == pair[0])?;
            Some((component, usize::from(pair[1] >> 4 & 3), usize::from(pair[1] & 3)))
        };
        let parts = parts.as_chunks::<2>().0.iter().map(part).collect::<Option<Vec<_>>>()?;
        let &[first, last, bits, ..] = rest else { return None };
        let (first, last) = if frame.is_progressive { (usize::from(first), usize::from(last)) } else { (0, 63) };
        let fine = !parts.is_empty() && first <= last && last < 64 && (first == 0 || parts.len() == 1);
        fine.then_some(Self { parts, first, last, refines: bits >> 4 != 0, bit: bits & 15 })
    }
}

/// What the scans so far have sent of a component.
struct Pass {
    /// Blocks in a row, with those that fill the last unit.
    stride: usize,
    /// For each block the coefficients that are not zero; kept where later scans depend on it.
    nonzero: Vec<u64>,
    /// For each coefficient the lowest bit that was sent, 255 for none.
    lowest: [u8; 64],
}

impl Pass {
    fn new(frame: &Frame, component: &Component) -> Self {
        let (units, rows) = frame.units();
        let stride = units * component.across;
        let blocks = if frame.is_progressive { stride * rows * component.down } else { 0 };
        Self { stride, nonzero: vec![0; blocks], lowest: [255; 64] }
    }

    fn is_complete(&self, is_progressive: bool) -> bool {
        self.lowest[0] == 0 && (!is_progressive || self.lowest.iter().all(|&bit| bit == 0))
    }
}

/// A walk through one scan.
struct Walker<'a> {
    frame: &'a Frame,
    tables: &'a Tables,
    bits: Bits<'a>,
    /// Blocks that are known to have nothing more in this scan.
    empty_blocks: u32,
    /// Units that were walked, and all.
    done: usize,
    all: usize,
}

impl<'a> Walker<'a> {
    fn new(frame: &'a Frame, tables: &'a Tables, data: &'a [u8]) -> Self {
        Self { frame, tables, bits: Bits { data, at: 0, buffer: 0, count: 0 }, empty_blocks: 0, done: 0, all: 1 }
    }

    fn fault(&self, fault: &Fault) -> Error {
        let share = 100 * self.done / self.all.max(1);
        Error::failed(match fault {
            Fault::Short => format!("the JPEG is cut off: its image data end after {share} % of a scan"),
            Fault::NoCode => format!("the JPEG is damaged: what follows {share} % of a scan is no code"),
        })
    }

    fn walk(&mut self, scan: &Scan, passes: &mut [Pass]) -> Walk<()> {
        let frame = self.frame;
        let (across, down) = match scan.parts[..] {
            [(only, ..)] => frame.blocks(&frame.components[only]),
            _ => frame.units(),
        };
        self.all = across * down;
        for unit in 0..self.all {
            self.done = unit;
            if self.tables.restart_interval > 0 && unit > 0 && unit.is_multiple_of(self.tables.restart_interval) {
                self.bits.restart()?;
                self.empty_blocks = 0;
            }
            let (x, y) = (unit % across, unit / across);
            for &(number, dc, ac) in &scan.parts {
                let component = &frame.components[number];
                let pass = &mut passes[number];
                let (wide, high) = if scan.parts.len() == 1 { (1, 1) } else { (component.across, component.down) };
                for block in 0..wide * high {
                    let (x, y) = (x * wide + block % wide, y * high + block / wide);
                    let place = y * pass.stride + x;
                    self.block(scan, (dc, ac), pass.nonzero.get_mut(place))?;
                }
            }
        }
        for &(number, ..) in &scan.parts {
            passes[number].lowest[scan.first..=scan.last].fill(if frame.is_progressive { scan.bit } else { 0 });
        }
        Ok(())
    }

    fn block(&mut self, scan: &Scan, (dc, ac): (usize, usize), nonzero: Option<&mut u64>) -> Walk<()> {
        let Some(nonzero) = nonzero else {
            let dc = self.tables.dc[dc].as_ref().ok_or(Fault::NoCode)?;
            let ac = self.tables.ac[ac].as_ref().ok_or(Fault::NoCode)?;
            self.bits.value(dc)?;
            return self.whole_block(ac);
        };
        match (scan.first, scan.refines) {
            (0, false) => {
                let size = self.bits.symbol(self.tables.dc[dc].as_ref().ok_or(Fault::NoCode)?)?;
                self.bits.skip(size)
            }
            (0, true) => self.bits.skip(1),
            (_, false) => self.first_pass(scan, self.tables.ac[ac].as_ref().ok_or(Fault::NoCode)?, nonzero),
            (_, true) => self.later_pass(scan, self.tables.ac[ac].as_ref().ok_or(Fault::NoCode)?, nonzero),
        }
    }

    /// All coefficients but the first, as baseline files have them.
    fn whole_block(&mut self, ac: &Huffman) -> Walk<()> {
        let mut at = 1;
        while at < 64 {
            let symbol = self.bits.value(ac)?;
            if symbol & 15 == 0 && symbol < 0xf0 {
                break;
            }
            at += usize::from(symbol >> 4) + 1;
        }
        Ok(())
    }

    fn first_pass(&mut self, scan: &Scan, ac: &Huffman, nonzero: &mut u64) -> Walk<()> {
        if self.empty_blocks > 0 {
            self.empty_blocks -= 1;
            return Ok(());
        }
        let mut at = scan.first;
        while at <= scan.last {
            let symbol = self.bits.symbol(ac)?;
            match (symbol >> 4, symbol & 15) {
                (15, 0) => at += 16,
                (run, 0) => {
                    self.empty_blocks = (1 << run) - 1 + self.bits.take(run)?;
                    break;
                }
                (run, size) => {
                    at += usize::from(run);
                    self.bits.skip(size)?;
                    *nonzero |= 1u64.checked_shl(at as u32).unwrap_or(0);
                    at += 1;
                }
            }
        }
        Ok(())
    }

    fn later_pass(&mut self, scan: &Scan, ac: &Huffman, nonzero: &mut u64) -> Walk<()> {
        let mut at = scan.first;
        while self.empty_blocks == 0 && at <= scan.last {
            let symbol = self.bits.symbol(ac)?;
            let (mut run, size) = (symbol >> 4, symbol & 15);
            if size == 0 && run < 15 {
                self.empty_blocks = (1 << run) + self.bits.take(run)?;
                break;
            }
            self.bits.skip(size.min(1))?;
            // So many zeros are passed over; each coefficient between that is not zero gets a bit.
            while at <= scan.last {
                if *nonzero >> at & 1 == 1 {
                    self.bits.skip(1)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                at += 1;
            }
            if size > 0 && at <= scan.last {
                *nonzero |= 1 << at;
            }
            at += 1;
        }
        if self.empty_blocks > 0 {
            self.empty_blocks -= 1;
            let rest = (at..=scan.last).filter(|&at| *nonzero >> at & 1 == 1).count();
            (0..rest).try_for_each(|_| self.bits.skip(1))?;
        }
        Ok(())
    }
}

/// Whether one of eight bytes begins a marker, or is stuffed.
fn has_marker(bytes: u64) -> bool {
    let inverse = !bytes;
    inverse.wrapping_sub(0x0101_0101_0101_0101) & bytes & 0x8080_8080_8080_8080 != 0
}

/// The bits of a scan up to the next restart.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, from the top.
    buffer: u64,
    count: u32,
}

impl Bits<'_> {
    #[inline]
    fn refill(&mut self) {
        // Bits behind those that count are those that follow: to put them in again changes nothing.
        if let Some(bytes) = self.data.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let bytes = u64::from_be_bytes(*bytes);
            if !has_marker(bytes) && self.count < 64 {
                self.buffer |= bytes >> self.count;
                let more = (64 - self.count) / 8;
                self.at += more as usize;
                self.count += 8 * more;
                return;
            }
        }
        self.refill_slowly();
    }

    fn refill_slowly(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.data.get(self.at) else { return };
            if byte == 0xff {
                match self.data.get(self.at + 1) {
                    Some(0) => self.at += 1,
                    _ => return,
                }
            }
            self.at += 1;
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn symbol(&mut self, table: &Huffman) -> Walk<u8> {
        if self.count < 32 {
            self.refill();
        }
        let Some((length, symbol)) = table.look((self.buffer >> 48) as u16) else {
            return Err(if self.count < 16 { Fault::Short } else { Fault::NoCode });
        };
        self.skip(length)?;
        Ok(symbol)
    }

    /// The symbol of a code, past the bits of the value that follow it: as many as its lower half says.
    #[inline]
    fn value(&mut self, table: &Huffman) -> Walk<u8> {
        if self.count < 32 {
            self.refill();
        }
        let Some((length, symbol)) = table.look((self.buffer >> 48) as u16) else {
            return Err(if self.count < 16 { Fault::Short } else { Fault::NoCode });
        };
        let bits = u32::from(length) + u32::from(symbol & 15);
        if bits > self.count {
            return Err(Fault::Short);
        }
        self.buffer <<= bits;
        self.count -= bits;
        Ok(symbol)
    }

    fn skip(&mut self, count: u8) -> Walk<()> {
        self.take(count).map(|_| ())
    }

    fn take(&mut self, count: u8) -> Walk<u32> {
        let count = u32::from(count);
        if self.count < count {
            self.refill();
        }
        if self.count < count {
            return Err(Fault::Short);
        }
        let value = self.buffer.checked_shr(64 - count).unwrap_or(0) as u32;
        self.buffer <<= count;
        self.count -= count;
        Ok(value)
    }

    /// Goes on behind the next restart mark.
    fn restart(&mut self) -> Walk<()> {
        (self.buffer, self.count) = (0, 0);
        loop {
            match self.data.get(self.at..).and_then(|rest| rest.first_chunk::<2>()) {
                None => return Err(Fault::Short),
                Some([0xff, 0xd0..=0xd7]) => {
                    self.at += 2;
                    return Ok(());
                }
                _ => self.at += 1,
            }
        }
    }
}
