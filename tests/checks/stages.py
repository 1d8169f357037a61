"""Runs `greedy run … --json` and checks its figures: accuracies, seconds, peak memory.

    stages.py --at-least 45 --rising 2 --seconds 180 --peak-mib 1024 -- greedy run pipelines/demo.toml

Prints one line a stage and one at the end; fails loudly where a figure is not what it has to be.
"""
import argparse
import json
import resource
import subprocess
import sys
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-least", type=float, help="accuracy of the last stage in percent")
    parser.add_argument("--rising", type=int, help="stages over which the accuracy has to rise, each above the one before")
    parser.add_argument("--seconds", type=float, help="time that the run may take")
    parser.add_argument("--peak-mib", type=float, help="resident memory that the run may take")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()

    started = time.monotonic()
    run = subprocess.run([*arguments.command, "--json"], stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - started
    if run.returncode != 0:
        sys.exit(f"FAILED: exit code {run.returncode}")
    stages = json.loads(run.stdout)["stages"]
    accuracies = [stage["accuracy"] for stage in stages]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    for stage in stages:
        print(f"stage {stage['stage']}: {stage['accuracy']:.2f} %, {stage['seconds']:.1f} s")
    print(f"{seconds:.0f} s in all, peak memory {peak:.0f} MiB")

    faults = []
    if arguments.at_least is not None and accuracies[-1] < arguments.at_least:
        faults.append(f"the last accuracy is {accuracies[-1]} %, below {arguments.at_least} %")
    if arguments.rising is not None:
        first = accuracies[: arguments.rising]
        if len(first) < arguments.rising or any(b <= a for a, b in zip(first, first[1:])):
            faults.append(f"the accuracy does not rise over {arguments.rising} stages")
    if arguments.seconds is not None and seconds > arguments.seconds:
        faults.append(f"the run took more than {arguments.seconds:.0f} s")
    if arguments.peak_mib is not None and peak > arguments.peak_mib:
        faults.append(f"the run took more than {arguments.peak_mib:.0f} MiB")
    if faults:
        sys.exit("FAILED: " + "; ".join(faults))


if __name__ == "__main__":
    main()
