"""Writes what timm and PIL make of a small picture: operations.json, one entry per operation and level, and views.json,
what timm's validation sees.

Both are committed; run this again (scripts/reference) only to change what they hold. timm's module of operations needs
no PyTorch and is loaded on its own.
"""

import importlib.util
import json
from pathlib import Path

import numpy
from PIL import Image

FOLDER = Path(__file__).parent
FILL = {"RGB": (124, 116, 104), "L": 73}
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
GEOMETRY = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}


def timm_operations():
    """timm/data/auto_augment.py, without the rest of timm."""
    root = Path(importlib.util.find_spec("timm").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("auto_augment", root / "data" / "auto_augment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(mode, width, height, seed):
    """A gradient with noise: few pixels, many values, edges."""
    random = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width]
    channels = [30 + 180 * x / width, 220 - 150 * y / height, 60 + 100 * ((x + y) % 5 < 2)]
    pixels = numpy.stack(channels[: 1 if mode == "L" else 3], axis=-1) + random.normal(0, 25, (height, width, 1))
    pixels = numpy.clip(pixels, 5, 245).astype(numpy.uint8)
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels)


def described(image):
    return {
        "width": image.width,
        "height": image.height,
        "channels": len(image.getbands()),
        "pixels": image.tobytes().hex(),
    }


def operations(timm, source, interpolation):
    """Each operation at some levels, in both directions where it has two."""
    for name in timm._RAND_INCREASING_TRANSFORMS:
        leveled = timm.LEVEL_TO_ARG[name]
        for level in (0.0, 3.7, 9.0, 10.0) if leveled else (9.0,):
            given = set()
            for way in (1.0, -1.0):
                timm._randomly_negate = lambda value, way=way: way * value
                arguments = leveled(level, {}) if leveled else ()
                if arguments == (0,) and name == "PosterizeIncreasing":
                    arguments = (1,)  # PIL refuses to keep no bit at all
                if arguments in given:
                    continue
                given.add(arguments)
                keywords = {"fillcolor": FILL[source.mode], "resample": RESAMPLE[interpolation]}
                changed = timm.NAME_TO_OP[name](source, *arguments, **keywords)
                yield {"name": name, "level": level, "way": way, "pixels": changed.tobytes().hex()}


def view(source, side, crop_pct, interpolation):
    """torchvision's Resize of the shorter side and CenterCrop, as timm composes them."""
    scaled = int(side / crop_pct)
    short, long = sorted(source.size)
    longer = int(scaled * long / short)
    size = (scaled, longer) if source.width <= source.height else (longer, scaled)
    resized = source.resize(size, RESAMPLE[interpolation])
    left, top = (int(round((length - side) / 2.0)) for length in resized.size)
    return resized.crop((left, top, left + side, top + side))


def main():
    timm = timm_operations()
    cases = []
    for mode, seed in (("RGB", 1), ("L", 2)):
        source = picture(mode, 13, 11, seed)
        for interpolation in RESAMPLE:
            chosen = [
                case
                for case in operations(timm, source, interpolation)
                if interpolation == "bilinear" or case["name"] in GEOMETRY
            ]
            fill = FILL[mode] if mode == "RGB" else (FILL[mode],)
            cases.append(
                {"source": described(source), "interpolation": interpolation, "fill": fill, "operations": chosen}
            )
    (FOLDER / "operations.json").write_text(json.dumps(cases, indent=1) + "\n")

    views = []
    for mode, width, height, side, crop_pct in (
        ("RGB", 40, 31, 12, 0.875),
        ("RGB", 33, 57, 16, 0.9),
        ("RGB", 20, 20, 16, 1.0),
        ("L", 28, 28, 28, 0.875),
        ("L", 9, 14, 16, 0.95),
    ):
        source = picture(mode, width, height, width)
        for interpolation in RESAMPLE:
            seen = view(source, side, crop_pct, interpolation)
            views.append(
                {
                    "source": described(source),
                    "side": side,
                    "crop_pct": crop_pct,
                    "interpolation": interpolation,
                    "pixels": seen.tobytes().hex(),
                }
            )
    (FOLDER / "views.json").write_text(json.dumps(views, indent=1) + "\n")


if __name__ == "__main__":
    main()
