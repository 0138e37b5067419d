"""Writes vit.safetensors: what PyTorch and timm compute for a small vision transformer.

The file holds the weights (model.*), a batch (input, labels), the logits in evaluation mode, the
cross-entropy with label smoothing 0.1 summed over the batch (loss), and its gradient for a few
weights (grad.*). It is committed; run this again only to change what it holds.

    python -m venv venv && venv/bin/pip install torch==2.11.0 timm==1.0.20 safetensors numpy
    venv/bin/python make.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

GRADIENTS = [
    "cls_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "blocks.0.norm1.weight",
    "blocks.1.attn.qkv.weight",
    "blocks.1.attn.proj.bias",
    "blocks.2.mlp.fc1.bias",
    "head.bias",
]


def main():
    torch.manual_seed(20231017)
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=10
    ).eval()
    with torch.no_grad():
        # Fresh weights are so small that a wrong bias or norm would hardly show.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))

    images = torch.randn(3, 3, 32, 32)
    labels = torch.tensor([7, 0, 3])
    logits = model(images)
    loss = torch.nn.functional.cross_entropy(
        logits, labels, reduction="sum", label_smoothing=0.1
    )
    loss.backward()

    parameters = dict(model.named_parameters())
    tensors = {f"model.{name}": tensor.detach() for name, tensor in parameters.items()}
    tensors |= {f"grad.{name}": parameters[name].grad for name in GRADIENTS}
    tensors |= {
        "input": images,
        "labels": labels.float(),
        "logits": logits.detach(),
        "loss": loss.detach(),
    }
    save_file(tensors, Path(__file__).with_name("vit.safetensors"))


if __name__ == "__main__":
    main()
