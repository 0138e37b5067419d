"""onnx_client.py FOLDER IMAGES LABELS: a pulled checkpoint in ONNX Runtime, on grey images as IDX.

Prints the accuracy in per-sample mode, by the masked file in batches and by the other one image by
image, and in shared mode at batch 8.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


class Model:
    def __init__(self, path: Path) -> None:
        onnx.checker.check_model(str(path), full_check=True)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def classes(self, pixels: np.ndarray, batch: int) -> np.ndarray:
        batches = [pixels[first : first + batch] for first in range(0, len(pixels), batch)]
        logits = [self.session.run(["logits"], {"pixels": part})[0] for part in batches]
        return np.concatenate(logits).argmax(axis=1)


def main(folder: Path, images: Path, labels: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    raw = images.read_bytes()
    count, height, width = np.frombuffer(raw, ">u4", 3, offset=4)
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(count, 1, height, width)
    pixels = (pixels.astype(np.float32) / 255 - config["mean"][0]) / config["std"][0]
    pixels = pixels.astype(np.float32)
    truth = np.frombuffer(labels.read_bytes(), np.uint8, offset=8)

    model, masked = Model(folder / "model.onnx"), Model(folder / "model-masked.onnx")
    accuracy = {
        "masked": masked.classes(pixels, 64) == truth,
        "one_by_one": model.classes(pixels, 1) == truth,
        "shared_8": model.classes(pixels, 8) == truth,
    }
    print(json.dumps({name: float(right.mean()) for name, right in accuracy.items()}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
