"""transformers: the files of `save_pretrained`, whose names are not those of the models in memory."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
)

from common import roughened, write

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}


def write_model(name, model, images, **tensors):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        write(name, load_file(Path(folder) / "model.safetensors"), input=images, **tensors)


def classifier(name, model_class, config):
    model = roughened(model_class(config))
    images = torch.randn(3, 3, 32, 32)
    write_model(name, model, images, logits=model(images).logits)


def dinov2():
    """Its classifier reads more than the CLS token, so the backbone alone: the normed CLS token."""
    model = roughened(Dinov2Model(Dinov2Config(mlp_ratio=2, **SMALL)))
    images = torch.randn(3, 3, 32, 32)
    write_model("hf_dinov2", model, images, cls=model(images).pooler_output)


def main():
    torch.manual_seed(3)
    mlp = {"intermediate_size": 48}
    classifier("hf_vit", ViTForImageClassification, ViTConfig(**SMALL, **mlp))
    classifier("hf_deit", DeiTForImageClassification, DeiTConfig(**SMALL, **mlp))
    teacher = DeiTForImageClassificationWithTeacher
    classifier("hf_deit_distilled", teacher, DeiTConfig(**SMALL, **mlp))
    dinov2()
