//! A workflow as a script that hands its steps to Slurm, each to begin when those before it are done.

use super::workflow::{Step, Workflow};
use crate::text::quoted;
use std::fmt::Write;

/// The text of the script.
pub fn slurm_script(workflow: &Workflow) -> String {
    let Workflow { name, machine, cores, limits, steps, .. } = workflow;
    let tries = limits.retries + 1;
    let mut text = format!(
        "#!/usr/bin/env bash\n\
         # {name}, made by `greedy export slurm`; it is meant to be read and edited.\n\
         #\n\
         #   bash FILE                                   # submits all steps and prints their numbers\n\
         #   bash FILE --partition=NAME --account=NAME   # with options of sbatch\n\
         #\n\
         # What is current is skipped: submit it again after a failure, and it goes on where it stopped. One part again:\n\
         # `sbatch --array=3 …` with the line of its step.\n\
         # Memory and minutes are 1.5 and 3 times what is predicted for {machine}, and ten minutes more.\n\
         set -euo pipefail\n\n\
         # A task that fails is tried {tries} times in all. One that is stopped is not: Slurm requeues it where it preempts it.\n\
         tried() {{\n    \
         printf 'for try in $(seq {tries}); do %s; code=$?; [ $code = 0 ] || [ $code = 130 ] && exit $code; sleep 5; done; exit $code' \"$1\"\n\
         }}\n\n\
         mkdir -p {logs}\n\
         common=(--parsable --requeue --kill-on-invalid-dep=yes --cpus-per-task={cores} --output={logs}/%x-%A-%a.log \"$@\")\n",
        logs = quoted(&format!("{name}.logs")),
    );
    for step in steps {
        let _ =
            write!(text, "\n# {}\n{}=$(sbatch \"${{common[@]}}\" {}", step.about, step.name, options(step, workflow));
        let parts = step.receipts.as_ref().map_or(String::new(), |_| format!(" --parts {}", limits.parts));
        let _ = write!(text, " \\\n    --wrap=\"$(tried {})\")\n", quoted(&(step.command.clone() + &parts)));
        let _ = writeln!(text, "echo \"${} {}\"", step.name, step.name);
    }
    text
}

fn options(step: &Step, workflow: &Workflow) -> String {
    let mut options = format!("--job-name={} --mem={}M --time={}", step.name, step.needs.memory, step.needs.minutes);
    if step.receipts.is_some() {
        let _ = write!(options, " --array=1-{}", workflow.limits.parts);
    }
    if step.needs.gpus > 0 {
        let _ = write!(options, " --gpus={}", step.needs.gpus);
    }
    if !step.after.is_empty() {
        let after = step.after.iter().map(|&at| format!(":${}", workflow.steps[at].name)).collect::<String>();
        let _ = write!(options, " --dependency=afterok{after}");
    }
    options
}
