//! The names of the files that receipts of workers are in: `2-of-4.json`, `2-of-4.begun.json` and `check-2-of-4.json`.

use crate::features::Portion;
use std::path::{Path, PathBuf};

/// The folder of the receipts of workers in that of a node.
pub(super) const PARTS: &str = "parts";

/// What a receipt in a file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiptFile {
    /// All shards of a part are there.
    Whole,
    /// Some of them are.
    Begun,
    /// The images of a part were looked at.
    Check,
}

impl ReceiptFile {
    /// The file of a part in a node's folder.
    pub fn path(self, node: &Path, portion: Portion) -> PathBuf {
        let (number, of) = (portion.number(), portion.of());
        node.join(PARTS).join(match self {
            Self::Whole => format!("{number}-of-{of}.json"),
            Self::Begun => format!("{number}-of-{of}.begun.json"),
            Self::Check => format!("check-{number}-of-{of}.json"),
        })
    }

    /// What a file of a name is, and of which part; nothing where it is no name of a receipt.
    pub fn of(name: &str) -> Option<(Self, Portion)> {
        let name = name.strip_suffix(".json")?;
        let (file, name) = match (name.strip_prefix("check-"), name.strip_suffix(".begun")) {
            (Some(name), None) => (Self::Check, name),
            (None, Some(name)) => (Self::Begun, name),
            _ => (Self::Whole, name),
        };
        let (number, of) = name.split_once("-of-")?;
        let whole = |text: &str| text.parse::<usize>().ok().filter(|number| number.to_string() == text);
        Some((file, Portion::new(whole(number)?, whole(of)?).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_receipts_are_read() {
        for (name, is) in [
            ("2-of-4.json", true),
            ("2-of-4.begun.json", true),
            ("check-2-of-4.json", true),
            ("check-2-of-4.begun.json", false),
            ("02-of-4.json", false),
            ("5-of-4.json", false),
            ("0-of-4.json", false),
            ("2-of-4", false),
            ("thesis.json", false),
        ] {
            let found = ReceiptFile::of(name);
            assert_eq!(found.is_some(), is, "{name}");
            if let Some((file, portion)) = found {
                assert_eq!(file.path(Path::new("stage1"), portion), Path::new("stage1/parts").join(name));
            }
        }
    }
}
