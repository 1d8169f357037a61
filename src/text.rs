//! Names of files and classes as text: distinct names stay distinct, and none can steer a terminal.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

/// A path as text. What is no UTF-8 or would not be seen as it is (control characters, marks of direction) is written
/// as an escape such as `\xe9`, `\n` or `\u{202e}`; any other path stays as it is.
pub fn shown(path: &Path) -> String {
    shown_name(path.as_os_str())
}

/// The same for a name of any kind.
pub fn shown_name(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text += &printable(chunk.valid(), &[]);
        for byte in chunk.invalid() {
            // A string takes whatever is written to it.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A text with nothing in it that steers a terminal, but for the characters that are allowed.
pub fn printable(text: &str, allowed: &[char]) -> String {
    let mut clean = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            _ if allowed.contains(&letter) => clean.push(letter),
            '\n' | '\r' | '\t' => clean.extend(letter.escape_default()),
            _ if letter.is_ascii_control() => {
                let _ = write!(clean, "\\x{:02x}", u32::from(letter));
            }
            _ if letter.is_control() || is_direction(letter) => clean.extend(letter.escape_unicode()),
            _ => clean.push(letter),
        }
    }
    clean
}

/// A count with its noun, such as `1 image` and `2 images`.
pub fn counted(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix("class")) {
        (1, _) => format!("1 {noun}"),
        (_, Some(_)) => format!("{count} {noun}es"),
        _ => format!("{count} {noun}s"),
    }
}

/// A class as people call it, shortly, with its name where that says nothing.
pub fn class(name: &str, words: Option<&str>) -> String {
    match words.and_then(|words| words.split(',').next()) {
        Some(word) => format!("{word} ({name})"),
        None => name.into(),
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_./=:,+@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Whether a character turns the direction of what follows it.
fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn names_that_differ_are_shown_differently_and_plain_ones_as_they_are() {
        let show = |bytes: &[u8]| shown_name(OsStr::from_bytes(bytes));
        assert_eq!(show("train/café/1 2.jpg".as_bytes()), "train/café/1 2.jpg");
        assert_eq!((show(b"caf\xe9"), show(b"caf\xe8")), (r"caf\xe9".into(), r"caf\xe8".into()));
        assert_eq!(show(b"a\x1b[2J\nb\r\x7f"), r"a\x1b[2J\nb\r\x7f");
        assert_eq!(show("\u{85}\u{202e}".as_bytes()), r"\u{85}\u{202e}");
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_change_them() {
        assert_eq!(quoted("training.epochs=5"), "training.epochs=5");
        assert_eq!(quoted("network.space_to_depth=[1, 2]"), "'network.space_to_depth=[1, 2]'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn lines_stay_lines_where_that_is_wanted() {
        assert_eq!(printable("a\n\tb\x07", &['\n', '\t']), "a\n\tb\\x07");
    }
}
