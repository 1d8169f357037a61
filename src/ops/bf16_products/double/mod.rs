//! A test double of the matrix units: carries out their instructions where the processor has none.
//!
//! Such a processor stops at each of them with the signal SIGILL. The handler reads the instruction at hand, does what
//! Intel's manual says of it on tiles that every thread has in memory, and goes on behind it. So the machine code of the
//! program is tested as it is.
//! It is strict: what would fault on a processor, and what our code never means, ends the process with a message.

use decoding::{Code, Instruction, Place};
use std::cell::UnsafeCell;
use std::sync::OnceLock;

mod decoding;

/// Why an instruction is not carried out.
type Fault = &'static str;

/// Instructions that a thread carried out, of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub configured: u64,
    pub released: u64,
    pub zeroed: u64,
    pub loaded: u64,
    pub stored: u64,
    pub products: u64,
}

/// The tiles of a thread.
pub struct Tiles {
    configured: bool,
    bytes: [usize; 8],
    rows: [usize; 8],
    values: [[[u8; 64]; 16]; 8],
    counts: Counts,
}

impl Tiles {
    pub const fn new() -> Self {
        let counts = Counts { configured: 0, released: 0, zeroed: 0, loaded: 0, stored: 0, products: 0 };
        Self { configured: false, bytes: [0; 8], rows: [0; 8], values: [[[0; 64]; 16]; 8], counts }
    }

    /// Carries out the instruction at an address, and tells how long it is.
    ///
    /// # Safety
    /// There must be an instruction, and what it reads and writes must be there.
    pub unsafe fn execute(&mut self, at: *const u8, registers: impl Fn(u8) -> u64) -> Result<usize, Fault> {
        // SAFETY: an instruction begins there.
        let mut code = unsafe { Code::new(at) };
        let instruction = code.instruction()?;
        let address = |place: Place| place.address(&registers, at as u64 + code.length as u64);
        match instruction {
            Instruction::Configure(place) => {
                let (address, stride) = address(place);
                // SAFETY: the instruction reads 64 bytes there.
                let with = unsafe { (address.wrapping_add(stride) as *const [u8; 64]).read_unaligned() };
                self.configure(&with)?;
                self.counts.configured += 1;
            }
            Instruction::Release => {
                *self = Self { counts: self.counts, ..Self::new() };
                self.counts.released += 1;
            }
            Instruction::Zero(tile) => {
                self.size(tile)?;
                self.values[tile] = [[0; 64]; 16];
                self.counts.zeroed += 1;
            }
            Instruction::Load(tile, place) => {
                let (rows, bytes) = self.size(tile)?;
                let (address, stride) = rows_apart(address(place))?;
                self.values[tile] = [[0; 64]; 16];
                for (row, values) in self.values[tile][..rows].iter_mut().enumerate() {
                    let from = address.wrapping_add(stride.wrapping_mul(row as u64)) as *const u8;
                    // SAFETY: the instruction reads so many bytes there.
                    unsafe { from.copy_to(values.as_mut_ptr(), bytes) };
                }
                self.counts.loaded += 1;
            }
            Instruction::Store(tile, place) => {
                let (rows, bytes) = self.size(tile)?;
                let (address, stride) = rows_apart(address(place))?;
                for (row, values) in self.values[tile][..rows].iter().enumerate() {
                    let to = address.wrapping_add(stride.wrapping_mul(row as u64)) as *mut u8;
                    // SAFETY: the instruction writes so many bytes there.
                    unsafe { to.copy_from(values.as_ptr(), bytes) };
                }
                self.counts.stored += 1;
            }
            Instruction::Multiply(sums, left, right) => {
                self.multiply(sums, left, right)?;
                self.counts.products += 1;
            }
        }
        Ok(code.length)
    }

    fn configure(&mut self, with: &[u8; 64]) -> Result<(), Fault> {
        if with[0] == 0 {
            *self = Self { counts: self.counts, ..Self::new() };
            return Ok(());
        }
        if with[0] != 1 {
            return Err("a palette that there is not");
        }
        if with[1] != 0 {
            return Err("a first row, which only an interrupted load has");
        }
        if with[2..16].iter().chain(&with[32..48]).chain(&with[56..]).any(|&byte| byte != 0) {
            return Err("reserved bytes of a configuration that are not 0");
        }
        let bytes: [usize; 8] =
            std::array::from_fn(|tile| usize::from(u16::from_le_bytes([with[16 + 2 * tile], with[17 + 2 * tile]])));
        let rows: [usize; 8] = std::array::from_fn(|tile| usize::from(with[48 + tile]));
        if bytes.iter().any(|&bytes| bytes > 64) || rows.iter().any(|&rows| rows > 16) {
            return Err("a tile of more than 16 rows or 64 bytes a row");
        }
        if bytes.iter().zip(&rows).any(|(&bytes, &rows)| (bytes == 0) != (rows == 0)) {
            return Err("a tile with rows but no bytes, or the reverse");
        }
        *self = Self { configured: true, bytes, rows, counts: self.counts, ..Self::new() };
        Ok(())
    }

