"""Reads samples of a feature array in random order with tensorstore and with greedy, in turn, and prints the ratio.

    tensorstore_read.py GREEDY FOLDER [--rounds 5] [--threads 2]

Needs tensorstore and numpy. In FOLDER a small pipeline is run, whose first stage writes 8,192 samples of 32 KiB (f16, uncompressed,
CRC-32C); tensorstore reads each of them once a round, in random order, all at once, without a cache of its own. After each round
`greedy bench` does the same with an array of the same shape, type and checksums that it writes itself. Both arrays lie in
memory (the page cache). The medians are printed.
"""
import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import tensorstore

SAMPLES, BYTES = 8192, 64 * 16 * 16 * 2
PIPELINE = f"""
name = "read"
[data]
source = "builtin"
train_images = {SAMPLES}
val_images = 64
[network]
blocks = 1
width = 64
space_to_depth = [1]
[auxiliary]
k = 1
[training]
epochs = 1
learning_rate = 0.01
[features]
shard_mib = 128
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("greedy", type=Path)
    parser.add_argument("folder", type=Path, help="where the arrays are written; it is made, and left as it is")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    array = open_array(write(arguments), arguments.threads)
    order = np.random.default_rng(0).permutation(SAMPLES)
    tensorstore_rate(array, order)
    theirs, ours = [], []
    for _ in range(arguments.rounds):
        theirs.append(tensorstore_rate(array, order))
        ours.append(greedy_rate(arguments))
    theirs, ours = statistics.median(theirs), statistics.median(ours)
    print(f"random samples of {BYTES // 1024} KiB: greedy {ours:.0f} MB/s, tensorstore {theirs:.0f} MB/s, {ours / theirs:.2f}x")


def write(arguments):
    """Runs the pipeline; gives the folder of the training features."""
    pipeline = arguments.folder / "read.toml"
    pipeline.write_text(PIPELINE)
    cache = arguments.folder / "cache"
    subprocess.run([arguments.greedy, "run", pipeline, "--cache", cache, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return cache / "stage1" / "train" / "features"


def open_array(folder, threads):
    limits = {"data_copy_concurrency": {"limit": threads}, "file_io_concurrency": {"limit": threads}, "cache_pool": {"total_bytes_limit": 0}}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder.resolve())}}
    return tensorstore.open(spec, context=tensorstore.Context(limits), read=True).result()


def tensorstore_rate(array, order):
    """MB/s of all samples, each asked for on its own."""
    started = time.perf_counter()
    for future in [array[0, int(sample)].read() for sample in order]:
        future.result()
    return SAMPLES * BYTES / 1e6 / (time.perf_counter() - started)


def greedy_rate(arguments):
    command = [arguments.greedy, "bench", "cache", "--only", f"random samples, {SAMPLES} samples of {BYTES // 1024} KiB"]
    command += ["--seconds", "0.5", "--json", "--quiet", "--folder", arguments.folder, "--threads", str(arguments.threads)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found["measurements"][0]["median"]


if __name__ == "__main__":
    main()
