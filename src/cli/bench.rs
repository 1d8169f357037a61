//! `greedy bench`.

use super::agreement::Compared;
use super::bench_args::{BenchArgs, BenchPart, Precision};
use super::output::Output;
use super::progress::Terminal;
use super::table::Table;
use crate::bench::{self, Bench, Measurement};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::run;
use candle_core::DType;
use serde_json::json;
use std::time::Duration;

/// `greedy bench [PART]...`
pub(super) fn bench(args: &BenchArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let device = run::device(&args.device.device, args.fast, terminal)?;
    let precision = match args.precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    };
    let least = Duration::from_secs_f64(args.seconds);
    let folder = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let mut all = Vec::new();
    let report = &mut |measurement: Measurement| {
        terminal.say(&line(&measurement));
        all.push(measurement);
        Ok(())
    };
    let mut bench = Bench { least, device, precision, only: args.only.clone(), progress: terminal, report };
    let mut compared = None;
    for part in args.parts() {
        match part {
            BenchPart::Operations => bench::operations(&mut bench)?,
            BenchPart::Steps => bench::steps(&mut bench)?,
            BenchPart::Cache => bench::cache(&mut bench, &folder)?,
            BenchPart::Decoding => bench::decoding(&mut bench, &args.images)?,
            BenchPart::Agreement => compared = Some(Compared::new(&bench, args.seed, terminal)?),
        }
    }
    if all.is_empty() && compared.as_ref().is_none_or(Compared::is_empty) {
        let only = args.only.as_deref().unwrap_or_default();
        return Err(Error::usage(format!("nothing that is measured has `{only}` in its name or sizes"))
            .hint("`greedy bench --seconds 0` lists all"));
    }
    if args.json {
        let all: Vec<_> = all.iter().map(fields).collect();
        let agreement = compared.as_ref().map(Compared::json);
        let threads = rayon::current_num_threads();
        output.json(&json!({ "threads": threads, "measurements": all, "agreement": agreement }))?;
    } else {
        if let Some(compared) = &compared {
            output.text(&compared.text())?;
        }
        if !all.is_empty() {
            output.text(&table(&all).text())?;
        }
    }
    compared.map_or(Ok(()), |compared| compared.verdict())
}

fn table(all: &[Measurement]) -> Table {
    let mut table = Table::new(&["what", "on", "median", "", ""]);
    for measurement in all {
        let Measurement { name, case, value, unit, .. } = measurement;
        table.row([name.clone(), case.clone(), digits(*value), (*unit).to_string(), share(measurement)]);
    }
    table
}

/// A figure with at least three digits.
fn digits(value: f64) -> String {
    let after_the_point = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.after_the_point$}")
}

fn line(measurement: &Measurement) -> String {
    let Measurement { name, case, value, unit, .. } = measurement;
    format!("{name}, {case}: {} {unit} {}", digits(*value), share(measurement)).trim_end().to_string()
}

fn share(measurement: &Measurement) -> String {
    measurement
        .beside
        .map_or_else(String::new, |(beside, what)| format!("{:.0} % {what}", 100.0 * measurement.value / beside))
}

fn fields(measurement: &Measurement) -> serde_json::Value {
    let Measurement { name, case, value, unit, beside } = measurement;
    let beside = beside.map(|(value, what)| json!({ "value": value, "what": what }));
    json!({ "what": name, "on": case, "median": value, "unit": unit, "beside": beside })
}
