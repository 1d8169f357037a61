#!/usr/bin/env python3
"""The networks of pipeline files in PyTorch: what accuracy does the same recipe have there?

  python3 -m venv ~/torch && ~/torch/bin/pip install torch==2.13.0 numpy pillow
  ~/torch/bin/python tests/bench/networks_torch.py pipelines/vgg11-quick.toml --data ../shared/data/cifar10-jpeg.tar

It reads the file that greedy reads and trains SimCNN, VGG and AlexNet, layer by layer, decoupled or end to end, there also by
feedback alignment, from plain torch.nn modules; layer by layer blocks are pruned and fine-tuned, and the last classifier
swapped, where the file says so. Random crops and flips are drawn anew at every epoch, and layer by layer all frozen blocks are
run again at every step: nothing is cached, as in the paper. Scattering coefficients are Kymatio's (`pip install kymatio
scipy`), and computed once, of as many views as the file says. The optimiser begins anew at each drop of the learning rate, as
in the published code. With `--device cuda` all but decoding and the drawing of initial weights is done there, in f32 without
TF32. `--seeds 0,1,2` trains it three times; a seed draws the subset of images, too. One line of JSON for each stage, or for
the whole network, and seed. Settings that change none of this are passed over; for others it stops rather than train something
else.
"""

import argparse
import copy
import io
import json
import math
import os
import tarfile
import time
import tomllib
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[0], help="such as 0,1,2")
    parser.add_argument("--epochs", type=int, help="in place of the file's, also those of fine-tuning")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    settings = tomllib.loads(args.pipeline.read_text())
    compression = settings.get("compression", {})
    for table in (settings["training"], compression, compression.get("classifier")):
        if table and args.epochs:
            table["epochs"] = args.epochs
    architecture, method = settings["network"].get("architecture", "simcnn"), settings["training"].get("method", "layerwise")
    if compression and (method != "layerwise" or architecture == "scattering"):
        raise SystemExit("only blocks that are trained layer by layer are compressed")
    data = Data(settings, args.data or Path(settings["data"]["path"]), args.seeds, args.device)
    if architecture == "scattering":
        data = Coefficients(settings, data)

    for seed in args.seeds:
        started = time.perf_counter()
        torch.manual_seed(seed)
        data.begin(seed)

        def tell(stage, frozen, network):
            top1, top5 = evaluate(frozen, network, data)
            row = {"pipeline": args.pipeline.stem, "stage": stage, "accuracy": round(top1, 2), "top5": round(top5, 2)}
            print(json.dumps(row | {"seed": seed, "seconds": round(time.perf_counter() - started, 1)}), flush=True)

        blocks, heads = NETWORKS[architecture.split("_")[0]](settings, data.size, data.classes)
        METHODS[method](settings, (blocks, heads), data, tell)


# Training -----------------------------------------------------------------------------------------------------------


def layerwise(settings, network, data, tell):
    """One stage after the other; where the file says so each is pruned and fine-tuned before the next one reads it."""
    (blocks, heads), training, compression = network, settings["training"], settings.get("compression", {})
    fine = {"epochs": 20, "learning_rate": training["learning_rate"] / 10} | compression
    frozen = nn.Sequential()
    for at, block in enumerate(blocks):
        stage = placed(nn.Sequential(block, heads(at)), data.device)
        train(frozen, stage, data, training)
        if compression.get("width", 0.5 if compression else 1.0) < 1.0:
            tell(f"{data.first + at}.wide", frozen, stage)
            prune(*stage, compression)
            train(frozen, placed(stage, data.device), data, training | fine)
        tell(data.first + at, frozen, stage)
        frozen.append(block).eval()
    if "classifier" in compression:
        own = compression["classifier"]
        head = placed(heads(len(blocks) - 1, settings["auxiliary"] | own, channels_of(block)), data.device)
        train(frozen, head, data, training | own)
        tell("classifier", frozen, head)


def end_to_end(settings, network, data, tell):
    blocks, heads = network
    whole = placed(nn.Sequential(nn.Sequential(*blocks), heads(len(blocks) - 1)), data.device)
    FEEDBACK[settings["training"].get("feedback", "exact")](whole)
    train(nn.Sequential(), whole, data, settings["training"])
    tell("network", nn.Sequential(), whole)


