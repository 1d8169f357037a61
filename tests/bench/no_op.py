"""Measures `greedy run` on a finished pipeline of 20 stages over a folder of a million files.

    no_op.py GREEDY FOLDER [--classes 500] [--files 1000] [--most 0.7]

Makes a tree in FOLDER (which must not be there, and is removed again) of two splits with so many classes and so many
files in each: nine of ten empty, the others the same small image. The pipeline takes a few hundred of them, so that
its stages are really made. Then it is run again, several times, and the time that the program itself says it took is
printed beside that of the whole process. What a machine needs for a file changes with all that it does besides, so the
measure is a ratio: in turn with the runs, this script asks for the state of every folder of images and of every file of
the cache and reads the small ones, which is about what the program has to do. Fails where the program takes more than
--most times as long in the median.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

STAGES, RUNS, GOOD, SMALL = 20, 11, 10, 1 << 16
PIPELINE = f"""
name = "million"
cache = "cache"
[data]
source = "folder"
path = "images"
size = 4
train_images = 600
val_images = 400
on_bad_image = "skip"
[network]
blocks = {STAGES}
width = 2
[auxiliary]
k = 1
[training]
epochs = 1
batch = 16
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("greedy", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=500)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--most", type=float, default=0.7)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    try:
        measure(arguments.greedy.resolve(), arguments.folder, arguments)
    finally:
        shutil.rmtree(arguments.folder)


def measure(greedy, folder, arguments):
    (folder / "million.toml").write_text(PIPELINE)
    count = make(folder / "images", arguments.classes, arguments.files)
    print(f"{count} files in {2 * arguments.classes} folders")
    time.sleep(2.1)  # Times of folders are trusted once they are two seconds old.
    first, seconds, _ = run(greedy, folder)
    print(f"first run: {len(first['done'])} stages made, {seconds:.1f} s")
    full, _, _ = run(greedy, folder, "--look-again")
    print(f"again, all files looked at (--look-again): {1e3 * full['elapsed_seconds']:.0f} ms")
    turns = [(look(folder), run(greedy, folder)) for _ in range(RUNS)]
    runs = [found for _, found in turns]
    if any(found["done"] for found, _, _ in runs) or len(first["done"]) != STAGES + 1:
        sys.exit("FAILED: the pipeline was not finished by the first run, or redone by a later one")
    own = sorted(1e3 * found["elapsed_seconds"] for found, _, _ in runs)
    whole = [1e3 * seconds for _, seconds, _ in runs]
    system = [1e3 * used for _, _, used in runs]
    print(
        f"again: {statistics.median(own):.1f} ms inside the program (least {own[0]:.1f}, most {own[-1]:.1f}), "
        f"{statistics.median(whole):.1f} ms with starting it, {statistics.median(system):.1f} ms of processor time"
    )
    plain = statistics.median(1e3 * seconds for seconds, _ in turns)
    ratio = statistics.median(found["elapsed_seconds"] / seconds for seconds, (found, _, _) in turns)
    print(f"folders and files of the cache looked at by this script: {plain:.1f} ms; ratio {ratio:.2f}")
    if ratio > arguments.most:
        sys.exit(f"FAILED: more than {arguments.most} times as long as looking at the same files")


def look(folder):
    started = time.perf_counter()
    for split in os.scandir(folder / "images"):
        for found in os.scandir(split.path):
            os.stat(found.path)
    for place, _, names in os.walk(folder / "cache"):
        for name in names:
            path = os.path.join(place, name)
            if os.stat(path).st_size < SMALL:
                with open(path, "rb") as file:
                    file.read()
    return time.perf_counter() - started


def make(images, classes, files):
    image = b"P5 4 4 255\n" + bytes(range(16))
    (images).mkdir()
    count = 0
    for split in ["train", "val"]:
        for name in range(classes):
            folder = images / split / f"class{name:04}"
            folder.mkdir(parents=True)
            real = folder / "0.pgm"
            real.write_bytes(image)
            for number in range(1, files):
                path = f"{folder}/{number}.pgm"
                if number % GOOD == 0:
                    os.link(real, path)
                else:
                    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            count += files
    return count


def run(greedy, folder, *options):
    before = os.times()
    started = time.perf_counter()
    done = subprocess.run([greedy, "run", "million.toml", "--json", *options], cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    after = os.times()
    if done.returncode != 0:
        sys.exit(f"FAILED: exit code {done.returncode}\n{done.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(done.stdout), seconds, used


if __name__ == "__main__":
    main()
