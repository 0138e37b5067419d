"""The loaders against what the Rust model computes, for the checkpoints beside this file."""

import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import espalier_timm  # noqa: E402
import espalier_vit  # noqa: E402

CHECKPOINTS = sorted((HERE / "checkpoints").iterdir())
TOLERANCE = 1e-4


def ungated(folder: Path) -> Path:
    """`folder` without its gates."""
    config = json.loads((folder / "config.json").read_text()) | {"gate": None}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights = {name: value for name, value in weights.items() if ".gate_" not in name}
    save_file(weights, folder / "model.safetensors")
    return folder


class Loaders(unittest.TestCase):
    def setUp(self) -> None:
        torch.set_num_threads(1)
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)

    def copy(self, name: str) -> Path:
        folder = Path(self.scratch.name) / name
        shutil.copytree(HERE / "checkpoints" / name, folder)
        return folder

    def close(self, left: torch.Tensor, right: torch.Tensor) -> None:
        self.assertEqual(left.shape, right.shape)
        self.assertLessEqual((left - right).abs().max().item(), TOLERANCE)

    @torch.no_grad()
    def test_every_mode_of_every_checkpoint(self) -> None:
        self.assertGreaterEqual(len(CHECKPOINTS), 4)
        for folder in CHECKPOINTS:
            model = espalier_vit.load(folder)
            expected = load_file(folder / "expected.safetensors")
            for mode, name in [("per-sample", "per_sample"), ("shared", "shared")]:
                with self.subTest(checkpoint=folder.name, mode=mode):
                    logits, decisions = model.decide(expected["pixels"], mode)
                    self.close(logits, expected[f"{name}.logits"])
                    self.assertTrue(torch.equal(decisions, expected[f"{name}.decisions"] > 0.5))

    @torch.no_grad()
    def test_a_model_of_several_budgets_is_run_at_any_of_them(self) -> None:
        folder = HERE / "checkpoints/gated-budgets"
        expected = load_file(folder / "expected.safetensors")
        for budget, prefix in [(0.45, "other_budget."), (0.6, "")]:
            model = espalier_vit.load(folder, budget=budget)
            for mode, name in [("per-sample", "per_sample"), ("shared", "shared")]:
                with self.subTest(budget=budget, mode=mode):
                    logits, decisions = model.decide(expected["pixels"], mode)
                    self.close(logits, expected[f"{prefix}{name}.logits"])
                    self.assertTrue(torch.equal(decisions, expected[f"{prefix}{name}.decisions"] > 0.5))
        with self.assertRaisesRegex(ValueError, "0.9 is not one of the model's budgets, 0.4 to 0.8"):
            espalier_vit.load(folder, budget=0.9)
        with self.assertRaisesRegex(ValueError, "the model has one budget"):
            espalier_vit.load(HERE / "checkpoints/gated-cls", budget=0.5)

    @torch.no_grad()
    def test_no_sample_depends_on_its_neighbours(self) -> None:
        for folder in CHECKPOINTS:
            model = espalier_vit.load(folder)
            expected = load_file(folder / "expected.safetensors")
            for rows in [slice(0, 1), slice(3, 5)]:
                with self.subTest(checkpoint=folder.name, rows=rows):
                    logits = model(expected["pixels"][rows])
                    self.close(logits, expected["per_sample.logits"][rows])

    @torch.no_grad()
    def test_static_models_are_models_of_timm(self) -> None:
        expected = load_file(HERE / "checkpoints/static/expected.safetensors")
        model = espalier_timm.load(HERE / "checkpoints/static")
        self.close(model(expected["pixels"]), expected["per_sample.logits"])

    @torch.no_grad()
    def test_distilled_models_with_layer_scale_are_models_of_timm(self) -> None:
        folder = ungated(self.copy("gated-mean-distilled"))
        pixels = load_file(folder / "expected.safetensors")["pixels"]
        self.close(espalier_timm.load(folder)(pixels), espalier_vit.load(folder)(pixels))

    def test_timm_refuses_what_it_cannot_express(self) -> None:
        with self.assertRaisesRegex(ValueError, "the model has gates"):
            espalier_timm.load(HERE / "checkpoints/gated-cls")
        with self.assertRaisesRegex(ValueError, "no T2T stem"):
            espalier_timm.load(ungated(self.copy("gated-t2t")))

    def test_fields_and_choices_of_later_versions_are_refused(self) -> None:
        folder = self.copy("gated-cls")
        config = json.loads((folder / "config.json").read_text())
        later = {
            "does not know registers": config | {"registers": 4},
            "gate.decide": config | {"gate": config["gate"] | {"decide": "random"}},
            "gate.input": config | {"gate": config["gate"] | {"input": "tokens"}},
            "dims.architecture: ": config
            | {"dims": config["dims"] | {"architecture": {"rope": True}}},
        }
        for reason, changed in later.items():
            (folder / "config.json").write_text(json.dumps(changed))
            with self.assertRaisesRegex(ValueError, reason):
                espalier_vit.load(folder)

    def test_weights_of_another_structure_are_refused(self) -> None:
        folder = self.copy("static")
        config = json.loads((folder / "config.json").read_text())
        config["structure"]["blocks"][0]["heads"] = 3
        (folder / "config.json").write_text(json.dumps(config))
        with self.assertRaisesRegex(RuntimeError, "blocks.0.attn.qkv.weight"):
            espalier_vit.load(folder)

    def test_images_are_normalised_as_in_training(self) -> None:
        model = espalier_vit.load(HERE / "checkpoints/static")
        images = torch.rand(2, 3, 16, 16)
        self.close(model.normalise(images), (images - 0.5) / 0.25)

    def test_gradients_reach_the_weights(self) -> None:
        model = espalier_vit.load(HERE / "checkpoints/gated-cls")
        model(load_file(HERE / "checkpoints/gated-cls/expected.safetensors")["pixels"]).sum().backward()
        self.assertGreater(model.patch_embed.proj.weight.grad.abs().sum().item(), 0)


if __name__ == "__main__":
    unittest.main()
