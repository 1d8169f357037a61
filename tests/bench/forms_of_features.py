"""Bytes and rates of the forms in which features could be stored, on features that a run has left.

    greedy run pipelines/cifar10-quick.toml --set features.dtype=f32
    python3 tests/bench/forms_of_features.py cache/cifar10-quick/stage1 cache/cifar10-quick/stage4

Takes numpy, zarr, numcodecs, zstandard and the system's libzstd. Of each form: bytes a value, and values that one thread stores
and reads back a second, in millions, by the time that the processor worked; and what rounding adds, as the error over the
deviation of the values, of all and of the channel where it is largest. Each sample is stored by itself, as `greedy` does.
"huffman" are frames of Zstandard in which hardly any repetition is looked for.
"""

import argparse
import ctypes
import ctypes.util
import time

import numpy
import zarr
import zstandard
from numcodecs import blosc

blosc.use_threads = False


def zstd(level):
    return zstandard.ZstdCompressor(level, write_checksum=True).compress, zstandard.ZstdDecompressor().decompress


def huffman():
    library = ctypes.CDLL(ctypes.util.find_library("zstd"))
    library.ZSTD_createCCtx.restype = ctypes.c_void_p
    library.ZSTD_compress2.restype = library.ZSTD_compressBound.restype = ctypes.c_size_t
    context = ctypes.c_void_p(library.ZSTD_createCCtx())
    # Level, checksum, and ZSTD_c_literalCompressionMode.
    for name, value in [(100, -1000), (201, 1), (1002, 1)]:
        library.ZSTD_CCtx_setParameter(context, name, value)

    def compress(data):
        out = ctypes.create_string_buffer(library.ZSTD_compressBound(ctypes.c_size_t(len(data))))
        sizes = [ctypes.c_size_t(len(buffer)) for buffer in (out, data)]
        length = library.ZSTD_compress2(context, out, sizes[0], data, sizes[1])
        return out[:length]

    return compress, zstandard.ZstdDecompressor().decompress


def blosc_of(name, level, shuffle, width):
    return lambda data: blosc.compress(numpy.frombuffer(data, f"u{width}"), name.encode(), level, shuffle), blosc.decompress


def codecs(width):
    all = {
        "none": (lambda data: data, lambda data: data),
        "lz4": blosc_of("lz4", 5, blosc.BITSHUFFLE, width),
        "huffman": huffman(),
        "zstd:1": zstd(1),
        "zstd:3": zstd(3),
    }
    if width > 1:
        all["zstd:1, bytes shuffled"] = blosc_of("zstd", 1, blosc.SHUFFLE, width)
    return all


def best_scale(values, most, axis):
    """The scale with the least squared error, of all or of each channel, as `greedy` chooses it."""
    largest = values.max(axis=axis, keepdims=True)
    errors, scales = [], [numpy.where(largest > 0, largest, 1) / most * 0.96**less for less in range(64)]
    some = values[:32]
    for scale in scales:
        back = numpy.minimum(numpy.rint(some / scale), most) * scale
        errors.append(((some - back) ** 2).mean(axis=axis, keepdims=True))
    return numpy.take_along_axis(numpy.stack(scales), numpy.argmin(errors, axis=0)[None], axis=0)[0]


def whole(values, most, axis):
    scale = best_scale(values, most, axis)
    stored = numpy.minimum(numpy.rint(values / scale), most).astype("u1")
    return stored, stored * scale


def rounded(values):
    """Form: stored values, and what they stand for."""
    yield "f32", values, values
    bits = values.view("u4")
    brain = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("u2")
    yield "f16", values.astype("f2"), values.astype("f2").astype("f4")
    yield "bf16", brain, (brain.astype("u4") << 16).view("f4")
    for bits in (8, 6, 4):
        yield f"{bits} bits", *whole(values, 2**bits - 1, None)
        yield f"{bits} bits, scale a channel", *whole(values, 2**bits - 1, (0, 1, 2))


def packed(samples):
    """A mask of what is not zero, then that."""
    return [numpy.packbits(sample != 0).tobytes() + sample[sample != 0].tobytes() for sample in samples]


def timed(f, least=0.3):
    best, spent = 1e9, 0
    while spent < least:
        started = time.thread_time()
        result = f()
        took = time.thread_time() - started
        best, spent = min(best, took), spent + took
    return result, best


def row(name, codec, samples, functions, count, error):
    compress, decompress = functions
    stored, store = timed(lambda: [compress(sample) for sample in samples])
    back, read = timed(lambda: [decompress(sample) for sample in stored])
    assert all(bytes(a) == bytes(b) for a, b in zip(back, samples))
    size = sum(map(len, stored)) / count
    rates = ["-", "-"] if codec == "none" else [f"{count / took / 1e6:.0f}" for took in (store, read)]
    print(f"| {name} | {codec} | {size:.3f} | {rates[0]} | {rates[1]} | {error} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="+")
    parser.add_argument("--samples", type=int, default=128)
    options = parser.parse_args()
    for stage in options.stages:
        array = zarr.open_array(f"{stage}/train/features", mode="r")
        values = numpy.stack([array[0, at] for at in range(options.samples)]).astype("f4")
        values = numpy.ascontiguousarray(values.transpose(0, 2, 3, 1))
        print(f"\n{stage}: {values.shape}, {(values == 0).mean():.3f} zeros, from {values.min():.3f} to {values.max():.3f}\n")
        print("| type | codec | bytes a value | M values/s stored | read | error, worst channel's |\n|---|---|---|---|---|---|")
        deviation, of_channel = values.std(), numpy.maximum(values.std(axis=(0, 1, 2)), 1e-9)
        for name, stored, back in rounded(values):
            errors = (values - back) ** 2
            error = numpy.sqrt(errors.mean()) / deviation, (numpy.sqrt(errors.mean(axis=(0, 1, 2))) / of_channel).max()
            error = f"{100 * error[0]:.2f} %, {100 * error[1]:.2f} %"
            pixels = [sample.tobytes() for sample in stored]
            for codec, functions in codecs(stored.itemsize).items():
                row(name, codec, pixels, functions, values.size, error)
            if name.startswith(("f32", "4 bits", "6 bits, scale")):
                continue
            planes = [numpy.ascontiguousarray(sample.transpose(2, 0, 1)).tobytes() for sample in stored]
            row(f"{name}, planes", "zstd:1", planes, zstd(1), values.size, error)
            masked = packed(stored)
            for codec in ("none", "zstd:1"):
                row(f"{name}, mask and what is not zero", codec, masked, codecs(1)[codec], values.size, error)


main()
