"""Checks that a stage folder written by greedy is what zarr-python, xarray and tensorstore read.

    greedy inspect cache/stage2 --values --json > expected.json
    python check_zarr.py cache/stage2 --expect expected.json

The JSON file says what greedy itself sees, array by array:

    {"arrays": {"train/features": {"shape": [1, 50, 32, 8, 8], "dtype": "float16",
                                   "dimension_names": ["view", "sample", "channel", "y", "x"],
                                   "samples": {"0": [0.0, 1.25], "17": [0.5, 0.0]},
                                   "sum": 1234.5}, ...}}

Values are what the stored ones stand for: where an array has `scale_factor`, xarray multiplies by it, and so does this program
for the other two. bfloat16 is read by tensorstore alone; zarr-python and xarray have no such type. Whole images (of type
variable_length_bytes, each a PPM or PGM file) are read by zarr-python alone; their values are compared channel by channel.

"samples" holds the first values (up to 8) of a sample of the first view, flattened; "sum" is the sum of the whole array in f64.
Both sides must list the same arrays. One line is printed for each array that agrees; each difference is a line on stderr, and
the exit status is then 1. The arrays are read chunk by chunk: memory does not grow with their size.
"""
import argparse
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import tensorstore
import xarray
import zarr

ANY_LENGTH = "variable_length_bytes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", type=Path, help="the stage's folder, a Zarr v3 group")
    parser.add_argument("--expect", type=Path, required=True, help="what `greedy inspect --values --json` printed")
    arguments = parser.parse_args()

    refuse_missing_chunks()
    expected = json.loads(arguments.expect.read_text())["arrays"]
    differences = check_stage(arguments.stage, expected)
    for line in differences:
        print(f"difference: {line}", file=sys.stderr)
    return 1 if differences else 0


def refuse_missing_chunks():
    """Lets zarr-python raise for a missing chunk, where the installed version can; `missing_files` looks in any case."""
    if zarr.config.get("array.read_missing_chunks", None) is not None:
        zarr.config.set({"array.read_missing_chunks": False})


def check_stage(folder, expected):
    if any(facts["dtype"] == "bfloat16" for facts in expected.values()):
        # One such array makes a whole group unreadable for zarr-python.
        return [line for name, facts in expected.items() for line in check_with_tensorstore(folder, name, facts)]
    try:
        group = zarr.open_group(folder, mode="r", zarr_format=3)
        found = {name: item for name, item in group.members(max_depth=None) if isinstance(item, zarr.Array)}
    except Exception as error:
        return [f"{folder}: zarr-python cannot open it: {describe(error)}"]
    if not expected:
        return [f"{folder}: the file of expected values names no array"]
    differences = [f"{name}: in the folder, but not expected" for name in sorted(found.keys() - expected.keys())]
    for name, facts in expected.items():
        if name not in found:
            differences.append(f"{name}: expected, but not in the folder")
            continue
        of_array = check_array(folder, name, found[name], facts)
        differences += [f"{name}: {line}" for line in of_array]
        if not of_array:
            print(f"{name}: {facts['dtype']} {facts['shape']}, {len(facts['samples'])} samples and the sum agree")
    return differences


def check_array(folder, name, array, facts):
    """The differences found in one array; values are looked at only where the outline agrees."""
    if facts["dtype"] == ANY_LENGTH:
        return missing_files(folder, name, array) + check_images(array, facts)
    differences = missing_files(folder, name, array) + check_outline("zarr-python", array, array.metadata.dimension_names, facts)
    if differences:
        return differences
    try:
        factor = array.attrs.get("scale_factor", 1.0)
        differences += check_samples("zarr-python", array, facts, factor)
        differences += check_sum("zarr-python", parts(array, facts["dimension_names"]), facts["sum"], factor)
    except Exception as error:
        differences.append(f"zarr-python cannot read it: {describe(error)}")
    try:
        with open_with_xarray(folder, name) as dataset:
            variable = dataset[name.rpartition("/")[2]]
            # A scale makes another type of the stored one.
            scaled = variable.encoding.get("scale_factor") is not None
            outline = {**facts, "dtype": str(variable.dtype)} if scaled else facts
            differences += check_outline("xarray", variable, variable.dims, outline)
            differences += check_samples("xarray", variable, facts)
    except Exception as error:
        differences.append(f"xarray cannot read it: {describe(error)}")
    return differences + check_with_tensorstore(folder, name, facts)