def decoupled(settings, network, data, tell):
    """All stages at once, each on what the block before has just made of the batch; with `replay` by turns in any order."""
    (blocks, heads), training = network, settings["training"]
    stages = [placed(nn.Sequential(block, heads(at)), data.device) for at, block in enumerate(blocks)]
    optimisers, rings = [None] * len(stages), [deque(maxlen=training.get("replay", 0)) for _ in stages]
    for epoch in range(training["epochs"]):
        optimisers = [optimiser_at(epoch, stage, training, own) for stage, own in zip(stages, optimisers)]
        for fresh in data.batches(training["batch"]):
            places = torch.randperm(len(stages)).tolist() if training.get("replay") else range(len(stages))
            for at, (stage, optimiser) in enumerate(zip(stages, optimisers)):
                taken = exchanged(rings[at], fresh, places[at - 1] < places[at]) if at else fresh
                fresh = None
                if taken is None:
                    continue
                features = stage.train()[0](taken[0])
                optimiser.zero_grad(set_to_none=True)
                F.cross_entropy(stage[1](features), taken[1]).backward()
                optimiser.step()
                fresh = (features.detach(), taken[1])
    for at, stage in enumerate(stages):
        tell(at + 1, nn.Sequential(*blocks[:at]).eval(), stage)


METHODS = {"layerwise": layerwise, "end_to_end": end_to_end, "decoupled": decoupled}


def placed(network, device):
    """On the device, with the order of a feature map's values that is the fastest there in single precision."""
    return network.to(device, memory_format=format_on(device))


def format_on(device):
    return torch.channels_last if device == "cpu" else torch.contiguous_format


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
        for images, labels in data.batches(settings["batch"]):
            with torch.no_grad():
                x = frozen(images)
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), labels).backward()
            optimiser.step()


