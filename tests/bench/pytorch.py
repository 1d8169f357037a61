#!/usr/bin/env python3
"""The same work in greedy and in PyTorch, side by side: convolutions, training steps and frozen blocks.

Shape by shape it runs in `greedy bench` and here (channels_last) in turn, several times over; the table gives the medians
and their ratio. Run it while nothing else runs:

  python3 -m venv ~/torch && ~/torch/bin/pip install torch==2.13.0
  ~/torch/bin/python tests/bench/pytorch.py target/release/greedy
  ~/torch/bin/python tests/bench/pytorch.py target/release/greedy --device cuda --dtype bf16 --compile

In bf16 PyTorch trains with autocast, on inputs in bf16 as greedy does; in f32 neither uses TF32. `--compile` compiles
training steps and frozen blocks with torch.compile, in the mode of `--mode`. PyTorch tries all algorithms of cuDNN and
takes the fastest, whether or not it gives the same bits at every run: with `--fast` greedy may do so too, with
`--deterministic` PyTorch may not either.
"""

import argparse
import functools
import json
import re
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

CASE = re.compile(
    r"(?:(\d+) -> )?(\d+) channels, (\d+) x \d+, batch (\d+)(?:, kernel (\d+), stride (\d+), padding (\d+))?")
LINEAR = re.compile(r"(\d+) -> (\d+) features, batch (\d+)")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Seconds of work that a GPU has before it, as in `greedy bench`.
QUEUED = 0.03


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("greedy", help="the program")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="how feature maps are stored")
    parser.add_argument("--compile", action="store_true", help="compile what is compared with")
    parser.add_argument("--mode", choices=["default", "reduce-overhead", "max-autotune"], default="default")
    parser.add_argument("--fast", action="store_true", help="greedy may take ways that give other bits at every run")
    parser.add_argument("--deterministic", action="store_true", help="PyTorch may not take such ways")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="the least time of each measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="cases with this text in their name or sizes")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each case")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = args.deterministic

    compared = 0
    for part in ["operations", "steps"]:
        rows = [row for row in greedy(args, part, args.only, 0) if CASE.search(row["on"]) or LINEAR.search(row["on"])]
        for on in dict.fromkeys(row["on"] for row in rows):
            names = [row["what"] for row in rows if row["on"] == on]
            for row in compare(args, part, on, names):
                compared += 1
                print(json.dumps(row) if args.json else text(row), flush=True)
            torch.compiler.reset()
    if not compared:
        sys.exit(f"nothing that PyTorch does too has `{args.only}` in its name or sizes")


def compare(args, part, on, names):
    """The medians of the operations or steps on one shape."""
    works = {name: counterpart(args, name, on) for name in names}
    works = {name: work for name, work in works.items() if work is not None}
    ours, theirs = {name: [] for name in works}, {name: [] for name in works}
    only = f"{names[0]}, {on}" if len(names) == 1 else on
    for _ in range(args.rounds if works else 0):
        measured = [row for row in greedy(args, part, only, args.seconds) if row["on"] == on]
        for row in measured:
            if row["what"] in works:
                ours[row["what"]].append(row)
        for name, (amount, work) in works.items():
            theirs[name].append(amount / seconds(args, work))
    for name in works:
        own = statistics.median(row["median"] for row in ours[name])
        unit = ours[name][0]["unit"]
        other = statistics.median(theirs[name]) / {"GFLOP/s": 1e9, "TFLOP/s": 1e12, "GB/s": 1e9, "images/s": 1}[unit]
        yield {"what": name, "on": on, "precision": args.dtype, "unit": unit, "greedy": own, "pytorch": other,
               "ratio": own / other, "compiled": args.mode if args.compile and part == "steps" else None,
               "fast": args.fast, "deterministic": args.deterministic, "torch": torch.__version__}


def text(row):
    name = f"{row['what']}, {row['on']}, {row['precision']}"
    return f"{name:70} {row['greedy']:10.1f} {row['pytorch']:10.1f} {row['unit']:9} ratio {row['ratio']:.2f}"


def greedy(args, part, only, least):
    """The measurements of a part of `greedy bench` whose name or sizes hold a text."""
    command = [args.greedy, "bench", part, "--json", "--quiet", "--threads", str(args.threads), "--seconds", str(least)]
    command += ["--device", args.device, "--precision", args.dtype] + (["--only", only] if only else [])
    command += ["--fast"] if args.fast else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 2 and only:
        return []  # This part has nothing of that text.
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)["measurements"]


