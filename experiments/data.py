"""The data sets of the experiments, as IDX folders made from Fashion-MNIST's files.

Half of all images are made harder, so that an image's difficulty differs and is visible: they are shrunk to between 0.5 and 0.9 of their
size, moved to a random place and overlaid with noise. Gates have something to tell apart. `mixed` is validated on the test set. `held-out`
is for choosing recipes: its validation images are the last 10,000 of the training set, and it does not hold the test set.
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


def hardened(images: np.ndarray, seed: int) -> np.ndarray:
    """The images, a random half of them made harder; the same ones every time."""
    rng = np.random.default_rng(seed)
    hard = rng.random(len(images)) < 0.5
    return np.stack([harder(image, rng) if is_hard else image for image, is_hard in zip(images, hard, strict=True)])


def split(name: str, source: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of both parts of a data set, by the prefix of their files."""
    train, labels = hardened(read(source / "train-images-idx3-ubyte"), SEED), read(source / "train-labels-idx1-ubyte")
    if name == "held-out":
        return {"train": (train[:-HELD_OUT], labels[:-HELD_OUT]), "t10k": (train[-HELD_OUT:], labels[-HELD_OUT:])}
    test = hardened(read(source / "t10k-images-idx3-ubyte"), SEED + 1)
    return {"train": (train, labels), "t10k": (test, read(source / "t10k-labels-idx1-ubyte"))}


def make(name: str, source: Path, cache: Path) -> None:
    """Makes the folder of a data set, if it is not there; the same bytes every time."""
    target = cache / name
    if target.exists():
        return
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in split(name, source).items():
        write(partial / f"{part}-images-idx3-ubyte", images)
        write(partial / f"{part}-labels-idx1-ubyte", labels)
    partial.rename(target)
