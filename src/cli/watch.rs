//! `greedy status --watch`: what runs in a cache at this moment, seen from another terminal.

use super::look_args::StatusArgs;
use super::output::Output;
use super::progress::Terminal;
use super::wording;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run::{Activity, StageFolder, Underway, open_pipeline, stages};
use crate::text::{printable, shown};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often the folders are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is looked at whether the user wants to stop.
const BLINK: Duration = Duration::from_millis(50);
/// How long nothing may be seen to run before the run counts as over: between two nodes there is a moment without.
const GRACE: Duration = Duration::from_secs(3);
/// How often a plain line is printed while nothing changes but counts.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// `greedy status PIPELINE --watch`, or the folder of the stages instead of the pipeline: until nothing runs any more.
pub(super) fn watch(args: &StatusArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let places = Places::of(args)?;
    let mut view = View::new(args.json);
    let mut last = Instant::now();
    let mut ran = false;
    loop {
        let seen = places.look();
        let running = seen.iter().any(|(_, activity)| matches!(activity, Activity::Running(..)));
        if running {
            (last, ran) = (Instant::now(), true);
        }
        if !running && (last.elapsed() >= GRACE || !ran) {
            return view.end(&places, &seen, output);
        }
        if running {
            view.show(&seen, output)?;
        }
        if !output.is_heard() {
            return Ok(());
        }
        let looked = Instant::now();
        while looked.elapsed() < EVERY {
            terminal.check()?;
            sleep(BLINK);
        }
    }
}

/// Where stages lie.
struct Places {
    cache: PathBuf,
    /// The folder of the images, where that is elsewhere.
    decoded: Option<PathBuf>,
}

/// A node by the name of its folder, and what goes on there.
type Seen = (String, Activity);

impl Places {
    fn of(args: &StatusArgs) -> Result<Self> {
        let named = &args.pipeline.pipeline;
        if named.is_dir() {
            return Ok(Self { cache: named.clone(), decoded: None });
        }
        let settings = open_pipeline(named, &args.set)?;
        let pipeline = settings.as_written();
        let cache = args.pipeline.cache.clone().unwrap_or_else(|| PathBuf::from(&pipeline.cache));
        Ok(Self { cache, decoded: pipeline.data.decoded.as_ref().map(PathBuf::from) })
    }

    /// What goes on in each folder where something does, or did when a run was killed. A cache that is not there yet is
    /// one where nothing runs.
    fn look(&self) -> Vec<Seen> {
        let of = |path: &Path| stages(path).unwrap_or_default();
        let folders = self.decoded.iter().flat_map(|path| of(path)).chain(of(&self.cache));
        let name = |folder: &StageFolder| shown(Path::new(folder.path().file_name().unwrap_or_default()));
        let seen = folders.map(|folder| (name(&folder), folder.activity()));
        seen.filter(|(_, activity)| *activity != Activity::Idle).collect()
    }
}

/// How what was seen is shown.
enum View {
    /// A bar a node that is drawn again and again.
    Drawn(MultiProgress, Vec<ProgressBar>),
    /// Lines: what was last printed of each node, and when.
    Lines(Vec<(String, Instant)>),
    /// A JSON document a change.
    Json(Value),
}

impl View {
    fn new(json: bool) -> Self {
        match (json, std::io::stdout().is_terminal()) {
            (true, _) => Self::Json(Value::Null),
            (false, true) => Self::Drawn(MultiProgress::with_draw_target(ProgressDrawTarget::stdout()), Vec::new()),
            (false, false) => Self::Lines(Vec::new()),
        }
    }

