//! A whole image as it is kept: a PPM file (gray: PGM) as many programs read them, with a header of exactly three lines.

use crate::error::{Error, Result};

/// The header of an image of so many rows, columns and channels (3 or 1); the pixels \[y, x, channel\] follow.
pub(super) fn header(height: usize, width: usize, channels: usize) -> String {
    format!("{}\n{width} {height}\n255\n", if channels == 1 { "P5" } else { "P6" })
}

/// Rows, columns and the pixels \[y, x, channel\] of an image of so many channels.
///
/// # Errors
/// When the bytes are not what this program writes.
pub fn parse(bytes: &[u8], channels: usize) -> Result<(usize, usize, &[u8])> {
    let parts = || {
        let mut lines = bytes.splitn(4, |&byte| byte == b'\n');
        let (_, size) = (lines.next()?, std::str::from_utf8(lines.next()?).ok()?);
        let (_, pixels) = (lines.next()?, lines.next()?);
        let (width, height) = size.split_once(' ')?;
        Some((height.parse::<u32>().ok()? as usize, width.parse::<u32>().ok()? as usize, pixels))
    };
    let whole = |&(height, width, pixels): &(usize, usize, &[u8])| {
        let values = height.checked_mul(width).and_then(|area| area.checked_mul(channels));
        values == Some(pixels.len())
            && height > 0
            && width > 0
            && bytes.starts_with(header(height, width, channels).as_bytes())
    };
    parts().filter(whole).ok_or_else(|| Error::failed("the sample is no image of the kind that is kept"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_program_writes_is_an_image() {
        let image = |header: &str, values: usize| [header.as_bytes(), &vec![7; values]].concat();
        assert_eq!(parse(&image(&header(2, 5, 3), 30), 3).unwrap(), (2, 5, &[7; 30][..]));
        assert_eq!(parse(&image(&header(2, 5, 1), 10), 1).unwrap(), (2, 5, &[7; 10][..]));
        for (text, values, channels) in [
            ("P6\n5 2\n255\n", 29, 3),
            ("P6\n5 2\n255\n", 31, 3),
            ("P6\n5 2\n255\n", 10, 1),
            ("P5\n5 2\n255\n", 30, 3),
            ("P6\n05 2\n255\n", 30, 3),
            ("P6\n5  2\n255\n", 30, 3),
            ("P6\n0 2\n255\n", 0, 3),
            ("P6\n4294967295 4294967295\n255\n", 30, 3),
            ("P6\n99999999999999999999 1\n255\n", 30, 3),
            ("P6 5 2 255 ", 30, 3),
            ("", 30, 3),
            ("", 0, 1),
        ] {
            assert!(parse(&image(text, values), channels).is_err(), "{text:?}");
        }
    }
}
