//! An image file, given as bytes, becomes u8 pixels: decoded strictly, upright, scaled and, unless whole images are kept,
//! cropped.

use super::jpeg::Jpeg;
use super::resample::{Axis, resample};
use super::whole;
use crate::error::{Error, Result};
use crate::pipeline::{Data, Keep, Orientation as Orient};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Decodes an image file to u8 planes [channels, size, size], or, where whole images are kept, to a PPM or PGM file; gives
/// what had to be overlooked, if anything had.
///
/// The format is told by the content, whatever the file's name. The image is turned upright by its EXIF orientation
/// unless `data` says otherwise, its short side scaled to `data.size` (triangle filter, as torchvision's `Resize`) and
/// its centre cropped: to a square, or to [`Data::longest_side`]. Alpha is dropped, not composed; gray is
/// `0.299 R + 0.587 G + 0.114 B`.
///
/// # Errors
/// When the format is unknown, the data are damaged or cut off, or the image has more than `data.max_pixels`. The
/// message does not name the file.
pub fn decode_file(bytes: &[u8], data: &Data, out: &mut Vec<u8>) -> Result<Option<String>> {
    // A decoder that panics on a hostile file must not take the other images down with it.
    let image = catch_unwind(AssertUnwindSafe(|| decode(bytes, data.max_pixels, data.orientation)))
        .unwrap_or_else(|_| Err(Error::failed("the decoder failed on it")))?;
    fit(image.pixels, data, out);
    Ok((!image.warnings.is_empty()).then(|| format!("read with warnings: {}", image.warnings.join(", "))))
}

/// An image, and what had to be overlooked to read it.
struct Decoded {
    pixels: DynamicImage,
    warnings: Vec<String>,
}

fn decode(bytes: &[u8], max_pixels: u64, orientation: Orient) -> Result<Decoded> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => decode_jpeg(bytes, max_pixels, orientation),
        Ok(format) => {
            let pixels = decode_other(bytes, format, max_pixels, orientation)?;
            Ok(Decoded { pixels, warnings: Vec::new() })
        }
        Err(_) => Err(Error::failed(no_image(bytes))),
    }
}

/// What a file is that is no image.
pub(super) fn no_image(start: &[u8]) -> &'static str {
    match start {
        [] => "the file is empty",
        [0x1f, 0x8b, ..] => "the content is compressed with gzip, which is no image format",
        _ if start.iter().all(|&byte| byte == 0) => "the content is zeros, as of a copy that was never finished",
        _ => "the content is in none of the known image formats",
    }
}

/// Whether a file begins as an image of a known format does.
pub(super) fn is_known(start: &[u8]) -> bool {
    image::guess_format(start).is_ok()
}

/// JPEG goes to its decoder directly because `image` asks it to fill what is missing with gray instead of failing.
///
/// The decoder takes an end mark for zeros without end. It is given bits that are no code in the mark's place, so that it
/// fails where data are missing; only where it does, or where the file is of a kind that it could not tell, a walk
/// through the coded data decides.
fn decode_jpeg(bytes: &[u8], max_pixels: u64, orientation: Orient) -> Result<Decoded> {
    let jpeg = Jpeg::parse(bytes)?;
    let unended = jpeg.without_end();
    let headers = jpeg_headers(&unended, true)?;
    let (width, height) = headers.0.dimensions().unwrap_or_default();
    check_pixels(width as u32, height as u32, max_pixels)?;
    if jpeg.is_ended
        && !jpeg.is_progressive()
        && let Ok(pixels) = jpeg_pixels(headers, orientation)
    {
        return Ok(Decoded { pixels, warnings: jpeg.warnings });
    }
    jpeg.check_complete()?;
    let decode = |strict| jpeg_headers(&jpeg.bytes, strict).and_then(|headers| jpeg_pixels(headers, orientation));
    let strict = decode(true);
    let mut warnings = jpeg.warnings;
    let pixels = match strict {
        Ok(pixels) => pixels,
        // All data are there: what the strict decoder minds is something else.
        Err(fault) => {
            let pixels = decode(false).map_err(|_| fault.clone())?;
            warnings.push(fault.to_string());
            pixels
        }
    };
    Ok(Decoded { pixels, warnings })
}

