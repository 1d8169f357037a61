//! Workers: each makes, checks or verifies one part of a node's shards, wherever it runs, and leaves a receipt.
//!
//! A worker takes all it needs from the record in the node's folder, so that no two can be of different minds. It may be
//! killed at any instant and started again, be there twice, or come when the node was finished by others: whatever it puts
//! in place is whole and has the same bytes as anybody else's. Its lock, a reader's, only makes who finishes the node wait.

use super::ancestry::{Ancestry, Inputs};
use super::contents::array_name;
use super::folder::StageFolder;
use super::network::{load_block, recipe};
use super::receipt::{CHECK_FIRST, Found, Receipt, bad_images, identity};
use super::receipt_file::ReceiptFile;
use super::record::{MadeOn, Record, State};
use super::verify::{Finding, check_file, sums, survey};
use crate::disk;
use crate::error::{self, Error, Result};
use crate::features::{self, Extraction, Ledger, Portion, Redecoding, ShardSum, Split, Sums};
use crate::images::{ImageSet, SplitImages};
use crate::lock::Lock;
use crate::network::Sequence;
use crate::pipeline::{BadImage, Kind, Recipe, Stage};
use crate::progress::{Progress, Task};
use candle_core::Device;
use rayon::prelude::*;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a worker looks again for what another machine has written.
const PAUSE: Duration = Duration::from_secs(1);

