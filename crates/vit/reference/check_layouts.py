"""Loads what `examples/layouts.rs` wrote with timm and transformers and compares the logits with ours."""

import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    DeiTForImageClassificationWithTeacher,
)

TOLERANCE = 1e-4


def of_timm(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval(), lambda images: model(images)


def of_transformers(folder):
    # The automatic class takes the variant with one head for every DeiT.
    teacher = "WithTeacher" in (folder / "config.json").read_text()
    loader = DeiTForImageClassificationWithTeacher if teacher else AutoModelForImageClassification
    model, info = loader.from_pretrained(folder, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], f"{folder}: {problem} {info[problem]}"
    return model.eval(), lambda images: model(images).logits


@torch.no_grad()
def main():
    wrong = 0
    for expected in sorted(Path(sys.argv[1]).glob("*/expected.safetensors")):
        values = load_file(expected)
        for layout, load in (("timm", of_timm), ("huggingface", of_transformers)):
            folder = expected.parent / layout
            if not folder.exists():
                continue
            _, logits = load(folder)
            apart = (logits(values["input"]) - values["logits"]).abs().max().item()
            wrong += not apart <= TOLERANCE
            print(f"{expected.parent.name:10} {layout:12} {apart:.1e} apart")
    sys.exit(f"{wrong} differ by more than {TOLERANCE}" if wrong else 0)


if __name__ == "__main__":
    main()
