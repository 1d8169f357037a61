//! A workflow as a Snakefile.

use super::workflow::{Step, Workflow};
use std::fmt::Write;

/// The text of the Snakefile. Receipts are outputs of its rules, and files of its own in a folder beside it say that a step
/// is done: whatever belongs to a stage is greedy's, and no rule's to remove.
pub fn snakefile(workflow: &Workflow) -> String {
    let Workflow { name, file, machine, cores, limits, steps } = workflow;
    let parts = limits.parts;
    let mut text = format!(
        "# {name}, made by `greedy export snakemake`; it is meant to be read and edited.\n\
         #\n\
         #   snakemake --snakefile FILE --cores 8                                  # on one machine\n\
         #   snakemake --snakefile FILE --executor slurm --jobs 100 \\\n\
         #       --latency-wait 60 --default-resources slurm_account=NAME slurm_partition=NAME\n\
         #\n\
         # Memory and minutes are 1.5 and 3 times what is predicted for {machine}, and ten minutes more.\n\n\
         PIPELINE = {pipeline}\nPARTS = range(1, {end})\nDONE = {done}\n\n",
        pipeline = python(file),
        end = parts + 1,
        done = python(&format!("{name}.steps")),
    );
    let ends: Vec<String> = workflow.ends().map(done).collect();
    let _ = write!(text, "rule all:\n    input: {}\n", ends.join(", "));
    for step in steps {
        let _ = write!(text, "\n# {}\nrule {}:\n    input: {}\n", step.about, step.name, inputs(step, steps));
        let command = step.command.replace('{', "{{").replace('}', "}}");
        let (output, part) = match &step.receipts {
            Some((before, behind)) => {
                let path = format!("{}{{part}}{}", braces(before), braces(behind));
                (python(&path), format!(" --part {{wildcards.part}}/{parts}"))
            }
            None => (format!("touch({})", done(step)), String::new()),
        };
        let gpu = if step.needs.gpus > 0 { format!(", gpu={}", step.needs.gpus) } else { String::new() };
        let _ = write!(
            text,
            "    output: {output}\n    threads: {cores}\n    resources: mem_mb={}, runtime={}{gpu}\n    retries: {}\n    shell: {}\n",
            step.needs.memory,
            step.needs.minutes,
            limits.retries,
            python(&(command + &part)),
        );
    }
    text
}

/// What a step waits for: the pipeline's file, and steps before it or their receipts.
fn inputs(step: &Step, steps: &[Step]) -> String {
    let before = step.after.iter().map(|&at| match &steps[at].receipts {
        Some((before, behind)) => {
            format!("expand({}, part=PARTS)", python(&format!("{}{{part}}{}", braces(before), braces(behind))))
        }
        None => done(&steps[at]),
    });
    std::iter::once("PIPELINE".to_string()).chain(before).collect::<Vec<_>>().join(", ")
}

fn done(step: &Step) -> String {
    format!("DONE + {}", python(&format!("/{}", step.name)))
}

fn braces(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

/// A text as Python writes it.
fn python(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|letter| match letter {
            '"' | '\\' => vec!['\\', letter],
            '\n' => vec!['\\', 'n'],
            _ => vec![letter],
        })
        .collect();
    format!("\"{escaped}\"")
}
