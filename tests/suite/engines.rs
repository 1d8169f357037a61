//! Pipelines in the forms that engines for clusters run: what is in them does the work, here without the engines.

use crate::shards;
use crate::space::Space;
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

/// What stands for Slurm: each job is done at once, every task of an array twice; those that it waits for must be known.
const SBATCH: &str = r#"#!/usr/bin/env bash
set -euo pipefail
array=none
for option in "$@"; do
    case $option in
        --array=1-*) array=$(seq "${option#--array=1-}");;
        --wrap=*) command=${option#--wrap=};;
        --dependency=afterok:*) for job in $(tr : ' ' <<< "${option#--dependency=afterok:}"); do test -e "jobs/$job"; done;;
    esac
done
mkdir -p jobs
job=$((100 + $(ls jobs | wc -l)))
printf '%s\n' "$@" > "jobs/$job"
for task in $array; do
    if [ "$task" = none ]; then sh -c "$command" >&2; else
        SLURM_ARRAY_TASK_ID=$task sh -c "$command" >&2
        SLURM_ARRAY_TASK_ID=$task sh -c "$command" >&2
    fi
done
echo $job
"#;

/// The pipeline of the tests of shards, what one run makes of it, and the program on a path of its own.
fn space() -> (Space, Vec<(PathBuf, Vec<u8>)>) {
    let (space, expected) = shards::space();
    std::fs::create_dir(space.path("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_greedy"), space.path("bin/greedy")).unwrap();
    (space, expected)
}

fn export(space: &Space, engine: &str, more: &str) -> String {
    let made = format!("export {engine} killed.toml --cache cut --parts 3 --cores 2 --profile cpu2 --to file {more}");
    space.run(&made).ok();
    std::fs::read_to_string(space.path("file")).unwrap()
}

/// Runs words of a shell with the program on its path.
fn shell(space: &Space, words: &str, variable: (&str, &str)) {
    let path = format!("{}:{}", space.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", words]).env("PATH", path).env(variable.0, variable.1).current_dir(space.path("."));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_script_for_slurm_makes_the_bytes_of_one_run() {
    let (space, expected) = space();
    export(&space, "slurm", "");
    space.write("bin/sbatch", SBATCH);
    std::fs::set_permissions(space.path("bin/sbatch"), PermissionsExt::from_mode(0o755)).unwrap();
    shell(&space, "bash file --partition=debug > numbers", ("UNUSED", ""));
    space.same_results("cut", &expected, "by the script for Slurm");
    let numbers = std::fs::read_to_string(space.path("numbers")).unwrap();
    let steps: Vec<&str> = numbers.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let of_stages = ["stage1_train", "stage1_part", "stage1", "stage2_train", "stage2_part", "stage2"];
    assert_eq!(steps, [&["images_begin", "images_check", "images_part", "images"], &of_stages[..]].concat());
    let job = std::fs::read_to_string(space.path("jobs/105")).unwrap();
    for option in ["--partition=debug", "--requeue", "--array=1-3", "--dependency=afterok:104", "--cpus-per-task=2"] {
        assert!(job.contains(option), "{option} is not in:\n{job}");
    }
    assert!(job.contains("seq 3"), "tried three times:\n{job}");
}

#[test]
fn the_jobs_for_kubernetes_make_the_bytes_of_one_run() {
    let (space, expected) = space();
    let text = export(&space, "kubernetes", "");
    let jobs: Vec<&str> = text.split("---\n").skip(1).collect();
    assert_eq!(jobs.len(), 10);
    for job in jobs {
        let of = |key: &str| job.lines().find_map(|line| line.trim().strip_prefix(key));
        let command: String =
            serde_json::from_str(of("command: [sh, -c, ").unwrap().strip_suffix(']').unwrap()).unwrap();
        let tasks: usize = of("completions: ").map_or(1, |count| count.parse().unwrap());
        assert_eq!(of("backoffLimitPerIndex: ").or(of("backoffLimit: ")), Some("2"), "{job}");
        assert_eq!(of("parallelism: ").map(str::to_string), (tasks > 1).then(|| tasks.to_string()));
        // The last index first: tasks of a job may come in any order.
        for index in (0..tasks).rev() {
            shell(&space, &command, ("JOB_COMPLETION_INDEX", &index.to_string()));
        }
    }
    space.same_results("cut", &expected, "by the jobs for Kubernetes");
}

#[test]
fn what_a_snakefile_puts_out_is_a_receipt_or_a_file_of_its_own() {
    let (space, _) = space();
    let text = export(&space, "snakemake", "--retries 4");
    let of = |key: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.trim().strip_prefix(key)).map(str::to_string).collect()
    };
    let outputs = of("output: ");
    assert_eq!((outputs.len(), of("retries: ")), (10, vec!["4".to_string(); 10]));
    for output in &outputs {
        let receipt =
            output.starts_with("\"cut/stage") && output.contains("/parts/") && output.ends_with("{part}-of-3.json\"");
        assert!(receipt || output.starts_with("touch(DONE + \"/"), "{output}");
    }
    assert_eq!(outputs.iter().filter(|output| output.contains("/parts/")).count(), 4);
    let parts = text.matches("--part {wildcards.part}/3").count();
    assert_eq!(parts, 4);
}

