//! The instructions of the matrix units (AMX), which hold whole tiles in registers.

use super::tiles::{Block, Line, Multiplier, ROWS, Tile, prefetch};
#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::marker::PhantomData;

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

/// Bytes of right tiles that stay in the first-level cache while left ones go by.
const STAYS: usize = 24 << 10;

/// Bytes from row to row, of every tile that is loaded or stored.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
const STRIDE: usize = size_of::<Line>();

/// Instructions of the matrix units. There are none where the processor is another, and nobody may make `Tiles` there.
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
    /// # Safety
    /// The processor must have the units, the system let this process use them, and the thread have no other tiles.
    pub unsafe fn new() -> Self {
        let tiles = Self(PhantomData);
        units!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, preserves_flags, readonly),);
        tiles
    }

    /// Begins with sums of zero.
    #[inline(always)]
    fn zero(&mut self) {
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
    fn load<const M: usize, const N: usize>(&mut self, block: &Block) {
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
    fn store<const M: usize, const N: usize>(&mut self, block: &mut Block) {
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
    fn multiply<const M: usize, const N: usize>(&mut self, left: [&Tile; 2], right: [&Tile; 2]) {
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

impl Multiplier for Tiles {
    #[inline(always)]
    fn add<'a, const M: usize, const N: usize>(
        &mut self,
        steps: impl ExactSizeIterator<Item = [[&'a Tile; 2]; 2]> + Clone,
        block: &mut Block,
        starts: bool,
        mut between: impl FnMut(usize),
    ) {
        if starts {
            self.zero();
        } else {
            self.load::<M, N>(block);
        }
        // Right tiles that do not stay in the cache until they are used again come while those before them are multiplied.
        let mut ahead = (steps.len() * size_of::<[Tile; 2]>() > STAYS).then(|| steps.clone().cycle().skip(1));
        for (at, [left, right]) in steps.enumerate() {
            if let Some([_, next]) = ahead.as_mut().and_then(Iterator::next) {
                next.into_iter().take(N).for_each(prefetch);
            }
            self.multiply::<M, N>(left, right);
            between(at);
        }
        self.store::<M, N>(block);
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        units!("tilerelease", options(nostack, preserves_flags, nomem),);
    }
}
