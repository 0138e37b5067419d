"""The data sets of the experiments, as IDX folders made from Fashion-MNIST's files.

`mixed`: a random half of the images are hard, so that an image's difficulty differs and is visible. `varied`: a third are plain, a third
hard, a third scrambled, so that images are of kinds that want different work done. Both are validated on the test set. `varied-held-out` is for
choosing recipes: it is `varied`, but its validation images are the last 10,000 of the training set, and it does not hold the test set.
`varied-plain`, `varied-hard` and `varied-scrambled` are the test images of `varied` of one kind.
"""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

HELD_OUT = 10_000
SEED = 20231017
# The side of the tiles that are scrambled: the model's patches.
TILE = 7

Image = np.ndarray


def read(path: Path) -> np.ndarray:
    """The array of an IDX file of bytes, plain or gzip."""
    content = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def write(path: Path, array: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def plain(image: Image, rng: np.random.Generator) -> Image:
    """The image as it comes."""
    return image


def hard(image: Image, rng: np.random.Generator) -> Image:
    """Between 0.5 and 0.9 of its size, elsewhere and noisy."""
    side = image.shape[0]
    small = int(side * rng.uniform(0.5, 0.9))
    at = (np.arange(small) + 0.5) * side / small
    shrunk = image[np.ix_(at.astype(int), at.astype(int))]
    top, left = rng.integers(0, side - small + 1, size=2)
    canvas = rng.normal(0, 40, size=image.shape)
    canvas[top : top + small, left : left + small] += shrunk
    return np.clip(canvas, 0, 255).astype(np.uint8)


def scrambled(image: Image, rng: np.random.Generator) -> Image:
    """The negative, its tiles in another order, which is always the same."""
    across = image.shape[0] // TILE
    order = np.random.default_rng(SEED).permutation(across * across)
    tiles = (255 - image).reshape(across, TILE, across, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE)[order]
    return tiles.reshape(across, across, TILE, TILE).swapaxes(1, 2).reshape(image.shape)


# Where an image's draw is below the bound, it is made so.
Kinds = tuple[tuple[float, Callable[[Image, np.random.Generator], Image]], ...]
MIXED: Kinds = ((0.5, hard), (1.0, plain))
VARIED: Kinds = ((1 / 3, hard), (2 / 3, scrambled), (1.0, plain))
KINDS = tuple(kind.__name__ for _, kind in VARIED)

Part = tuple[np.ndarray, np.ndarray]


def made(source: Path, part: str, kinds: Kinds, seed: int) -> tuple[Part, np.ndarray]:
    """The images of a part of Fashion-MNIST, each of a kind that is drawn, their labels, and the kinds' names; the same every time."""
    images, labels = (read(source / f"{part}-{what}-ubyte") for what in ("images-idx3", "labels-idx1"))
    rng = np.random.default_rng(seed)
    draws = rng.random(len(images))
    of = [next(kind for bound, kind in kinds if draw < bound) for draw in draws]
    images = np.stack([kind(image, rng) for image, kind in zip(images, of, strict=True)])
    return (images, labels), np.array([kind.__name__ for kind in of])


def split(name: str, source: Path) -> dict[str, Part]:
    """Images and labels of the parts of a data set, by the prefix of their files."""
    kinds = MIXED if name == "mixed" else VARIED
    if name == "varied-held-out":
        (images, labels), _ = made(source, "train", kinds, SEED)
        return {"train": (images[:-HELD_OUT], labels[:-HELD_OUT]), "t10k": (images[-HELD_OUT:], labels[-HELD_OUT:])}
    (images, labels), of = made(source, "t10k", kinds, SEED + 1)
    if name.startswith("varied-"):
        wanted = of == name.removeprefix("varied-")
        return {"t10k": (images[wanted], labels[wanted])}
    train, _ = made(source, "train", kinds, SEED)
    return {"train": train, "t10k": (images, labels)}


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
