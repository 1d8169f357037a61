//! `progress.json`: what a run does in a node's folder at this moment, for those who watch it from elsewhere.
//!
//! Nobody relies on it: it is not synced, a fault in writing it is passed over, and it goes before the node's record
//! is written. One without a process that writes in the folder is left over from a run that was killed.

use super::contents::UNDERWAY;
use super::folder::StageFolder;
use crate::disk;
use crate::lock;
use crate::pipeline::Node;
use crate::progress::{Progress, Standing, Task};
use crate::temporary;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the file is written at most.
const EVERY: Duration = Duration::from_secs(1);
/// How long a run on another machine may say nothing before it counts as killed.
const SILENCE: Duration = Duration::from_secs(600);
/// Bytes of such a file at most.
const MOST: u64 = 1 << 16;

/// What a run does at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Underway {
    /// The node, by its name in the graph.
    pub node: String,
    /// The process that works on it.
    pub process: u32,
    /// Its machine.
    #[serde(default)]
    pub host: String,
    /// The part of the work, such as `train`.
    pub task: String,
    /// Whether bytes are counted; else images, or samples made of them.
    pub counts_bytes: bool,
    /// How many are done, of all epochs together.
    pub done: u64,
    /// How many there are.
    pub total: u64,
    /// How many are done in a second.
    pub rate: f64,
    /// Seconds until this part of the work is done, at that rate.
    pub seconds_left: Option<f64>,
    /// Where training stands, once that is known.
    pub standing: Option<Standing>,
}

/// What goes on in a node's folder.
#[derive(Clone, Debug, PartialEq)]
pub enum Activity {
    /// Nobody writes there.
    Idle,
    /// The process of this id writes there. Between two parts of its work it does not say what it does.
    Running(u32, Option<Underway>),
    /// Nobody writes there, but a run was killed while it did this.
    Killed(Underway),
}

impl StageFolder {
    /// Looks at what goes on here, without disturbing it: no lock is taken.
    pub fn activity(&self) -> Activity {
        if let Some(process) = lock::writer(self.path()) {
            return Activity::Running(process, self.underway());
        }
        // What is there now may be of a run that has begun since.
        match (self.underway(), lock::writer(self.path())) {
            (note, Some(process)) => Activity::Running(process, note),
            (Some(note), None) if self.is_fresh(&note) => Activity::Running(note.process, Some(note)),
            (Some(note), None) => Activity::Killed(note),
            (None, None) => Activity::Idle,
        }
    }

    /// Whether a note is of another machine, whose locks cannot be seen here, and of late. Clocks may differ by minutes.
    fn is_fresh(&self, note: &Underway) -> bool {
        let written = fs::metadata(self.path().join(UNDERWAY)).and_then(|found| found.modified());
        let late = |written: SystemTime| written.elapsed().is_ok_and(|age| age > SILENCE);
        let elsewhere = !note.host.is_empty() && note.host != temporary::host();
        elsewhere && written.is_ok_and(|written| !late(written))
    }

    fn underway(&self) -> Option<Underway> {
        let mut text = String::new();
        File::open(self.path().join(UNDERWAY)).ok()?.take(MOST).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// Removes the file; the node is about to be recorded.
pub(super) fn forget(folder: &StageFolder) {
    let path = folder.path().join(UNDERWAY);
    // What cannot be removed does no harm.
    let _ = fs::remove_file(path);
}

/// Hands on what is said about the work, and notes it in the node's folder as long as this is there.
pub(super) struct Noted<'a> {
    inner: &'a dyn Progress,
    folder: &'a StageFolder,
    node: &'a Node,
}

impl<'a> Noted<'a> {
    pub fn new(inner: &'a dyn Progress, folder: &'a StageFolder, node: &'a Node) -> Self {
        Self { inner, folder, node }
    }

    fn note(&self, inner: Box<dyn Task>, (name, total): (&str, u64), counts_bytes: bool) -> Box<dyn Task> {
        let now = Underway {
            node: self.node.id.clone(),
            process: std::process::id(),
            host: temporary::host().into(),
            task: name.into(),
            counts_bytes,
            done: 0,
            total,
            rate: 0.0,
            seconds_left: None,
            standing: None,
        };
        let started = Instant::now();
        let sheet = Sheet { path: self.folder.path().join(UNDERWAY), now, skipped: 0, started, written: started };
        sheet.write();
        Box::new(NotedTask { inner, sheet: Mutex::new(sheet) })
    }
}

impl Progress for Noted<'_> {
    fn start(&self, name: &str, total: u64) -> Box<dyn Task> {
        self.note(self.inner.start(name, total), (name, total), false)
    }

    fn start_bytes(&self, name: &str, total: u64) -> Box<dyn Task> {
        self.note(self.inner.start_bytes(name, total), (name, total), true)
    }

    fn say(&self, line: &str) {
        self.inner.say(line);
    }

    fn interrupted(&self) -> bool {
        self.inner.interrupted()
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        forget(self.folder);
    }
}

/// What is to be written.
struct Sheet {
    path: PathBuf,
    now: Underway,
    /// What an earlier run has done.
    skipped: u64,
    started: Instant,
    written: Instant,
}

impl Sheet {
    fn advance(&mut self, count: u64) {
        self.now.done += count;
        if self.written.elapsed() < EVERY {
            return;
        }
        self.written = Instant::now();
        let own = self.now.done.saturating_sub(self.skipped) as f64;
        self.now.rate = own / self.started.elapsed().as_secs_f64().max(1e-9);
        let left = self.now.total.saturating_sub(self.now.done) as f64;
        self.now.seconds_left = (self.now.rate > 0.0).then(|| left / self.now.rate);
        self.write();
    }

    fn write(&self) {
        if let Ok(bytes) = serde_json::to_vec(&self.now) {
            // The work goes on whether or not it can be watched.
            let _ = disk::note(&self.path, &bytes);
        }
    }
}

/// A task whose counts are noted.
struct NotedTask {
    inner: Box<dyn Task>,
    sheet: Mutex<Sheet>,
}

impl NotedTask {
    fn sheet(&self) -> MutexGuard<'_, Sheet> {
        self.sheet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task for NotedTask {
    fn advance(&self, images: u64) {
        self.inner.advance(images);
        self.sheet().advance(images);
    }

    fn skip(&self, images: u64) {
        self.inner.skip(images);
        let mut sheet = self.sheet();
        sheet.now.done += images;
        sheet.skipped += images;
    }

    fn tell(&self, text: &str) {
        self.inner.tell(text);
    }

    fn stand(&self, standing: &Standing) {
        self.inner.stand(standing);
        self.sheet().now.standing = Some(standing.clone());
    }
}
