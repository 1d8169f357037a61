"""Runs pipelines through the files that `greedy export` writes and compares every file with that of one process.

    cluster.py GREEDY WORK [--cifar TAR] [--venv FOLDER] [--short]

Slurm has two nodes here, each with a slurmd; Snakemake hands its tasks to it. Tasks are killed at random and requeued, and two
attempts at one part run at once. What is needed is installed: Slurm from Debian, Snakemake and kubernetes-validate from PyPI into
FOLDER. What cannot be had is left out, with one line. `--short` takes fewer images, epochs and stages, and lets Snakemake do the
first stage of the first pipeline only: each of its steps takes 15 seconds or more.
"""
import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from slurm import LeftOut, Slurm

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS, CORES, TRIES = 3, 2, 4
# A task that was requeued waits for two minutes; after so many seconds a node takes it again.
SETTLED = 8
SETTINGS = {
    "demo": (["features.shard_mib=8"], ["network.blocks=2", "data.train_images=1500", "data.val_images=300", "training.epochs=2"]),
    "cifar10-quick": (
        ["data.on_bad_image=skip", "features.shard_mib=8", "network.blocks=2", "data.train_images=8000", "data.val_images=2000", "training.epochs=3"],
        ["data.train_images=1500", "data.val_images=300", "training.epochs=2"],
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("greedy", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cifar", type=Path, help="a tar with {train,test}/<class>/*")
    parser.add_argument("--venv", type=Path, help="where packages of PyPI are installed [default: in WORK]")
    parser.add_argument("--short", action="store_true")
    asked = parser.parse_args()
    work = asked.work.resolve()
    links = work / "bin"
    links.mkdir(parents=True, exist_ok=True)
    (links / "greedy").unlink(missing_ok=True)
    (links / "greedy").symlink_to(asked.greedy.resolve())
    os.environ["PATH"] = f"{links}:{os.environ['PATH']}"
    seed = int(os.environ.get("CLUSTER_SEED", time.time_ns() % 100_000))
    random.seed(seed)
    print(f"seed {seed}")
    pipelines = [Pipeline("demo", work, asked.short, [])]
    if asked.cifar:
        pipelines.append(Pipeline("cifar10-quick", work, asked.short, [f"data.path={asked.cifar.resolve()}"]))
    packages = install(asked.venv or work / "venv")
    for pipeline in pipelines:
        pipeline.by_one_process()
        if packages:
            validate(pipeline, packages / "kubernetes-validate")
    try:
        with Slurm(work / "slurm") as cluster:
            for pipeline in pipelines:
                by_slurm(pipeline, cluster)
                if packages and (pipeline is pipelines[0] or not asked.short):
                    by_snakemake(pipeline, cluster, packages / "snakemake", "stage1" if asked.short else None)
            sweep(pipelines[0], cluster)
    except LeftOut as why:
        print(f"left out: what runs on Slurm: {why}")


def install(venv):
    """The programs of the packages; nothing where they cannot be had."""
    names = ["snakemake", "snakemake-executor-plugin-slurm", "kubernetes-validate"]
    if not (venv / "bin/kubernetes-validate").exists() or not (venv / "bin/snakemake").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = subprocess.run([venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *names])
        if pip.returncode != 0:
            print("left out: Snakemake and kubernetes-validate, which could not be installed")
            return None
    return (venv / "bin").resolve()


def run(*words, **more):
    return subprocess.run([str(word) for word in words], check=True, text=True, stdout=subprocess.PIPE, **more).stdout


class Pipeline:
    """A pipeline, its settings here, and what one process makes of it."""

    def __init__(self, name, work, short, more):
        settings, fewer = SETTINGS[name]
        self.name, self.work = name, work
        self.file = REPOSITORY / "pipelines" / f"{name}.toml"
        self.settings = [word for setting in [*settings, *more, *(fewer if short else [])] for word in ("--set", setting)]

    def cache(self, how):
        return self.work / f"{self.name}-{how}"

    def by_one_process(self):
        started, cache = time.monotonic(), self.cache("whole")
        run("greedy", "--quiet", "--threads", CORES, "run", self.file, "--cache", cache, *self.settings)
        self.expected = results(cache)
        print(f"{self.name}: {len(self.expected)} files by one process, {time.monotonic() - started:.0f} s")

    def export(self, engine):
        path = self.work / f"{self.name}.{engine}"
        options = ["--parts", PARTS, "--cores", CORES, "--profile", "cpu2", "--retries", TRIES, "--to", path, "--force"]
        run("greedy", "export", engine, self.file, "--cache", self.cache(engine), *self.settings, *options)
        return path

    def compare(self, engine, what, until=None):
        """Of the stages as far as one of them, or of all."""
        found = results(self.cache(engine))
        names = set(found) | {name for name in self.expected if until is None or name.split("/")[0] <= until}
        wrong = sorted(name for name in names if found.get(name) != self.expected.get(name))
        if wrong:
            sys.exit(f"FAILED: {self.name} by {what}: not as one process makes them: {' '.join(wrong)}")
        print(f"{self.name} by {what}: all {len(found)} files are as one process makes them")


def results(cache):
    """Every file with its bytes, but for locks and receipts; records without their times and seals."""
    found = {}
    for path in (path for path in Path(cache).rglob("*") if path.is_file()):
        name = path.relative_to(cache)
        if path.name == ".lock" or "parts" in name.parts:
            continue
        content = path.read_bytes()
        if path.name == "record.json":
            record = json.loads(content)
            del record["blake3"]
            content = json.dumps(timeless(record)).encode()
        found[str(name)] = content
    return found


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key != "seconds"}
    return [timeless(one) for one in value] if isinstance(value, list) else value


class Trouble(threading.Thread):
    """Kills tasks that work on a cache at random, and starts second attempts at parts while the first run."""

    def __init__(self, cache, most=20, each=2, twins=False):
        super().__init__(daemon=True)
        # Tasks are tried a few times only: how many are killed, and of one command.
        self.most, self.each = most, each
        self.cache, self.seen, self.kills, self.deaths = str(cache), set(), {}, []
        self.starts_twins, self.twins, self.over = twins, [], threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()
        for twin in self.twins:
            if twin.wait(300) != 0:
                sys.exit(f"FAILED: a second attempt ended with {twin.returncode}: {twin.args}")

    def run(self):
        while not self.over.wait(0.05):
            own = {twin.pid for twin in self.twins}
            for process, words in tasks(self.cache):
                if process not in self.seen and process not in own:
                    self.seen.add(process)
                    self.meet(process, words)
            for death in [one for one in self.deaths if time.monotonic() >= one[0]]:
                self.deaths.remove(death)
                self.kill(*death[1:])

    def meet(self, process, words):
        if self.starts_twins and "shards" in words and random.random() < 0.5:
            quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.twins.append(subprocess.Popen(words, **quiet))
        left = sum(self.kills.values()) + len(self.deaths) < self.most and self.kills.get(tuple(words), 0) < self.each
        if left and (len(self.kills) < 3 or random.random() < 0.3):
            self.deaths.append((time.monotonic() + random.random() * 0.5, process, words))

    def kill(self, process, words):
        # Its number may be another's by now.
        if (process, words) in tasks(self.cache):
            os.kill(process, signal.SIGKILL)
            self.kills[tuple(words)] = self.kills.get(tuple(words), 0) + 1


def tasks(cache):
    """The processes of greedy that work on a cache, with their command lines."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            except OSError:
                continue
            if words and os.path.basename(words[0]) == "greedy" and cache in words:
                found.append((int(folder.name), words))
    return found


def by_slurm(pipeline, cluster):
    started, script = time.monotonic(), pipeline.export("slurm")
    # Every part once more: a second attempt beside the first, or one that comes when the stage is done.
    step = r"\n(\w+_part)=(\$\(sbatch .*\\\n.*\n)echo .*\n"
    twice = re.sub(step, lambda found: found[0] + f"\n{found[1]}_again={found[2]}echo \"${found[1]}_again again\"\n", script.read_text())
    script.write_text(twice)
    said = run("bash", script, env=cluster.environment, cwd=pipeline.work)
    jobs = [line.split()[0] for line in said.splitlines()]
    requeues, requeued = 0, {}
    with Trouble(pipeline.cache("slurm")) as trouble:
        while queue := cluster.ask("squeue", "-h", "-r", "-o", "%i %T", "-j", ",".join(jobs)).split("\n")[:-1]:
            states = [line.split() for line in queue]
            running = [job for job, state in states if state == "RUNNING"]
            if running and requeues < 5 and random.random() < 0.2:
                job = random.choice(running)
                cluster.ask("scontrol", "requeue", job)
                requeues, requeued[job] = requeues + 1, time.monotonic()
            for job in (job for job, when in requeued.items() if time.monotonic() - when > SETTLED and [job, "PENDING"] in states):
                cluster.ask("scontrol", "update", f"jobid={job}", "starttime=now")
            if time.monotonic() - started > 1200:
                sys.exit(f"FAILED: {pipeline.name} by Slurm does not end: {queue}")
            time.sleep(0.3)
    for job in jobs:
        bad = set(re.findall(r"JobState=(\w+)", cluster.ask("scontrol", "show", "job", job, "-o"))) - {"COMPLETED"}
        if bad:
            sys.exit(f"FAILED: job {job} of {script} ended as {' '.join(bad)}; its log is in {pipeline.work}")
    kills = sum(trouble.kills.values())
    pipeline.compare("slurm", f"Slurm ({len(jobs)} jobs, every part twice, {kills} tasks killed, {requeues} requeued, {time.monotonic() - started:.0f} s)")


def by_snakemake(pipeline, cluster, snakemake, until):
    started, file = time.monotonic(), pipeline.export("snakemake")
    options = ["--executor", "slurm", "--jobs", "6", "--latency-wait", "60", "--seconds-between-status-checks", "2"]
    options += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
    options += ["--default-resources", "slurm_account=none", "slurm_partition=debug"]
    log = pipeline.work / f"{pipeline.name}.snakemake.log"
    with Trouble(pipeline.cache("snakemake"), most=2 if until else 8, each=1, twins=True) as trouble, open(log, "wb") as to:
        target = [f"{pipeline.name}.steps/{until}"] if until else []
        command = [snakemake, *target, "--snakefile", file, "--directory", pipeline.work, *options]
        done = subprocess.run(command, env=cluster.environment, stdout=to, stderr=subprocess.STDOUT, timeout=1200)
    if done.returncode != 0:
        sys.exit(f"FAILED: {pipeline.name} by Snakemake: exit code {done.returncode}, its log is {log}")
    kills, twins = sum(trouble.kills.values()), len(trouble.twins)
    what = f"Snakemake on Slurm ({twins} parts twice at once, {kills} tasks killed, {time.monotonic() - started:.0f} s)"
    pipeline.compare("snakemake", what, until)


def sweep(pipeline, cluster):
    """Many jobs train on one stage at once."""
    started, rates = time.monotonic(), ["0.02", "0.05", "0.1", "0.2"]
    commands = {}
    for how in ["sweep-whole", "sweep"]:
        for rate in rates:
            words = ["greedy", "--threads", CORES, "stage", 2, "--from", pipeline.cache("whole") / "stage1"]
            words += ["--to", pipeline.cache(how) / rate, "--set", f"training.learning_rate={rate}"]
            commands[how, rate] = [str(word) for word in words]
    job = lambda rate: ["sbatch", "--parsable", "--cpus-per-task=1", "--output=/dev/null", "--wrap", " ".join(commands["sweep", rate])]
    jobs = [run(*job(rate), env=cluster.environment, cwd=pipeline.work).strip() for rate in rates]
    for rate in rates:
        run(*commands["sweep-whole", rate], stderr=subprocess.DEVNULL)
    while cluster.ask("squeue", "-h", "-j", ",".join(jobs)):
        time.sleep(0.3)
    if results(pipeline.cache("sweep")) != results(pipeline.cache("sweep-whole")):
        sys.exit(f"FAILED: the sweep in {pipeline.cache('sweep')} is not as one process makes it")
    page = pipeline.work / "sweep.html"
    run("greedy", "--quiet", "report", pipeline.cache("sweep"), "--to", page)
    text = page.read_text()
    if not all(f"{pipeline.name} ({rate})" in text for rate in rates):
        sys.exit(f"FAILED: {page} does not compare the jobs")
    print(f"sweep of {len(rates)} jobs on one stage: all files are as one process makes them, {time.monotonic() - started:.0f} s")


def validate(pipeline, program):
    file = pipeline.export("kubernetes")
    done = subprocess.run([program, "--strict", "-k", "1.31", file], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.exit(f"FAILED: {file} is not valid:\n{done.stdout}")
    print(f"{pipeline.name} for Kubernetes: {file.read_text().count('kind: Job')} jobs are valid; nothing was run")


if __name__ == "__main__":
    main()
