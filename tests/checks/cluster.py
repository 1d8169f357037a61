#!/usr/bin/env python3
"""Runs a pipeline through the files that `greedy export` writes and compares every file with one process's.

    cluster.py GREEDY WORK PIPELINE [--snakemake PATH] [--validate PATH]

Slurm is used where a partition is up (`sinfo`), Snakemake and kubernetes-validate where they are named; what cannot be
run is left out with one line. While Slurm runs, tasks are requeued at random."""

import argparse, json, os, random, re, shutil, subprocess, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("greedy"), parser.add_argument("work"), parser.add_argument("pipeline")
parser.add_argument("--snakemake"), parser.add_argument("--validate")
asked = parser.parse_args()
greedy, work, pipeline = map(os.path.abspath, (asked.greedy, asked.work, asked.pipeline))
os.makedirs(work, exist_ok=True)
links = os.path.join(work, "bin")
os.makedirs(links, exist_ok=True)
if not os.path.exists(os.path.join(links, "greedy")):
    os.symlink(greedy, os.path.join(links, "greedy"))
environment = dict(os.environ, PATH=links + ":" + os.environ["PATH"])
source = os.path.dirname(os.path.dirname(pipeline)) if os.path.basename(os.path.dirname(pipeline)) == "pipelines" else os.path.dirname(pipeline)


def run(*words, **more):
    return subprocess.run(words, check=True, env=environment, cwd=source, text=True, stdout=subprocess.PIPE, **more).stdout


def timeless(value):
    if isinstance(value, dict):
        value.pop("seconds", None)
        [timeless(one) for one in value.values()]
    elif isinstance(value, list):
        [timeless(one) for one in value]


def results(cache):
    found = {}
    for folder, folders, files in os.walk(cache):
        folders[:] = [one for one in folders if one != "parts"]
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            if name == "record.json":
                record = json.loads(content)
                record.pop("blake3")
                timeless(record)
                content = json.dumps(record).encode()
            if name != ".lock":
                found[os.path.relpath(os.path.join(folder, name), cache)] = content
    return found


def compare(how, cache):
    found = results(cache)
    wrong = sorted(set(found) ^ set(whole)) + [name for name in found if found[name] != whole.get(name, found[name])]
    if wrong:
        sys.exit(f"{how}: {wrong} are not as one process makes them")
    print(f"{how}: all {len(found)} files are as one process makes them")


def export(engine, cache, name):
    path = os.path.join(work, name)
    run("greedy", "export", engine, pipeline, "--cache", cache, "--parts", "3", "--cores", "2", "--profile", "cpu2",
        "--to", path, "--force")
    return path


def slurm():
    cache = os.path.join(work, "slurm")
    script = export("slurm", cache, "submit.sh")
    jobs = [line.split()[0] for line in run("bash", script, stderr=subprocess.STDOUT).splitlines() if line[:1].isdigit()]
    requeued, pending = 0, True
    while pending:
        time.sleep(1)
        queue = [line.split() for line in run("squeue", "-h", "-o", "%A %F %T", "-j", ",".join(jobs)).splitlines()]
        running = [job for job, _, state in queue if state == "RUNNING"]
        if running and requeued < 6 and random.random() < 0.5:
            job = random.choice(running)
            requeued += subprocess.run(["scontrol", "requeue", job], stderr=subprocess.DEVNULL).returncode == 0
        for job, _, state in queue:
            if state == "PENDING":  # a task that was requeued waits for minutes of its own
                subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], stderr=subprocess.DEVNULL)
        pending = bool(queue)
    compare(f"Slurm, {len(jobs)} steps, {requeued} tasks requeued", cache)


def snakemake(executor):
    cache = os.path.join(work, "snakemake-" + executor)
    file = export("snakemake", cache, "Snakefile-" + executor)
    more = ["--cores", "2"]
    if executor == "slurm":
        more = ["--executor", "slurm", "--jobs", "4", "--slurm-status-command", "squeue",
                "--slurm-init-seconds-before-status-checks", "2", "--default-resources", "slurm_account=none", "slurm_partition=debug"]
    folder = os.path.join(work, "run-" + executor)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    # Paths of a pipeline's data count from where it runs.
    for name in os.listdir(source):
        os.symlink(os.path.join(source, name), os.path.join(folder, name))
    subprocess.run([asked.snakemake, "--snakefile", file, "--quiet", "all", *more], check=True, env=environment, cwd=folder)
    compare(f"Snakemake, executor {executor}", cache)


def kubernetes():
    file = export("kubernetes", os.path.join(work, "kubernetes"), "jobs.yaml")
    print(subprocess.run([asked.validate, "--strict", "-k", "1.31", file], check=True, text=True, capture_output=True).stdout.splitlines()[-1])
    print("Kubernetes: the jobs are valid; nothing was run")


run("greedy", "--threads", "2", "run", pipeline, "--cache", os.path.join(work, "whole"), stderr=subprocess.DEVNULL)
whole = results(os.path.join(work, "whole"))
up = shutil.which("sinfo") and subprocess.run(["sinfo", "-h"], capture_output=True, text=True)
up = bool(up) and re.search(r"\bup\b", up.stdout) is not None
slurm() if up else print("left out: no partition of Slurm is up")
if asked.snakemake:
    snakemake("local")
    snakemake("slurm") if up else None
else:
    print("left out: Snakemake was not named")
kubernetes() if asked.validate else print("left out: kubernetes-validate was not named")
