//! The instructions of the matrix units: tiles of 16 rows of 64 bytes, and the products of them.

use super::Units;
use half::bf16;
#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::marker::PhantomData;

/// Rows of a tile.
pub const ROWS: usize = 16;
/// Values of a row of a left tile: what one product adds up.
pub const DEEP: usize = 32;
/// Columns of a right tile, and of sums.
pub const WIDE: usize = 16;

/// A row of a tile: 32 values of a left matrix, or 16 pairs of values of a right one, where each pair is from two rows of the
/// matrix.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [bf16; DEEP]);

impl Line {
    pub const ZERO: Self = Self([bf16::ZERO; DEEP]);
}

/// A tile: 1 KiB without gaps, so that it takes 16 lines of the cache.
pub type Tile = [Line; ROWS];

/// The sums of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Sums(pub [[f32; WIDE]; ROWS]);

impl Sums {
    pub const ZERO: Self = Self([[0.0; WIDE]; ROWS]);
}

/// The sums of two left tiles with two right ones: \[left, right\]. Where there is but one, the others have no meaning.
pub type Block = [[Sums; 2]; 2];

/// The tile that begins with a line.
#[inline(always)]
pub fn tile_at(lines: &[Line], first: usize) -> &Tile {
    let lines = &lines[first..first + ROWS];
    // SAFETY: there are as many lines as a tile has.
    unsafe { &*lines.as_ptr().cast::<Tile>() }
}

/// Asks for a tile that is needed soon, so that it comes into the first-level cache.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub fn prefetch(tile: &Tile) {
    #[cfg(target_arch = "x86_64")]
    for line in tile {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing, and the line is there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) };
    }
}

/// What `ldtilecfg` reads: the first palette, and for each of the eight tiles its bytes a row and its rows.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
static CONFIGURATION: Configuration = {
    let (mut bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        bytes[tile] = size_of::<Line>() as u16;
        rows[tile] = ROWS as u8;
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes, rows }
};

/// Bytes from row to row, of every tile that is loaded or stored.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
const STRIDE: usize = size_of::<Line>();

/// Instructions of the matrix units. There are none where the processor is another, and nobody has [`Units`] there.
///
/// Tiles 0 to 3 hold sums from one statement to the next: the compiler uses no tile itself, and the system saves them with a
/// thread's other registers.
macro_rules! units {
    ($($statement:tt)*) => {{
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the units are there and the thread's tiles are configured, as `Tiles` proves; all tiles are 16 lines that
        // `Tile` or `Sums` hold.
        unsafe {
            asm!($($statement)*
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _)
        };
    }};
}

/// The tiles of this thread, which are configured as long as this lives. Meanwhile the thread must do nothing else that uses
/// them, nor wait for other tasks of a pool, as it would take over some of them.
pub struct Tiles(PhantomData<*mut ()>);

impl Tiles {
    pub fn new(_: Units) -> Self {
        let tiles = Self(PhantomData);
        units!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, preserves_flags, readonly),);
        tiles
    }

    /// Begins with sums of zero.
    #[inline(always)]
    pub fn zero(&mut self) {
        units!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, preserves_flags, nomem),
        );
    }

    /// Begins with sums of before, of `M` left tiles with `N` right ones.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn load<const M: usize, const N: usize>(&mut self, block: &Block) {
        const { assert!(M <= 2 && N <= 2) };
        units!("tileloadd tmm0, [{}+{}*1]", in(reg) &raw const block[0][0], in(reg) STRIDE,
            options(nostack, preserves_flags, readonly),);
        if N > 1 {
            units!("tileloadd tmm1, [{}+{}*1]", in(reg) &raw const block[0][1], in(reg) STRIDE,
                options(nostack, preserves_flags, readonly),);
        }
        if M > 1 {
            units!("tileloadd tmm2, [{}+{}*1]", in(reg) &raw const block[1][0], in(reg) STRIDE,
                options(nostack, preserves_flags, readonly),);
        }
        if M > 1 && N > 1 {
            units!("tileloadd tmm3, [{}+{}*1]", in(reg) &raw const block[1][1], in(reg) STRIDE,
                options(nostack, preserves_flags, readonly),);
        }
    }

    /// Stores the sums of `M` left tiles with `N` right ones.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn store<const M: usize, const N: usize>(&mut self, block: &mut Block) {
        const { assert!(M <= 2 && N <= 2) };
        units!("tilestored [{}+{}*1], tmm0", in(reg) &raw mut block[0][0], in(reg) STRIDE,
            options(nostack, preserves_flags),);
        if N > 1 {
            units!("tilestored [{}+{}*1], tmm1", in(reg) &raw mut block[0][1], in(reg) STRIDE,
                options(nostack, preserves_flags),);
        }
        if M > 1 {
            units!("tilestored [{}+{}*1], tmm2", in(reg) &raw mut block[1][0], in(reg) STRIDE,
                options(nostack, preserves_flags),);
        }
        if M > 1 && N > 1 {
            units!("tilestored [{}+{}*1], tmm3", in(reg) &raw mut block[1][1], in(reg) STRIDE,
                options(nostack, preserves_flags),);
        }
    }

    /// Adds the products of the first `M` left tiles \[row, 32\] with the first `N` right ones \[32 / 2, column, 2\] to the
    /// sums.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn multiply<const M: usize, const N: usize>(&mut self, left: [&Tile; 2], right: [&Tile; 2]) {
        const { assert!(M >= 1 && M <= 2 && N >= 1 && N <= 2) };
        match (M, N) {
            (2, 2) => units!(
                "tileloadd tmm4, [{a}+{s}*1]", "tileloadd tmm6, [{b}+{s}*1]", "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{d}+{s}*1]", "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{c}+{s}*1]", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                a = in(reg) std::ptr::from_ref(left[0]), b = in(reg) std::ptr::from_ref(right[0]), c = in(reg) std::ptr::from_ref(left[1]), d = in(reg) std::ptr::from_ref(right[1]),
                s = in(reg) STRIDE, options(nostack, preserves_flags, readonly),),
            (2, 1) => units!(
                "tileloadd tmm4, [{a}+{s}*1]", "tileloadd tmm6, [{b}+{s}*1]", "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{c}+{s}*1]", "tdpbf16ps tmm2, tmm5, tmm6",
                a = in(reg) std::ptr::from_ref(left[0]), b = in(reg) std::ptr::from_ref(right[0]), c = in(reg) std::ptr::from_ref(left[1]),
                s = in(reg) STRIDE, options(nostack, preserves_flags, readonly),),
            (1, 2) => units!(
                "tileloadd tmm4, [{a}+{s}*1]", "tileloadd tmm6, [{b}+{s}*1]", "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{d}+{s}*1]", "tdpbf16ps tmm1, tmm4, tmm7",
                a = in(reg) std::ptr::from_ref(left[0]), b = in(reg) std::ptr::from_ref(right[0]), d = in(reg) std::ptr::from_ref(right[1]),
                s = in(reg) STRIDE, options(nostack, preserves_flags, readonly),),
            _ => units!(
                "tileloadd tmm4, [{a}+{s}*1]", "tileloadd tmm6, [{b}+{s}*1]", "tdpbf16ps tmm0, tmm4, tmm6",
                a = in(reg) std::ptr::from_ref(left[0]), b = in(reg) std::ptr::from_ref(right[0]),
                s = in(reg) STRIDE, options(nostack, preserves_flags, readonly),),
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        units!("tilerelease", options(nostack, preserves_flags, nomem),);
    }
}
