//! How the work reports where it stands; the command line decides what is drawn.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

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

    /// Shows where training stands.
    fn stand(&self, standing: &Standing) {
        self.tell(&standing.to_string());
    }
}

/// Where the training of a node stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The epoch at hand, or the last one that ended; from 1.
    pub epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Mean cross entropy over the training samples that this epoch has met.
    pub loss: f64,
    /// Percentage of them that were right.
    pub train_accuracy: f64,
    /// Top-1 accuracy on the validation samples, in percent, when they were last looked at.
    pub accuracy: Option<f64>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, epochs, loss, train_accuracy, accuracy } = self;
        write!(f, "epoch {epoch}/{epochs}  loss ")?;
        if loss.abs() < 1e4 { write!(f, "{loss:.3}") } else { write!(f, "{loss:.1e}") }?;
        write!(f, "  train {train_accuracy:.1} %")?;
        accuracy.map_or(Ok(()), |accuracy| write!(f, "  val {accuracy:.1} %"))
    }
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
