//! A workflow as jobs of Kubernetes, held back until those before them are done.

use super::workflow::{Step, Workflow};
use std::fmt::Write;

/// The text of the YAML file.
pub fn kubernetes_jobs(workflow: &Workflow) -> String {
    let Workflow { name, machine, steps, .. } = workflow;
    let names: Vec<String> = steps.iter().map(|step| job(workflow, step)).collect();
    let mut text = format!(
        "# {name}, made by `greedy export kubernetes`; it is meant to be read and edited.\n\
         #\n\
         # Two things are yours to name: the image that has `greedy` (image), and the volume that has the pipeline's file, the\n\
         # data and the cache (claimName), which all nodes can write to (ReadWriteMany). Jobs do not wait for each other by\n\
         # themselves: all are made suspended, and released in order. What was done before is skipped.\n\
         #\n\
         #   kubectl apply -f FILE\n\
         #   for job in {}; do\n\
         #     kubectl patch job $job -p '{{\"spec\":{{\"suspend\":false}}}}'\n\
         #     kubectl wait --for=condition=complete --timeout=-1s job/$job\n\
         #   done\n\
         #\n\
         # Memory and time are 1.5 and 3 times what is predicted for {machine}, and ten minutes more.\n",
        names.join(" ")
    );
    for (step, name) in steps.iter().zip(names) {
        text += &document(workflow, step, &name);
    }
    text
}

/// A job's name: letters, digits and hyphens, 63 of them at most.
fn job(workflow: &Workflow, step: &Step) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let name: String = format!("{}-{}", workflow.name, step.name).chars().map(plain).collect();
    let start = name.len().saturating_sub(52);
    // The end tells steps apart; the pod's number takes the rest.
    name[start..].trim_matches('-').to_string()
}

fn document(workflow: &Workflow, step: &Step, name: &str) -> String {
    let (cores, limits, needs) = (workflow.cores, workflow.limits, step.needs);
    let mut text = format!(
        "---\n# {}\napiVersion: batch/v1\nkind: Job\nmetadata:\n  name: {name}\nspec:\n  suspend: true\n",
        step.about
    );
    let parts = match &step.receipts {
        Some(_) => {
            let _ = write!(
                text,
                "  completionMode: Indexed\n  completions: {0}\n  parallelism: {0}\n  backoffLimitPerIndex: {1}\n  maxFailedIndexes: 0\n",
                limits.parts, limits.retries
            );
            format!(" --parts {}", limits.parts)
        }
        None => {
            let _ = writeln!(text, "  backoffLimit: {}", limits.retries);
            String::new()
        }
    };
    let gpu = if needs.gpus > 0 { format!("\n              nvidia.com/gpu: {}", needs.gpus) } else { String::new() };
    let _ = write!(
        text,
        "  template:\n    spec:\n      restartPolicy: Never\n      activeDeadlineSeconds: {seconds}\n      containers:\n        \
         - name: greedy\n          image: greedy:latest\n          workingDir: /work\n          \
         command: [sh, -c, {command}]\n          resources:\n            requests:\n              cpu: {cores}\n              \
         memory: {memory}M\n            limits:\n              memory: {memory}M{gpu}\n          \
         volumeMounts:\n            - name: work\n              mountPath: /work\n      \
         volumes:\n        - name: work\n          persistentVolumeClaim:\n            claimName: greedy\n",
        seconds = needs.minutes * 60,
        memory = needs.memory,
        command = yaml(&format!("exec {}{parts}", step.command)),
    );
    text
}

/// A text as YAML writes it in quotes.
fn yaml(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