def optimiser_at(epoch, network, settings, before):
    """That of the epoch before, but anew at each drop of the learning rate."""
    every = settings.get("decay_every", 15)
    if epoch and (not every or epoch % every):
        return before
    parameters = list(network.parameters())
    return torch.optim.SGD(
        parameters, lr=settings["learning_rate"] * settings["decay"] ** (epoch // every if every else 0),
        momentum=settings.get("momentum", 0.9), weight_decay=settings["weight_decay"], fused=parameters[0].is_cuda)  # fmt: skip


@torch.no_grad()
def evaluate(frozen, network, data):
    network.eval()
    images, labels = data.val
    best = torch.cat([network(frozen(data.normalised(part))).topk(5).indices for part in images.split(500)])
    right = best == labels[:, None]
    return [100 * hits.sum().item() / len(images) for hits in (right[:, 0], right)]


# Compression --------------------------------------------------------------------------------------------------------


def left_of(channels, compression):
    """How many of a block's channels stay."""
    width = compression.get("width", 0.5) if compression else 1.0
    return max(1, math.floor(channels * width + 0.5))


def channels_of(block):
    return [layer for layer in block if isinstance(layer, nn.Conv2d)][-1].weight.shape[0]


@torch.no_grad()
def prune(block, head, compression):
    """Leaves the channels of a block that the classifier reads with the largest weights, by the sum of their sizes."""
    layers, channels = [*block, *head], channels_of(block)
    weighted = [at for at, layer in enumerate(layers) if isinstance(layer, (nn.Conv2d, nn.Linear))]
    reading = next(at for at in weighted if at >= len(block))
    writing = max(at for at in weighted if at < len(block))
    # Of a flattened map a channel has several values, side by side.
    sizes = layers[reading].weight.abs().unflatten(1, (channels, -1)).flatten(2).sum((0, 2))
    kept = sizes.sort(descending=True, stable=True).indices[: left_of(channels, compression)].sort().values
    for at in range(writing, reading + 1):
        dim = 1 if at == reading else 0
        for name, tensor in [*layers[at].named_parameters(), *layers[at].named_buffers()]:
            if tensor.dim() > dim:
                own = tensor.unflatten(dim, (channels, -1)).index_select(dim, kept).flatten(dim, dim + 1)
                setattr(layers[at], name, nn.Parameter(own) if isinstance(tensor, nn.Parameter) else own)


# Images -------------------------------------------------------------------------------------------------------------


class Data:
    """All images as u8 on the device, {train,val|test}/<class>/* of a folder or a tar; they must have their size already."""

    first = 1  # the number of the first stage that is trained

    def __init__(self, settings, path, seeds, device):
        self.device, self.size = device, settings["data"]["size"]
        self.crop = settings.get("augmentation", {})
        if self.crop.get("size", self.size) != self.size or self.crop.get("crop") not in ("padded", "resized"):
            raise SystemExit("only padded and resized crops of the images' own size are drawn here")
        mean, std = settings["data"]["mean"], settings["data"]["std"]
        self.mean, self.std = (255 * torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        self.pixels = torch.arange(self.size, device=device)
        files = list(from_tar(path) if path.is_file() else from_folder(path))
        names = sorted({name for _, name, _ in files})
        self.classes = len(names)
        self.subsets = {}
        for subset in ("train", "val"):
            own = [(names.index(name), place) for split, name, place in files if (split == "train") == (subset == "train")]
            limit = settings["data"].get(f"{subset}_images", len(own))
            drawn = [torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))[:limit] for seed in seeds]
            used = torch.cat(drawn).unique()
            images = decoded([own[at][1] for at in used], self.size).to(device)
            labels = torch.tensor([own[at][0] for at in used], device=device)
            of_seed = {seed: torch.searchsorted(used, one).to(device) for seed, one in zip(seeds, drawn)}
            self.subsets[subset] = images, labels, of_seed

    def begin(self, seed):
        """The images of a seed, and its random numbers."""
        self.generator = torch.Generator(self.device).manual_seed(seed)
        chosen = [(images, labels, of_seed[seed]) for images, labels, of_seed in self.subsets.values()]
        self.train, self.val = ((images[own], labels[own]) for images, labels, own in chosen)

    def random(self, *shape):
        return torch.rand(shape, generator=self.generator, device=self.device)

    def shuffled(self, size):
        return torch.randperm(len(self.train[1]), generator=self.generator, device=self.device).split(size)

    def batches(self, size):
        images, labels = self.train
        for chosen in self.shuffled(size):
            yield self.augmented(images[chosen]), labels[chosen]

    def normalised(self, pixels):
        return ((pixels - self.mean) / self.std).contiguous(memory_format=format_on(self.device))

    def augmented(self, images):
        """A view of each: where its rows and columns lie in the image [2, images, size], and the pixels next to them."""
        places = self.padded(len(images)) if self.crop["crop"] == "padded" else self.resized(len(images))
        if self.crop.get("flip"):
            places[1] = torch.where(self.random(len(images), 1) < 0.5, places[1].flip(1), places[1])
        # Linear interpolation, as two products of matrices; nothing but black is outside the image.
        rows, columns = F.relu(1 - (places[:, :, None, :, None] - self.pixels).abs())
        return self.normalised((rows @ images.float() @ columns.mT).round_())

    def padded(self, count):
        """A window anywhere in the image with black around it."""
        return self.pixels + (self.random(2, count, 1) * (2 * self.crop["padding"] + 1)).floor() - self.crop["padding"]

    def resized(self, count):
        """A part of random area and shape, the first of ten that lies within the image, scaled to the whole."""
        (least, most), ratio = self.crop.get("scale", [0.08, 1.0]), self.crop.get("ratio", [3 / 4, 4 / 3])
        area = self.size**2 * (least + (most - least) * self.random(count, 10))
        low, high = map(math.log, ratio)
        shape = torch.exp(low + (high - low) * self.random(count, 10))
        sides = torch.stack([area / shape, area * shape]).sqrt_().round_()
        fit = ((sides > 0) & (sides <= self.size)).all(0)
        found = sides.gather(2, fit.int().argmax(1).expand(2, -1)[:, :, None])
        side = torch.where(fit.any(1)[:, None], found, self.size)
        corner = (self.random(2, count, 1) * (self.size - side + 1)).floor()
        inside = (corner + side - 1).minimum(corner + (self.pixels + 0.5) * side / self.size - 0.5)
        return inside.maximum(corner)


class Coefficients:
    """Kymatio's scattering coefficients in place of pixels: of so many views of each training image, computed once."""

    first = 2  # the transform is the first

    def __init__(self, settings, data):
        # Not by `kymatio.torch`, which wants a function of 3D transforms that SciPy 1.17 no longer has.
        from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

        network = settings["network"]
        self.data, self.device, self.classes = data, data.device, data.classes
        self.transform = ScatteringTorch2D(
            J=network["scales"], L=network["angles"], max_order=network["order"], shape=(data.size, data.size)
        ).to(data.device)
        self.count = settings.get("features", {}).get("views", 1)
        self.size = data.size >> network["scales"]

    def begin(self, seed):
        self.data.begin(seed)
        (images, self.labels), (unseen, labels) = self.data.train, self.data.val
        self.views = None  # of the seed before
        self.views = torch.stack([self.of(self.data.augmented, images) for _ in range(self.count)])
        self.val = self.of(self.data.normalised, unseen), labels

    def of(self, view, images):
        return torch.cat([self.transform(view(part).contiguous()).flatten(1, 2) for part in images.split(1000)])

    def batches(self, size):
        for chosen in self.data.shuffled(size):
            view = (self.data.random(len(chosen)) * self.count).long()
            yield self.views[view, chosen], self.labels[chosen]

    def normalised(self, coefficients):
        return coefficients


