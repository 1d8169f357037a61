//! Averaged validation features for TensorBoard's embedding projector: vectors, names, thumbnails, and where they lie.

use crate::disk;
use crate::error::Result;
use crate::features::{Split, read_labels};
use crate::inspect::{Features, Images, Picture};
use crate::progress::Progress;
use crate::run::{Record, StageFolder};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The side of the picture of all thumbnails at most, as browsers take it.
const MOST_SIDE: usize = 8192;
/// The side of a thumbnail at most.
const THUMBNAIL: usize = 64;
/// The files, in the order in which they are written.
const FILES: [&str; 4] = ["tensors.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt"];

/// What was written.
pub struct Projection {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Samples.
    pub samples: usize,
    /// Values of each.
    pub channels: usize,
    /// Why there are no thumbnails, where there are none.
    pub without_images: Option<String>,
}

/// The files that a folder would be given.
pub fn projector_files(to: &Path) -> impl Iterator<Item = PathBuf> + use<'_> {
    FILES.iter().map(|name| to.join(name))
}

/// Writes at most so many samples of a finished stage, spread evenly over the validation images. The same stage gives the
/// same bytes.
///
/// # Errors
/// When features are missing or damaged, a file cannot be written, or the user interrupts.
pub fn write_projector(
    (folder, record): (&StageFolder, &Record),
    most: usize,
    to: &Path,
    progress: &dyn Progress,
) -> Result<Projection> {
    let features = Features::open(folder, record)?;
    let chosen = features.spread(most);
    let averaged = features.averaged(&chosen, progress)?;
    let labels = read_labels(folder.path(), Split::Val)?;
    let mut vectors = String::new();
    for row in averaged.rows() {
        let values: Vec<String> = row.iter().map(f32::to_string).collect();
        vectors += &values.join("\t");
        vectors.push('\n');
    }
    let sprite = sprite(folder, record, &chosen);
    let config =
        config(&format!("{} {}", record.pipeline, record.title()), sprite.as_ref().ok().map(|(_, side)| *side));
    let without_images = sprite.as_ref().err().map(ToString::to_string);
    let sprite = sprite.ok().map(|(picture, _)| picture.png()).transpose()?;
    let contents = [
        Some(vectors.into_bytes()),
        Some(metadata(record, &chosen, &labels).into_bytes()),
        sprite,
        Some(config.into_bytes()),
    ];
    disk::create_folder(to)?;
    let mut files = Vec::new();
    for (path, bytes) in projector_files(to).zip(contents) {
        if let Some(bytes) = bytes {
            disk::write(&path, &bytes)?;
            files.push(path);
        }
    }
    Ok(Projection { files, samples: chosen.len(), channels: averaged.columns, without_images })
}

/// A line for each sample, below a line of headings.
fn metadata(record: &Record, samples: &[usize], labels: &[u32]) -> String {
    let mut text = String::from("class\tlabel\tname\tsample\n");
    for &sample in samples {
        let label = labels.get(sample).copied().unwrap_or(0) as usize;
        let name = record.classes.get(label).map(String::as_str).unwrap_or_default();
        let words = record.words(label).and_then(|words| words.split(',').next()).unwrap_or(name);
        // A string takes whatever is written to it.
        let _ = writeln!(text, "{}\t{label}\t{}\t{sample}", cell(words), cell(name));
    }
    text
}

/// A text without what separates cells and lines.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' | '\t' | '\n' | '\r' => out.extend(letter.escape_default()),
            // Some readers end lines at these too.
            _ if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') => {
                out.extend(letter.escape_unicode())
            }
            _ => out.push(letter),
        }
    }
    out
}

/// All thumbnails in rows, and the side of each.
fn sprite(folder: &StageFolder, record: &Record, samples: &[usize]) -> Result<(Picture, usize)> {
    let images = Images::open(folder, record)?;
    let columns = (samples.len() as f64).sqrt().ceil().max(1.0) as usize;
    let most = THUMBNAIL.min(MOST_SIDE / columns).max(1);
    let thumbnail = |&sample: &usize| {
        let picture = images.picture(sample)?;
        Ok(if picture.height > most { picture.resized(most) } else { picture })
    };
    let thumbnails = samples.iter().map(thumbnail).collect::<Result<Vec<_>>>()?;
    let side = thumbnails.first().map_or(1, |picture| picture.height);
    Ok((Picture::grid(&thumbnails, columns, (0, [0; 3])), side))
}

/// The text by which the projector finds the files.
fn config(name: &str, thumbnail: Option<usize>) -> String {
    let sprite = thumbnail.map_or_else(String::new, |side| {
        format!(
            "  sprite {{\n    image_path: \"{}\"\n    single_image_dim: {side}\n    single_image_dim: {side}\n  }}\n",
            FILES[2]
        )
    });
    let name: String = name.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
    format!(
        "embeddings {{\n  tensor_name: \"{name}\"\n  tensor_path: \"{}\"\n  metadata_path: \"{}\"\n{sprite}}}\n",
        FILES[0], FILES[1]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_ends_a_cell_or_a_line() {
        assert_eq!(cell("a\tb\nc\\d\r\u{85}é"), r"a\tb\nc\\d\r\u{85}é");
        assert!(config("a\"b\n\\", None).starts_with("embeddings {\n  tensor_name: \"ab\"\n"));
    }
}
