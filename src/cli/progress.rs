//! Bars on a terminal, plain lines elsewhere, and the user's wish to stop.

use super::output::complain;
use super::wording;
use crate::error::{Error, Result};
use crate::progress::{Progress, Silent, Task};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
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
        for signal in [SIGINT, SIGTERM] {
            // Registered first, so that it acts from the second signal on.
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
                .and_then(|_| flag::register(signal, Arc::clone(&stop)))
                .map_err(|e| Error::failed(format!("cannot listen for Ctrl-C: {e}")))?;
        }
        Ok(Self { style, stop })
    }
}

impl Progress for Terminal {
    fn start(&self, name: &str, total: u64) -> Box<dyn Task> {
        match &self.style {
            Style::Bars(all) => Box::new(Bar::new(all, name, total)),
            Style::Lines => Box::new(Lines::new(name, total)),
            Style::Nothing => Box::new(Silent),
        }
    }

    fn say(&self, line: &str) {
        match &self.style {
            Style::Bars(all) => all.suspend(|| complain(line)),
            Style::Lines => complain(line),
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
    fn new(all: &MultiProgress, name: &str, total: u64) -> Self {
        let template = "  {prefix:<15} [{bar:24}] {human_pos}/{human_len}  {per_sec}  {eta} left  {msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
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
    fn advance(&self, images: u64) {
        self.bar.inc(images);
    }

    fn skip(&self, images: u64) {
        self.bar.inc(images);
        self.bar.reset_eta();
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
    started: Instant,
    done: AtomicU64,
    skipped: AtomicU64,
    state: Mutex<LineState>,
}

struct LineState {
    text: String,
    printed: Instant,
}

impl Lines {
    fn new(name: &str, total: u64) -> Self {
        let now = Instant::now();
        let state = Mutex::new(LineState { text: String::new(), printed: now });
        let (done, skipped) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { name: name.into(), total, started: now, done, skipped, state }
    }

    fn line(&self, text: &str) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = (done - self.skipped.load(Ordering::Relaxed)) as f64 / elapsed.max(1e-9);
        let counts = format!("{done}/{} images, {rate:.0} images/s", self.total);
        let left = match self.total.saturating_sub(done) {
            0 => format!("took {}", wording::seconds(elapsed)),
            left => format!("{} left", wording::seconds(left as f64 / rate.max(1e-9))),
        };
        let text = if text.is_empty() { String::new() } else { format!(", {text}") };
        format!("  {}: {counts}, {left}{text}", self.name)
    }
}

impl Task for Lines {
    fn skip(&self, images: u64) {
        self.done.fetch_add(images, Ordering::Relaxed);
        self.skipped.fetch_add(images, Ordering::Relaxed);
    }

    fn advance(&self, images: u64) {
        self.done.fetch_add(images, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.printed.elapsed() > LINE_EVERY {
            complain(&self.line(&state.text));
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
        complain(&self.line(&state.text));
    }
}
