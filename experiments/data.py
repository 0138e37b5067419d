"""The data sets of the experiments, as IDX folders made from Fashion-MNIST's files.

`plain` is Fashion-MNIST itself. `mixed` is for choosing recipes: its validation images are the last 10,000 of the training set, so that
the test set is not looked at, and half of all images are made harder, so that an image's difficulty differs and is visible: they are
shrunk to between 0.5 and 0.9 of their size, moved to a random place and overlaid with noise.
"""

import gzip
import struct
from pathlib import Path

import numpy as np

HELD_OUT = 10_000
SEED = 20231017


def read(path: Path) -> np.ndarray:
    """The array of an IDX file of bytes, plain or gzip."""
    content = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def write(path: Path, array: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def harder(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image, smaller, elsewhere and noisy."""
    side = image.shape[0]
    small = int(side * rng.uniform(0.5, 0.9))
    at = (np.arange(small) + 0.5) * side / small
    shrunk = image[np.ix_(at.astype(int), at.astype(int))]
    top, left = rng.integers(0, side - small + 1, size=2)
    canvas = rng.normal(0, 40, size=image.shape)
    canvas[top : top + small, left : left + small] += shrunk
    return np.clip(canvas, 0, 255).astype(np.uint8)


def mixed(source: Path, target: Path) -> None:
    """Writes the `mixed` set; the same bytes every time."""
    images, labels = read(source / "train-images-idx3-ubyte"), read(source / "train-labels-idx1-ubyte")
    rng = np.random.default_rng(SEED)
    hard = rng.random(len(images)) < 0.5
    changed = np.stack([harder(image, rng) if is_hard else image for image, is_hard in zip(images, hard, strict=True)])
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", slice(None, -HELD_OUT)), ("t10k", slice(-HELD_OUT, None))):
        write(partial / f"{name}-images-idx3-ubyte", changed[part])
        write(partial / f"{name}-labels-idx1-ubyte", labels[part])
    partial.rename(target)


def folder(data: str, source: Path, cache: Path) -> Path:
    """The folder of a data set, made if it is not there."""
    if data == "plain":
        return source
    target = cache / data
    if not target.exists():
        mixed(source, target)
    return target
