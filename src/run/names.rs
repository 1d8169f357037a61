//! The names of all that this program puts into the folder of a stage; whatever has another name is somebody else's.

use super::folder::{AUXILIARY, BLOCK};
use super::record;
use crate::disk::UNFINISHED;
use crate::features::{KEPT, PROBE};
use crate::lock::LOCK;
use crate::training::is_checkpoint;
use std::path::Path;

/// Whether a path in a stage's folder is that of a file of ours.
pub(super) fn is_ours(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    match &parts[..] {
        ["train" | "val", below @ ..] => match below {
            ["zarr.json" | "skipped.json"] | ["features" | "labels" | "logits", "zarr.json"] => true,
            ["labels", "c", "0"] | ["logits", "c", "0", "0"] => true,
            ["features", "c", view, shard, "0", "0", "0"] => is_number(view) && is_number(shard),
            _ => false,
        },
        ["checkpoint", file] => is_checkpoint(file) || [KEPT, "warned-train.json", "warned-val.json"].contains(file),
        _ => [record::NAME, record::SPARE, LOCK, BLOCK, AUXILIARY, PROBE, "zarr.json"].contains(&name),
    }
}

/// Whether it is that of a file of ours that was never finished.
pub(super) fn is_leftover(name: &Path) -> bool {
    let whole = name.to_str().and_then(|name| name.strip_suffix(UNFINISHED)?.strip_suffix('.'));
    whole.is_some_and(is_ours)
}

/// Whether it is that of a folder of ours that a user may keep elsewhere, with a link in its place.
pub(super) fn may_be_linked(name: &Path) -> bool {
    let parts: Vec<&str> = name.to_str().unwrap_or_default().split('/').collect();
    match parts[..] {
        ["train" | "val" | "checkpoint" | "spare"] => true,
        ["train" | "val", array] | ["train" | "val", array, "c"] => ["features", "labels", "logits"].contains(&array),
        _ => false,
    }
}

/// As a number is written in a name.
fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok_and(|number| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_this_program_gives_are_ours() {
        let ours = ["record.json", "train/features/c/0/12/0/0/0", "checkpoint/epoch-000001-step-00000000.safetensors"];
        for name in ours {
            assert!(is_ours(name) && is_leftover(Path::new(&format!("{name}.unfinished"))), "{name}");
        }
        for name in ["", "thesis.tex", "train/thesis.tex", "train/features/c/0/07/0/0/0", "train//zarr.json"] {
            assert!(!is_ours(name) && !is_leftover(Path::new(&format!("{name}.unfinished"))), "{name}");
        }
        let outside = ["../stage2/zarr.json", "/etc/zarr.json", "train/../zarr.json", "checkpoint/mine.safetensors"];
        assert!(!outside.into_iter().any(is_ours));
    }
}
