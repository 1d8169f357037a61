//! `greedy verify`.

use super::look_args::VerifyArgs;
use super::output::Output;
use super::progress::Terminal;
use super::table::Table;
use super::wording;
use crate::error::{Error, Result};
use crate::run::{self, Finding, Flaw, Outcome, Repair, StageFolder, State, Verified};
use serde_json::{Value, json};

/// `greedy verify FOLDER`
pub(super) fn verify(args: &VerifyArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let found = run::verify(&run::stages(&args.folder)?, terminal)?;
    let outcomes = if args.repair && !args.dry_run { repair(args, &found, terminal)? } else { Vec::new() };
    let all: Vec<Checked<'_>> = found
        .iter()
        .enumerate()
        .map(|(at, verified)| Checked { verified, outcomes: outcomes.get(at).map_or(&[], |outcomes| outcomes) })
        .collect();
    if args.json {
        let stages: Vec<Value> = all.iter().map(|one| one.json(args.dry_run)).collect();
        output.json(&json!({ "stages": stages, "wrong": all.iter().map(Checked::wrong).sum::<usize>() }))?;
    } else {
        output.text(&table(&all).text())?;
        let lines: Vec<String> = all.iter().flat_map(|one| one.lines(args.dry_run)).collect();
        if !lines.is_empty() {
            output.text(&format!("\n{}\n", lines.join("\n")))?;
        }
    }
    if all.iter().all(|one| one.verified.in_use.is_some()) {
        return Err(Error::failed("nothing was verified: every stage is being written").hint("wait for the run to end"));
    }
    let fault = match all.iter().map(Checked::wrong).sum::<usize>() {
        0 => return Ok(()),
        1 => Error::failed("1 file is missing, damaged or foreign"),
        wrong => Error::failed(format!("{wrong} files are missing, damaged or foreign")),
    };
    let folder = args.folder.display();
    let has = |flaw| all.iter().any(|one| one.count(flaw) > 0);
    Err(if !has(Flaw::Missing) && !has(Flaw::Damaged) {
        fault.hint("no file of greedy's is concerned: move foreign files elsewhere, or remove them")
    } else if args.repair {
        fault
    } else {
        fault.hint(format!("`greedy verify {folder} --repair` makes again what can be made again"))
    })
}

/// What is wrong, a line a file.
pub(super) fn lines(folder: &StageFolder, findings: &[Finding]) -> Vec<String> {
    let path = |finding: &Finding| folder.path().join(&finding.name).display().to_string();
    findings.iter().map(|finding| format!("{}: {}: {}", path(finding), finding.flaw.word(), finding.note)).collect()
}

/// Stages that others are made of come first, so that these find their input whole.
fn repair(args: &VerifyArgs, found: &[Verified], terminal: &Terminal) -> Result<Vec<Vec<Outcome>>> {
    let device = run::device(&args.device.device, false, terminal)?;
    let repair = Repair { overrides: &args.set, device: &device, progress: terminal };
    found.iter().map(|verified| repair.repair(verified)).collect()
}

/// A stage that was verified, and perhaps repaired.
struct Checked<'a> {
    verified: &'a Verified,
    /// What became of each finding, where something was tried.
    outcomes: &'a [Outcome],
}

impl Checked<'_> {
    fn findings(&self) -> impl Iterator<Item = (&Finding, Option<&Outcome>)> {
        self.verified.findings.iter().enumerate().map(|(at, finding)| (finding, self.outcomes.get(at)))
    }

    /// Files that are not as they should be. What a run that was cut off has left over is no fault.
    fn wrong(&self) -> usize {
        let wrong = |(finding, outcome): &(&Finding, Option<&Outcome>)| {
            finding.flaw != Flaw::Leftover && !matches!(outcome, Some(Outcome::Repaired))
        };
        self.findings().filter(wrong).count()
    }

    fn count(&self, flaw: Flaw) -> usize {
        self.verified.findings.iter().filter(|finding| finding.flaw == flaw).count()
    }

    fn state(&self) -> &'static str {
        match self.verified.record.as_ref().map(|record| record.state) {
            _ if self.verified.in_use.is_some() => "in use",
            None => "no record",
            Some(State::Finished) => "finished",
            Some(_) => "under way",
        }
    }

    /// What `--repair` would do about a finding.
    fn plan(&self, finding: &Finding) -> &'static str {
        match finding.flaw {
            Flaw::Leftover => "; would be removed",
            Flaw::Foreign => "; would be left",
            _ if self.verified.can_be_made_again(&finding.name) => "; would be made again",
            _ => "; cannot be made again",
        }
    }

    fn lines(&self, dry_run: bool) -> Vec<String> {
        let busy = self.verified.in_use.iter().map(|holder| format!("{holder}: left out"));
        let line = |(finding, outcome): (&Finding, Option<&Outcome>)| {
            let path = self.verified.folder.path().join(&finding.name);
            let became = match outcome {
                Some(Outcome::Repaired) if finding.flaw == Flaw::Leftover => "; removed".into(),
                Some(Outcome::Repaired) => "; made again".into(),
                Some(Outcome::Impossible(fault)) => {
                    let hint = fault.hint_text().map_or_else(String::new, |hint| format!("\n  hint: {hint}"));
                    format!("\n  not made again: {fault}{hint}")
                }
                Some(Outcome::Left) => "; left as it is".into(),
                None if dry_run => self.plan(finding).into(),
                None => String::new(),
            };
            format!("{}: {}: {}{became}", path.display(), finding.flaw.word(), finding.note)
        };
        busy.chain(self.findings().map(line)).collect()
    }

    fn json(&self, dry_run: bool) -> Value {
        let findings = self.findings().map(|(finding, outcome)| {
            let became = match outcome {
                Some(Outcome::Repaired) => json!("repaired"),
                Some(Outcome::Impossible(fault)) => json!(format!("impossible: {fault}")),
                Some(Outcome::Left) => json!("left"),
                None if dry_run => json!(self.plan(finding).trim_start_matches("; ")),
                None => Value::Null,
            };
            json!({ "file": finding.name.to_string_lossy(), "flaw": finding.flaw.word(), "note": finding.note, "outcome": became })
        });
        json!({
            "folder": self.verified.folder.path(),
            "kind": self.verified.record.as_ref().map(|record| record.kind.word()),
            "stage": self.verified.record.as_ref().map(|record| record.stage),
            "state": self.state(),
            "files": self.verified.files,
            "bytes": self.verified.bytes,
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

fn table(all: &[Checked<'_>]) -> Table {
    let mut table = Table::new(&["folder", "state", "files", "bytes", "missing", "damaged", "foreign", "leftover"]);
    for one in all {
        let flaws = [Flaw::Missing, Flaw::Damaged, Flaw::Foreign, Flaw::Leftover];
        let head = [
            one.verified.folder.path().display().to_string(),
            one.state().into(),
            one.verified.files.to_string(),
            wording::bytes(one.verified.bytes),
        ];
        table.row(head.into_iter().chain(flaws.map(|flaw| one.count(flaw).to_string())));
    }
    table
}
