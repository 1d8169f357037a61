//! Instructions of the matrix units, read from their bytes.

use super::Fault;

/// Where an operand of an instruction lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of a register; none where the displacement is all there is.
    base: Option<u8>,
    /// The number of a register, and what it is multiplied by.
    index: Option<(u8, u8)>,
    displacement: i64,
    /// Whether the displacement is from the instruction's end.
    after: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    Configure(Place),
    Release,
    Zero(usize),
    Load(usize, Place),
    Store(usize, Place),
    /// Sums, left, right.
    Multiply(usize, usize, usize),
}

/// The bytes of an instruction, of which no more are read than it has.
pub struct Code {
    at: *const u8,
    /// Bytes that were read.
    pub length: usize,
}

impl Code {
    /// # Safety
    /// An instruction must begin there.
    pub unsafe fn new(at: *const u8) -> Self {
        Self { at, length: 0 }
    }

    fn byte(&mut self) -> u8 {
        // SAFETY: what was read so far is the beginning of an instruction that has more bytes.
        let byte = unsafe { self.at.add(self.length).read() };
        self.length += 1;
        byte
    }

    fn displacement(&mut self) -> i64 {
        let bytes: [u8; 4] = std::array::from_fn(|_| self.byte());
        i64::from(i32::from_le_bytes(bytes))
    }

    pub fn instruction(&mut self) -> Result<Instruction, Fault> {
        // Three bytes of VEX: its mark, inverted bits of registers and the map 0F38, then W, vvvv, L and pp.
        if self.byte() != 0xc4 {
            return Err("no instruction of matrix units: not with three bytes of VEX");
        }
        let first = self.byte();
        if first & 0x1f != 2 {
            return Err("no instruction of matrix units: not in the map 0F38");
        }
        let second = self.byte();
        let high = |bit: u8| if first & bit == 0 { 8 } else { 0 };
        let (more_reg, more_index, more_base) = (high(0x80), high(0x40), high(0x20));
        let (wide, third, long, prefix) = (second >> 7, !(second >> 3) & 15, second >> 2 & 1, second & 3);
        let opcode = self.byte();
        let known = matches!((opcode, prefix), (0x49, 0 | 3) | (0x4b, 2 | 3) | (0x5c, 2));
        if !known || wide == 1 || long == 1 {
            return Err("an instruction that the test double does not know");
        }
        let mode = self.byte();
        let (form, reg, rm) = (mode >> 6, mode >> 3 & 7, mode & 7);
        if opcode != 0x5c && third != 0 {
            return Err("a third operand where there is none");
        }
        if opcode == 0x5c || form == 3 {
            if more_reg + more_base != 0 || third > 7 {
                return Err("a tile beyond the eighth");
            }
            let (reg, rm, third) = (usize::from(reg), usize::from(rm), usize::from(third));
            return match (opcode, prefix, form) {
                (0x5c, 2, 3) if reg == rm || rm == third || reg == third => Err("one tile twice in a product"),
                (0x5c, 2, 3) => Ok(Instruction::Multiply(reg, rm, third)),
                (0x49, 3, 3) if rm == 0 => Ok(Instruction::Zero(reg)),
                (0x49, 0, 3) if reg == 0 && rm == 0 => Ok(Instruction::Release),
                _ => Err("an instruction that the test double does not know"),
            };
        }
        if more_reg != 0 {
            return Err("a tile beyond the eighth");
        }
        if opcode == 0x4b && rm != 4 {
            return Err("rows of a tile without a register for their stride");
        }
        let mut place = Place { base: Some(rm + more_base), index: None, displacement: 0, after: false };
        if rm == 4 {
            let scaled = self.byte();
            let (scale, index, base) = (scaled >> 6, (scaled >> 3 & 7) + more_index, scaled & 7);
            place.index = Some((index, 1 << scale)).filter(|_| index != 4);
            place.base = Some(base + more_base).filter(|_| !(base == 5 && form == 0));
        } else if rm == 5 && form == 0 {
            (place.base, place.after) = (None, true);
        }
        place.displacement = match form {
            1 => i64::from(self.byte() as i8),
            0 if place.base.is_some() => 0,
            _ => self.displacement(),
        };
        match (opcode, prefix) {
            (0x4b, 3) => Ok(Instruction::Load(usize::from(reg), place)),
            (0x4b, _) => Ok(Instruction::Store(usize::from(reg), place)),
            (0x49, 0) if reg == 0 => Ok(Instruction::Configure(place)),
            _ => Err("an instruction that the test double does not know"),
        }
    }
}

impl Place {
    /// The address, and that of the next row.
    pub fn address(&self, registers: &impl Fn(u8) -> u64, end: u64) -> (u64, u64) {
        let base = self.base.map_or(if self.after { end } else { 0 }, registers);
        let stride = self.index.map_or(0, |(index, scale)| registers(index).wrapping_mul(u64::from(scale)));
        (base.wrapping_add_signed(self.displacement), stride)
    }
}
