#!/usr/bin/env python3
"""The networks of pipeline files in PyTorch: what accuracy does the same recipe have there?

  python3 -m venv ~/torch && ~/torch/bin/pip install torch==2.13.0 numpy pillow
  ~/torch/bin/python tests/bench/networks_torch.py pipelines/vgg11-quick.toml --data ../shared/data/cifar10-jpeg.tar

It reads the file that greedy reads and trains SimCNN, VGG and AlexNet, layer by layer, decoupled or end to end, there also by
feedback alignment, from plain torch.nn modules. Random crops and flips are drawn anew at every epoch, and layer by layer all
frozen blocks are run again at every step: nothing is cached, as in the paper. Scattering coefficients are Kymatio's
(`pip install kymatio scipy`), and computed once, of as many views as the file says. The optimiser begins anew at each drop of
the learning rate, as in the published code. One line of JSON for each stage, or for the whole network. Settings that change
none of this are passed over; for others it stops rather than train something else.
"""

import argparse
import copy
import io
import json
import math
import tarfile
import time
import tomllib
from collections import deque
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

GROUPS = {"vgg11": [1, 1, 2, 2, 2], "vgg13": [2, 2, 2, 2, 2], "vgg16": [2, 2, 3, 3, 3], "vgg19": [2, 2, 4, 4, 4]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--data", type=Path, help="the folder or tar of images, in place of the file's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="in place of the file's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    settings = tomllib.loads(args.pipeline.read_text())
    training = settings["training"]
    if args.epochs:
        training["epochs"] = args.epochs
    data = Data(settings, args.data or Path(settings["data"]["path"]))

    started = time.perf_counter()
    if settings["network"].get("architecture") == "scattering":
        data = Coefficients(settings, data)
    blocks, heads = NETWORKS[settings["network"].get("architecture", "simcnn").split("_")[0]](settings, data.size, data.classes)
    if training.get("method") == "decoupled":
        return decoupled(blocks, heads, data, training, args.seed, started)
    layerwise = training.get("method", "layerwise") == "layerwise"
    stages = range(len(blocks)) if layerwise else [len(blocks) - 1]
    for at in stages:
        frozen = nn.Sequential(*blocks[:at]) if layerwise else nn.Sequential()
        own = blocks[at] if layerwise else nn.Sequential(*blocks)
        network = nn.Sequential(own, heads(at)).to(memory_format=torch.channels_last)
        FEEDBACK[training.get("feedback", "exact")](network)
        train(frozen.eval(), network, data, training)
        top1, top5 = evaluate(frozen, network, data)
        row = {"stage": at + 1 if layerwise else "network", "accuracy": round(top1, 2), "top5": round(top5, 2)}
        print(json.dumps(row | {"seed": args.seed, "seconds": round(time.perf_counter() - started)}), flush=True)


def optimiser_at(epoch, network, settings, before):
    """That of the epoch before, but anew at each drop of the learning rate."""
    every = settings.get("decay_every", 15)
    if epoch and (not every or epoch % every):
        return before
    return torch.optim.SGD(
        network.parameters(), lr=settings["learning_rate"] * settings["decay"] ** (epoch // every if every else 0),
        momentum=settings.get("momentum", 0.9), weight_decay=settings["weight_decay"])  # fmt: skip


def decoupled(blocks, heads, data, settings, seed, started):
    """All stages at once, each on what the block before has just made of the batch; with `replay` by turns in any order."""
    stages = [nn.Sequential(block, heads(at)).to(memory_format=torch.channels_last) for at, block in enumerate(blocks)]
    optimisers, rings = [None] * len(stages), [deque(maxlen=settings.get("replay", 0)) for _ in stages]
    for epoch in range(settings["epochs"]):
        optimisers = [optimiser_at(epoch, stage, settings, own) for stage, own in zip(stages, optimisers)]
        for chosen in torch.randperm(len(data.train[0])).split(settings["batch"]):
            places = torch.randperm(len(stages)) if settings.get("replay") else torch.arange(len(stages))
            fresh = (data.augmented(chosen), data.train[1][chosen])
            for at, (stage, optimiser) in enumerate(zip(stages, optimisers)):
                taken = exchanged(rings[at], fresh, at == 0 or places[at - 1] < places[at]) if at else fresh
                fresh = None
                if taken is None:
                    continue
                features = stage.train()[0](taken[0])
                optimiser.zero_grad(set_to_none=True)
                F.cross_entropy(stage[1](features), taken[1]).backward()
                optimiser.step()
                fresh = (features.detach(), taken[1])
    for at, stage in enumerate(stages):
        top1, top5 = evaluate(nn.Sequential(*blocks[:at]).eval(), stage, data)
        row = {"stage": at + 1, "accuracy": round(top1, 2), "top5": round(top5, 2), "seed": seed}
        print(json.dumps(row | {"seconds": round(time.perf_counter() - started)}), flush=True)


def exchanged(ring, fresh, before):
    """The batch of the ring that was used least, the newest of several, where one comes before it is taken, or after."""
    if not ring.maxlen:
        return fresh
    if before and fresh:
        ring.append([0, fresh])
    taken = min(reversed(ring), key=lambda entry: entry[0], default=None)
    if taken:
        taken[0] += 1
    if fresh and not before:
        ring.append([0, fresh])
    return taken and taken[1]


def train(frozen, network, data, settings):
    optimiser = None
    for epoch in range(settings["epochs"]):
        optimiser = optimiser_at(epoch, network, settings, optimiser)
        network.train()
        for chosen in torch.randperm(len(data.train[0])).split(settings["batch"]):
            with torch.no_grad():
                x = frozen(data.augmented(chosen))
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), data.train[1][chosen]).backward()
            optimiser.step()


