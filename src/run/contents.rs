//! What lies in the folder of a node: one table of all files, what they are, and which kinds of node have them.

use super::receipt_file::{PARTS, ReceiptFile};
use crate::features::{PROBE, Split, VIEW_CACHE};
use crate::lock::LOCK;
use crate::pipeline::Kind;
use crate::temporary;
use crate::training::is_checkpoint;
use std::path::Path;

/// The record.
pub(super) const RECORD: &str = "record.json";
/// Its copy, which serves where the file itself is damaged: without a record a node counts for nothing.
pub(super) const SPARE: &str = "spare/record.json";
/// The file of a block's weights.
pub(super) const BLOCK: &str = "block.safetensors";
/// The file of a classifier's weights.
pub(super) const HEAD: &str = "auxiliary.safetensors";
/// The file of the weights of a network of which stages are taken.
pub(super) const NETWORK: &str = "network.safetensors";

/// The file that says, while a run writes here, what it does at this moment.
pub(super) const UNDERWAY: &str = "progress.json";
/// The values of the logits of validation samples.
pub(super) const LOGITS: &str = "val/logits/c/0/0";

/// The file of a cache that remembers which features are kept, where that was planned.
pub(super) const CHOICE: &str = "plan.json";

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Says what the node is made of, and the sums of all else.
    Record,
    /// Comes from training alone.
    Weights,
    /// Metadata, labels, logits: small, and a function of the rest.
    Small,
    /// A shard of features or images.
    Shard,
    /// Of no use once training is over.
    Checkpoint,
    /// Of use only while a run writes here.
    Transient,
    /// What workers have done of it.
    Receipt,
    /// The operating system's.
    Lock,
}

/// Files of one pattern: `*` stands for a number, `@` for the name of a checkpoint, `#` for that of a receipt, `{train,val}` for either.
struct Entry {
    pattern: &'static str,
    class: Class,
    kinds: &'static [Kind],
}

const ALL: &[Kind] = &Kind::ALL;
const FEATURES: &[Kind] = &[Kind::Images, Kind::Block, Kind::Pruned, Kind::Depth, Kind::Scattering];
const BLOCKS: &[Kind] = &[Kind::Block, Kind::Wide, Kind::Pruned, Kind::Depth, Kind::Scattering];
const NETWORKS: &[Kind] = &[Kind::EndToEnd, Kind::Decoupled, Kind::Imported];
const CLASSIFYING: &[Kind] = &[
    Kind::Block,
    Kind::Wide,
    Kind::Pruned,
    Kind::Depth,
    Kind::EndToEnd,
    Kind::Decoupled,
    Kind::Imported,
    Kind::Classifier,
    Kind::Ensemble,
];
const LABELLED: &[Kind] = &[
    Kind::Images,
    Kind::Block,
    Kind::Wide,
    Kind::Pruned,
    Kind::Depth,
    Kind::Scattering,
    Kind::EndToEnd,
    Kind::Decoupled,
    Kind::Imported,
    Kind::Classifier,
    Kind::Ensemble,
];

const fn entry(pattern: &'static str, class: Class, kinds: &'static [Kind]) -> Entry {
    Entry { pattern, class, kinds }
}

/// All that this program puts into the folder of a node.
const TABLE: [Entry; 20] = [
    entry(RECORD, Class::Record, ALL),
    entry(SPARE, Class::Record, ALL),
    entry(LOCK, Class::Lock, ALL),
    entry(UNDERWAY, Class::Transient, ALL),
    entry(BLOCK, Class::Weights, BLOCKS),
    entry(HEAD, Class::Weights, &[Kind::Block, Kind::Wide, Kind::Pruned, Kind::Depth, Kind::Classifier]),
    entry(NETWORK, Class::Weights, NETWORKS),
    entry("checkpoint/@", Class::Checkpoint, ALL),
    entry(PROBE, Class::Checkpoint, FEATURES),
    entry("parts/#", Class::Receipt, FEATURES),
    entry("zarr.json", Class::Small, ALL),
    entry("{train,val}/zarr.json", Class::Small, ALL),
    entry("{train,val}/skipped.json", Class::Small, &[Kind::Images]),
    entry("{train,val}/labels/zarr.json", Class::Small, LABELLED),
    entry("{train,val}/labels/c/0", Class::Small, LABELLED),
    entry("val/logits/zarr.json", Class::Small, CLASSIFYING),
    entry(LOGITS, Class::Small, CLASSIFYING),
    entry("{train,val}/features/zarr.json", Class::Small, FEATURES),
    entry("{train,val}/features/c/*/*/0/0/0", Class::Shard, FEATURES),
    entry("{train,val}/features/c/*", Class::Shard, &[Kind::Images]),
];

