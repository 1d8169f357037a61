"""Makes every form that ImageNet comes in, small, from class folders of images, and has `greedy` read each of them.

    forms.py GREEDY WORK CLASS_FOLDERS

CLASS_FOLDERS has `train/<class>/*` and `val/<class>/*`, such as the imagenette subset. Some images of each class are
laid out in WORK (which must not be there) as class folders, archives, lists of labels, WebDataset, Parquet and so on.
Fails where a form gives other pixels or labels than the class folders do. Needs numpy, zarr and, for Parquet, pyarrow.
"""
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import zarr

TRAIN, VAL = 4, 3
# The first validation image of ILSVRC 2012 is of this class, and number 490 in the devkit.
ANCHOR, ANCHOR_NUMBER = "n01751748", 490
CONFIG = """
[data]
source = "{source}"
path = {path}
size = 32
[network]
blocks = 1
width = 4
[auxiliary]
width = 4
[training]
epochs = 1
batch = 16
"""


def main():
    greedy, work, folders = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), Path(sys.argv[3])
    work.mkdir(parents=True)
    table = read_table(Path(__file__).parents[2] / "src/images/classes.txt")
    train, val = choose(folders / "train", TRAIN), choose(folders / "val", VAL)
    forms = make(work, train, val, table)
    expected = None
    for name, (source, path, ordered) in forms.items():
        found = read(greedy, work, name, source, path)
        if expected is None:
            expected = found
        same = found["pixels"] == expected["pixels"] if ordered else sorted_pixels(found) == sorted_pixels(expected)
        print(f"{name}: {found['count']} images, {'same pixels and labels' if same else 'OTHER pixels or labels'}")
        if not same:
            sys.exit("FAILED")


def read_table(path):
    rows = [line.split(" ", 2) for line in path.read_text().splitlines()[1:]]
    return {wnid: (int(number), words) for wnid, number, words in rows}