@torch.no_grad()
def evaluate(frozen, network, data):
    network.eval()
    top1 = top5 = 0
    images, labels = data.val
    for chosen in torch.arange(len(images)).split(100):
        best = network(frozen(data.normalised(images[chosen]))).topk(5).indices == labels[chosen, None]
        top1 += best[:, 0].sum().item()
        top5 += best.sum().item()
    return 100 * top1 / len(images), 100 * top5 / len(images)


# Images -------------------------------------------------------------------------------------------------------------


class Data:
    """All images as u8 in memory, {train,val|test}/<class>/* of a folder or a tar; they must have their size already."""

    def __init__(self, settings, path):
        self.size = settings["data"]["size"]
        self.crop = settings.get("augmentation", {})
        if self.crop.get("size", self.size) != self.size or self.crop.get("crop") not in ("padded", "resized"):
            raise SystemExit("only padded and resized crops of the images' own size are drawn here")
        mean, std = settings["data"]["mean"], settings["data"]["std"]
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
        files = list(from_tar(path) if path.is_file() else from_folder(path))
        names = sorted({name for _, name, _ in files})
        self.classes = len(names)
        subsets = {}
        for subset, name, read in files:
            subsets.setdefault("train" if subset == "train" else "val", []).append((names.index(name), read))
        limit = settings["data"].get("train_images")
        if limit:
            chosen = torch.randperm(len(subsets["train"]))[:limit]
            subsets["train"] = [subsets["train"][at] for at in chosen]
        self.train, self.val = (self.decoded(subsets[name]) for name in ("train", "val"))

    def decoded(self, files):
        images = torch.empty(len(files), 3, self.size, self.size, dtype=torch.uint8)
        for at, (_, read) in enumerate(files):
            pixels = np.asarray(Image.open(io.BytesIO(read())).convert("RGB"))
            if pixels.shape[:2] != (self.size, self.size):
                raise SystemExit(f"an image is {pixels.shape[1]} x {pixels.shape[0]}, not {self.size} x {self.size}")
            images[at] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        return images, torch.tensor([label for label, _ in files])

    def normalised(self, pixels):
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def augmented(self, chosen):
        images = self.train[0][chosen]
        cropped = self.padded(images) if self.crop["crop"] == "padded" else self.resized(images)
        if self.crop.get("flip"):
            mirrored = torch.rand(len(chosen)) < 0.5
            cropped[mirrored] = cropped[mirrored].flip(3)
        return self.normalised(cropped)

    def padded(self, images):
        """A window anywhere in the image with black around it."""
        padding = self.crop["padding"]
        around = F.pad(images, [padding] * 4)
        corners = torch.randint(0, 2 * padding + 1, (len(images), 2)).tolist()
        return torch.stack([one[:, y : y + self.size, x : x + self.size] for one, (y, x) in zip(around, corners)])

    def resized(self, images):
        """A part of random area and shape, scaled to the whole."""
        scale, ratio = self.crop.get("scale", [0.08, 1.0]), self.crop.get("ratio", [3 / 4, 4 / 3])
        parts = []
        for one in images.float():
            top, left, height, width = part_of(self.size, scale, ratio)
            part = one[None, :, top : top + height, left : left + width]
            parts.append(F.interpolate(part, size=(self.size, self.size), mode="bilinear", antialias=True)[0])
        return torch.stack(parts).round_().clamp_(0, 255)


