"""Checks that onnxruntime computes with greedy's ONNX models what greedy computes.

    python check_onnx.py target/release/greedy FOLDER

Small pipelines of every architecture and of a list of odd layers are run into FOLDER, with features in single precision so that nothing
is rounded between stages. Every stage's model must pass ONNX's own checks, take any number of images, and give the validation logits
that lie in the stage's folder, to 1e-4. Needs onnx, onnxruntime, zarr. Exit status 1 where something differs.
"""
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import zarr

COMMON = ["data.train_images=200", "data.val_images=60", "training.epochs=1", "training.batch=50", "training.learning_rate=0.01",
          "features.dtype=f32", "features.refresh=0"]
SMALL = '[data]\nsource = "builtin"\n'
# What begins with a size goes on with the images: AlexNet leaves nothing of smaller ones.
NETWORKS = {
    "simcnn": '[network]\nblocks = 3\nwidth = 8\nspace_to_depth = [1, 3]\n[auxiliary]\nk = 2\nwidth = 8\n',
    "simcnn-plain": '[network]\nblocks = 2\nwidth = 8\nbatch_norm = false\n[auxiliary]\nk = 1\n',
    "simcnn-late": '[augmentation]\ncrop = "padded"\npadding = 2\nflip = true\n[network]\nblocks = 3\nwidth = 8\nspace_to_depth = [2]\n'
                   '[auxiliary]\nk = 1\n[features]\ncrop = "late"\n',
    "vgg11_bn": '[network]\narchitecture = "vgg11_bn"\nwidth = 4\nhidden = 16\npooled = 2\n[auxiliary]\nk = 1\n',
    "vgg11": '[network]\narchitecture = "vgg11"\nwidth = 4\nhidden = 16\npooled = 3\n[auxiliary]\nk = 1\n',
    "alexnet": 'size = 96\n[network]\narchitecture = "alexnet"\nwidth = 4\nhidden = 16\npooled = 2\n[auxiliary]\nk = 1\n',
    "vgg11-end-to-end": '[network]\narchitecture = "vgg11"\nwidth = 4\nhidden = 16\npooled = 2\n[training]\nmethod = "end_to_end"\n',
    "custom": '[network]\narchitecture = "custom"\nblocks = [\n'
              '  [{ conv = 6, kernel = 5, stride = 2, padding = 1 }, "batch_norm", "relu", { max_pool = 3, stride = 2, padding = 1 }],\n'
              '  ["batch_norm", "relu", { conv = 7, kernel = 1 }, { dropout = 0.1 }, { avg_pool = 3 }],\n]\n'
              'head = [{ avg_pool = 2 }, "flatten", { linear = 9 }, "relu", "batch_norm", { linear = "classes" }]\n',
}


def main():
    greedy, root = sys.argv[1], Path(sys.argv[2])
    differences = []
    for name, network in NETWORKS.items():
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "p.toml").write_text(SMALL + network)
        run(greedy, "run", folder / "p.toml", "--cache", folder, *(part for key in COMMON for part in ("--set", key)))
        stages = sorted(folder.glob("stage[1-9]*"))
        stages += [folder / "network"] if (folder / "network").exists() else []
        for stage in stages:
            model = stage.with_suffix(".onnx")
            run(greedy, "export", stage, "--format", "onnx", "--to", model)
            differences += check(stage, model, folder / "stage0")
    for line in differences:
        print(f"difference: {line}", file=sys.stderr)
    return 1 if differences else 0


def run(greedy, *arguments):
    subprocess.run([greedy, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def check(stage, path, images):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    notes = {prop.key: prop.value for prop in model.metadata_props}
    record = json.loads((stage / "record.json").read_text())
    if json.loads(notes["classes"]) != record["classes"]:
        yield f"{path}: classes {notes['classes']}"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (source,), (target,) = session.get_inputs(), session.get_outputs()
    pixels = pixels_of(tomllib.loads(record["settings"]), read(images, "features")[0], source.shape[-1])
    pixels = (pixels - np.array(json.loads(notes["mean"]), "f4")[:, None, None]) / np.array(json.loads(notes["std"]), "f4")[:, None, None]
    found = session.run(None, {source.name: pixels})[0]
    single = session.run(None, {source.name: pixels[:1]})[0]
    if np.abs(single - found[:1]).max() > 1e-4 * np.abs(found).max():
        yield f"{path}: one image by itself gives other values"
    if target.name == "features":
        expected = read(stage, "features")[0]
    else:
        expected = read(stage, "logits")
    difference, largest = np.abs(found - expected).max(), np.abs(expected).max()
    if found.shape != expected.shape or not difference <= 1e-4 * max(largest, 1):
        yield f"{path}: {target.name} {found.shape} differ by up to {difference:.2g} from those of greedy {expected.shape}; the largest is {largest:.2g}"
    else:
        print(f"{path.parent.name}/{path.stem}: {target.name} differ by at most {difference:.1g}; the largest is {largest:.2g}")


def read(stage, name):
    return zarr.open_array(stage / "val" / name, mode="r")[:]


def pixels_of(settings, images, side):
    """The validation images as the model takes them: the centre, or with late crops the whole padded image."""
    padding = settings.get("augmentation", {}).get("padding", 0) if side > images.shape[-1] else 0
    images = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    first = (images.shape[-1] - side) // 2
    return images[:, :, first : first + side, first : first + side].astype("f4") / 255


if __name__ == "__main__":
    sys.exit(main())