/// Folders that a user may keep elsewhere, with a link in their place.
const LINKABLE: [&str; 10] = [
    "{train,val}",
    "checkpoint",
    PARTS,
    "spare",
    "{train,val}/features",
    "{train,val}/features/c",
    "{train,val}/labels",
    "{train,val}/labels/c",
    "val/logits",
    "val/logits/c",
];

/// What stands at the top of a node's folder, but for the lock; the record goes last: as long as it is there, the folder
/// is known for a node's.
pub(super) const TOP: [&str; 11] =
    [UNDERWAY, "zarr.json", BLOCK, HEAD, NETWORK, "checkpoint", PARTS, "train", "val", "spare", RECORD];

/// The name of a split's features in a record.
pub(super) fn array_name(split: Split) -> String {
    format!("{}/features", split.name())
}

/// The splits whose labels a kind of node has.
pub(super) fn labelled(kind: Kind) -> &'static [Split] {
    match kind {
        Kind::Images | Kind::Block | Kind::Wide | Kind::Pruned | Kind::Depth | Kind::Scattering => &Split::BOTH,
        Kind::EndToEnd | Kind::Decoupled | Kind::Imported | Kind::Classifier | Kind::Ensemble => &[Split::Val],
        Kind::Probe => &[],
    }
}

/// What a file of a path in a node's folder is; nothing where no node of the kind has such a file. Without a kind, where
/// no node at all has it.
pub(super) fn class(name: &str, kind: Option<Kind>) -> Option<Class> {
    let found = TABLE.iter().find(|entry| matches(entry.pattern, name))?;
    kind.is_none_or(|kind| found.kinds.contains(&kind)).then_some(found.class)
}

/// Whether it is the path of a file of ours that was never finished.
pub(super) fn is_leftover(name: &Path) -> bool {
    name.to_str().and_then(temporary::target).is_some_and(|name| class(name, None).is_some())
}

/// Whether a user may keep a folder of ours elsewhere, with a link in its place.
pub(super) fn may_be_linked(name: &Path) -> bool {
    let name = name.to_str().unwrap_or_default();
    LINKABLE.iter().any(|pattern| matches(pattern, name))
}

fn matches(pattern: &str, name: &str) -> bool {
    let (mut wanted, mut found) = (pattern.split('/'), name.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(wanted), Some(found)) if part_matches(wanted, found) => {}
            _ => return false,
        }
    }
}

fn part_matches(pattern: &str, name: &str) -> bool {
    match pattern {
        "*" => name.parse::<u32>().is_ok_and(|number| number.to_string() == name),
        "@" => is_checkpoint(name) || [VIEW_CACHE, "warned-train.json", "warned-val.json"].contains(&name),
        "#" => ReceiptFile::of(name).is_some(),
        "{train,val}" => name == "train" || name == "val",
        _ => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ours(name: &str) -> bool {
        class(name, None).is_some()
    }

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

    #[test]
    fn a_kind_of_node_has_its_files_and_no_others() {
        assert_eq!(class(BLOCK, Some(Kind::Depth)), Some(Class::Weights));
        assert_eq!(class(BLOCK, Some(Kind::Images)), None);
        assert_eq!(class(NETWORK, Some(Kind::Block)), None);
        assert_eq!(class("train/skipped.json", Some(Kind::Images)), Some(Class::Small));
        assert_eq!(class("train/features/c/0/0/0/0/0", Some(Kind::EndToEnd)), None);
        assert_eq!(class("val/logits/c/0/0", Some(Kind::Ensemble)), Some(Class::Small));
        assert_eq!(class("val/labels/c/0", Some(Kind::Probe)), None);
    }

    #[test]
    fn what_lies_at_the_top_covers_the_table() {
        let top = |pattern: &str| pattern.split('/').next().unwrap_or_default().to_string();
        for entry in TABLE.iter().filter(|entry| ![Class::Lock].contains(&entry.class) && entry.pattern != PROBE) {
            let first = top(entry.pattern);
            assert!(first == "{train,val}" || TOP.contains(&first.as_str()), "{}", entry.pattern);
        }
    }
}
