//! Tiles of 16 rows of 64 bytes, which matrices are divided into, and the sums of their products.

use half::bf16;

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

/// Adds up products of tiles: the way of one kind of instructions.
pub trait Multiplier {
    /// Adds the products of the first `M` left tiles \[row, 32\] with the first `N` right ones \[32 / 2, column, 2\] of each
    /// step to a block of sums, which starts at 0 or as it is; the sums of other tiles have no meaning then. Calls `between`
    /// with the number of each step, in order: where it works beside the rest of the processor, while products are made.
    fn add<'a, const M: usize, const N: usize>(
        &mut self,
        steps: impl ExactSizeIterator<Item = [[&'a Tile; 2]; 2]> + Clone,
        block: &mut Block,
        starts: bool,
        between: impl FnMut(usize),
    );
}