    /// Rows and bytes a row of a tile.
    fn size(&self, tile: usize) -> Result<(usize, usize), Fault> {
        match (self.configured, self.rows[tile]) {
            (false, _) => Err("tiles are not configured"),
            (true, 0) => Err("a tile that the configuration leaves out"),
            (true, rows) => Ok((rows, self.bytes[tile])),
        }
    }

    fn multiply(&mut self, sums: usize, left: usize, right: usize) -> Result<(), Fault> {
        let ((rows, bytes), (left_rows, deep), (right_rows, right_bytes)) =
            (self.size(sums)?, self.size(left)?, self.size(right)?);
        if bytes % 4 + deep % 4 != 0 {
            return Err("a row of a tile that is no whole number of pairs");
        }
        if rows != left_rows || deep / 4 != right_rows || bytes != right_bytes {
            return Err("a product of tiles whose sizes do not fit");
        }
        let mut result = self.values[sums];
        let (left, right) = (&self.values[left], &self.values[right]);
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has what the function is compiled for.
            unsafe { product_by_fma(&mut result, left, right, (rows, deep / 4, bytes / 4)) };
            self.values[sums] = result;
            return Ok(());
        }
        product(&mut result, left, right, (rows, deep / 4, bytes / 4));
        self.values[sums] = result;
        Ok(())
    }
}

/// Rows that all lie in one place are never meant.
fn rows_apart((address, stride): (u64, u64)) -> Result<(u64, u64), Fault> {
    if stride == 0 { Err("rows of a tile without a stride") } else { Ok((address, stride)) }
}

type Bytes = [[u8; 64]; 16];

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn product_by_fma(sums: &mut Bytes, left: &Bytes, right: &Bytes, sizes: (usize, usize, usize)) {
    product(sums, left, right, sizes);
}

/// The first and the second values of pairs are summed apart, in order, each product and addition rounded once; then both
/// sums are added, and that to what was there. Denormal values count as 0, before and after.
#[inline(always)]
fn product(sums: &mut Bytes, left: &Bytes, right: &Bytes, (rows, deep, columns): (usize, usize, usize)) {
    let pair = |row: &[u8; 64], at: usize| {
        let value = |at: usize| flushed(f32::from_bits(u32::from_le_bytes([0, 0, row[at], row[at + 1]])));
        [value(4 * at), value(4 * at + 2)]
    };
    let right: [[[f32; 16]; 2]; 16] = std::array::from_fn(|row| {
        let pairs: [[f32; 2]; 16] = std::array::from_fn(|at| pair(&right[row], at));
        [pairs.map(|[first, _]| first), pairs.map(|[_, second]| second)]
    });
    for (sums, left) in sums[..rows].iter_mut().zip(left) {
        let mut totals = [[0.0f32; 16]; 2];
        for (at, right) in right[..deep].iter().enumerate() {
            for (half, value) in pair(left, at).into_iter().enumerate() {
                for (total, &right) in totals[half].iter_mut().zip(&right[half]) {
                    *total = flushed(value.mul_add(right, *total));
                }
            }
        }
        for (column, bytes) in sums.chunks_exact_mut(4).take(columns).enumerate() {
            let before = flushed(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            let total = flushed(before + flushed(totals[0][column] + totals[1][column]));
            bytes.copy_from_slice(&total.to_le_bytes());
        }
    }
}

#[inline(always)]
fn flushed(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

struct Own(UnsafeCell<Tiles>);

thread_local! {
    static TILES: Own = const { Own(UnsafeCell::new(Tiles::new())) };
}

/// What this thread has carried out since it last asked. All zero where the processor itself has the units.
pub fn counts() -> Counts {
    // SAFETY: only this thread has the place, and no instruction of the units is carried out meanwhile.
    TILES.with(|own| std::mem::take(unsafe { &mut (*own.0.get()).counts }))
}

/// Whether this thread's tiles are configured.
pub fn is_configured() -> bool {
    // SAFETY: as above.
    TILES.with(|own| unsafe { (*own.0.get()).configured })
}

/// Takes care of the instructions in this process from now on.
pub fn install() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: the handler is a function of the right form, and all zero is a valid, empty set of signals.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut())
        };
        assert_eq!(result, 0, "no handler for SIGILL");
    });
}

/// Registers by their numbers in instructions, as places among those that the system saves.
const REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system hands over the registers at the instruction, which was about to be carried out. Nothing else uses
    // this thread's tiles meanwhile.
    let result = unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize] as *const u8;
        let saved = *registers;
        let register = |number: u8| saved[REGISTERS[usize::from(number)] as usize] as u64;
        let result = TILES.with(|own| (*own.0.get()).execute(at, register));
        result.map(|length| registers[libc::REG_RIP as usize] += length as i64)
    };
    if let Err(fault) = result {
        let parts = ["the test double of the matrix units: ", fault, "\n"];
        // SAFETY: the bytes are there; then the instruction is met again, and ends the process.
        unsafe {
            for part in parts {
                libc::write(2, part.as_ptr().cast(), part.len());
            }
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        }
    }
}
