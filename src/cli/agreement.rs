//! The table of `greedy bench agreement`, and what it comes to.

use super::table::Table;
use crate::bench::{self, Agreement, Bench};
use crate::error::{Error, Result};
use crate::progress::Progress;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// All results that were compared.
pub(super) struct Compared {
    seed: u64,
    /// Whether memory for results held no numbers before, where that can be told.
    spoilt: Option<bool>,
    results: Vec<Agreement>,
}

impl Compared {
    /// Compares them now, with inputs from the seed or the time; those that do not agree are named at once.
    pub fn new(bench: &Bench<'_>, seed: Option<u64>, progress: &dyn Progress) -> Result<Self> {
        let seed = seed.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64 % 1_000_000)
        });
        progress.say(&format!("random inputs: --seed {seed}"));
        let mut results = Vec::new();
        let spoilt = bench::agreement(bench, seed, &mut |result| {
            if !result.holds() {
                progress.say(&format!(
                    "{}, {}, {}: {}",
                    result.name,
                    result.precision.as_str(),
                    result.case,
                    fault(&result)
                ));
            }
            results.push(result);
            Ok(())
        })?;
        Ok(Self { seed, spoilt, results })
    }

    /// A line for each operation and type, with the case that is farthest off.
    pub fn text(&self) -> String {
        let mut table = Table::new(&["result", "in", "cases", "error", "may be", "again", "farthest on"]);
        let mut rest: Vec<&Agreement> = self.results.iter().collect();
        while let Some(&first) = rest.first() {
            let (own, others): (Vec<&Agreement>, Vec<&Agreement>) =
                rest.into_iter().partition(|one| (one.name, one.precision) == (first.name, first.precision));
            let farthest = own.iter().fold(first, |worst, one| if one.error > worst.error { one } else { worst });
            let again = if own.iter().all(|one| one.repeats) { "same bits" } else { "other bits" };
            table.row([
                first.name.to_string(),
                first.precision.as_str().to_string(),
                own.len().to_string(),
                format!("{:.1e}", farthest.error),
                format!("{:.0e}", farthest.bound),
                again.to_string(),
                farthest.case.clone(),
            ]);
            rest = others;
        }
        let memory = match self.spoilt {
            Some(true) => "memory for results held no numbers before\n",
            Some(false) => "memory for results could not be spoilt before\n",
            None => "",
        };
        table.text() + memory
    }

    pub fn json(&self) -> Value {
        let result = |one: &Agreement| {
            let Agreement { name, case, precision, error, bound, repeats, fault } = one;
            let (precision, holds) = (precision.as_str(), one.holds());
            json!({ "what": name, "on": case, "precision": precision, "error": error, "bound": bound,
                    "repeats": repeats, "fault": fault, "holds": holds })
        };
        let results: Vec<_> = self.results.iter().map(result).collect();
        json!({ "seed": self.seed, "memory_spoilt": self.spoilt, "results": results })
    }

    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// # Errors
    /// When a result does not agree.
    pub fn verdict(&self) -> Result<()> {
        let off: Vec<_> = self.results.iter().filter(|one| !one.holds()).collect();
        let Some(first) = off.first() else { return Ok(()) };
        let (count, all, seed) = (off.len(), self.results.len(), self.seed);
        let Agreement { name, case, .. } = first;
        Err(Error::failed(format!(
            "{count} of {all} results do not agree with the CPU; the first: {name}, {case}: {}",
            fault(first)
        ))
        .hint(format!("`greedy bench agreement --seed {seed} --only \"{name}, {case}\"` runs it again")))
    }
}

/// What is wrong with a result.
fn fault(result: &Agreement) -> String {
    match &result.fault {
        Some(fault) => fault.clone(),
        None if result.error > result.bound => format!("off by {:.1e}, more than {:.0e}", result.error, result.bound),
        None => "a second run gave other bits".into(),
    }
}
