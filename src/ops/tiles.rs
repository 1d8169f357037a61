//! Images cut into the overlapping tiles of Winograd's filtering, and the buffers of transformed tiles.

use super::element::Element;
use super::geometry::Images;
use super::panels::{BLOCK, padded};
use super::transforms::{INPUTS, Line, OUTPUTS, POINTS, Square, on_both_sides};
use pulp::Simd;
use std::ops::Range;

/// Tiles that are worked on at a time, where rows of tiles are short enough.
const AT_ONCE: usize = 48;

impl Images {
    /// Rows of tiles in an image.
    pub fn tile_rows(&self) -> usize {
        self.height.div_ceil(OUTPUTS)
    }

    /// Tiles in a row.
    pub fn tile_columns(&self) -> usize {
        self.width.div_ceil(OUTPUTS)
    }

    /// The rows of tiles of all images, in parts that are worked on at a time.
    pub fn parts(&self) -> Vec<Range<usize>> {
        let (all, at_once) = (self.batch * self.tile_rows(), (AT_ONCE / self.tile_columns().max(1)).max(1));
        (0..all).step_by(at_once).map(|first| first..(first + at_once).min(all)).collect()
    }

    /// The first row of pixels, counted over all images, that a row of tiles gives, and how many there are: the last of
    /// an image may stand out of it.
    pub fn pixel_rows(&self, tile_row: usize) -> (usize, usize) {
        let (image, y) = (tile_row / self.tile_rows(), tile_row % self.tile_rows() * OUTPUTS);
        (image * self.height + y, OUTPUTS.min(self.height - y))
    }

    /// The tile of a number among those of all rows from `first_row` on.
    pub fn tile(&self, first_row: usize, number: usize) -> Tile {
        let row = first_row + number / self.tile_columns();
        let (image, y) = (row / self.tile_rows(), row % self.tile_rows() * OUTPUTS);
        Tile { image, y, x: number % self.tile_columns() * OUTPUTS }
    }
}

/// A tile's image, and row and column of its first output in it.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub image: usize,
    pub y: usize,
    pub x: usize,
}

/// Values \[batch, height, width, channels\].
#[derive(Clone, Copy)]
pub(super) struct Map<'a, E> {
    values: &'a [E],
    images: Images,
    /// Channels of a pixel, and how many of them are looked at, from which on.
    stride: usize,
    channels: usize,
    first: usize,
    /// As many zeros as there are channels: a pixel outside the image.
    zeros: &'a [E],
}

impl<'a, E: Element> Map<'a, E> {
    /// `zeros` must be at least as many as channels.
    pub fn new(values: &'a [E], images: Images, channels: usize, zeros: &'a [E]) -> Self {
        Self { values, images, stride: channels, channels, first: 0, zeros: &zeros[..channels] }
    }

    /// Some of the channels.
    pub fn of_channels(self, channels: Range<usize>) -> Self {
        Self { channels: channels.len(), first: self.first + channels.start, zeros: &self.zeros[channels], ..self }
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The `N` x `N` pixels whose first lies `before` pixels above and left of a tile's first output.
    fn patch<const N: usize>(&self, tile: Tile, before: usize) -> Patch<'a, E, N> {
        let Images { height, width, .. } = self.images;
        let inside = |at: usize, size: usize| at.checked_sub(before).filter(|&at| at < size);
        let mut pixels = [[self.zeros; N]; N];
        for (dy, row) in pixels.iter_mut().enumerate() {
            let Some(y) = inside(tile.y + dy, height) else { continue };
            for (dx, pixel) in row.iter_mut().enumerate() {
                let Some(x) = inside(tile.x + dx, width) else { continue };
                let at = (tile.image * height + y) * width + x;
                *pixel = &self.values[at * self.stride + self.first..][..self.channels];
            }
        }
        Patch { pixels, channels: self.channels }
    }
}

/// The pixels of a tile, each a slice of `channels` values.
struct Patch<'a, E, const N: usize> {
    pixels: Square<&'a [E], N>,
    channels: usize,
}

