"""Checks that TensorBoard reads greedy's event files, with the figures of the stages' records.

    greedy export cache --format tensorboard --to events
    python check_events.py cache events/demo

Every scalar of every epoch must be there, the picture must be a PNG, and histograms must count all weights of the stage. Needs
tensorboard. Exit status 1 where something differs.
"""
import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

UNLIMITED = {"scalars": 0, "images": 0, "histograms": 0, "compressedHistograms": 0, "tensors": 0, "audio": 0}


def main():
    cache, events = Path(sys.argv[1]), Path(sys.argv[2])
    folders = sorted(events.iterdir())
    differences = [line for folder in folders for line in check(cache / folder.name, folder)]
    for line in differences:
        print(f"difference: {line}", file=sys.stderr)
    if not folders:
        print(f"{events} is empty", file=sys.stderr)
    return 1 if differences or not folders else 0


def check(stage, folder):
    record = json.loads((stage / "record.json").read_text())
    figures = record["figures"]
    read = EventAccumulator(str(folder), UNLIMITED)
    read.Reload()
    tags = read.Tags()

    expected = {
        "loss/train": [(epoch["epoch"], epoch["loss"]) for epoch in figures["history"]],
        "accuracy/train": [(epoch["epoch"], epoch["train_accuracy"]) for epoch in figures["history"]],
        "accuracy/validation": [(e["epoch"], e["accuracy"]) for e in figures["history"] if e["accuracy"] is not None],
        "learning_rate": [(epoch["epoch"], epoch["learning_rate"]) for epoch in figures["history"]],
        "by_stage/accuracy": [(record["stage"], figures["accuracy"])],
        "by_stage/top5": [(record["stage"], figures["top5"])],
        "by_stage/loss": [(record["stage"], figures["loss"])],
    }
    if figures["ensemble_accuracy"] is not None:
        expected["by_stage/ensemble_accuracy"] = [(record["stage"], figures["ensemble_accuracy"])]
    if set(tags["scalars"]) != set(expected):
        yield f"{folder}: scalars {sorted(tags['scalars'])}"
    for tag, values in expected.items():
        found = [(event.step, event.value) for event in read.Scalars(tag)]
        if len(found) != len(values) or any(a[0] != b[0] or abs(a[1] - b[1]) > 1e-5 * abs(b[1]) for a, b in zip(found, values)):
            yield f"{folder}: {tag} is {found}, not {values}"

    pictures = [picture for tag in tags["images"] for picture in read.Images(tag)]
    if record["kind"] != "end_to_end" and len(pictures) != 1:
        yield f"{folder}: {len(pictures)} pictures"
    for picture in pictures:
        size = struct.unpack(">II", picture.encoded_image_string[16:24])
        if not picture.encoded_image_string.startswith(b"\x89PNG") or size != (picture.width, picture.height):
            yield f"{folder}: a picture of {picture.width} x {picture.height} holds {size}"

    weights = 0
    for tag in tags["histograms"]:
        (event,) = read.Histograms(tag)
        histogram = event.histogram_value
        weights += histogram.num
        if sum(histogram.bucket) != histogram.num or not histogram.min <= histogram.sum / histogram.num <= histogram.max:
            yield f"{folder}: {tag} is no histogram: {histogram}"
    parameters = figures["block_parameters"] + figures["auxiliary_parameters"]
    if weights != parameters:
        yield f"{folder}: histograms of {weights} weights, the record has {parameters}"
    print(f"{folder}: {len(expected)} scalars, {len(pictures)} pictures, histograms of {weights:.0f} weights")


if __name__ == "__main__":
    sys.exit(main())
