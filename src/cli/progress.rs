//! Bars on a terminal, plain lines elsewhere.

use super::interruption;
use super::output::complain;
use super::wording;
use crate::error::Result;
use crate::progress::{Progress, Silent, Task};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a plain line is printed while a task runs.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// A bar and what stands beside it; what does not fit the terminal is cut off at the end.
const BAR: &str = "  {prefix} [{bar:12}] {wide_msg}";

/// Speaks to the user on the standard error stream.
pub(super) struct Terminal {
    style: Style,
    stop: Arc<AtomicBool>,
    /// When the program began.
    started: Instant,
    /// The bar on the screen, if there is one.
    bar: Mutex<Option<ProgressBar>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Bars,
    Lines,
    Nothing,
}

impl Terminal {
    /// Chooses how to speak, and listens for the user's wish to stop a command, which may be one that goes on when it is
    /// given again.
    pub fn new(quiet: bool, started: Instant, goes_on: bool) -> Result<Self> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let style = match (quiet, std::io::stderr().is_terminal() && !dumb) {
            (true, _) => Style::Nothing,
            (false, true) => Style::Bars,
            (false, false) => Style::Lines,
        };
        Ok(Self { style, stop: interruption::listen(goes_on)?, started, bar: Mutex::new(None) })
    }
}

/// What a task counts.
#[derive(Clone, Copy)]
enum Unit {
    Images,
    Bytes,
}

impl Unit {
    /// So many of them, without the word.
    fn count(self, count: u64) -> String {
        match self {
            Self::Images => count.to_string(),
            Self::Bytes => wording::bytes(count),
        }
    }

    fn rate(self, rate: f64) -> String {
        match self {
            Self::Images => format!("{rate:.0} images/s"),
            Self::Bytes => format!("{}/s", wording::bytes(rate as u64)),
        }
    }

    /// The word after a count.
    fn word(self) -> &'static str {
        match self {
            Self::Images => " images",
            Self::Bytes => "",
        }
    }
}

impl Terminal {
    /// The time since the program began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn show(&self, name: &str, total: u64, unit: Unit) -> Box<dyn Task> {
        if self.style == Style::Nothing {
            return Box::new(Silent);
        }
        let bar = (self.style == Style::Bars).then(|| draw_bar(name, total));
        *locked(&self.bar) = bar.clone();
        Box::new(Shown { name: name.into(), bar, count: Mutex::new(Count::new(total, unit)) })
    }
}

impl Progress for Terminal {
    fn start(&self, name: &str, total: u64) -> Box<dyn Task> {
        self.show(name, total, Unit::Images)
    }

    fn start_bytes(&self, name: &str, total: u64) -> Box<dyn Task> {
        self.show(name, total, Unit::Bytes)
    }

    fn say(&self, line: &str) {
        match &*locked(&self.bar) {
            _ if self.style == Style::Nothing => {}
            Some(bar) => bar.suspend(|| complain(line)),
            None => complain(line),
        }
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn draw_bar(name: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(name.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A task as it is shown: a bar or a line now and then, and in any case a line that stays when it ends.
struct Shown {
    name: String,
    bar: Option<ProgressBar>,
    count: Mutex<Count>,
}

/// How far a task is.
struct Count {
    unit: Unit,
    total: u64,
    done: u64,
    /// What of it an earlier run has done.
    skipped: u64,
    started: Instant,
    printed: Instant,
    text: String,
}

impl Count {
    fn new(total: u64, unit: Unit) -> Self {
        let now = Instant::now();
        Self { unit, total, done: 0, skipped: 0, started: now, printed: now, text: String::new() }
    }

    fn line(&self, name: &str) -> String {
        let (unit, total) = (self.unit, format!("{}{}", self.unit.count(self.total), self.unit.word()));
        if self.skipped == self.total {
            return format!("  {name}: {total}, already there");
        }
        let time = match self.left() {
            _ if self.done >= self.total => format!(", took {}", wording::seconds(self.elapsed())),
            Some(left) => format!(", {} left", wording::seconds(left)),
            None => String::new(),
        };
        let text = if self.text.is_empty() { String::new() } else { format!(", {}", self.text) };
        format!("  {name}: {}/{total}, {}{time}{text}", unit.count(self.done), unit.rate(self.rate()))
    }

    /// What stands beside the bar, most important first.
    fn beside_bar(&self) -> String {
        let left = self.left().map(|left| format!("{} left", wording::seconds(left)));
        let done = format!("{}/{}", self.unit.count(self.done), self.unit.count(self.total));
        let text = Some(self.text.clone()).filter(|text| !text.is_empty());
        let parts = [text, left, Some(self.unit.rate(self.rate())), Some(done)];
        parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }

    fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// How many this run has done in a second.
    fn rate(&self) -> f64 {
        (self.done - self.skipped) as f64 / self.elapsed().max(1e-9)
    }

    /// Seconds until the task is done, once there is a rate.
    fn left(&self) -> Option<f64> {
        let rate = self.rate();
        (rate > 0.0).then(|| self.total.saturating_sub(self.done) as f64 / rate)
    }
}

impl Task for Shown {
    fn advance(&self, images: u64) {
        let mut count = locked(&self.count);
        count.done += images;
        match &self.bar {
            Some(bar) => {
                bar.set_position(count.done);
                bar.set_message(count.beside_bar());
            }
            None if count.printed.elapsed() > LINE_EVERY => {
                complain(&count.line(&self.name));
                count.printed = Instant::now();
            }
            None => {}
        }
    }

    fn skip(&self, images: u64) {
        let mut count = locked(&self.count);
        count.done += images;
        count.skipped += images;
        if let Some(bar) = &self.bar {
            bar.set_position(count.done);
        }
    }

    fn tell(&self, text: &str) {
        let mut count = locked(&self.count);
        count.text = text.into();
        if let Some(bar) = &self.bar {
            bar.set_message(count.beside_bar());
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        complain(&locked(&self.count).line(&self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_did_is_no_part_of_the_rate() {
        let mut count = Count::new(1000, Unit::Images);
        (count.done, count.skipped) = (900, 900);
        assert_eq!(count.left(), None);
        assert_eq!(count.beside_bar(), "0 images/s  900/1000");
        count.started = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        count.done += 50;
        count.text = "loss 0.5".into();
        assert!((count.rate() - 5.0).abs() < 0.1 && (count.left().unwrap() - 10.0).abs() < 0.2);
        assert!(count.beside_bar().starts_with("loss 0.5  "), "{}", count.beside_bar());
        assert!(count.beside_bar().ends_with(" left  5 images/s  950/1000"), "{}", count.beside_bar());
    }
}