    fn show(&mut self, seen: &[Seen], output: &mut Output) -> Result<()> {
        match self {
            Self::Drawn(screen, bars) => {
                while bars.len() < seen.len() {
                    let style = ProgressStyle::with_template("{wide_msg}");
                    let bar = ProgressBar::no_length().with_style(style.map_err(|e| Error::failed(e.to_string()))?);
                    bars.push(screen.add(bar));
                }
                bars.drain(seen.len()..).for_each(|bar| bar.finish_and_clear());
                for (bar, seen) in bars.iter().zip(seen) {
                    bar.set_message(printable(&line(seen), &[]));
                    bar.tick();
                }
                Ok(())
            }
            Self::Lines(printed) => {
                let due = |mark: &String, printed: &[(String, Instant)]| {
                    !printed.iter().any(|(old, when)| old == mark && when.elapsed() < LINE_EVERY)
                };
                let marks: Vec<String> = seen.iter().map(mark).collect();
                let mut kept: Vec<(String, Instant)> =
                    printed.drain(..).filter(|(old, _)| marks.contains(old)).collect();
                for (seen, mark) in seen.iter().zip(marks) {
                    if due(&mark, &kept) {
                        output.line(&line(seen))?;
                        kept.retain(|(old, _)| *old != mark);
                        kept.push((mark, Instant::now()));
                    }
                }
                *printed = kept;
                Ok(())
            }
            Self::Json(last) => {
                let now = as_json(seen);
                if *last == now {
                    return Ok(());
                }
                output.line(&now.to_string())?;
                *last = now;
                Ok(())
            }
        }
    }

    /// Says that nothing runs, and what was cut off.
    fn end(&mut self, places: &Places, seen: &[Seen], output: &mut Output) -> Result<()> {
        match self {
            Self::Json(_) => return output.line(&as_json(seen).to_string()),
            Self::Drawn(_, bars) => bars.drain(..).for_each(|bar| bar.finish_and_clear()),
            Self::Lines(_) => {}
        }
        seen.iter().try_for_each(|seen| output.line(&line(seen)))?;
        output.line(&format!("nothing runs in `{}`", shown(&places.cache)))
    }
}

/// What goes on in a node, in one line.
fn line((node, activity): &Seen) -> String {
    match activity {
        Activity::Idle => format!("{node}: nothing runs"),
        Activity::Running(_, Some(now)) => format!("{node}: {}", says(now)),
        Activity::Running(process, None) => format!("{node}: process {process} works on it"),
        Activity::Killed(now) => format!(
            "{node}: not running: process {} ended in the midst of {}; `greedy run` goes on with it",
            now.process,
            says(now)
        ),
    }
}

fn says(now: &Underway) -> String {
    let count = |value: u64| if now.counts_bytes { wording::bytes(value) } else { value.to_string() };
    let rate = match now.rate {
        rate if rate <= 0.0 => String::new(),
        rate if now.counts_bytes => format!(", {}/s", wording::bytes(rate as u64)),
        rate => format!(", {rate:.0} images/s"),
    };
    let left = now.seconds_left.map_or(String::new(), |left| format!(", {} left", wording::seconds(left)));
    let standing = now.standing.as_ref().map_or(String::new(), |standing| format!("  {standing}"));
    format!("{} {}/{}{rate}{left}{standing}", now.task, count(now.done), count(now.total))
}

/// What a new line is due for, whatever is counted.
fn mark((node, activity): &Seen) -> String {
    let now = match activity {
        Activity::Running(_, now) => now.as_ref(),
        Activity::Killed(now) => Some(now),
        Activity::Idle => None,
    };
    let epoch = now.and_then(|now| now.standing.as_ref()).map(|standing| standing.epoch);
    format!("{node} {:?} {epoch:?}", now.map(|now| &now.task))
}

fn as_json(seen: &[Seen]) -> Value {
    let of = |(node, activity): &Seen| match activity {
        Activity::Idle => json!({ "node": node, "state": "idle" }),
        Activity::Running(process, now) => json!({ "node": node, "state": "running", "process": process, "now": now }),
        Activity::Killed(now) => json!({ "node": node, "state": "killed", "process": now.process, "now": now }),
    };
    Value::Array(seen.iter().map(of).collect())
}