/// One part of the work over a node's shards.
pub struct ShardWorker<'a> {
    /// The folder of the node.
    pub folder: &'a StageFolder,
    /// The part.
    pub portion: Portion,
    /// Where blocks are run.
    pub device: &'a Device,
    /// Settings that are others here, such as the path of the images.
    pub overrides: &'a [String],
    /// How long to wait until what another machine has written can be seen here.
    pub patience: Duration,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl ShardWorker<'_> {
    /// Makes the shards of the part that are not there yet and writes the receipt.
    ///
    /// # Errors
    /// When the node was not begun or is not trained, an input is damaged, an image is bad, the disk refuses or the user
    /// interrupts; what was made until then stays.
    pub fn make(&self) -> Result<Receipt> {
        let _working = Lock::share_after_writer(self.folder.path(), self.progress)?;
        let record = self.patiently(|| self.begun())?;
        let started = Instant::now();
        let receipt = match (record.state, record.kind) {
            (State::Finished, _) => self.finished(&record)?,
            (_, Kind::Images) => self.decode(&record)?,
            _ => self.extract(&record)?,
        };
        let receipt = Receipt { seconds: started.elapsed().as_secs_f64(), ..receipt };
        receipt.write(&ReceiptFile::Whole.path(self.folder.path(), self.portion))?;
        disk::remove(&ReceiptFile::Begun.path(self.folder.path(), self.portion))?;
        Ok(receipt)
    }

    /// Looks at a part of the images, and writes down which are bad.
    ///
    /// # Errors
    /// When the images were not begun, one cannot be read, the disk refuses or the user interrupts.
    pub fn check(&self) -> Result<Receipt> {
        let _working = Lock::share_after_writer(self.folder.path(), self.progress)?;
        let record = self.patiently(|| self.begun())?;
        if record.kind != Kind::Images {
            return Err(Error::usage(format!("{} holds no images to be checked", record.title())));
        }
        let started = Instant::now();
        let pipeline = recipe(self.folder, &record, self.overrides)?;
        let images = self.images(&pipeline)?;
        let mut receipt = self.receipt(&record, &Found::default());
        for (split, own) in both(&images) {
            // A finished stage knows what it left out.
            let checked = match record.state {
                State::Finished => {
                    features::Checked { bad: features::list_skipped(own, &record.skipped), odd: Vec::new() }
                }
                _ => features::check_images((split, own), &pipeline, self.portion, self.progress)?,
            };
            receipt.bad.add(split, checked.bad);
            receipt.odd.add(split, checked.odd);
        }
        receipt.seconds = started.elapsed().as_secs_f64();
        receipt.write(&ReceiptFile::Check.path(self.folder.path(), self.portion))?;
        Ok(receipt)
    }

    /// Tries again what fails, as long as there is patience: what another machine has written may not be seen here yet.
    fn patiently<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            match attempt() {
                Err(e) if e.kind() == error::Kind::Failed && started.elapsed() < self.patience => {}
                done => return done,
            }
            self.progress.check()?;
            thread::sleep(PAUSE.min(self.patience));
        }
    }

    /// The record, which must say that shards come next, or that they are there.
    fn begun(&self) -> Result<Record> {
        let none = |fault: &str| {
            Error::failed(format!("no shards can be made in `{}`: {fault}", self.folder.path().display())).hint(
                "`greedy stage N --from … --until trained`, or `greedy run PIPELINE NODE --until trained`, comes first",
            )
        };
        let record = Record::read(self.folder.path())?.ok_or_else(|| none("it was not begun"))?;
        if !record.kind.is_stage() {
            return Err(Error::usage(format!("{} has no shards", record.title()))
                .hint("shards are those of the images and of stages"));
        }
        match record.state {
            State::Begun if record.kind != Kind::Images => Err(none(&format!("{} is not trained yet", record.title()))),
            _ => Ok(record),
        }
    }

    fn receipt(&self, record: &Record, bad: &Found) -> Receipt {
        let made_on = MadeOn::here(if record.kind == Kind::Images { &Device::Cpu } else { self.device });
        Receipt::begin(record.title(), self.portion, identity(record, bad), made_on)
    }

    /// The receipt of a part of a node that others have finished: its shards are there.
    fn finished(&self, record: &Record) -> Result<Receipt> {
        self.progress.say(&format!("{} is finished: nothing to be done", record.title()));
        let mut receipt = self.receipt(record, &self.left_out(record)?);
        receipt.made_on = record.made_on.clone();
        let mut at = 0..;
        for split in Split::BOTH {
            let array = array_name(split);
            let written = record.arrays.get(&array).into_iter().flat_map(|written| &written.shards);
            let own: Vec<_> = written.filter(|_| at.next().is_some_and(|at| self.portion.has(at))).cloned().collect();
            receipt.arrays.insert(array, own);
        }
        Ok(receipt)
    }

    /// What finished images have left out, as it stands in the receipts of those who decode.
    fn left_out(&self, record: &Record) -> Result<Found> {
        let mut bad = Found::default();
        if !record.skipped.is_empty() {
            let pipeline = recipe(self.folder, record, self.overrides)?;
            for (split, own) in both(&self.images(&pipeline)?) {
                bad.add(split, features::list_skipped(own, &record.skipped));
            }
        }
        Ok(bad)
    }

    fn images(&self, pipeline: &Recipe) -> Result<ImageSet> {
        let cache = self.folder.path().parent().filter(|folder| !folder.as_os_str().is_empty());
        ImageSet::open_keeping(&pipeline.data, pipeline.seed, cache.unwrap_or(Path::new(".")))
    }

    fn decode(&self, record: &Record) -> Result<Receipt> {
        let pipeline = recipe(self.folder, record, self.overrides)?;
        let bad = match (pipeline.data.on_bad_image, record.arrays.is_empty()) {
            (BadImage::Fail, _) => Found::default(),
            (BadImage::Skip, false) => self.left_out(record)?,
            (BadImage::Skip, true) => {
                self.patiently(|| bad_images(self.folder, record).ok_or_else(|| self.unchecked()))?
            }
        };
        let images = self.images(&pipeline)?;
        // Before any shard is there: whoever finds shards must know which images are not in them.
        for split in Split::BOTH {
            features::note_skipped(self.folder.path(), split, bad.of(split))?;
        }
        let [train, val] = both(&images)
            .map(|(split, own)| Redecoding::without((self.folder.path(), split), own, &pipeline, bad.of(split)));
        let places = self.portion.shards([train.layout(), val.layout()]);
        let desk = Desk::open(self, record, &bad);
        for ((split, own), places) in Split::BOTH.into_iter().zip([train, val]).zip(places) {
            let odd = |list| desk.receipt().odd.add(split, list);
            own.write_part(&places, (&desk.of(split), &odd), self.progress)?;
        }
        Ok(desk.close())
    }

    fn unchecked(&self) -> Error {
        let folder = self.folder.path().display();
        let fault = format!("it is not known yet which images of `{folder}` are bad, and are to be left out");
        Error::failed(fault).hint(CHECK_FIRST)
    }

    /// What a stage reads, and its block; the locks keep others from writing there.
    fn open(&self, record: &Record, pipeline: &Recipe, stage: &Stage) -> Result<(Inputs, Sequence, Vec<Lock>)> {
        let (parent, _) =
            self.folder.parent(record)?.ok_or_else(|| Error::failed("its record names no stage before it"))?;
        let nearest = record.features_of();
        let ancestry = Ancestry::follow(&parent, nearest)?;
        let reading = ancestry.share()?;
        let inputs = ancestry.inputs(pipeline, stage, nearest, self.device)?;
        Ok((inputs, load_block(self.folder, record, pipeline, self.device)?, reading))
    }

    fn extract(&self, record: &Record) -> Result<Receipt> {
        let pipeline = recipe(self.folder, record, self.overrides)?;
        let stage = record.stage.checked_sub(1).and_then(|at| pipeline.stages.get(at));
        let stage = stage.ok_or_else(|| Error::failed("its record has no settings of its stage"))?;
        let (Inputs { train, val, .. }, block, _reading) = self.patiently(|| self.open(record, &pipeline, stage))?;
        let extraction = Extraction {
            stage: self.folder.path(),
            block: &block.frozen()?,
            features: &pipeline.features,
            encoding: pipeline.features.encoding(&stage.block),
            progress: self.progress,
        };
        let inputs = [(Split::Train, &train), (Split::Val, &val)];
        let begun = |(split, input)| {
            extraction.begun(split, input).map_err(|e| {
                e.or_hint("`greedy stage N --from … --until trained` begins them, and `greedy run PIPELINE NODE --until trained`")
            })
        };
        let layouts = self.patiently(|| Ok([begun(inputs[0])?, begun(inputs[1])?]))?;
        let places = self.portion.shards([&layouts[0], &layouts[1]]);
        let none = Found::default();
        let desk = Desk::open(self, record, &none);
        for (at, (split, input)) in inputs.into_iter().enumerate() {
            extraction.write_part(split, (input, &layouts[at]), &places[at], &desk.of(split))?;
        }
        Ok(desk.close())
    }
}