def seconds(args, work):
    """The median time of several runs, after some that are not counted."""
    def timed(runs):
        before = time.perf_counter()
        for _ in range(runs):
            work()
        if args.device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter() - before) / runs

    timed(1), timed(1)
    runs = 1 if args.device == "cpu" else min(1000, int(QUEUED / timed(1)) + 1)
    times, started = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < args.seconds:
        times.append(timed(runs))
    return statistics.median(times)


def counterpart(args, what, on):
    """What a row of greedy's table counts, and the same work in PyTorch."""
    if LINEAR.search(on):
        return linear(args, what, *(int(number) for number in LINEAR.search(on).groups()))
    *sizes, kernel, stride, padding = CASE.search(on).groups()
    inputs, outputs, size, batch = (int(number or 0) for number in sizes)
    window = (int(kernel), int(stride), int(padding)) if kernel else (3, 1, 1)
    if what.startswith("training step"):
        return batch, step(args, int(what[-1]), (inputs or outputs, outputs), size, batch)
    if what == "frozen block":
        x = images(args, batch, inputs or outputs, size)
        block = nn.Sequential(nn.Conv2d(inputs or outputs, outputs, 3, padding=1), nn.ReLU())
        block = compiled(args, block.to(args.device, DTYPES[args.dtype], memory_format=torch.channels_last))
        return batch, no_gradients(lambda: block(x))
    if what.startswith("max pooling"):
        return max_pooling(what, images(args, batch, outputs, size), window)
    if not inputs:
        return None
    kernel, stride, padding = window
    result = (size + 2 * padding - kernel) // stride + 1
    x, grad = images(args, batch, inputs, size), images(args, batch, outputs, result)
    weight = torch.randn(outputs, inputs, kernel, kernel, device=args.device, dtype=DTYPES[args.dtype])
    weight = weight.to(memory_format=torch.channels_last)
    work = 2 * grad.numel() * inputs * kernel * kernel

    def backward(mask):
        return lambda: torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask)

    works = {
        "convolution": lambda: F.conv2d(x, weight, None, stride, padding),
        "weight gradient": backward([False, True, False]),
        "input gradient": backward([True, False, False]),
    }
    return (work, no_gradients(works[what])) if what in works else None


def linear(args, what, inputs, outputs, batch):
    like = {"device": args.device, "dtype": DTYPES[args.dtype]}
    x, grad, bias = torch.randn(batch, inputs, **like), torch.randn(batch, outputs, **like), torch.randn(outputs, **like)
    weight = torch.randn(outputs, inputs, **like)
    works = {
        "linear": lambda: F.linear(x, weight, bias),
        "linear weight gradient": lambda: grad.t() @ x,
        "linear input gradient": lambda: grad @ weight,
        "dropout": lambda: F.dropout(x, 0.5),
    }
    work = 2 * x.nbytes if what == "dropout" else 2 * batch * inputs * outputs
    return work, no_gradients(works[what])


def max_pooling(what, x, window):
    kernel, stride, padding = ([number] * 2 for number in window)
    y, places = torch.ops.aten.max_pool2d_with_indices(x, kernel, stride, padding)
    works = {
        "max pooling": lambda: F.max_pool2d(x, kernel, stride, padding),
        "max pooling gradient": lambda: torch.ops.aten.max_pool2d_with_indices_backward(
            y, x, kernel, stride, padding, [1, 1], False, places),
    }
    return (2 if "gradient" in what else 1) * x.nbytes + y.nbytes, no_gradients(works[what])


def no_gradients(work):
    def run():
        with torch.no_grad():
            work()
    return run


def images(args, batch, channels, size):
    x = torch.randn(batch, channels, size, size, device=args.device, dtype=DTYPES[args.dtype])
    return x.to(memory_format=torch.channels_last)


def compiled(args, model):
    return torch.compile(model, mode=args.mode) if args.compile else model


def unit(inputs, channels):
    return [nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]


def step(args, k, sizes, size, batch):
    """A training step of a stage with so many channels of input and output."""
    inputs, channels = sizes
    body = [layer for at in range(k) for layer in unit(channels if at else inputs, channels)]
    head = [nn.AvgPool2d(size // 2), nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(channels * 4, 10)]
    model = nn.Sequential(*body, *head).to(args.device, memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    x, labels = images(args, batch, inputs, size), torch.arange(batch, device=args.device) % 10
    forward = compiled(args, model)
    autocast = functools.partial(torch.autocast, args.device, torch.bfloat16, enabled=args.dtype == "bf16")

    def run():
        sgd.zero_grad(set_to_none=True)
        with autocast():
            loss = F.cross_entropy(forward(x), labels)
        loss.backward()
        sgd.step()

    return run


if __name__ == "__main__":
    main()
