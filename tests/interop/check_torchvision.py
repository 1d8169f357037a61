"""Checks that torchvision's networks take greedy's weights and compute the same with them, and greedy those of torchvision.

    greedy export cache/stage8 --to vgg11.safetensors
    greedy evaluate cache/stage8 --json > evaluated.json
    python check_torchvision.py export cache/stage8 vgg11.safetensors --evaluated evaluated.json
    python check_torchvision.py fixtures ../fixtures
    python check_torchvision.py import target/release/greedy FOLDER
    python check_torchvision.py module cache/stage4 demo.safetensors --evaluated evaluated.json

`export`: the network of torchvision, made as narrow as the stage's settings say, loads the file with strict=True. On the
validation images in greedy's cache it must have the loss and accuracy that `greedy evaluate` printed, and where the network was
trained as a whole (then nothing is rounded between stages) the logits that lie in the stage's folder.

`fixtures`: the same networks load the weights that greedy's own tests start from, and have the same logits as stand there; so what
greedy makes of weights under torchvision's names, which those tests check, is what torchvision makes of them.

`import`: torchvision's VGG-11 with and without batch norm and AlexNet, narrow and with random weights, go through `greedy import` with random
images, and the logits that it leaves must be torchvision's.

`module`: the module that docs/inspect.md prints loads a network under greedy's own names, and on the validation images in greedy's cache it
must have the loss and accuracy that `greedy evaluate` printed.

Needs torch, torchvision, safetensors, zarr. One line for each thing that agrees; exit status 1 where one does not.
"""
import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

