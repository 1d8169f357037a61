//! Bars on a terminal, plain lines elsewhere, and the user's wish to stop.

use super::wording;
use crate::error::{Error, Result};
use crate::progress::{Progress, Silent, Task, Unit};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a plain line is printed while a task runs.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Speaks to the user on the standard error stream.
pub(super) struct Terminal {
    style: Style,
    stop: Arc<AtomicBool>,
}

enum Style {
    Bars(MultiProgress),
    Lines,
    Nothing,
}

impl Terminal {
    /// Chooses how to speak, and listens for Ctrl-C and SIGTERM: the first asks to stop, the second ends at once.
    pub fn new(quiet: bool) -> Result<Self> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let style = match (quiet, std::io::stderr().is_terminal() && !dumb) {
            (true, _) => Style::Nothing,
            (false, true) => Style::Bars(MultiProgress::new()),
            (false, false) => Style::Lines,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let wish = Arc::clone(&stop);
        ctrlc::set_handler(move || {
            if wish.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        })
        .map_err(|e| Error::failed(format!("cannot listen for Ctrl-C: {e}")))?;
        Ok(Self { style, stop })
    }
}

impl Progress for Terminal {
    fn start(&self, name: &str, total: u64, unit: Unit) -> Box<dyn Task> {
        match &self.style {
            Style::Bars(all) => Box::new(Bar::new(all, name, total, unit)),
            Style::Lines => Box::new(Lines::new(name, total, unit)),
            Style::Nothing => Box::new(Silent),
        }
    }

    fn say(&self, line: &str) {
        match &self.style {
            Style::Bars(all) => all.suspend(|| eprintln!("{line}")),
            Style::Lines => eprintln!("{line}"),
            Style::Nothing => {}
        }
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// A bar; it leaves a line behind when it ends.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new(all: &MultiProgress, name: &str, total: u64, unit: Unit) -> Self {
        let counts = match unit {
            Unit::Images => "{human_pos}/{human_len}  {per_sec}",
            Unit::Bytes => "{binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}",
        };
        let template = format!("  {{prefix:<15}} [{{bar:24}}] {counts}  {{eta}} left  {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("per_sec", |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            // A writer that refuses is indicatif's to report.
            let _ = write!(out, "{:.0} images/s", state.per_sec());
        });
        let bar =
            all.add(ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(name.to_string()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }
}

impl Task for Bar {
    fn advance(&self, units: u64) {
        self.bar.inc(units);
    }

    fn tell(&self, text: &str) {
        self.bar.set_message(text.to_string());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.abandon();
    }
}

/// Plain lines: one now and then, and one at the end.
struct Lines {
    name: String,
    total: u64,
    unit: Unit,
    started: Instant,
    done: AtomicU64,
    state: Mutex<LineState>,
}

struct LineState {
    text: String,
    printed: Instant,
}

impl Lines {
    fn new(name: &str, total: u64, unit: Unit) -> Self {
        let now = Instant::now();
        let state = Mutex::new(LineState { text: String::new(), printed: now });
        Self { name: name.into(), total, unit, started: now, done: AtomicU64::new(0), state }
    }

    fn line(&self, text: &str) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = done as f64 / elapsed.max(1e-9);
        let counts = match self.unit {
            Unit::Images => format!("{done}/{} images, {rate:.0} images/s", self.total),
            Unit::Bytes => {
                let (done, total) = (wording::bytes(done), wording::bytes(self.total));
                format!("{done} of {total}, {}/s", wording::bytes(rate as u64))
            }
        };
        let left = match self.total.saturating_sub(done) {
            0 => format!("took {}", wording::seconds(elapsed)),
            left => format!("{} left", wording::seconds(left as f64 / rate.max(1e-9))),
        };
        let text = if text.is_empty() { String::new() } else { format!(", {text}") };
        format!("  {}: {counts}, {left}{text}", self.name)
    }
}

impl Task for Lines {
    fn advance(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.printed.elapsed() > LINE_EVERY {
            eprintln!("{}", self.line(&state.text));
            state.printed = Instant::now();
        }
    }

    fn tell(&self, text: &str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).text = text.into();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{}", self.line(&state.text));
    }
}
