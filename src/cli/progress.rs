//! Bars on a terminal, plain lines elsewhere.

use super::interruption;
use super::output::complain;
use super::wording;
use crate::error::Result;
use crate::progress::{Progress, Silent, Task};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a plain line is printed while a task runs.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// A bar and what stands beside it; what does not fit the terminal is cut off at the end.
const BAR: &str = "  {prefix:<14} [{bar:12}] {done}  {rate}  {eta} left  {wide_msg}";

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
    /// Chooses how to speak, and listens for the user's wish to stop.
    pub fn new(quiet: bool, started: Instant) -> Result<Self> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let style = match (quiet, std::io::stderr().is_terminal() && !dumb) {
            (true, _) => Style::Nothing,
            (false, true) => Style::Bars,
            (false, false) => Style::Lines,
        };
        Ok(Self { style, stop: interruption::listen()?, started, bar: Mutex::new(None) })
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
        let bar = (self.style == Style::Bars).then(|| draw_bar(name, total, unit));
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

fn draw_bar(name: &str, total: u64, unit: Unit) -> ProgressBar {
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    // A writer that refuses is indicatif's to report.
    let rate = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = out.write_str(&unit.rate(state.per_sec()));
    };
    let done = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{}/{}", unit.count(state.pos()), unit.count(total));
    };
    let style = style.with_key("rate", rate).with_key("done", done);
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
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = (self.done - self.skipped) as f64 / elapsed.max(1e-9);
        let time = match self.total.saturating_sub(self.done) {
            0 => format!(", took {}", wording::seconds(elapsed)),
            left if rate > 0.0 => format!(", {} left", wording::seconds(left as f64 / rate)),
            _ => String::new(),
        };
        let text = if self.text.is_empty() { String::new() } else { format!(", {}", self.text) };
        format!("  {name}: {}/{total}, {}{time}{text}", unit.count(self.done), unit.rate(rate))
    }
}

impl Task for Shown {
    fn advance(&self, images: u64) {
        let mut count = locked(&self.count);
        count.done += images;
        match &self.bar {
            Some(bar) => bar.inc(images),
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
            bar.inc(images);
            bar.reset_eta();
        }
    }

    fn tell(&self, text: &str) {
        locked(&self.count).text = text.into();
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
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