type JpegDecoder<'a> = zune_jpeg::JpegDecoder<ZCursor<&'a [u8]>>;

/// A decoder that has read the headers, and whether the image is gray.
fn jpeg_headers(bytes: &[u8], strict: bool) -> Result<(JpegDecoder<'_>, bool)> {
    let options = DecoderOptions::default().set_strict_mode(strict).set_max_width(65_535).set_max_height(65_535);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(bad)?;
    let gray = decoder.input_colorspace() == Some(ColorSpace::Luma);
    decoder.set_options(options.jpeg_set_out_colorspace(if gray { ColorSpace::Luma } else { ColorSpace::RGB }));
    Ok((decoder, gray))
}

fn jpeg_pixels((mut decoder, gray): (JpegDecoder<'_>, bool), orient: Orient) -> Result<DynamicImage> {
    let pixels = decoder.decode().map_err(bad)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let (width, height) = (width as u32, height as u32);
    let image = if gray {
        GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8)
    } else {
        RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8)
    };
    let mut image = image.ok_or_else(|| Error::failed("the decoder returned too few pixels"))?;
    if orient == Orient::Upright {
        let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
        image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    }
    Ok(image)
}

fn decode_other(bytes: &[u8], format: ImageFormat, max_pixels: u64, orient: Orient) -> Result<DynamicImage> {
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(bad)?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, max_pixels)?;
    let mut limits = Limits::no_limits();
    // 16 bytes hold a pixel of any kind; the rest is for tables and lines.
    limits.max_alloc = Some(max_pixels.saturating_mul(16).saturating_add(64 << 20));
    decoder.set_limits(limits).map_err(bad)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(bad)?;
    if orient == Orient::Upright {
        image.apply_orientation(orientation);
    }
    Ok(image)
}

/// An error in the words of a decoder.
fn bad(error: impl std::error::Error) -> Error {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    Error::failed(format!(
        "damaged, or of an unsupported kind ({})",
        text.replace('"', "").trim_start_matches("[strict-mode]: ")
    ))
}

fn check_pixels(width: u32, height: u32, max_pixels: u64) -> Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(Error::failed(format!("it is empty: {width}x{height} pixels")));
    }
    if pixels > max_pixels {
        return Err(Error::failed(format!(
            "it has {width}x{height} pixels, more than `data.max_pixels` = {max_pixels}"
        )));
    }
    Ok(())
}

/// Scales the short side to `data.size`, crops the centre, and writes what `data` keeps.
pub(super) fn fit(image: DynamicImage, data: &Data, out: &mut Vec<u8>) {
    let size = (image.width() as usize, image.height() as usize);
    match image {
        DynamicImage::ImageLuma8(gray) => fit_pixels::<1>(gray.into_raw(), size, data, out),
        colour => fit_pixels::<3>(colour.into_rgb8().into_raw(), size, data, out),
    }
}

fn fit_pixels<const C: usize>(pixels: Vec<u8>, (width, height): (usize, usize), data: &Data, out: &mut Vec<u8>) {
    let (short, size) = (width.min(height), data.size);
    let scaled = |side: usize| side * size / short;
    let longest = if data.keep == Keep::Whole { data.longest_side() } else { size };
    let [columns, rows] = [width, height].map(|side| scaled(side).min(longest));
    let pixels = if (columns, rows) == (width, height) {
        pixels
    } else {
        let axis = |side: usize, wanted: usize| {
            let start = centre(scaled(side) - wanted);
            Axis::new(0..side, scaled(side), start..start + wanted)
        };
        resample::<C>(&pixels, width, &axis(width, columns), &axis(height, rows))
    };
    let (pixels, _) = pixels.as_chunks::<C>();
    out.clear();
    match data.keep {
        Keep::Square => {
            out.resize(data.channels * size * size, 0);
            for (channel, plane) in out.chunks_exact_mut(size * size).enumerate() {
                plane.iter_mut().zip(pixels).for_each(|(out, pixel)| *out = value(pixel, channel, data.channels));
            }
        }
        Keep::Whole => {
            out.extend(whole::header(rows, columns, data.channels).as_bytes());
            if C == data.channels {
                return out.extend(pixels.as_flattened());
            }
            for pixel in pixels {
                out.extend((0..data.channels).map(|channel| value(pixel, channel, data.channels)));
            }
        }
    }
}