def choose(split, count):
    """Class and bytes of the images; one class takes the place of the anchor's."""
    classes = sorted(path for path in split.iterdir() if path.is_dir())
    names = [ANCHOR] + [path.name for path in classes[1:]]
    return [(name, path.read_bytes()) for name, folder in zip(names, classes) for path in sorted(folder.iterdir())[:count]]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def make(work, train, val, table):
    """Name, source and path of each form; and whether its order is that of class folders."""
    forms = {}
    classes = sorted({name for name, _ in train})
    numbers = {name: at for at, name in enumerate(classes)}
    train_names = [f"{name}_{at:04}" for at, (name, _) in enumerate(train)]
    val_names = [f"ILSVRC2012_val_{at:08}" for at in range(1, len(val) + 1)]
    in_folders = [(f"train/{c}/{n}.JPEG", d) for n, (c, d) in zip(train_names, train)]
    val_in_folders = [(f"val/{c}/{n}.JPEG", d) for n, (c, d) in zip(val_names, val)]
    flat_val = [(f"{n}.JPEG", d) for n, (_, d) in zip(val_names, val)]

    def lay(name, source, files, below="", ordered=True):
        for path, data in files:
            write(work / name / path, data)
        forms[name] = (source, work / name / below, ordered)

    lay("folder", "folder", in_folders + val_in_folders)
    write(work / "images.tar", tar_of(in_folders + val_in_folders))
    forms["tar"] = ("tar", work / "images.tar", True)
    lay("imagenet-classes", "imagenet", in_folders + val_in_folders)

    ground_truth = "".join(f"{table[c][0]}\n" for c, _ in val).encode()
    assert ground_truth.split()[0] == str(ANCHOR_NUMBER).encode()
    solution = "ImageId,PredictionString\n" + "".join(f"{n},{c} 1 2 3 4 \n" for n, (c, _) in zip(val_names, val))
    kaggle = [(f"ILSVRC/Data/CLS-LOC/{p}", d) for p, d in in_folders + [(f"val/{n}", d) for n, d in flat_val]]
    running = "".join(f"{n} {at}\n" for at, n in enumerate(val_names, 1)).encode()
    lay("kaggle", "imagenet", kaggle + [("LOC_val_solution.csv", solution.encode()), ("ILSVRC/ImageSets/CLS-LOC/val.txt", running)])

    by_class = [(f"{c}.tar", tar_of([(f"{n}.JPEG", d) for n, (c2, d) in zip(train_names, train) if c2 == c])) for c in classes]
    nested = ("ILSVRC2012_img_train.tar", tar_of(by_class))
    # The order within the archive says nothing: names do.
    val_tar = ("ILSVRC2012_img_val.tar", tar_of(flat_val[::-1]))
    truth_name = "data/ILSVRC2012_validation_ground_truth.txt"
    devkit = tar_of([("ILSVRC2012_devkit_t12/readme.txt", b"x"), (f"ILSVRC2012_devkit_t12/{truth_name}", ground_truth)])
    half = len(devkit) // 2
    devkit = gzip.compress(devkit[:half]) + gzip.compress(devkit[half:])
    lay("official", "imagenet", [nested, val_tar, ("ILSVRC2012_devkit_t12.tar.gz", devkit)])
    lay("official-unpacked", "imagenet", in_folders + [val_tar, (f"ILSVRC2012_devkit_t12/{truth_name}", ground_truth)])
    lay("class-tars", "imagenet", [(f"train/{n}", d) for n, d in by_class] + val_in_folders)

    flat = in_folders + [(f"val/{n}", d) for n, d in flat_val]
    indices = "".join(f"{n}.JPEG {sorted(table).index(c)}\n" for n, (c, _) in zip(val_names, val)).encode()
    lay("val-txt", "imagenet", flat + [("val.txt", indices)])
    wnids = "".join(f"{c}\n" for c, _ in val).encode()
    lay("wnid-lines", "imagenet", flat + [("imagenet_2012_validation_synset_labels.txt", wnids)])
    suffixed = [(f"val/{n}_{c}.JPEG", d) for n, (c, d) in zip(val_names, val)]
    lay("suffixes", "imagenet", in_folders + suffixed)
    old = [("train_images_0.tar", tar_of([(f"{n}_{c}.JPEG", d) for n, (c, d) in zip(train_names, train)]))]
    lay("old-names", "imagenet", old + [("val_images.tar", tar_of([(p.split("/")[1], d) for p, d in suffixed]))])

    tiny_val = [(f"val_{at:04}", c, d) for at, (c, d) in enumerate(val)]
    annotations = "".join(f"{n}.JPEG\t{c}\t0\t0\t62\t62\n" for n, c, _ in tiny_val).encode()
    tiny = [(f"train/{c}/images/{n}.JPEG", d) for n, (c, d) in zip(train_names, train)]
    tiny += [(f"train/{c}/{c}_boxes.txt", b"x") for c in classes]
    tiny += [(f"val/images/{n}.JPEG", d) for n, _, d in tiny_val] + [("val/val_annotations.txt", annotations)]
    lay("tiny-imagenet", "imagenet", tiny)

    def samples(split, of, label):
        return [file for at, (c, d) in enumerate(of) for file in [(f"{split}_{at:04}.jpg", d), label(f"{split}_{at:04}", numbers[c])]]

    def shards(name, label):
        files = []
        for split, of in [("train", train), ("validation", val)]:
            parts = samples(split, of, label)
            middle = len(parts) // 4 * 2
            files += [(f"imagenet1k-{split}-0000.tar", tar_of(parts[:middle])), (f"imagenet1k-{split}-0001.tar", tar_of(parts[middle:]))]
        lay(name, "webdataset", files)

    shards("webdataset", lambda key, label: (f"{key}.cls", str(label).encode()))
    shards("webdataset-json", lambda key, label: (f"{key}.json", json.dumps({"label": label}).encode()))
    forms["webdataset-pattern"] = ("webdataset", work / "webdataset" / "imagenet1k-{train,validation}-{0000..0001}.tar", True)

    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        print("left out: Parquet (no pyarrow)")
        return forms
    names = [table[c][1] for c in classes]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for codec in ["snappy", "zstd", "none"]:
        folder = work / f"parquet-{codec}" / "data"
        folder.mkdir(parents=True)
        for split, of in [("train", train), ("validation", val)]:
            rows = [{"image": {"bytes": d, "path": f"{at}.JPEG"}, "label": numbers[c]} for at, (c, d) in enumerate(of)]
            middle = len(rows) // 2
            for at, part in enumerate([rows[:middle], rows[middle:]]):
                table_ = pa.Table.from_pylist(part, schema=schema)
                pq.write_table(table_, folder / f"{split}-{at:05}-of-00002.parquet", row_group_size=7, compression=codec)
        forms[f"parquet-{codec}"] = ("parquet", folder.parent, True)
    return forms


def read(greedy, work, name, source, path):
    pipeline = work / f"{name}.toml"
    pipeline.write_text(CONFIG.format(source=source, path=json.dumps(str(path.resolve()) if source != "webdataset" or path.is_dir() else os.path.abspath(path))))
    cache = work / "cache" / name
    done = subprocess.run([greedy, "run", pipeline, "--cache", cache, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"FAILED: {name}: {done.stderr}")
    group = zarr.open_group(str(cache / "stage0"), mode="r")
    pixels = {}
    for split in ["train", "val"]:
        features, labels = np.asarray(group[f"{split}/features"][0]), np.asarray(group[f"{split}/labels"][:])
        pixels[split] = [(int(label), hashlib.sha256(image.tobytes()).hexdigest()) for label, image in zip(labels, features)]
    return {"pixels": pixels, "count": sum(len(of) for of in pixels.values())}


def sorted_pixels(found):
    return {split: sorted(of) for split, of in found["pixels"].items()}


if __name__ == "__main__":
    main()
