#!/usr/bin/env python3
"""Runs `greedy --device cuda` on the stand-in for a GPU: all that can be proved without one.

    tests/gpu/standin/check.py PROGRAM [--short] [--only WORD] [--libraries FOLDER]

PROGRAM was built with the feature `cuda`. The stand-in is built into FOLDER (target/standin) first. Any rule of CUDA that
the program breaks ends it with exit code 86; so does every check here that finds another result than it should. `--short`
leaves out what takes longest. Exit code 0: all is correct.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OWN = Path(__file__).resolve().parent
ROOT = OWN.parents[2]
CHECKS = []

# What a step may ask for: convolutions, matrix products, our own kernels. One of them is space-to-depth, of the first block.
MOST_OPERATIONS = 41

# Two stages at a size that takes seconds; sizes that are multiples of nothing.
SMALL = ["data.train_images=160", "data.val_images=48", "network.blocks=2", "network.width=12", "auxiliary.width=10",
         "training.epochs=2", "training.batch=48"]


def check(function):
    CHECKS.append((function, False))
    return function


def long(function):
    CHECKS.append((function, True))
    return function


class Result:
    def __init__(self, code, out, err, report):
        self.code, self.out, self.err, self.report = code, out, err, report

    def fine(self):
        assert self.code == 0, f"exit code {self.code}: {self.err.strip()[-2000:]}"
        return self

    def error(self):
        """The lines of the error, where the program failed as it should: in words, and with exit code 1."""
        assert self.code == 1, f"exit code {self.code}: {self.err.strip()[-2000:]}"
        lines = [line for line in self.err.splitlines() if line.startswith(("error: ", "hint: "))]
        assert lines and "panicked" not in self.err, self.err
        return "\n".join(lines)


class Bed:
    def __init__(self, program, libraries, work):
        self.program, self.libraries, self.work = program, libraries, work

    def environment(self, libraries=True, **settings):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("CUDA", "GREEDY_STANDIN"))}
        env["GREEDY_STANDIN_CACHE"] = str(self.libraries)
        env["XDG_CACHE_HOME"] = str(self.work / "caches")
        env.pop("LD_LIBRARY_PATH", None)
        if libraries:
            env["LD_LIBRARY_PATH"] = str(self.libraries)
        env.update({key if key.isupper() and "_" in key else f"GREEDY_STANDIN_{key}": str(value) for key, value in settings.items()})
        return env

    def greedy(self, *arguments, env=None, **settings):
        report = self.work / "report.json"
        report.unlink(missing_ok=True)
        env = env or self.environment(**settings)
        env["GREEDY_STANDIN_REPORT"] = str(report)
        done = subprocess.run([self.program, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=900)
        return Result(done.returncode, done.stdout, done.stderr, json.loads(report.read_text()) if report.exists() else {})

    def arguments(self, cache, sets=(), device="cuda", fast=False):
        sets = [word for one in [*SMALL, *sets] for word in ("--set", one)]
        return ["run", ROOT / "pipelines/demo.toml", "--cache", self.work / cache, "--device", device, "--quiet", *sets,
                *(["--fast"] if fast else [])]

    def run(self, cache, sets=(), device="cuda", fast=False, **settings):
        return self.greedy(*self.arguments(cache, sets, device, fast), **settings)

    def files(self, cache):
        """What a run has left: all files but the records of times."""
        found = {}
        for path in sorted((self.work / cache).rglob("*")):
            name = path.relative_to(self.work / cache)
            if path.is_file() and name.parts[0].startswith("stage") and not path.name.startswith((".", "record")) and "spare" not in name.parts:
                found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
        assert len(found) > 8, f"only {len(found)} files in {cache}"
        return found

    def same(self, one, other):
        one, other = self.files(one), self.files(other)
        differ = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        assert not differ, f"{len(differ)} of {len(one)} files differ: {sorted(differ)[:6]}"

    def losses(self, cache, stage):
        record = json.loads((self.work / cache / f"stage{stage}" / "record.json").read_text())
        return [float(one) for one in re.findall(r'"loss": *([0-9.eE+-]+)', json.dumps(record))]


def undisturbed(bed, name, sets=()):
    """A run that others are held against, made once."""
    if not (bed.work / name).exists():
        bed.run(name, sets).fine()
    return name


@check
def the_stand_in_notices_what_breaks_a_rule(bed):
    done = subprocess.run([bed.libraries / "rules"], env=bed.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@check
def every_operation_agrees_with_the_cpu(bed):
    result = bed.greedy("bench", "agreement", "--device", "cuda", "--quiet", "--seed", 1, GREEDY_CUDA_CACHE=0).fine()
    assert result.report["algorithms refused"] > 0, "no algorithm was refused when it was run: the fallback was not tried"
    assert "convolutions with other bits at every run" not in result.report


@check
def training_is_that_of_the_cpu(bed):
    undisturbed(bed, "gpu")
    bed.run("cpu", device="cpu").fine()
    for stage in (1, 2):
        ours, expected = bed.losses("gpu", stage), bed.losses("cpu", stage)
        assert len(ours) == len(expected) > 1, (ours, expected)
        assert all(abs(a - b) < 0.02 * b for a, b in zip(ours, expected)), f"stage {stage}: losses {ours}, on the CPU {expected}"


@check
def a_step_is_recorded_and_asked_for_at_once(bed):
    sets = ["network.blocks=1", "auxiliary.k=3", "training.decay_every=100"]
    fewer, more = (bed.run(f"epochs{epochs}", [*sets, f"training.epochs={epochs}"]).fine().report for epochs in (4, 8))
    steps = fewer["operations of the largest graph"]
    assert steps <= MOST_OPERATIONS, f"a step with k = 3 takes {steps} operations"
    # Later epochs are launches of graphs that are there, and reserve nothing; how far batches are read ahead is another
    # thing at every run.
    assert more["graphs"] == fewer["graphs"], f"{more['graphs']} graphs in eight epochs, {fewer['graphs']} in four"
    assert more["allocations"] < fewer["allocations"] + 8, f"{more['allocations'] - fewer['allocations']} allocations in 16 steps"
    assert more["graph launches"] - fewer["graph launches"] == 4 * 4, (fewer["graph launches"], more["graph launches"])


@check
def the_same_run_gives_the_same_bytes_whatever_the_streams_do(bed):
    undisturbed(bed, "gpu")
    bed.run("again", SEED=2, DELAY=3000).fine()
    bed.same("gpu", "again")
    # Memory that is never used again is poison, and watched.
    bed.run("anew", GREEDY_CUDA_CACHE=0).fine()
    bed.same("gpu", "anew")


@long
def streamed_features_are_those_that_stay_on_the_device(bed):
    sets = ["data.train_images=4000", "training.epochs=2", "features.dtype=f32"]
    resident = bed.run("resident", sets).fine()
    # The features of stage 1 take more than half of it.
    streamed = bed.run("streamed", sets, MEMORY=72 << 20).fine()
    assert streamed.report["pinned bytes to the GPU"] > 1.2 * resident.report["pinned bytes to the GPU"], "nothing was streamed"
    bed.same("resident", "streamed")


@check
def bf16_trains_and_resumes(bed):
    sets = ["training.precision=bf16"]
    undisturbed(bed, "bf16", sets)
    for stage in (1, 2):
        ours, expected = bed.losses("bf16", stage), bed.losses(undisturbed(bed, "gpu"), stage)
        assert all(abs(a - b) < 0.1 * b for a, b in zip(ours, expected)), f"stage {stage}: losses {ours}, in f32 {expected}"
    killed(bed, "bf16", sets, kills=2)


@check
def a_killed_run_ends_with_the_same_bytes(bed):
    killed(bed, undisturbed(bed, "gpu"), [], kills=3)


@check
def a_run_that_was_interrupted_while_it_evaluated_goes_on(bed):
    # Most of the time is spent on validation images: the epoch at hand has then no samples left.
    sets = ["data.val_images=1500", "features.dtype=f32"]
    killed(bed, undisturbed(bed, "evaluated", sets), sets, kills=4, how=signal.SIGINT)


REFRESHED = ["features.refresh=0.4", "features.dtype=f32", "features.crop=late", "augmentation.flip=true", "training.epochs=4"]


@check
def refreshed_views_do_not_depend_on_where_a_run_was_killed(bed):
    killed(bed, undisturbed(bed, "refreshed", REFRESHED), REFRESHED, kills=4)


@long
def other_forms_and_ways_run(bed):
    for name, sets in {
        "recompute": ["features.mode=recompute"],
        "u8": ["features.dtype=u8", "features.codec=zstd:1"],
        "bf16-features": ["features.dtype=bf16", "training.precision=bf16"],
        "resized": ["augmentation.crop=resized", "augmentation.flip=true"],
        "plain": ["network.batch_norm=false", "auxiliary.k=3"],
        "views": ["features.views=2", "features.refresh=0.25"],
    }.items():
        bed.run(name, sets).fine()
        bed.same(name, name)
        killed(bed, name, sets, kills=1)


@check
def fast_takes_other_algorithms(bed):
    result = bed.run("fast", fast=True).fine()
    assert result.report["convolutions with other bits at every run"] > 0
    assert "convolutions with other bits at every run" not in bed.run("slow").fine().report


@check
def nothing_is_lost_step_by_step(bed):
    # Without the memory that the program keeps for the next tensor, what is live at the end is what was never given back.
    epochs = lambda name, count, **more: bed.run(name, [f"training.epochs={count}"], **more).fine().report
    few, many = epochs("few", 2, GREEDY_CUDA_CACHE=0), epochs("many", 6, GREEDY_CUDA_CACHE=0)
    for what in ("live allocations", "pinned allocations"):
        one, four = few.get(what, 0), many.get(what, 0)
        assert one == four, f"{what} at the end: {one} after two epochs, {four} after six"
    few, many = epochs("few-kept", 2), epochs("many-kept", 6)
    steps = 4 * 2 * 4
    assert many["allocations"] - few["allocations"] < steps, "steps ask the driver for memory"
    # How far the reader is ahead differs from run to run.
    peaks = few["peak bytes"], many["peak bytes"]
    assert peaks[1] <= peaks[0] * 1.3, f"more epochs take more memory: {peaks}"


@check
def too_little_memory_is_said_and_nothing_is_lost(bed):
    undisturbed(bed, "gpu")
    for bytes in (300_000, 1_500_000, 2_500_000):
        error = bed.run("small", MEMORY=bytes).error()
        assert "the GPU is out of memory" in error and "training.batch" in error, error
    bed.run("small").fine()
    bed.same("gpu", "small")


def disturbed(bed, setting, count):
    """Calls from some on, or one call, fail: clear words each time, and the next run makes up for it."""
    undisturbed(bed, "gpu")
    calls = bed.run("calls").fine().report["calls"]
    random.seed(count)
    for at in sorted({1, 2, 9, *(int(calls * (0.02 + 0.96 * one / count)) + random.randrange(40) for one in range(count))}):
        shutil.rmtree(bed.work / "lost", ignore_errors=True)
        result = bed.run("lost", **{setting: at})
        assert result.code in (0, 1), f"{setting} {at}: exit code {result.code}: {result.err[-1000:]}"
        if result.code == 1:
            result.error()
        bed.run("lost").fine()
        bed.same("gpu", "lost")


@check
def a_device_that_is_lost_costs_nothing_but_time(bed):
    disturbed(bed, "LOST", 8)


@long
def so_at_many_more_calls(bed):
    disturbed(bed, "LOST", 60)


@long
def one_call_that_fails_is_an_error_or_does_not_matter(bed):
    disturbed(bed, "FAIL", 60)


@check
def libraries_are_found_where_cuda_lies(bed):
    home = bed.work / "home"
    home.mkdir(exist_ok=True)
    (home / "lib64").symlink_to(bed.libraries)
    agreement = ("bench", "agreement", "--device", "cuda", "--quiet", "--only", "space-to-depth")
    bed.greedy(*agreement, env=bed.environment(False, CUDA_HOME=home, XDG_CACHE_HOME=bed.work / "none")).fine()


@check
def what_is_missing_is_said_once(bed):
    agreement = ("bench", "agreement", "--quiet", "--only", "space-to-depth", "--device")
    driver = bed.work / "driver"
    driver.mkdir(exist_ok=True)
    shutil.copy(bed.libraries / "libcuda.so.1", driver)
    env = bed.environment(False, LD_LIBRARY_PATH=driver)
    assert "cannot use device `cuda`: libcublas" in bed.greedy(*agreement, "cuda", env=env).error()
    run = bed.greedy(*[word for word in bed.arguments("auto", ["network.blocks=1"], "auto") if word != "--quiet"], env=env).fine()
    assert len(re.findall("the GPU is not used: libcublas", run.err)) == 1, run.err
    none = bed.greedy(*agreement, "auto", env=bed.environment(False)).fine()
    assert "GPU" not in none.err, none.err


@check
def kernels_are_kept_and_made_again_where_they_are_damaged(bed):
    agreement = ("bench", "agreement", "--device", "cuda", "--quiet", "--only", "space-to-depth")
    env = bed.environment(XDG_CACHE_HOME=bed.work / "kernels")
    compiled = lambda: bed.greedy(*agreement, env=env).fine().report.get("compilations", 0)
    assert compiled() == 1 and compiled() == 0, "the kernels were not kept"
    [kept] = (bed.work / "kernels/greedy").iterdir()
    whole = kept.read_bytes()
    for bytes in (whole[:-1], b"", whole[:40] + b"x" + whole[41:]):
        kept.write_bytes(bytes)
        assert compiled() == 1 and compiled() == 0, "damaged kernels were not made again"


def killed(bed, expected, sets, kills, how=signal.SIGKILL):
    """Ends a run at random instants, lets it come to its end, and compares."""
    shutil.rmtree(bed.work / "killed", ignore_errors=True)
    began = time.monotonic()
    bed.run("timed", sets).fine()
    shutil.rmtree(bed.work / "timed")
    seconds, done = time.monotonic() - began, 0
    random.seed(kills)
    for _ in range(kills):
        process = subprocess.Popen([bed.program, *map(str, bed.arguments("killed", sets))], env=bed.environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds * random.uniform(0.3, 0.9) / kills + 0.3)
        if process.poll() is None:
            process.send_signal(how)
            done += 1
        code = process.wait()
        assert code in (0, -signal.SIGKILL, 130), f"exit code {code}"
    assert done > 0, "the run could not be killed"
    bed.run("killed", sets).fine()
    bed.same(expected, "killed")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--libraries", type=Path, default=ROOT / "target/standin")
    args = parser.parse_args()
    if not any(args.only in function.__name__.replace("_", " ") for function, _ in CHECKS):
        parser.error(f"no check has `{args.only}` in its name")
    subprocess.run([OWN / "build", args.libraries], check=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(args.program.resolve(), args.libraries.resolve(), Path(folder))
        for function, takes_long in CHECKS:
            name = function.__name__.replace("_", " ")
            if args.only not in name or (args.short and takes_long):
                continue
            began = time.monotonic()
            try:
                function(bed)
                state = "ok"
            except (AssertionError, LookupError, OSError, subprocess.TimeoutExpired) as e:
                state, wrong = f"WRONG\n    {type(e).__name__}: {e}", wrong + 1
            print(f"{name}: {state} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