def decoded(files, size):
    """Their pixels [images, 3, size, size], by as many processes as there are cores."""
    parts, cores = [files[at : at + 200] for at in range(0, len(files), 200)], len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(min(cores, len(parts)), get_context("fork")) as pool:
        return torch.from_numpy(np.concatenate(list(pool.map(partial(pixels_of, size), parts)))).permute(0, 3, 1, 2)


def pixels_of(size, files):
    images = np.empty((len(files), size, size, 3), np.uint8)
    for pixels, (path, start, length) in zip(images, files):
        with open(path, "rb") as file:
            file.seek(start)
            image = Image.open(io.BytesIO(file.read(length))).convert("RGB")
        if image.size != (size, size):
            raise SystemExit(f"an image is {image.width} x {image.height}, not {size} x {size}")
        pixels[:] = np.asarray(image)
    return images


def from_tar(path):
    """Subset and class of each file, and where its bytes are."""
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and len(parts) >= 3:
                yield parts[-3], parts[-2], (path, member.offset_data, member.size)


def from_folder(path):
    for file in sorted(path.glob("*/*/*")):
        yield file.parts[-3], file.parts[-2], (file, 0, -1)


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
            module.fixed = error.new_empty(error.shape[1], values).uniform_(-(values**-0.5), values**-0.5)
        return (error @ module.fixed).view(grad.shape), None, None


FEEDBACK = {"exact": lambda network: None, "aligned": aligned, "direct": direct}


# Networks -----------------------------------------------------------------------------------------------------------
# Each gives its blocks, and a function from the index of a block to the head that classifies its features. Blocks that are to
# be pruned are whole, but read what will be left of those before. The head can also be another, of so many channels.


def simcnn(settings, size, classes):
    network, compression = settings["network"], settings.get("compression")
    downsampled, blocks, widths, channels, width = network.get("space_to_depth", []), [], [], 3, network["width"]
    if not network.get("batch_norm", settings["auxiliary"]["k"] > 1):
        raise SystemExit("only SimCNN with batch norm is here")
    for number in range(1, network["blocks"] + 1):
        before = []
        if number in downsampled:
            before, channels, width = [nn.PixelUnshuffle(2)], 4 * channels, width * (2 if number > 1 else 1)
        blocks.append(nn.Sequential(*before, *unit(channels, width)))
        widths.append(width)
        channels = left_of(width, compression)

    def head(at, auxiliary=settings["auxiliary"], features=None):
        return auxiliary_head(auxiliary, features or widths[at], auxiliary["width"] * widths[at] // widths[0], classes, 1)

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
    compression, (name, _, normalised) = settings.get("compression"), network["architecture"].partition("_")
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
            channels = left_of(width, compression)

    def head(at, auxiliary=auxiliary, features=None):
        if at + 1 == len(blocks) and not features:
            own = nn.Sequential(nn.MaxPool2d(2), *classifier(network, width, classes, default_pooled=7, drops_first=False))
            return own.apply(begin)
        features = features or widths[at]
        wide = auxiliary["width"] * sizes[0] // sizes[at] if "width" in auxiliary else 2 * features
        layers = auxiliary_head(auxiliary, features, wide, classes, auxiliary.get("padding", 0))
        return nn.Sequential(nn.AdaptiveAvgPool2d(-(-sizes[at] // 2)), *layers).apply(begin)

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


def auxiliary_head(auxiliary, features, wide, classes, padding):
    """Convolutions of a width, then a linear layer on 2 x 2 averages."""
    k, normalised = auxiliary["k"], auxiliary.get("batch_norm", auxiliary["k"] > 1)
    if "layers" in auxiliary or not auxiliary.get("doubling", True) or k > 1 and not normalised:
        raise SystemExit("only classifiers of k layers, with batch norm and widths that double, are here")
    convolutions = [layer for n in range(k - 1) for layer in unit(wide if n else features, wide, padding)]
    last = wide if k > 1 else features
    norm = [nn.BatchNorm2d(last)] if normalised else []
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(2), *norm, nn.Flatten(), nn.Linear(4 * last, classes))


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