class Coefficients:
    """Kymatio's scattering coefficients in place of pixels: of so many views of each training image, computed once."""

    def __init__(self, settings, data):
        from kymatio.torch import Scattering2D

        network, (images, labels) = settings["network"], data.val
        transform = Scattering2D(
            J=network["scales"], L=network["angles"], max_order=network["order"], shape=(data.size, data.size))  # fmt: skip

        def of(views):
            return torch.cat([transform(view.contiguous()).flatten(1, 2) for view in views])

        parts = torch.arange(len(data.train[0])).split(500)
        views = range(settings.get("features", {}).get("views", 1))
        self.views = torch.stack([of(map(data.augmented, parts)) for _ in views])
        self.train, self.val = data.train, (of(map(data.normalised, images.split(500))), labels)
        self.size, self.classes = self.val[0].shape[-1], data.classes

    def augmented(self, chosen):
        return self.views[torch.randint(len(self.views), (len(chosen),)), chosen]

    def normalised(self, coefficients):
        return coefficients


def part_of(size, scale, ratio):
    for _ in range(10):
        area = size * size * torch.empty(1).uniform_(*scale).item()
        shape = math.exp(torch.empty(1).uniform_(math.log(ratio[0]), math.log(ratio[1])).item())
        width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < width <= size and 0 < height <= size:
            top = torch.randint(0, size - height + 1, (1,)).item()
            return top, torch.randint(0, size - width + 1, (1,)).item(), height, width
    return 0, 0, size, size


def from_tar(path):
    archive = tarfile.open(path)
    for member in archive:
        parts = Path(member.name).parts
        if member.isfile() and len(parts) >= 3:
            yield parts[-3], parts[-2], lambda member=member: archive.extractfile(member).read()


def from_folder(path):
    for file in sorted(path.glob("*/*/*")):
        yield file.parts[-3], file.parts[-2], file.read_bytes


# Feedback -----------------------------------------------------------------------------------------------------------
# Gradients that go back otherwise than by the weights: by fixed ones that are drawn like them, or straight from the logits.


