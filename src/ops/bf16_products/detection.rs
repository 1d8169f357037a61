//! Whether the processor has instructions that multiply bf16, the system lets this process use them, and they compute what
//! they should.

use super::tiles::{Block, DEEP, Line, Multiplier, ROWS, Sums, Tile, WIDE};
use super::{Instructions, Kind, Work};
use half::bf16;
use pulp::Simd;
use std::sync::OnceLock;

/// The fastest instructions, found once a process; or why there are none.
pub fn found() -> Result<Instructions, &'static str> {
    static FOUND: OnceLock<Result<Instructions, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let mut reasons = Vec::new();
        for (kind, is_there) in [
            (Kind::MatrixUnits, matrix_units()),
            #[cfg(target_arch = "x86_64")]
            (Kind::Vectors, vectors()),
        ] {
            match is_there {
                Ok(()) if is_right(Instructions(kind)) => return Ok(Instructions(kind)),
                Ok(()) => reasons.push("its products of known values are wrong"),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join(", and "))
    });
    found.as_ref().map(|&found| found).map_err(String::as_str)
}

/// Asks the processor for AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
pub fn vectors() -> Result<(), &'static str> {
    let is_there = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    if is_there { Ok(()) } else { Err("it has no AVX-512 BF16") }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub fn matrix_units() -> Result<(), &'static str> {
    Err("matrix units (AMX) are used on Linux and x86-64 alone")
}

/// Asks the processor for AMX, and the system to let this process use it.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[allow(unused_unsafe)]
pub fn matrix_units() -> Result<(), &'static str> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Of `arch_prctl`: asks for a state that is too large to be given to every process.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    /// States that the system saves: of the configuration and of the tiles.
    const CONFIGURATION: u32 = 17;
    const TILES: u32 = 18;
    // SAFETY: every processor of this kind has the instruction.
    let (most, features, more) = unsafe {
        let most = __cpuid(0).eax;
        (most, __cpuid(1).ecx, if most < 7 { 0 } else { __cpuid_count(7, 0).edx })
    };
    let (bf16, tiles) = (more >> 22 & 1 == 1, more >> 24 & 1 == 1);
    if most < 7 || !bf16 || !tiles {
        return Err("the processor has no matrix units (AMX)");
    }
    // SAFETY: the bit says that the instruction is there.
    let saved = features >> 27 & 1 == 1 && unsafe { saved() } >> CONFIGURATION & 3 == 3;
    if !saved {
        return Err("the system does not save the state of the matrix units (AMX)");
    }
    // SAFETY: the call changes nothing but what this process may use.
    if unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, libc::c_long::from(TILES)) } != 0 {
        return Err("the system does not let this process use the matrix units (AMX)");
    }
    Ok(())
}

/// The states that the system saves, one a bit.
///
/// # Safety
/// The processor must have the instruction.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[target_feature(enable = "xsave")]
unsafe fn saved() -> u64 {
    // SAFETY: register 0 is there where the instruction is.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

/// Whether a product of small whole numbers, which no rounding changes, is what it should be.
pub fn is_right(instructions: Instructions) -> bool {
    let left_value = |half: usize, row: usize, deep: usize| ((7 * row + 3 * deep + 5 * half) % 17) as i32 - 8;
    let right_value = |half: usize, deep: usize, column: usize| ((5 * deep + 11 * column + half) % 13) as i32 - 6;
    let (mut left, mut right) = ([[Line::ZERO; ROWS]; 2], [[Line::ZERO; ROWS]; 2]);
    for (half, (left, right)) in left.iter_mut().zip(&mut right).enumerate() {
        for (at, deep) in (0..ROWS).flat_map(|at| (0..DEEP).map(move |deep| (at, deep))) {
            left[at].0[deep] = bf16::from_f32(left_value(half, at, deep) as f32);
            right[deep / 2].0[2 * at + deep % 2] = bf16::from_f32(right_value(half, deep, at) as f32);
        }
    }
    let mut block: Block = [[Sums([[1.0; WIDE]; ROWS]); 2]; 2];
    let step = [left.each_ref(), right.each_ref()];
    instructions.dispatch(Twice { step, block: &mut block });
    let is_right = |m: usize, n: usize, row: usize, column: usize| {
        let product: i32 = (0..DEEP).map(|deep| left_value(m, row, deep) * right_value(n, deep, column)).sum();
        block[m][n].0[row][column] == (1 + 2 * product) as f32
    };
    (0..4 * ROWS * WIDE).all(|at| is_right(at % 2, at / 2 % 2, at / 4 % ROWS, at / 4 / ROWS))
}

/// Adds the products of a step twice.
struct Twice<'a> {
    step: [[&'a Tile; 2]; 2],
    block: &'a mut Block,
}

impl Work for Twice<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S, mut multiplier: impl Multiplier) {
        multiplier.add::<2, 2>([self.step; 2].into_iter(), self.block, false, |_| {});
    }
}
