"""onnx_check.py CHECKPOINT OUT PREFIX: the ONNX files in OUT against what the model computes for the checkpoint,
under names that begin with PREFIX."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

TOLERANCE = 1e-4


class Model:
    """An ONNX file that the checker accepts, in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"pixels": pixels})))


def compare(what: str, answer: dict, expected: dict, mode: str, rows: slice) -> None:
    logits = expected[f"{mode}.logits"][rows]
    assert answer["logits"].shape == logits.shape, f"{what}: logits {answer['logits'].shape}"
    distance = np.abs(answer["logits"] - logits).max()
    assert distance <= TOLERANCE, f"{what}: logits are {distance} off"
    if "decisions" in answer:
        decisions = expected[f"{mode}.decisions"][rows]
        assert answer["decisions"].dtype == np.bool_
        assert (answer["decisions"] == (decisions > 0.5)).all(), f"{what}: other decisions"


def modules_run(path: Path, pixels: np.ndarray) -> set[str]:
    """The modules whose nodes ONNX Runtime executed, by its own profile: `blocks.0.attn`, ..."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    # Fused nodes have other names.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(["logits"], {"pixels": pixels})
    events = json.loads(Path(session.end_profiling()).read_text())
    names = (event["name"] for event in events if event.get("cat") == "Node")
    found = (re.match(r"blocks\.\d+\.(attn|mlp)(?=\.)", name) for name in names)
    return {match[0] for match in found if match}


def check_skipping(path: Path, pixels: np.ndarray, decisions: np.ndarray) -> None:
    """What the batch skips is not computed."""
    names = [f"blocks.{index // 2}.{('attn', 'mlp')[index % 2]}" for index in range(len(decisions))]
    kept = {name for name, decision in zip(names, decisions) if decision > 0.5}
    run = modules_run(path, pixels)
    assert run == kept, f"ran {sorted(run)}, kept {sorted(kept)}"


def main(checkpoint: Path, out: Path, prefix: str) -> None:
    stored = load_file(checkpoint / "expected.safetensors")
    pixels = stored["pixels"]
    expected = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    batch = len(pixels)

    model = Model(out / "model.onnx")
    compare("shared", model.run(pixels), expected, "shared", slice(batch))
    for index in range(batch):
        rows = slice(index, index + 1)
        compare(f"sample {index}", model.run(pixels[rows]), expected, "per_sample", rows)

    check_skipping(out / "model.onnx", pixels, expected["shared.decisions"][0])
    check_skipping(out / "model.onnx", pixels[:1], expected["per_sample.decisions"][0])

    masked = out / "model-masked.onnx"
    if masked.exists():
        model = Model(masked)
        for rows in [slice(batch), slice(1), slice(2, 5), slice(5, 7)]:
            compare(f"masked {rows}", model.run(pixels[rows]), expected, "per_sample", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
