#!/usr/bin/env python3
"""Accuracies of the same pipelines in greedy and in PyTorch, over seeds, as one Markdown table.

  greedy run pipelines/paper-small/simcnn-k2.toml --set seed=1 --json > simcnn-k2.1.json
  python tests/bench/networks_torch.py pipelines/paper-small/simcnn-k2.toml --seeds 0,1,2 > simcnn-k2.lines
  python tests/bench/systems.py --greedy simcnn-k2.*.json --torch *.lines

A figure is the mean of the runs of one pipeline, plus or minus half their range. `1.wide` is stage 1 before it is pruned.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--greedy", type=Path, nargs="*", default=[], help="what `greedy run --json` printed")
    parser.add_argument("--torch", type=Path, nargs="*", default=[], help="what networks_torch.py printed")
    args = parser.parse_args()
    columns = [defaultdict(list), defaultdict(list)]
    for file in args.greedy:
        for run in values_of(file.read_text()):
            for stage, accuracy in stages_of(run):
                columns[0][run["pipeline"], stage].append(accuracy)
    for file in args.torch:
        for row in values_of(file.read_text()):
            columns[1][row["pipeline"], str(row["stage"])].append(row["accuracy"])
    print("| pipeline | stage | greedy, % | seeds | PyTorch, % | seeds |\n|---|---|---|---|---|---|")
    for key in sorted(set().union(*columns)):
        cells = [cell for column in columns for cell in (spread(column.get(key, [])), str(len(column.get(key, []))))]
        print(f"| `{key[0]}` | {key[1]} | {' | '.join(cells)} |")


def values_of(text):
    """The JSON values of a text, one after the other; of a list its entries."""
    text = text.strip()
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        yield from value if isinstance(value, list) else [value]
        text = text[end:].lstrip()


def stages_of(run):
    """The trained nodes of a run, as networks_torch.py names them, and their accuracies."""
    nodes = [(str(one["stage"]), one) for one in run["stages"]] + [(f"{one['stage']}.wide", one) for one in run["not_pruned"]]
    nodes += [(name, run.get(name)) for name in ("network", "classifier", "ensemble")]
    return [(stage, node["accuracy"]) for stage, node in nodes if node and node["accuracy"] is not None]


def spread(values):
    mean = f"{sum(values) / len(values):.1f}" if values else ""
    return f"{mean} ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
