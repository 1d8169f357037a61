//! Whether the processor has matrix units, the system lets this process use them, and they compute what they should.

use super::Units;
use super::tiles::{Block, DEEP, Line, ROWS, Sums, Tile, Tiles, WIDE};
use half::bf16;
use std::sync::OnceLock;

/// The result, found once a process.
pub fn result() -> Result<(), &'static str> {
    static RESULT: OnceLock<Result<(), &'static str>> = OnceLock::new();
    *RESULT.get_or_init(|| {
        permitted()?;
        if is_right(Units(())) { Ok(()) } else { Err("the matrix units (AMX) computed a known product wrongly") }
    })
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn permitted() -> Result<(), &'static str> {
    Err("matrix units are used on Linux and x86-64 alone")
}

/// Asks the processor and the system.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[allow(unused_unsafe)]
fn permitted() -> Result<(), &'static str> {
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
        return Err("the processor has no matrix units for bf16 (AMX)");
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
pub fn is_right(units: Units) -> bool {
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
    let (left, right): ([&Tile; 2], [&Tile; 2]) = (left.each_ref(), right.each_ref());
    let mut tiles = Tiles::new(units);
    tiles.load::<2, 2>(&block);
    tiles.multiply::<2, 2>(left, right);
    tiles.multiply::<2, 2>(left, right);
    tiles.store::<2, 2>(&mut block);
    drop(tiles);
    let is_right = |m: usize, n: usize, row: usize, column: usize| {
        let product: i32 = (0..DEEP).map(|deep| left_value(m, row, deep) * right_value(n, deep, column)).sum();
        block[m][n].0[row][column] == (1 + 2 * product) as f32
    };
    (0..4 * ROWS * WIDE).all(|at| is_right(at % 2, at / 2 % 2, at / 4 % ROWS, at / 4 / ROWS))
}
