//! Receipts of workers: what a part of a node's shards came to, in `parts/2-of-4.json` of the node's folder.
//!
//! A receipt counts for the very node that it was made for: its key, what it read, its weights, and for images those that
//! are left out. It spares whoever finishes the node reading the shards again. One that ends in `.begun.json` lists what
//! is there of a part whose worker has not come to its end; `check-2-of-4.json` says which images of a part are bad.

use super::contents::{BLOCK, array_name};
use super::folder::StageFolder;
use super::receipt_file::{PARTS, ReceiptFile};
use super::record::{MadeOn, Record, is_sealed, sealed};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::{Listed, Portion, ShardSum, Split, Sums};
use crate::progress::Progress;
use crate::temporary;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;

/// Images of both splits, and what is said of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Found(BTreeMap<String, Listed>);

impl Found {
    /// Those of a split, in order.
    pub(super) fn of(&self, split: Split) -> &[(usize, String)] {
        self.0.get(split.name()).map_or(&[], |list| list)
    }

    pub(super) fn add(&mut self, split: Split, list: impl IntoIterator<Item = (usize, String)>) {
        let own = self.0.entry(split.name().into()).or_default();
        own.extend(list);
        own.sort();
        own.dedup();
        if own.is_empty() {
            self.0.remove(split.name());
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// What a worker has done of a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The node, in words.
    pub node: String,
    /// The part, from 1.
    pub part: usize,
    /// How many parts there are.
    pub parts: usize,
    /// A hash of what the node is made of.
    pub of: String,
    /// What computed it.
    pub made_on: MadeOn,
    /// The machine.
    pub host: String,
    /// The process there.
    pub process: u32,
    /// How long that took.
    pub seconds: f64,
    /// Key, length and BLAKE3 hash of each shard, by the array's path in the folder.
    pub arrays: BTreeMap<String, Vec<(String, u64, String)>>,
    /// Images that cannot be decoded, by split.
    #[serde(default)]
    pub bad: Found,
    /// Images that can, although something is odd about them.
    #[serde(default)]
    pub odd: Found,
}

impl Receipt {
    /// One of nothing yet.
    pub(super) fn begin(node: String, portion: Portion, of: String, made_on: MadeOn) -> Self {
        Self {
            node,
            part: portion.number(),
            parts: portion.of(),
            of,
            made_on,
            host: temporary::host().into(),
            process: std::process::id(),
            seconds: 0.0,
            arrays: BTreeMap::new(),
            bad: Found::default(),
            odd: Found::default(),
        }
    }

    pub(super) fn write(&self, path: &std::path::Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        path.parent().map_or(Ok(()), disk::create_folder)?;
        disk::write(path, sealed(&text).as_bytes())
    }

    /// The receipt in a file; nothing where there is none, or it is damaged or of another node.
    pub(super) fn read(folder: &StageFolder, (file, portion): (ReceiptFile, Portion), of: &str) -> Option<Self> {
        let text = disk::read_text(&file.path(folder.path(), portion)).ok().flatten().filter(|text| is_sealed(text))?;
        let receipt: Self = serde_json::from_str(&text).ok()?;
        let fits = receipt.of == of && (receipt.part, receipt.parts) == (portion.number(), portion.of());
        fits.then_some(receipt)
    }

    /// Shards of a split.
    pub(super) fn sums(&self, split: Split) -> Sums {
        let shards = self.arrays.get(&array_name(split)).into_iter().flatten().cloned();
        shards.map(|(key, bytes, blake3)| (key.clone(), ShardSum { key, bytes, blake3 })).collect()
    }

    /// Shards of both splits.
    pub fn shards(&self) -> usize {
        self.arrays.values().map(Vec::len).sum()
    }

    /// Bytes of its shards.
    pub fn bytes(&self) -> u64 {
        self.arrays.values().flatten().map(|(_, bytes, _)| bytes).sum()
    }

    fn is_like(&self, made_on: &MadeOn) -> bool {
        (&self.made_on.device, &self.made_on.version) == (&made_on.device, &made_on.version)
    }
}

/// A hash of what a node's shards are made of: its settings and inputs, the weights of its block, and the images that are
/// left out.
pub(super) fn identity(record: &Record, bad: &Found) -> String {
    let inputs: Vec<&String> = record.inputs.iter().map(|input| &input.output).collect();
    let all = json!([record.key, inputs, record.weights.get(BLOCK), bad]);
    blake3::hash(all.to_string().as_bytes()).to_hex().to_string()
}

/// The files of receipts in a node's folder, in order.
fn receipt_files(folder: &StageFolder) -> Vec<(ReceiptFile, Portion)> {
    let entries = fs::read_dir(folder.path().join(PARTS)).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries.filter_map(|entry| ReceiptFile::of(entry.file_name().to_str()?)).collect();
    all.sort_by_key(|(file, portion)| (portion.of(), portion.number(), *file != ReceiptFile::Whole));
    all
}

/// Removes the receipts of parts that were begun and never done: the node is about to be finished without them.
pub(super) fn forget_begun(folder: &StageFolder) -> Result<()> {
    let mut begun = receipt_files(folder).into_iter().filter(|(file, _)| *file == ReceiptFile::Begun);
    begun.try_for_each(|(file, portion)| disk::remove(&file.path(folder.path(), portion)))
}

/// Whether workers have left receipts of shards.
pub(super) fn has_shards(folder: &StageFolder) -> bool {
    receipt_files(folder).into_iter().any(|(file, _)| file != ReceiptFile::Check)
}

/// The way out where it is not known which images are bad.
pub(super) const CHECK_FIRST: &str =
    "let workers check all parts first: `greedy shards images PIPELINE --check --part I/N`, with the same N";

/// The images that all parts together have found to be bad; nothing where no number of parts is complete.
pub(super) fn bad_images(folder: &StageFolder, record: &Record) -> Option<Found> {
    let of = identity(record, &Found::default());
    let checks: Vec<Portion> = receipt_files(folder)
        .into_iter()
        .filter(|(file, _)| *file == ReceiptFile::Check)
        .map(|(_, portion)| portion)
        .collect();
    let complete = |parts: usize| {
        let portions = (1..=parts).map(|number| Portion::new(number, parts).ok());
        let receipts: Option<Vec<Receipt>> =
            portions.map(|portion| Receipt::read(folder, (ReceiptFile::Check, portion?), &of)).collect();
        let mut bad = Found::default();
        for (receipt, split) in receipts?.iter().flat_map(|receipt| Split::BOTH.map(|split| (receipt, split))) {
            bad.add(split, receipt.bad.of(split).iter().cloned());
        }
        Some(bad)
    };
    // The first part of a number of parts stands for all of them.
    checks.into_iter().filter(|portion| portion.number() == 1).find_map(|portion| complete(portion.of()))
}

/// All receipts of a node.
pub(super) struct Receipts {
    all: Vec<Receipt>,
    /// Files that hold none of this node's.
    others: usize,
}

impl Receipts {
    /// Those in a folder that are of a node.
    pub fn read(folder: &StageFolder, of: &str) -> Self {
        let (mut all, mut others) = (Vec::<Receipt>::new(), 0);
        for file in receipt_files(folder).into_iter().filter(|(file, _)| *file != ReceiptFile::Check) {
            match Receipt::read(folder, file, of) {
                // A part that was done says all that one which was begun does.
                Some(receipt) if all.last().is_some_and(|last| same_part(last, &receipt)) => {}
                Some(receipt) => all.push(receipt),
                None => others += 1,
            }
        }
        Self { all, others }
    }

    /// What made the shards; nothing where there are no receipts.
    ///
    /// # Errors
    /// When several devices or versions did, which may round differently.
    pub fn made_on(&self) -> Result<Option<MadeOn>> {
        let like = |receipt: &Receipt| self.all.iter().filter(|other| other.is_like(&receipt.made_on)).count();
        let Some(most) = self.all.iter().max_by_key(|receipt| like(receipt)) else { return Ok(None) };
        if let Some(other) = self.all.iter().find(|receipt| !receipt.is_like(&most.made_on)) {
            let on = |made: &MadeOn| format!("{} by greedy {}", made.device, made.version);
            let part = |receipt: &Receipt| format!("{}/{}", receipt.part, receipt.parts);
            return Err(Error::failed(format!(
                "part {} of {} was made on {}, and part {} on {}: they may not round alike",
                part(most),
                most.node,
                on(&most.made_on),
                part(other),
                on(&other.made_on)
            ))
            .hint(format!(
                "make part {} again as the other was, with `greedy shards … --part {0} --device {}`",
                part(other),
                most.made_on.device.split(' ').next().unwrap_or_default()
            )));
        }
        let alike = self.all.iter().all(|receipt| receipt.made_on == most.made_on);
        let threads = if alike { most.made_on.threads } else { rayon::current_num_threads() };
        Ok(Some(MadeOn { threads, ..most.made_on.clone() }))
    }

    /// Fails where shards without receipts would come from another device or version than the others.
    pub fn refuse_to_add(&self, missing: usize, own: &MadeOn, folder: &StageFolder) -> Result<()> {
        let Some(other) = self.all.iter().find(|receipt| !receipt.is_like(own)) else { return Ok(()) };
        if missing == 0 {
            return Ok(());
        }
        let (made, folder) = (&other.made_on, folder.path().display());
        Err(Error::failed(format!(
            "{missing} shards of `{folder}` have no receipt, and the others were made on {} by greedy {}, where this is {} by \
             greedy {}: they may not round alike",
            made.device, made.version, own.device, own.version
        ))
        .hint(format!("let workers make them there ({}), or run this there", self.missing_parts())))
    }

    /// Which parts have no receipt, in words.
    fn missing_parts(&self) -> String {
        let Some(parts) = self.all.iter().map(|receipt| receipt.parts).max() else { return "all parts".into() };
        let there = |number: &usize| self.all.iter().any(|one| (one.part, one.parts) == (*number, parts));
        let missing: Vec<String> = (1..=parts).filter(|number| !there(number)).map(|part| part.to_string()).collect();
        match &missing[..] {
            [] => format!("of {parts} parts some that were not finished"),
            missing => format!("of {parts} parts {}", missing.join(", ")),
        }
    }

    /// Says how many shards are known, and how many are left.
    pub fn say(&self, missing: usize, progress: &dyn Progress) {
        self.say_all(progress);
        if missing > 0 {
            progress.say(&format!("  {missing} shards have none and are written here: {}", self.missing_parts()));
        }
    }

    /// Says how many shards are known.
    pub fn say_all(&self, progress: &dyn Progress) {
        let shards: usize = self.all.iter().map(Receipt::shards).sum();
        let others = match self.others {
            0 => String::new(),
            others => format!("; {others} others are damaged or of what it was before"),
        };
        progress.say(&format!("  {} receipts of workers, of {shards} shards{others}", self.all.len()));
    }

    /// The shards of a split that have receipts; where two disagree, neither counts.
    pub fn sums(&self, split: Split) -> Sums {
        let (mut all, mut disputed) = (Sums::new(), Vec::new());
        for (key, shard) in self.all.iter().flat_map(|receipt| receipt.sums(split)) {
            match all.get(&key) {
                Some(other) if *other != shard => disputed.push(key),
                _ => drop(all.insert(key, shard)),
            }
        }
        all.retain(|key, _| !disputed.contains(key));
        all
    }

    /// Images of a split that are odd.
    pub fn odd(&self, split: Split) -> Listed {
        let mut all = Found::default();
        self.all.iter().for_each(|receipt| all.add(split, receipt.odd.of(split).iter().cloned()));
        all.of(split).to_vec()
    }
}

fn same_part(one: &Receipt, other: &Receipt) -> bool {
    (one.part, one.parts) == (other.part, other.parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn made_on(device: &str) -> MadeOn {
        MadeOn { version: "1".into(), device: device.into(), threads: 2 }
    }

    /// A receipt of one shard, written into a folder.
    fn put(folder: &StageFolder, file: ReceiptFile, (number, of): (usize, usize), device: &str, hash: &str) {
        let portion = Portion::new(number, of).unwrap();
        let mut receipt = Receipt::begin("stage 1".into(), portion, "key".into(), made_on(device));
        let shard = (format!("c/0/{number}/0/0/0"), 10, hash.to_string());
        receipt.arrays.insert("train/features".into(), vec![shard]);
        receipt.write(&file.path(folder.path(), portion)).unwrap();
    }

    #[test]
    fn receipts_count_for_their_own_node_and_only_whole() {
        let place = tempfile::tempdir().unwrap();
        let folder = StageFolder::new(place.path());
        put(&folder, ReceiptFile::Whole, (1, 3), "cpu", "a");
        put(&folder, ReceiptFile::Begun, (1, 3), "cuda", "b");
        put(&folder, ReceiptFile::Begun, (2, 3), "cpu", "b");
        put(&folder, ReceiptFile::Whole, (3, 3), "cpu", "c");
        let path = ReceiptFile::Whole.path(folder.path(), Portion::new(3, 3).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("10,", "11,")).unwrap();
        let receipts = Receipts::read(&folder, "key");
        assert_eq!((receipts.all.len(), receipts.others), (2, 1));
        assert_eq!(receipts.made_on().unwrap(), Some(made_on("cpu")));
        assert_eq!(receipts.sums(Split::Train).keys().collect::<Vec<_>>(), ["c/0/1/0/0/0", "c/0/2/0/0/0"]);
        assert_eq!(receipts.missing_parts(), "of 3 parts 3");
        assert!(Receipts::read(&folder, "another").all.is_empty());
        receipts.say(1, &Silent);
    }

    #[test]
    fn mixtures_of_devices_are_refused_with_the_part_that_differs() {
        let place = tempfile::tempdir().unwrap();
        let folder = StageFolder::new(place.path());
        put(&folder, ReceiptFile::Whole, (1, 3), "cuda", "a");
        put(&folder, ReceiptFile::Whole, (2, 3), "cpu", "b");
        put(&folder, ReceiptFile::Whole, (3, 3), "cuda", "c");
        let error = Receipts::read(&folder, "key").made_on().unwrap_err();
        assert!(error.to_string().contains("part 2/3 on cpu"), "{error}");
        assert!(error.hint_text().unwrap().contains("--part 2/3 --device cuda"), "{error:?}");
        put(&folder, ReceiptFile::Whole, (2, 3), "cuda", "b");
        let receipts = Receipts::read(&folder, "key");
        assert!(receipts.made_on().unwrap().is_some());
        assert!(receipts.refuse_to_add(0, &made_on("cpu"), &folder).is_ok());
        assert!(receipts.refuse_to_add(1, &made_on("cuda"), &folder).is_ok());
        assert!(receipts.refuse_to_add(1, &made_on("cpu"), &folder).is_err());
    }

    #[test]
    fn where_receipts_disagree_about_a_shard_none_counts() {
        let place = tempfile::tempdir().unwrap();
        let folder = StageFolder::new(place.path());
        put(&folder, ReceiptFile::Whole, (1, 2), "cpu", "a");
        put(&folder, ReceiptFile::Whole, (1, 3), "cpu", "b");
        put(&folder, ReceiptFile::Whole, (2, 3), "cpu", "c");
        let sums = Receipts::read(&folder, "key").sums(Split::Train);
        assert_eq!(sums.keys().collect::<Vec<_>>(), ["c/0/2/0/0/0"]);
    }
}
