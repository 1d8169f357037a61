//! How the work reports where it stands; the command line decides what is drawn.

use crate::error::{Error, Result};

/// Receives what is said about the work, and says whether the user wants it stopped.
pub trait Progress: Sync {
    /// Starts a task over `total` images, or the samples made of them; it ends when the returned value is dropped.
    fn start(&self, name: &str, total: u64) -> Box<dyn Task>;

    /// Starts a task over `total` bytes.
    fn start_bytes(&self, name: &str, total: u64) -> Box<dyn Task> {
        self.start(name, total)
    }

    /// One line about something that has happened.
    fn say(&self, line: &str);

    /// Whether the user asked to stop.
    fn interrupted(&self) -> bool;

    /// Fails with [`Error::interrupted`] once the user asked to stop.
    fn check(&self) -> Result<()> {
        if self.interrupted() { Err(Error::interrupted()) } else { Ok(()) }
    }
}

/// One task under way.
pub trait Task: Send + Sync {
    /// Counts images (or bytes) more as done.
    fn advance(&self, images: u64);

    /// Counts images that an earlier run has done: they say nothing about the rate.
    fn skip(&self, images: u64);

    /// Shows a short text beside the task, such as the loss.
    fn tell(&self, text: &str);
}

/// Reports nothing and never stops.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64) -> Box<dyn Task> {
        Box::new(Silent)
    }
    fn say(&self, _: &str) {}
    fn interrupted(&self) -> bool {
        false
    }
}

impl Task for Silent {
    fn advance(&self, _: u64) {}
    fn skip(&self, _: u64) {}
    fn tell(&self, _: &str) {}
}
