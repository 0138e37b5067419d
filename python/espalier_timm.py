"""A checkpoint that Espalier published, as a `VisionTransformer` of timm.

    model = espalier_timm.load("folder")     # logits = model(pixels); timm's own tools work on it

Pruned heads and neurons fit timm's classes: the attention gets fewer heads of the same width, the MLP
fewer hidden neurons, and a dropped module becomes an identity that adds nothing. Gates do not fit:
timm's blocks always run, so a gated model is refused, and so is the T2T stem.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import espalier_vit


def load(folder: str | Path) -> VisionTransformer:
    """The model in a checkpoint's folder, in evaluation mode.

    Raises ValueError, with the reason, for a model that timm cannot express.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    espalier_vit.check(config)
    dims, arch = config["dims"], espalier_vit.architecture(config)
    if config["gate"] is not None:
        raise ValueError(
            "the model has gates, and timm's blocks always run: load it with espalier_vit.load"
        )
    if arch["stem"] != "patch":
        raise ValueError("timm has no T2T stem: load it with espalier_vit.load")
    if arch["distilled"] == "token":
        raise ValueError("timm has no distillation token without a head: load it with espalier_vit.load")
    if arch["qk_scale"] != "head":
        raise ValueError("timm scales queries by the width of a head: load it with espalier_vit.load")

    kind = VisionTransformerDistilled if arch["distilled"] == "token-and-head" else VisionTransformer
    model = kind(
        img_size=dims["image_size"],
        patch_size=dims["patch_size"],
        in_chans=dims["channels"],
        num_classes=dims["classes"],
        embed_dim=dims["width"],
        depth=dims["depth"],
        num_heads=dims["heads"],
        mlp_ratio=dims["ffn"] / dims["width"],
        qkv_bias=arch["qkv_bias"],
        init_values=arch["layer_scale"],
        norm_layer=lambda width, **rest: nn.LayerNorm(width, eps=arch["norm_eps"], **rest),
    )
    for block, structure in zip(model.blocks, config["structure"]["blocks"], strict=True):
        prune_attention(block, structure["heads"])
        prune_mlp(block, structure["neurons"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


class Nothing(nn.Module):
    """What a dropped module adds."""

    def forward(self, x: Tensor, *_args, **_rest) -> Tensor:
        return torch.zeros_like(x)


def prune_attention(block: nn.Module, heads: int) -> None:
    """Leaves so many heads in a block of timm; their width stays."""
    attn = block.attn
    if heads == 0:
        block.norm1, block.attn, block.ls1 = nn.Identity(), Nothing(), nn.Identity()
        return
    block.attn = type(attn)(
        attn.proj.out_features,
        num_heads=heads,
        attn_head_dim=attn.head_dim,
        qkv_bias=attn.qkv.bias is not None,
    )


def prune_mlp(block: nn.Module, neurons: int) -> None:
    """Leaves so many neurons in a block of timm."""
    if neurons == 0:
        block.norm2, block.mlp, block.ls2 = nn.Identity(), Nothing(), nn.Identity()
        return
    width = block.mlp.fc1.in_features
    block.mlp.fc1 = nn.Linear(width, neurons)
    block.mlp.fc2 = nn.Linear(neurons, width)
