//! Small pictures that stand in the page itself, as data URIs.

use super::html::escape;
use crate::error::Result;
use crate::inspect::Picture;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Rows of a picture up to which it keeps every pixel as it is; larger ones lose a little, and most of their bytes.
const EXACT: usize = 48;
/// About how many rows the thumbnail of an image has at most.
const THUMBNAIL: usize = 112;
/// About how many rows a feature map has at most.
const MAP: usize = 32;
/// Feature maps of a grid side by side.
const ACROSS: usize = 4;
/// What lies between them, in a light page as in a dark one.
const BETWEEN: [u8; 3] = [0; 3];

/// The element of an image, reduced where it is large.
///
/// # Errors
/// When it cannot be encoded.
pub(super) fn thumbnail(image: &Picture, alt: &str) -> Result<String> {
    let small = at_most(image, THUMBNAIL);
    if small.height > EXACT {
        element(&small, "jpeg", &small.jpeg()?, alt)
    } else {
        element(&small, "png", &small.png()?, alt)
    }
}

/// The element of feature maps \[y, x\] with values from 0 to 1, four side by side.
///
/// # Errors
/// When they cannot be encoded.
pub(super) fn grid(maps: &[Vec<f32>], size: usize, alt: &str) -> Result<String> {
    let tile = |map: &Vec<f32>| at_most(&Picture::in_grey(size, |x, y| map[y * size + x]), MAP);
    let all = Picture::grid(&maps.iter().map(tile).collect::<Vec<_>>(), ACROSS, (1, BETWEEN));
    element(&all, "png", &all.png()?, alt)
}

fn at_most(picture: &Picture, rows: usize) -> Picture {
    if picture.height > rows { picture.resized(rows) } else { picture.clone() }
}

fn element(picture: &Picture, kind: &str, file: &[u8], alt: &str) -> Result<String> {
    let (alt, width, height) = (escape(alt), picture.width, picture.height);
    let uri = format!("data:image/{kind};base64,{}", STANDARD.encode(file));
    Ok(format!("<img src=\"{uri}\" alt=\"{alt}\" width=\"{width}\" height=\"{height}\"/>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pictures_keep_their_pixels_and_large_ones_lose_some() {
        let image = |side| Picture::from_fn(side, side, |x, y| [x as u8, y as u8, 7]);
        let small = thumbnail(&image(4), "a \"cat\"").unwrap();
        assert!(small.starts_with("<img src=\"data:image/png;base64,iVBOR"), "{small}");
        assert!(small.ends_with("alt=\"a &quot;cat&quot;\" width=\"4\" height=\"4\"/>"), "{small}");
        let large = thumbnail(&image(224), "").unwrap();
        assert!(large.contains("data:image/jpeg;base64,/9j/") && large.contains("width=\"112\""), "{large}");
    }

    #[test]
    fn maps_stand_four_side_by_side() {
        let made = grid(&vec![vec![1.0; 9]; 5], 3, "maps").unwrap();
        assert!(made.ends_with("width=\"15\" height=\"7\"/>"), "{made}");
    }
}