#[test]
fn steps_ask_for_what_plan_predicts() {
    let space = Space::new();
    let machine = "--set features.refresh=0 --set network.width=64 --set training.epochs=300 --profile h200 --images 500000 --val-images 10000";
    let plan = space.run(&format!("plan small.toml --json {machine}")).ok().json();
    space.run(&format!("export slurm small.toml --parts 4 --to submit.sh {machine}")).ok();
    let text = std::fs::read_to_string(space.path("submit.sh")).unwrap();
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(&format!("{name}=$(sbatch"))).unwrap().to_string();
    let option = |name: &str, key: &str| -> f64 {
        let line = line(name);
        let rest = line.split(key).nth(1).unwrap_or_else(|| panic!("{key} is not in {line}"));
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let stage = &plan["stages"][0];
    let figure = |value: &Value| value.as_f64().unwrap();
    let megabytes = (1.5 * figure(&stage["host_bytes"]) / 1e8).ceil() * 100.0;
    let minutes = |seconds: f64| (3.0 * seconds / 60.0 + 10.0).ceil();
    let (training, features) = (&stage["seconds"], figure(&stage["seconds"]["features"]));
    let training = figure(&training["train"]) + figure(&training["evaluation"]);
    assert!(training > 60.0, "{training} s are too few to tell");
    assert_eq!((option("stage1_train", "--mem="), option("stage1_train", "--time=")), (megabytes, minutes(training)));
    assert_eq!(
        (option("stage1_part", "--mem="), option("stage1_part", "--time=")),
        (megabytes, minutes(features / 4.0))
    );
    assert_eq!((option("stage1_train", "--gpus="), option("stage1_part", "--gpus=")), (1.0, 1.0));
    assert!(!line("images_part").contains("--gpus") && !line("stage1").contains("--gpus"));
}

#[test]
fn every_kind_of_node_has_its_steps() {
    let space = Space::new();
    let folder = format!("{}/pipelines", env!("CARGO_MANIFEST_DIR"));
    let steps = |file: &str| {
        let sizes = "--images 5000 --val-images 1000 --classes 10 --profile h200";
        let said =
            space.run(&format!("export slurm {folder}/{file} --parts 2 --to submit.sh --force {sizes}")).ok().stdout;
        let names = said.lines().skip(1).map_while(|line| line.split_whitespace().next()).map(str::to_string);
        let checked = Command::new("bash").args(["-n"]).arg(space.path("submit.sh")).status().unwrap();
        assert!(checked.success(), "{file}");
        names.collect::<Vec<_>>().join(" ")
    };
    let of = |file: &str, words: &str| assert!(steps(file).contains(words), "{file}: {}", steps(file));
    of("compressed-quick.toml", "stage1_wide stage1_train stage1_part stage1 stage2_wide");
    of("simcnn-decoupled-quick.toml", "images network stage1_begin stage1_part stage1 stage2_begin");
    of("simcnn-end-to-end-quick.toml", "images network stage1_begin");
}