impl<E: Element, const N: usize> Patch<'_, E, N> {
    /// A vector of channels of every pixel; zeros beyond the last channel.
    #[inline(always)]
    fn load<S: Simd>(&self, simd: S, first: usize) -> Square<S::f32s, N> {
        let mut square = [[simd.splat_f32s(0.0); N]; N];
        let (first, end) = (first.min(self.channels), (first + S::F32_LANES).min(self.channels));
        for row in 0..N {
            for column in 0..N {
                // SAFETY: every pixel has `channels` values, and neither end is beyond them.
                let values = unsafe { self.pixels[row][column].get_unchecked(first..end) };
                square[row][column] = E::load(simd, values);
            }
        }
        square
    }
}

/// Transformed tiles: for each point a matrix \[tile, channel\], a cache line longer than it must be, so that the points
/// of a tile do not share their place in the cache.
#[derive(Clone, Copy)]
pub(super) struct Slabs {
    tiles: usize,
    channels: usize,
}

impl Slabs {
    pub fn new(tiles: usize, channels: usize) -> Self {
        Self { tiles, channels: padded(channels) }
    }

    /// Channels with those that fill the last block.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Values between the starts of neighbouring points.
    pub fn stride(&self) -> usize {
        self.tiles * self.channels + BLOCK
    }

    /// The part of a buffer that holds them; the buffer is made large enough.
    pub fn fit<'a>(&self, buffer: &'a mut Vec<f32>) -> &'a mut [f32] {
        let length = POINTS * self.stride();
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
        &mut buffer[..length]
    }

    /// Transforms the `N` x `N` patches of all tiles from a row of tiles on; they begin `before` pixels above and left of
    /// the tiles' outputs.
    #[inline(always)]
    pub fn fill<L: Line<N, INPUTS>, E: Element, S: Simd, const N: usize>(
        &self,
        simd: S,
        slabs: &mut [f32],
        (images, first_row): (Images, usize),
        (map, before): (Map<'_, E>, usize),
    ) {
        for tile in 0..self.tiles {
            let patch = map.patch::<N>(images.tile(first_row, tile), before);
            for channel in (0..self.channels).step_by(S::F32_LANES) {
                let square = on_both_sides::<L, S, N, INPUTS>(simd, &patch.load(simd, channel));
                self.store::<S>(slabs, tile, channel, &square);
            }
        }
    }

    #[inline(always)]
    fn store<S: Simd>(&self, slabs: &mut [f32], tile: usize, channel: usize, square: &Square<S::f32s, INPUTS>) {
        self.check::<S>(slabs, tile, channel);
        for row in 0..INPUTS {
            for column in 0..INPUTS {
                let at = (row * INPUTS + column) * self.stride() + tile * self.channels + channel;
                // SAFETY: the check keeps every point of the tile inside the slabs.
                unsafe { slabs.as_mut_ptr().add(at).cast::<S::f32s>().write_unaligned(square[row][column]) };
            }
        }
    }

    /// A vector of channels of every point of a tile.
    #[inline(always)]
    pub fn load<S: Simd>(&self, simd: S, slabs: &[f32], tile: usize, channel: usize) -> Square<S::f32s, INPUTS> {
        self.check::<S>(slabs, tile, channel);
        let mut square = [[simd.splat_f32s(0.0); INPUTS]; INPUTS];
        for row in 0..INPUTS {
            for column in 0..INPUTS {
                let at = (row * INPUTS + column) * self.stride() + tile * self.channels + channel;
                // SAFETY: the check keeps every point of the tile inside the slabs.
                square[row][column] = unsafe { slabs.as_ptr().add(at).cast::<S::f32s>().read_unaligned() };
            }
        }
        square
    }

    #[inline(always)]
    fn check<S: Simd>(&self, slabs: &[f32], tile: usize, channel: usize) {
        assert!(tile < self.tiles && channel + S::F32_LANES <= self.channels && slabs.len() == POINTS * self.stride());
    }
}