fn both(images: &ImageSet) -> [(Split, &SplitImages); 2] {
    [(Split::Train, &images.train), (Split::Val, &images.val)]
}

/// Keeps the receipt of a worker while it works.
struct Desk<'a> {
    worker: &'a ShardWorker<'a>,
    receipt: Mutex<Receipt>,
    /// What an earlier attempt at this part has made, on such a device.
    earlier: Option<Receipt>,
    bad: &'a Found,
}

impl<'a> Desk<'a> {
    fn open(worker: &'a ShardWorker<'a>, record: &Record, bad: &'a Found) -> Self {
        let mut receipt = worker.receipt(record, bad);
        let read = |file| Receipt::read(worker.folder, (file, worker.portion), &receipt.of);
        let alike = |earlier: &Receipt| {
            let (own, other) = (&receipt.made_on, &earlier.made_on);
            (&own.device, &own.version) == (&other.device, &other.version)
        };
        let earlier = read(ReceiptFile::Whole).filter(alike).or_else(|| read(ReceiptFile::Begun).filter(alike));
        if let Some(earlier) = &earlier {
            receipt.odd.clone_from(&earlier.odd);
        }
        Self { worker, receipt: Mutex::new(receipt), earlier, bad }
    }

    fn receipt(&self) -> MutexGuard<'_, Receipt> {
        self.receipt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, split: Split) -> Counter<'_> {
        let known = self.earlier.as_ref().map(|earlier| earlier.sums(split)).unwrap_or_default();
        self.receipt().arrays.entry(array_name(split)).or_default();
        Counter { desk: self, split, known }
    }

    fn close(self) -> Receipt {
        self.receipt.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shards of a split.
struct Counter<'a> {
    desk: &'a Desk<'a>,
    split: Split,
    known: Sums,
}

impl Ledger for Counter<'_> {
    fn known(&self, key: &str) -> Option<ShardSum> {
        self.known.get(key).cloned()
    }

    /// The folder may be of another node by now: no lock keeps other machines out for sure. What another attempt has put
    /// in place is left there: somebody on another machine may be reading it, and a disk of the network would take it from
    /// under him.
    fn admit(&self, array: &Path, shard: &ShardSum) -> Result<bool> {
        let folder = self.desk.worker.folder;
        let of = |record: Record| identity(&record, self.desk.bad);
        match Record::read(folder.path())?.map(of) {
            Some(found) if found == self.desk.receipt().of => Ok(!shard.lies_in(array)),
            _ => Err(Error::failed(format!("`{}` was begun anew while this part was made", folder.path().display()))
                .hint("what is needed of it now, whoever began it will ask for")),
        }
    }

    fn note(&self, shard: &ShardSum) -> Result<()> {
        let mut receipt = self.desk.receipt();
        let shards = receipt.arrays.entry(array_name(self.split)).or_default();
        shards.push((shard.key.clone(), shard.bytes, shard.blake3.clone()));
        receipt.write(&ReceiptFile::Begun.path(self.desk.worker.folder.path(), self.desk.worker.portion))
    }
}

/// Holds a part of the files of a finished node against their sums, and says which are wrong; the first part also has what
/// should not be there. Gives the number of files and their bytes too.
///
/// # Errors
/// When the node is not finished, or the user interrupts.
pub fn verify_part(
    folder: &StageFolder,
    portion: Portion,
    progress: &dyn Progress,
) -> Result<(u64, u64, Vec<Finding>)> {
    let _reading = Lock::share_after_writer(folder.path(), progress)?;
    let record = folder.record()?;
    if record.state != State::Finished {
        return Err(Error::failed(format!("{} in `{}` is not finished", record.title(), folder.path().display()))
            .hint("`greedy run` goes on with it"));
    }
    let own: Vec<_> =
        sums(&record).into_iter().enumerate().filter(|(at, _)| portion.has(*at)).map(|(_, one)| one).collect();
    let bytes = own.iter().map(|(_, (bytes, _))| bytes).sum();
    let task: Box<dyn Task> = progress.start_bytes(&format!("verify part {portion}"), bytes);
    let check = |(name, sum): &(String, (u64, String))| {
        let flaw = check_file(&folder.path().join(name), sum, &*task, progress)?;
        Ok(flaw.map(|(flaw, note)| Finding { name: name.into(), flaw, note }))
    };
    let flaws = own.par_iter().map(check).collect::<Result<Vec<_>>>()?;
    let mut findings: Vec<Finding> = flaws.into_iter().flatten().collect();
    if portion.number() == 1 {
        findings.extend(survey(folder).findings);
    }
    findings.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((own.len() as u64, bytes, findings))
}
