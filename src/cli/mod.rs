//! SAY: the command line, bars, tables and wording. The only folder that prints.

mod agreement;
mod args;
mod bench;
mod bench_args;
mod clean;
mod compare;
mod evaluate;
mod export;
mod export_args;
mod figures;
mod import;
mod inspect;
mod interruption;
mod look_args;
mod make_args;
mod output;
mod pictures;
mod plan;
mod plan_leaves;
mod plan_table;
mod predict;
mod progress;
mod report;
mod run;
mod several;
mod shards;
mod status;
mod table;
mod verify;
mod watch;
mod wording;
mod workflow;

use crate::error::{Error, Kind, Result};
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use output::{Output, complain};
use progress::Terminal;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Reads the command line, does what it says, and gives the exit code: 0 done, 1 failed, 2 bad usage or pipeline file,
/// 130 interrupted.
pub fn main() -> ExitCode {
    let started = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are results, not errors; clap knows which stream each belongs to.
            let lost = e.print().is_err_and(|fault| fault.kind() != ErrorKind::BrokenPipe);
            return ExitCode::from(if e.use_stderr() { 2 } else { u8::from(lost) });
        }
    };
    // Image decoders that fail on a hostile file are caught where they are called, so nothing is said at once.
    static FAULT: Mutex<String> = Mutex::new(String::new());
    let fault = || FAULT.lock().unwrap_or_else(PoisonError::into_inner);
    std::panic::set_hook(Box::new(move |panic| *fault() = panic.to_string()));
    match catch_unwind(AssertUnwindSafe(|| dispatch(&cli, started))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => complain_of(&error),
        Err(_) => {
            complain(&format!("error: a fault of greedy itself: {}", fault()));
            complain("hint: what was finished is on the disk; please report this with the command that led to it");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli, started: Instant) -> Result<()> {
    if let Some(threads) = cli.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        pool.build_global().map_err(|e| Error::failed(format!("cannot start {threads} threads: {e}")))?;
    }
    let terminal = Terminal::new(cli.quiet, started, cli.command.goes_on())?;
    let mut output = Output::new();
    match &cli.command {
        Command::Run(args) if several::are_named(args) => several::run(args, &terminal, &mut output),
        Command::Run(args) => run::run(args, &terminal, &mut output),
        Command::Stage(args) => run::stage(args, &terminal, &mut output),
        Command::Shards(args) => shards::shards(args, &terminal, &mut output),
        Command::Status(args) if args.watch => watch::watch(args, &terminal, &mut output),
        Command::Status(args) => status::status(args, &mut output),
        Command::Plan(args) => plan::plan(args, &terminal, &mut output),
        Command::Inspect(args) => inspect::inspect(args, &terminal, &mut output),
        Command::Verify(args) => verify::verify(args, &terminal, &mut output),
        Command::Clean(args) => clean::clean(args, &mut output),
        Command::Report(args) => report::report(args),
        Command::Evaluate(args) => evaluate::evaluate(args, &terminal, &mut output),
        Command::Predict(args) => predict::predict(args, &terminal, &mut output),
        Command::Import(args) => import::import(args, &terminal, &mut output),
        Command::Export(args) => export::export(args, &terminal, &mut output),
        Command::Bench(args) => bench::bench(args, &terminal, &mut output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "greedy", &mut script);
            output.text(&String::from_utf8_lossy(&script))
        }
    }
}

fn complain_of(error: &Error) -> ExitCode {
    match error.kind() {
        Kind::Interrupted => {
            interruption::say_interrupted();
            return ExitCode::from(interruption::EXIT_CODE);
        }
        Kind::Usage | Kind::Failed => complain(&format!("error: {error}")),
    }
    if let Some(hint) = error.hint_text() {
        complain(&format!("hint: {hint}"));
    }
    ExitCode::from(if error.kind() == Kind::Usage { 2 } else { 1 })
}
