//! Small pictures that stand in the page itself, as data URIs.

use crate::error::{Error, Result};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

/// Side of a thumbnail at most.
const THUMBNAIL: usize = 96;
/// Side up to which a thumbnail keeps every pixel as it is; larger ones lose a little, and most of their bytes.
const EXACT: usize = 48;
const QUALITY: u8 = 80;
/// Side of a feature map in a grid at most.
const MAP: usize = 28;
/// Feature maps of a grid side by side.
const ACROSS: usize = 4;

/// An image in the page: what it shows in words, and where its bytes are.
pub(super) struct Picture {
    /// A data URI.
    pub uri: String,
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
}

/// A square image with values from 0 to 255 \[y, x, channel\], made small.
pub(super) fn thumbnail(values: &[f32], size: usize, channels: usize) -> Result<Picture> {
    let side = size.min(THUMBNAIL);
    let planes: Vec<Vec<f32>> = (0..channels)
        .map(|channel| values.iter().skip(channel).step_by(channels).copied().collect::<Vec<f32>>())
        .map(|plane| shrink(&plane, size, side))
        .collect();
    let pixels = (0..side * side).flat_map(|at| planes.iter().map(move |plane| byte(plane[at])));
    let pixels: Vec<u8> = pixels.collect();
    let color = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    picture(&pixels, (side, side), color, side > EXACT)
}

/// Feature maps \[y, x\] with values from 0 to 1, four side by side, with dark lines between.
pub(super) fn grid(maps: &[Vec<f32>], size: usize) -> Result<Picture> {
    let side = size.min(MAP);
    let step = side + 1;
    let down = maps.len().div_ceil(ACROSS).max(1);
    let (width, height) = (ACROSS * step - 1, down * step - 1);
    let mut pixels = vec![0; width * height];
    for (at, map) in maps.iter().enumerate() {
        let (top, left) = (at / ACROSS * step, at % ACROSS * step);
        for (y, row) in shrink(map, size, side).chunks_exact(side).enumerate() {
            let start = (top + y) * width + left;
            pixels[start..start + side].iter_mut().zip(row).for_each(|(pixel, value)| *pixel = byte(255.0 * value));
        }
    }
    picture(&pixels, (width, height), ExtendedColorType::L8, false)
}

fn byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// A square plane made smaller: each pixel is the mean of those it stands for.
fn shrink(plane: &[f32], size: usize, side: usize) -> Vec<f32> {
    let part = |at: usize| at * size / side..((at + 1) * size).div_ceil(side);
    let mean = |y: usize, x: usize| {
        let rows = part(y).flat_map(|y| part(x).map(move |x| plane[y * size + x]));
        rows.sum::<f32>() / (part(y).len() * part(x).len()) as f32
    };
    (0..side * side).map(|at| mean(at / side, at % side)).collect()
}

fn picture(pixels: &[u8], (width, height): (usize, usize), color: ExtendedColorType, lossy: bool) -> Result<Picture> {
    let mut bytes = Vec::new();
    let (across, down) = (width as u32, height as u32);
    let written = if lossy {
        JpegEncoder::new_with_quality(&mut bytes, QUALITY).write_image(pixels, across, down, color)
    } else {
        let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive);
        encoder.write_image(pixels, across, down, color)
    };
    written.map_err(|e| Error::failed(format!("cannot encode a picture of {width} x {height} pixels: {e}")))?;
    let kind = if lossy { "jpeg" } else { "png" };
    Ok(Picture { uri: format!("data:image/{kind};base64,{}", base64(&bytes)), width, height })
}

/// Bytes in the alphabet of RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for letter in 0..4 {
            let at = (bits >> (18 - 6 * letter) & 63) as usize;
            text.push(if letter <= three.len() { char::from(ALPHABET[at]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_letters_as_the_standard_says() {
        let pairs = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, letters) in pairs {
            assert_eq!(base64(bytes.as_bytes()), letters);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn a_plane_is_made_smaller_by_means() {
        let plane: Vec<f32> = (0..16).map(|value| value as f32).collect();
        assert_eq!(shrink(&plane, 4, 2), [2.5, 4.5, 10.5, 12.5]);
        assert_eq!(shrink(&plane, 4, 4), plane);
        assert_eq!(shrink(&[3.0; 25], 5, 2), [3.0; 4]);
    }

    #[test]
    fn pictures_decode_to_what_was_put_in() {
        let values: Vec<f32> = (0..48).map(|value| value as f32 * 5.0).collect();
        let made = thumbnail(&values, 4, 3).unwrap();
        assert_eq!((made.width, made.height), (4, 4));
        assert!(made.uri.starts_with("data:image/png;base64,iVBOR"), "{}", made.uri);
        let large = thumbnail(&vec![128.0; 200 * 200], 200, 1).unwrap();
        assert!(large.uri.starts_with("data:image/jpeg;base64,/9j/") && large.width == 96, "{}", large.uri);
        let maps = vec![vec![1.0; 9]; 5];
        assert_eq!(grid(&maps, 3).map(|made| (made.width, made.height)).unwrap(), (15, 7));
    }
}