# The means and deviations of images whose pipeline does not say.
BUILTIN = ([0.5] * 3, [0.25] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export")
    export.add_argument("stage", type=Path, help="the folder of the network's last stage")
    export.add_argument("weights", type=Path, help="what `greedy export` wrote")
    export.add_argument("--evaluated", type=Path, required=True, help="what `greedy evaluate --json` printed")
    export.set_defaults(check=lambda args: check_export(args.stage, args.weights, json.loads(args.evaluated.read_text())))
    fixtures = commands.add_parser("fixtures")
    fixtures.add_argument("folder", type=Path)
    fixtures.set_defaults(check=lambda args: check_fixtures(args.folder))
    imported = commands.add_parser("import")
    imported.add_argument("greedy", type=Path, help="the program")
    imported.add_argument("folder", type=Path, help="where to work; it must not be there yet")
    imported.set_defaults(check=lambda args: check_import(args.greedy.resolve(), args.folder))
    module = commands.add_parser("module")
    module.add_argument("stage", type=Path, help="the folder of the network's last stage")
    module.add_argument("weights", type=Path, help="what `greedy export` wrote")
    module.add_argument("--evaluated", type=Path, required=True, help="what `greedy evaluate --json` printed")
    module.set_defaults(check=lambda args: check_module(args.stage, args.weights, json.loads(args.evaluated.read_text())))
    args = parser.parse_args()
    differences = list(args.check(args))
    for line in differences:
        print(f"difference: {line}", file=sys.stderr)
    return 1 if differences else 0


def check_export(folder, weights, evaluated):
    import zarr

    record = json.loads((folder / "record.json").read_text())
    settings = tomllib.loads(record["settings"])
    network = narrowed(settings["network"], len(record["classes"]))
    with safe_open(weights, "pt") as file:
        if file.metadata() != {"format": "pt"}:
            yield f"the header of {weights} says {file.metadata()}"
    yield from load(network, load_file(weights), weights)

    def read(stage, name):
        return torch.from_numpy(zarr.open_array(stage / "val" / name, mode="r")[:])

    labels = read(folder, "labels").long()
    logits = run(network, pixels_of(settings, read(images_of(folder), "features")[0]))
    last = evaluated["stages"][-1]
    loss, accuracy = F.cross_entropy(logits, labels).item(), 100 * (logits.argmax(1) == labels).float().mean().item()
    # One image may be on the edge between two classes.
    yield from compared("loss on the validation images", loss, last["loss"], 1e-4)
    yield from compared("accuracy, %", accuracy, last["accuracy"], 100.1 / len(labels))
    if record["kind"] == "depth":
        yield from alike("logits", logits, read(folder, "logits"))


def check_fixtures(folder):
    for name, architecture, width, hidden in (("vgg11", "vgg11", 1, 12), ("vgg11_bn", "vgg11_bn", 1, 12), ("alexnet", "alexnet", 2, 16)):
        tensors = load_file(folder / f"{name}.safetensors")
        network = narrowed({"architecture": architecture, "width": width, "hidden": hidden, "pooled": 2}, len(tensors["logits"][0]))
        after = {key.removeprefix("after."): value for key, value in tensors.items() if key.startswith("after.")}
        yield from load(network, after, name)
        yield from alike(f"{name}: logits", run(network, tensors["pixels"].float() / 64 - 2), tensors["eval.logits"])


def check_import(greedy, folder):
    import zarr
    from PIL import Image

    torch.manual_seed(0)
    side, classes, count = 64, 5, 4
    pixels = torch.randint(0, 256, (classes * count, 3, side, side), dtype=torch.uint8)
    for split in ("train", "val"):
        for at, picture in enumerate(pixels):
            place = folder / "photos" / split / f"class{at // count}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(place / f"{at % count}.png")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    for architecture in ("vgg11", "vgg11_bn", "alexnet"):
        settings = {"architecture": architecture, "width": 16, "hidden": 32, "pooled": 2}
        network = narrowed(settings, classes)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean, std=0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
        save_file(network.state_dict(), folder / f"{architecture}.safetensors")
        told = [f"--set=network.{key}={settings[key]}" for key in ("width", "hidden", "pooled")]
        told += [f"--set=data.size={side}", f"--set=augmentation.size={side}"]
        subprocess.run(
            [greedy, "import", folder / f"{architecture}.safetensors", "--architecture", architecture, "--images", folder / "photos",
             "--to", folder / architecture, "--quiet", *told],
            check=True, stdout=subprocess.DEVNULL,
        )
        found = torch.from_numpy(zarr.open_array(folder / architecture / "network" / "val" / "logits", mode="r")[:])
        yield from alike(f"{architecture}: logits", run(network, (pixels.float() / 255 - mean) / std), found)


def check_module(folder, weights, evaluated):
    import zarr

    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text()
    scope = {}
    exec(next(block for block in page.split("```python")[1:] if "class Greedy" in block).split("```")[0], scope)
    network = scope["Greedy"](weights)
    settings = tomllib.loads(json.loads((folder / "record.json").read_text())["settings"])
    read = lambda stage, name: torch.from_numpy(zarr.open_array(stage / "val" / name, mode="r")[:])
    labels = read(folder, "labels").long()
    logits = run(network, pixels_of(settings, read(images_of(folder), "features")[0]))
    last = evaluated["stages"][-1]
    yield from compared("loss on the validation images", F.cross_entropy(logits, labels).item(), last["loss"], 1e-4)
    accuracy = 100 * (logits.argmax(1) == labels).float().mean().item()
    yield from compared("accuracy, %", accuracy, last["accuracy"], 100.1 / len(labels))


def load(network, weights, name):
    network.load_state_dict(weights, strict=True)
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    if own.keys() != weights.keys():
        yield f"{name}: torchvision has other names: {sorted(own.keys() ^ weights.keys())}"
    print(f"{name}: {len(own)} tensors loaded with strict=True")


def compared(what, found, expected, limit):
    if not abs(found - expected) <= limit:
        yield f"{what} {found:.6g} in torchvision, {expected:.6g} in greedy"
    else:
        print(f"{what}: {found:.6g} in torchvision, {expected:.6g} in greedy")


def alike(what, found, expected):
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    if not difference <= 1e-4 * largest:
        yield f"{what} differ by up to {difference:.2g}; the largest is {largest:.2g}"
    else:
        print(f"{what} differ by at most {difference:.2g}; the largest is {largest:.2g}")


@torch.no_grad()
def run(network, x):
    network.eval()
    return torch.cat([network(part) for part in x.split(100)])


def narrowed(settings, classes):
    """Torchvision's network with layers of other widths in the place of its own."""
    network = getattr(torchvision.models, settings["architecture"])(num_classes=classes)
    ratio = settings.get("width", 64) / 64

    def width(channels):
        return channels if channels == 3 else int(channels * ratio)

    for name, layer in list(network.features.named_children()):
        if isinstance(layer, nn.Conv2d):
            shape = width(layer.in_channels), width(layer.out_channels), layer.kernel_size, layer.stride, layer.padding
            setattr(network.features, name, nn.Conv2d(*shape))
            channels = width(layer.out_channels)
        elif isinstance(layer, nn.BatchNorm2d):
            setattr(network.features, name, nn.BatchNorm2d(width(layer.num_features)))
    pooled, hidden = settings.get("pooled", network.avgpool.output_size[0]), settings.get("hidden", 4096)
    network.avgpool = nn.AdaptiveAvgPool2d(pooled)
    linears = [name for name, layer in network.classifier.named_children() if isinstance(layer, nn.Linear)]
    for name, shape in zip(linears, ((pooled * pooled * channels, hidden), (hidden, hidden), (hidden, classes))):
        setattr(network.classifier, name, nn.Linear(*shape))
    return network


def images_of(folder):
    """The folder of the decoded images, which several pipelines may share."""
    first = folder.parent / "stage1"
    inputs = json.loads((first / "record.json").read_text())["inputs"]
    return first / next(one["folder"] for one in inputs if one["node"] == "stage0")


def pixels_of(settings, images):
    """The validation images as the network sees them: the centre, normalised."""
    side = settings.get("augmentation", {}).get("size", images.shape[-1])
    first = (images.shape[-1] - side) // 2
    images = images[:, :, first : first + side, first : first + side].float() / 255
    default = BUILTIN if settings["data"]["source"] == "builtin" else IMAGENET
    mean, std = (settings["data"].get(key, value) for key, value in zip(("mean", "std"), default))
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


if __name__ == "__main__":
    sys.exit(main())
