#!/usr/bin/env python3
"""The same work in greedy and in PyTorch, side by side: convolutions, training steps and frozen blocks.

Each case runs in turn in `greedy bench` and here (channels_last, float32), several times over; the table gives the
medians and their ratio. Run it while nothing else runs:

  python3 -m venv ~/torch && ~/torch/bin/pip install torch==2.13.0
  ~/torch/bin/python tests/bench/pytorch.py target/release/greedy
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

CASE = re.compile(r"(?:(\d+) -> )?(\d+) channels, (\d+) x \d+, batch (\d+)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("greedy", help="the program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="the least time of each measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="cases with this text in their name or sizes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    rows = []
    for row in greedy(args, ["operations", "steps"], args.only, 0):
        work = counterpart(row)
        if work is None:
            continue
        text, ours, theirs = f"{row['what']}, {row['on']}", [], []
        part = "operations" if row["unit"] == "GFLOP/s" else "steps"
        for _ in range(args.rounds):
            ours.append(greedy(args, [part], text, args.seconds)[0]["median"])
            theirs.append(work[0] / seconds(work[1], args.seconds))
        ours, theirs = statistics.median(ours), statistics.median(theirs)
        rows.append({"what": row["what"], "on": row["on"], "unit": row["unit"], "greedy": ours, "pytorch": theirs,
                     "ratio": ours / theirs})
        if not args.json:
            print(f"{text:64} {ours:8.0f} {theirs:8.0f} {row['unit']:9} ratio {ours / theirs:.2f}", flush=True)
    if not rows:
        sys.exit(f"nothing that PyTorch does too has `{args.only}` in its name or sizes")
    if args.json:
        print(json.dumps({"threads": args.threads, "torch": torch.__version__, "rows": rows}, indent=2))


def greedy(args, parts, only, least):
    """The measurements of parts of `greedy bench` whose name or sizes hold a text."""
    command = [args.greedy, "bench", *parts, "--json", "--quiet", "--threads", str(args.threads)]
    command += ["--seconds", str(least)] + (["--only", only] if only else [])
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["measurements"]


def seconds(work, least):
    """The median time of several runs, after two that are not counted."""
    work(), work()
    times, started = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < least:
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def counterpart(row):
    """What a row of greedy's table counts, and the same work in PyTorch."""
    sizes = CASE.search(row["on"])
    if sizes is None:
        return None
    inputs, outputs, size, batch = (int(number or 0) for number in sizes.groups())
    if row["what"].startswith("training step"):
        return batch, step(int(row["what"][-1]), outputs, size, batch)
    if row["what"] == "frozen block":
        x, conv = images(batch, outputs, size), nn.Conv2d(outputs, outputs, 3, padding=1)
        conv = conv.to(memory_format=torch.channels_last)
        return batch, no_gradients(lambda: F.relu_(conv(x)))
    if not inputs:
        return None
    x, grad = images(batch, inputs, size), images(batch, outputs, size)
    weight = torch.randn(outputs, inputs, 3, 3).to(memory_format=torch.channels_last)
    work = 2 * batch * size * size * inputs * outputs * 9 / 1e9

    def backward(mask):
        return lambda: torch.ops.aten.convolution_backward(
            grad, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)

    return work, no_gradients({
        "convolution": lambda: F.conv2d(x, weight, padding=1),
        "weight gradient": backward([False, True, False]),
        "input gradient": backward([True, False, False]),
    }[row["what"]])


def no_gradients(work):
    def run():
        with torch.no_grad():
            work()
    return run


def images(batch, channels, size):
    return torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last)


def unit(channels):
    return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]


def step(k, channels, size, batch):
    """A training step of a stage in the middle of SimCNN."""
    body = [layer for _ in range(k) for layer in unit(channels)]
    head = [nn.AvgPool2d(size // 2), nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(channels * 4, 10)]
    model = nn.Sequential(*body, *head).to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    x, labels = images(batch, channels, size), torch.arange(batch) % 10

    def run():
        sgd.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), labels).backward()
        sgd.step()

    return run


if __name__ == "__main__":
    main()