def aligned(network):
    """Each convolution and linear layer has fixed weights in the place of its own on the way back."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fixed = copy.deepcopy(module)
            fixed.reset_parameters()
            weight = fixed.weight.detach()
            module.forward = lambda x, own=module, back=weight: AlignedLayer.apply(x, own.weight, own.bias, back, own)


class AlignedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, back, layer):
        ctx.save_for_backward(x, weight, back)
        ctx.layer = layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight, back = ctx.saved_tensors
        biased = ctx.layer.bias is not None
        if isinstance(ctx.layer, nn.Linear):
            return grad @ back, grad.t() @ x, grad.sum(0) if biased else None, None, None
        window = dict(stride=ctx.layer.stride, padding=ctx.layer.padding)
        grad_x = nn.grad.conv2d_input(x.shape, back, grad, **window) if ctx.needs_input_grad[0] else None
        grad_weight = nn.grad.conv2d_weight(x, weight.shape, grad, **window)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if biased else None, None, None


def direct(network):
    """Blocks, and hidden layers of the head with their batch norm and ReLU, have their gradient from the logits."""
    memory = {}
    blocks, head = network
    results = list(blocks)
    layers = list(head)
    weighted = [at for at, layer in enumerate(layers) if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for at in weighted[:-1]:
        while isinstance(layers[at + 1], (nn.BatchNorm2d, nn.ReLU)):
            at += 1
        results.append(layers[at])
    for module in results:
        module.register_forward_hook(lambda module, _, y: Received.apply(y, memory, module) if module.training else y)
    layers[-1].register_forward_hook(lambda module, _, y: Sent.apply(y, memory) if module.training else y)


class Sent(torch.autograd.Function):
    """Passes the logits on, and remembers their gradient."""

    @staticmethod
    def forward(ctx, x, memory):
        ctx.memory = memory
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ctx.memory["grad"] = grad
        return grad, None


class Received(torch.autograd.Function):
    """Passes a result on; its gradient is that of the logits times a fixed matrix, which is drawn at the first step."""

    @staticmethod
    def forward(ctx, x, memory, module):
        ctx.memory, ctx.module = memory, module
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        error, module = ctx.memory["grad"], ctx.module
        if not hasattr(module, "fixed"):
            values = grad[0].numel()
            module.fixed = torch.empty(error.shape[1], values).uniform_(-(values**-0.5), values**-0.5)
        return (error @ module.fixed).view(grad.shape), None, None


FEEDBACK = {"exact": lambda network: None, "aligned": aligned, "direct": direct}


# Networks -----------------------------------------------------------------------------------------------------------
# Each gives its blocks, and a function from the index of a block to the head that classifies its features.


def simcnn(settings, size, classes):
    network, auxiliary = settings["network"], settings["auxiliary"]
    k, downsampled = auxiliary["k"], network.get("space_to_depth", [])
    normalised = network.get("batch_norm", k > 1)
    if not normalised or not auxiliary.get("batch_norm", True) or not auxiliary.get("doubling", True):
        raise SystemExit("only SimCNN with batch norm and widths that double is here")
    blocks, widths, channels, width = [], [], 3, network["width"]
    for number in range(1, network["blocks"] + 1):
        before = []
        if number in downsampled:
            before, channels, width = [nn.PixelUnshuffle(2)], 4 * channels, width * (2 if number > 1 else 1)
        blocks.append(nn.Sequential(*before, *unit(channels, width)))
        widths.append(width)
        channels = width

    def head(at):
        wide = auxiliary["width"] * widths[at] // widths[0]
        convolutions = [layer for n in range(k - 1) for layer in unit(wide if n else widths[at], wide)]
        last = wide if k > 1 else widths[at]
        pooled = [nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(last), nn.Flatten(), nn.Linear(4 * last, classes)]
        return nn.Sequential(*convolutions, *pooled)

    return blocks, head


def scattering(settings, size, classes):
    """A block with nothing to be trained, whose coefficients are what it is given, then a batch norm and the classifier."""
    network = settings["network"]
    angles, scales = network["angles"], network["scales"]
    second = angles**2 * scales * (scales - 1) // 2 if network["order"] == 2 else 0

    def head(at):
        channels = 3 * (1 + angles * scales + second)
        layers, values = [nn.BatchNorm2d(channels)], channels * size**2
        for layer in settings["auxiliary"]["layers"]:
            match layer:
                case "flatten":
                    layers.append(nn.Flatten())
                case "relu":
                    layers.append(nn.ReLU())
                case {"linear": outputs}:
                    outputs = classes if outputs == "classes" else outputs
                    layers.append(nn.Linear(values, outputs))
                    values = outputs
                case {"dropout": share}:
                    layers.append(nn.Dropout(share))
                case other:
                    raise SystemExit(f"no layer {other} is here")
        return nn.Sequential(*layers)

    return [nn.Identity()], head


def vgg(settings, size, classes):
    network, auxiliary = settings["network"], settings.get("auxiliary", {})
    name, _, normalised = network["architecture"].partition("_")
    begin = kaiming_normal if network.get("init", "kaiming_normal") == "kaiming_normal" else lambda module: None
    blocks, widths, sizes, channels = [], [], [], 3
    for group, count in enumerate(GROUPS[name]):
        for at in range(count):
            before = [nn.MaxPool2d(2)] if group and not at else []
            size = size // 2 if before else size
            width = network["width"] << min(group, 3)
            after = [nn.BatchNorm2d(width)] if normalised else []
            blocks.append(nn.Sequential(*before, nn.Conv2d(channels, width, 3, padding=1), *after, nn.ReLU()))
            widths.append(width)
            sizes.append(size)
            channels = width

    def head(at):
        if at + 1 == len(blocks):
            own = nn.Sequential(nn.MaxPool2d(2), *classifier(network, channels, classes, default_pooled=7, drops_first=False))
            return own.apply(begin)
        wide, padding = 2 * widths[at], auxiliary.get("padding", 0)
        convolutions = [layer for n in range(auxiliary["k"] - 1) for layer in unit(wide if n else widths[at], wide, padding)]
        pooled = [nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(wide), nn.Flatten(), nn.Linear(4 * wide, classes)]
        return nn.Sequential(nn.AdaptiveAvgPool2d(-(-sizes[at] // 2)), *convolutions, *pooled).apply(begin)

    return [block.apply(begin) for block in blocks], head


def alexnet(settings, size, classes):
    width = settings["network"]["width"]

    def convolution(inputs, outputs, kernel, stride, padding, pooled):
        own = [nn.Conv2d(inputs * width or 3, outputs * width, kernel, stride, padding), nn.ReLU()]
        return nn.Sequential(*own, *([nn.MaxPool2d(3, 2)] if pooled else []))

    blocks = [
        convolution(0, 1, 11, 4, 2, True),
        convolution(1, 3, 5, 1, 2, True),
        convolution(3, 6, 3, 1, 1, False),
        convolution(6, 4, 3, 1, 1, False),
        convolution(4, 4, 3, 1, 1, True),
    ]
    if settings["training"].get("method") != "end_to_end":
        raise SystemExit("AlexNet is trained end to end here")
    return blocks, lambda _: nn.Sequential(*classifier(settings["network"], 4 * width, classes, 6, drops_first=True))


def unit(inputs, outputs, padding=1):
    return [nn.Conv2d(inputs, outputs, 3, padding=padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def classifier(network, channels, classes, default_pooled, drops_first):
    """Two hidden linear layers, with dropout before each (AlexNet) or behind its ReLU (VGG)."""
    pooled, hidden = network.get("pooled", default_pooled), network.get("hidden", 4096)
    layers = [nn.AdaptiveAvgPool2d(pooled), nn.Flatten()]
    for inputs in (pooled * pooled * channels, hidden):
        dropout, linear = nn.Dropout(network.get("dropout", 0.5)), [nn.Linear(inputs, hidden), nn.ReLU()]
        layers += [dropout, *linear] if drops_first else [*linear, dropout]
    return [*layers, nn.Linear(hidden, classes)]


def kaiming_normal(module):
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)


NETWORKS = {"simcnn": simcnn, "alexnet": alexnet, "scattering": scattering} | dict.fromkeys(GROUPS, vgg)


if __name__ == "__main__":
    main()
