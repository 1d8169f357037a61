"""Measures what it takes to find 1,281,167 images and 50,000 more: seconds and memory of `greedy plan`, which opens the
data and decodes nothing.

    images_index.py GREEDY FOLDER [--images 1281167] [--val-images 50000] [--forms folder official webdataset parquet]

Makes in FOLDER (which must not be there, and is removed again) data sets of tiny files in 1000 classes: class folders,
the official archives, WebDataset in 1024 and 64 archives, and Parquet in 294 and 14 files (that takes pyarrow).
"""
import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

CLASSES = 1000
IMAGE = b"P5 4 4 255\n" + bytes(range(16))
PIPELINE = """
[data]
source = "{source}"
path = "{path}"
size = 4
[network]
blocks = 1
width = 2
[auxiliary]
k = 1
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("greedy", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--val-images", type=int, default=50_000)
    parser.add_argument("--forms", nargs="+", default=["folder", "official", "webdataset", "parquet"])
    arguments = parser.parse_args()
    greedy = arguments.greedy.resolve()
    for form in arguments.forms:
        arguments.folder.mkdir(parents=True)
        try:
            counts = (arguments.images, arguments.val_images)
            source = globals()[f"make_{form}"](arguments.folder / "data", counts)
            (arguments.folder / "p.toml").write_text(PIPELINE.format(source=source, path="data"))
            for attempt in ["first", "again"]:
                seconds, mib = run(greedy, arguments.folder)
                print(f"{form}: {sum(counts)} images found in {seconds:.1f} s, {mib} MiB at most ({attempt})", flush=True)
        finally:
            shutil.rmtree(arguments.folder)


def run(greedy, folder):
    started = time.perf_counter()
    child = subprocess.Popen(
        [greedy, "plan", "p.toml", "--profile", "cpu2"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"FAILED: {said.decode()}")
    return time.perf_counter() - started, used.ru_maxrss // 1024


def wnids():
    table = Path(__file__).parents[2] / "src/images/classes.txt"
    return [line.split(" ")[0] for line in table.read_text().splitlines()[1:]]


def classes_of(count):
    """How many images each class has."""
    return [count // CLASSES + (at < count % CLASSES) for at in range(CLASSES)]


def make_folder(data, counts):
    for split, count in zip(["train", "val"], counts):
        for wnid, images in zip(wnids(), classes_of(count)):
            folder = data / split / wnid
            folder.mkdir(parents=True)
            for at in range(images):
                os.close(os.open(f"{folder}/{wnid}_{at}.JPEG", os.O_CREAT | os.O_WRONLY))
    return "folder"


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def make_official(data, counts):
    data.mkdir()
    with tarfile.open(data / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid, images in zip(wnids(), classes_of(counts[0])):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for at in range(images):
                    add(archive, f"{wnid}_{at}.JPEG", IMAGE)
            add(outer, f"{wnid}.tar", inner.getvalue())
    # The first image is of the class that it must be, and every class has as many.
    order = wnids()
    labels = [order[(65 + at) % CLASSES] for at in range(counts[1])]
    with tarfile.open(data / "ILSVRC2012_img_val.tar", "w") as archive:
        for at in range(1, counts[1] + 1):
            add(archive, f"ILSVRC2012_val_{at:08}.JPEG", IMAGE)
    lines = [f"ILSVRC2012_val_{at:08},{wnid} 1 2 3 4 \n" for at, wnid in enumerate(labels, 1)]
    (data / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(lines))
    return "imagenet"


def make_webdataset(data, counts):
    data.mkdir()
    for (split, shards), count in zip([("train", 1024), ("validation", 64)], counts):
        for shard in range(shards):
            with tarfile.open(data / f"imagenet1k-{split}-{shard:04}.tar", "w") as archive:
                for at in range(shard, count, shards):
                    add(archive, f"{at:08}.jpg", IMAGE)
                    add(archive, f"{at:08}.cls", str(at % CLASSES).encode())
    return "webdataset"


def make_parquet(data, counts):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (data / "data").mkdir(parents=True)
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    for (split, files), count in zip([("train", 294), ("validation", 14)], counts):
        for number in range(files):
            rows = range(number, count, files)
            images = [{"bytes": IMAGE, "path": None} for _ in rows]
            table = pa.table([images, [at % CLASSES for at in rows]], schema=schema)
            pq.write_table(table, data / "data" / f"{split}-{number:05}-of-{files:05}.parquet", row_group_size=100)
    return "parquet"


if __name__ == "__main__":
    main()