def check_images(array, facts):
    """The differences found in an array of whole images."""
    differences = check_outline("zarr-python", array, array.metadata.dimension_names, {**facts, "dtype": "object"})
    if differences:
        return differences
    total = 0.0
    for sample in range(array.shape[0]):
        values = image_values(array[sample : sample + 1][0], array.attrs["channels"], array.attrs["short_side"])
        total += float(values.sum(dtype=np.float64))
        expected = facts["samples"].get(str(sample))
        if expected is not None and values[:8].tolist() != expected:
            differences.append(f"sample {sample} is {values[:8].tolist()} in zarr-python, expected {expected}")
    if total != facts["sum"]:
        differences.append(f"the sum is {total!r} in zarr-python, expected {facts['sum']!r}")
    return differences


def image_values(sample, channels, short_side):
    """The values of a PPM or PGM file of three header lines, channel by channel."""
    magic, size, depth, pixels = sample.split(b"\n", 3)
    width, height = map(int, size.split())
    if magic != (b"P5" if channels == 1 else b"P6") or depth != b"255" or min(width, height) != short_side:
        raise ValueError(f"an image with the header {magic} {size} {depth}")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, channels).transpose(2, 0, 1).ravel()


def check_with_tensorstore(folder, name, facts):
    try:
        files = {"driver": "file", "path": str((folder / name).resolve())}
        array = tensorstore.open({"driver": "zarr3", "kvstore": files, "fill_missing_data_reads": False}).result()
        factor = json.loads((folder / name / "zarr.json").read_text()).get("attributes", {}).get("scale_factor", 1.0)
        if list(array.shape) != facts["shape"] or array.dtype.name != facts["dtype"]:
            return [f"{name}: {array.dtype.name} {array.shape} in tensorstore, expected {facts['dtype']} {facts['shape']}"]
        differences = check_samples("tensorstore", array, facts, factor)
        differences += check_sum("tensorstore", parts(array, facts["dimension_names"]), facts["sum"], factor)
        return [f"{name}: {line}" for line in differences] if facts["dtype"] == "bfloat16" else differences
    except Exception as error:
        return [f"tensorstore cannot read {name}: {describe(error)}"]


def open_with_xarray(folder, name):
    """As a user would: scale_factor and add_offset are decoded."""
    group = folder / name.rpartition("/")[0]
    metadata = group / "features" / "zarr.json"
    # Values of no fixed size are nothing that xarray knows.
    images = metadata.exists() and json.loads(metadata.read_text())["data_type"] == ANY_LENGTH
    return xarray.open_zarr(group, consolidated=False, chunks=None, drop_variables=["features"] if images else None)


def missing_files(folder, name, array):
    """Shards that have no file: readers would give the fill value for them, in silence."""
    grid = [math.ceil(size / step) for size, step in zip(array.shape, array.shards or array.chunks)]
    keys = [array.metadata.encode_chunk_key(place) for place in itertools.product(*map(range, grid))]
    return [f"the file {key} is missing" for key in keys if not (folder / name / key).is_file()]


def check_outline(reader, array, dimension_names, facts):
    seen = {"shape": list(array.shape), "dtype": str(array.dtype), "dimension_names": list(dimension_names or [])}
    return [f"{key} is {seen[key]} in {reader}, expected {facts[key]}" for key in seen if seen[key] != facts[key]]


def check_samples(reader, array, facts, factor=1.0):
    if not facts["samples"]:
        return ["no sample to compare in the file of expected values"]
    differences = []
    for sample, values in facts["samples"].items():
        place = tuple(int(sample) if name == "sample" else 0 for name in facts["dimension_names"] if name in ("view", "sample"))
        # Of a product in double precision, single precision is what greedy has.
        seen = (np.asarray(array[place]).ravel()[:8].astype(np.float64) * factor).astype(np.float32).astype(np.float64)
        if not np.array_equal(seen, np.array(values, np.float64), equal_nan=True):
            differences.append(f"sample {sample} is {seen.tolist()} in {reader}, expected {values}")
    return differences


def check_sum(reader, parts, expected, factor):
    """In f64; only the order of summation may differ, and the rounding of scaled values to f32."""
    total = magnitude = 0.0
    for part in parts:
        part = (part * factor).astype(np.float32).astype(np.float64) if factor != 1.0 else part
        total += float(part.sum())
        magnitude += float(np.abs(part).sum())
    if not abs(total - expected) <= 1e-9 * max(magnitude, 1.0):
        return [f"the sum is {total!r} in {reader}, expected {expected!r}"]
    return []


def parts(array, names):
    """The whole array as f64, about 16 MiB at a time, cut along the samples of each view."""
    views = range(array.shape[0]) if "view" in names else [None]
    axis = names.index("sample")
    count, inner = array.shape[axis], math.prod(array.shape[axis + 1 :])
    step = max(1, 2**21 // max(inner, 1))
    for view, start in itertools.product(views, range(0, count, step)):
        samples = slice(start, min(start + step, count))
        yield np.asarray(array[samples] if view is None else array[view, samples], np.float64)


def describe(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
