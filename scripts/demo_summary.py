"""Compares the demo's two pulled checkpoints, and fails if the compressed one breaks its promise."""

import json
import sys
from pathlib import Path

ACCURACY_POINTS = 2.0
MACS_SHARE_OF_TARGET = 0.02


def main(state: Path) -> int:
    cards = {alias: json.loads((state / alias / "report.json").read_text()) for alias in ("dense", "small")}
    evals = {alias: json.loads((state / f"{alias}.eval.json").read_text()) for alias in ("dense", "small")}
    size = {alias: (state / alias / "model.safetensors").stat().st_size for alias in ("dense", "small")}
    dense, small = cards["dense"], cards["small"]

    rows = [
        ("accuracy, evaluated here", *(f"{100 * evals[a]['accuracy']:.2f}%" for a in ("dense", "small"))),
        ("MACs per image", *(f"{cards[a]['macs']['effective']:,.0f}" for a in ("dense", "small"))),
        ("parameters", *(f"{cards[a]['params']['compressed']:,}" for a in ("dense", "small"))),
        ("weights file, bytes", *(f"{size[a]:,}" for a in ("dense", "small"))),
        ("latency at batch 64, ms", *(f"{cards[a]['latency_ms']['compressed']['64']:.2f}" for a in ("dense", "small"))),
    ]
    print(f"\n{'':28}{'dense':>14}{'compressed':>14}")
    for name, before, after in rows:
        print(f"{name:28}{before:>14}{after:>14}")

    lost = 100 * (evals["dense"]["accuracy"] - evals["small"]["accuracy"])
    target, effective = small["macs"]["target"], small["macs"]["effective_ratio"]
    checks = [
        (lost <= ACCURACY_POINTS, f"accuracy within {ACCURACY_POINTS:g} points of dense: {-lost:+.2f}"),
        (
            abs(effective / target - 1) <= MACS_SHARE_OF_TARGET,
            f"hard MACs within {MACS_SHARE_OF_TARGET:.0%} of the target: {effective:.4f} for {target:g}",
        ),
        (size["small"] < size["dense"], f"smaller on disk: {size['small'] / size['dense']:.2f} of dense"),
        (
            evals["small"]["accuracy"] == small["accuracy"]["per_sample"],
            "the pulled model evaluates to the accuracy of its report card",
        ),
    ]
    print()
    for holds, text in checks:
        print(f"{'ok  ' if holds else 'FAIL'}  {text}")
    return 0 if all(holds for holds, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