/// The value of a pixel, gray or colour, in a channel of an image of so many.
fn value<const C: usize>(pixel: &[u8; C], channel: usize, channels: usize) -> u8 {
    if C == 3 && channels == 1 { luminance(pixel) } else { pixel[channel.min(C - 1)] }
}

/// Where a centred crop starts that leaves `room` pixels; halves are rounded as torchvision does.
pub(super) fn centre(room: usize) -> usize {
    (room as f64 / 2.0).round_ties_even() as usize
}

/// ITU-R 601 luminance in the fixed-point form that Pillow and libjpeg use.
fn luminance(pixel: &[u8]) -> u8 {
    let weighted = pixel.iter().zip([19_595u32, 38_470, 7_471]).map(|(&value, weight)| u32::from(value) * weight);
    ((weighted.sum::<u32>() + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::super::tests::data;
    use super::*;
    use safetensors::SafeTensors;
    use std::fs;
    use std::path::PathBuf;

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)).unwrap()
    }

    #[test]
    fn pixels_agree_with_pillow_and_are_upright() {
        let bytes = fixture("expected.safetensors");
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        assert!(expected.len() > 10);
        for (name, tensor) in expected.iter() {
            let found = decode(&fixture(name), 10_000, Orient::Upright).unwrap().pixels.into_rgb8();
            assert_eq!([found.height() as usize, found.width() as usize, 3], tensor.shape(), "{name}");
            // JPEG decoders differ by a few levels.
            let allowed = if name.starts_with("cmyk") || name.starts_with("orientation") { 4 } else { 0 };
            let worst = found.iter().zip(tensor.data()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(worst <= Some(allowed), "{name} differs by {worst:?}");
        }
    }

    #[test]
    fn an_image_cut_off_anywhere_is_an_error() {
        for (name, tail) in [("orientation_1.jpg", JPEG_END), ("cmyk.jpg", JPEG_END), ("rgba.png", PNG_END)] {
            let whole = fixture(name);
            for length in 0..whole.len() - tail {
                let ended = [&whole[..length], &[0xff, 0xd9]].concat();
                assert!(
                    decode(&ended, 10_000, Orient::Upright).is_err(),
                    "{name} cut to {length} with an end mark behind"
                );
                assert!(
                    decode(&whole[..length], 10_000, Orient::Upright).is_err(),
                    "{name} cut to {length} of {}",
                    whole.len()
                );
            }
        }
    }

    /// The end mark of a JPEG, without which its pixels are still whole.
    const JPEG_END: usize = 2;
    /// The last chunk of a PNG, without which its pixels are still whole.
    const PNG_END: usize = 12;

    #[test]
    fn what_a_lenient_reader_reads_whole_is_read_and_said() {
        let whole = fixture("orientation_1.jpg");
        let pixels = |bytes: &[u8]| {
            let decoded = decode(bytes, 10_000, Orient::Upright).unwrap();
            (decoded.pixels.into_rgb8().into_raw(), decoded.warnings)
        };
        let (right, none) = pixels(&whole);
        assert!(none.is_empty());
        let end = whole.len() - 2;
        let header = 4 + usize::from(whole[4]) * 256 + usize::from(whole[5]);
        let behind_header = |stray: &[u8]| [&whole[..header], stray, &whole[header..]].concat();
        for (odd, warning) in [
            (whole[..end].to_vec(), "no end mark"),
            (behind_header(&[0, 1, 2, 3, 4, 5]), "6 stray bytes between its segments"),
            (behind_header(&[0x11, 0x12]), "2 stray bytes between its segments"),
            ([&whole[..end], &[0xff, 0xdc, 0, 4, 0, 32, 0xff, 0xd9]].concat(), "a DNL segment"),
        ] {
            assert_eq!(pixels(&odd), (right.clone(), vec![warning.to_string()]));
        }
        // These are no faults: fill bytes, junk before the end mark, and anything behind it.
        for odd in [
            [&whole[..end], &[0xff, 0xff, 0xff, 0xd9]].concat(),
            [&whole[..end], &[0x55; 12], &[0xff, 0xd9]].concat(),
            [&whole[..], &whole[..]].concat(),
            behind_header(&[0xff, 0xff]),
        ] {
            assert_eq!(pixels(&odd), (right.clone(), Vec::new()));
        }
        let zeros = [&whole[..end / 2], &vec![0; end / 2]].concat();
        assert!(decode(&zeros, 10_000, Orient::Upright).is_err());
    }

    #[test]
    fn too_many_pixels_are_refused_before_they_are_decoded() {
        // A PNG whose header says 100000x100000 pixels.
        let mut bytes = fixture("gray.png");
        bytes[16..24].copy_from_slice(&[0, 1, 134, 160, 0, 1, 134, 160]);
        let mut checksum = flate2::Crc::new();
        checksum.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
        let error = decode(&bytes, 100_000_000, Orient::Upright).err().unwrap().to_string();
        assert!(error.contains("100000x100000 pixels, more than `data.max_pixels`"), "{error}");
    }

    #[test]
    fn what_is_no_image_is_said_to_be_none() {
        assert!(decode(b"", 100, Orient::Upright).err().unwrap().to_string().contains("empty"));
        assert!(
            decode(b"hello, world", 100, Orient::Upright)
                .err()
                .unwrap()
                .to_string()
                .contains("none of the known image formats")
        );
    }

    #[test]
    fn the_short_side_is_scaled_and_the_centre_cropped() {
        // Three squares side by side: the middle one stays.
        let image = RgbImage::from_fn(12, 4, |x, _| image::Rgb([(x / 4 * 100) as u8, 7, 255]));
        let mut out = Vec::new();
        fit(DynamicImage::ImageRgb8(image), &Data { size: 8, ..data() }, &mut out);
        let row = &out[4 * 8..5 * 8];
        assert_eq!(row[2..6], [100; 4]);
        assert!(out[64..128].iter().all(|&green| green == 7) && out[128..].iter().all(|&blue| blue == 255));
    }

    #[test]
    fn gray_and_colour_become_each_other() {
        let colour = RgbImage::from_pixel(4, 4, image::Rgb([255, 0, 0]));
        let mut gray = Vec::new();
        fit(DynamicImage::ImageRgb8(colour), &Data { size: 4, channels: 1, ..data() }, &mut gray);
        assert_eq!(gray, [76; 16]);
        let mut planes = Vec::new();
        fit(
            DynamicImage::ImageLuma8(GrayImage::from_pixel(4, 4, image::Luma([9]))),
            &Data { size: 4, ..data() },
            &mut planes,
        );
        assert_eq!(planes, [9; 48]);
    }

    #[test]
    fn the_long_side_of_a_whole_image_is_kept_up_to_a_limit() {
        let fitted = |width, height| {
            let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 9]));
            let mut out = Vec::new();
            fit(DynamicImage::ImageRgb8(image), &Data { size: 4, keep: Keep::Whole, ..data() }, &mut out);
            out
        };
        let pixels: Vec<u8> = (0..4 * 6).flat_map(|at| [at % 6, at / 6, 9]).collect();
        assert_eq!(fitted(6, 4), [b"P6\n6 4\n255\n", &pixels[..]].concat());
        assert!(fitted(16, 12).starts_with(b"P6\n5 4\n255\n") && fitted(12, 16).starts_with(b"P6\n4 5\n255\n"));
        // One pixel by a thousand: sixteen squares of the centre.
        let long = fitted(1000, 1);
        assert!(long.starts_with(b"P6\n64 4\n255\n") && long.len() == 12 + 3 * 64 * 4);
        let gray = GrayImage::from_pixel(9, 4, image::Luma([7]));
        let mut out = Vec::new();
        let data = Data { size: 4, keep: Keep::Whole, channels: 1, ..data() };
        fit(DynamicImage::ImageLuma8(gray), &data, &mut out);
        assert_eq!(out, [b"P5\n9 4\n255\n", &[7; 36][..]].concat());
    }
}
