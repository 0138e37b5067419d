"""timm: the plain model with a loss and gradients, DeiT distilled, and DINOv2 at several image sizes."""

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from common import roughened, write

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
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2, "num_classes": 5}


def plain():
    """The cross-entropy has label smoothing 0.1 and is summed over the batch."""
    torch.manual_seed(20231017)
    model = roughened(
        VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=10
        )
    )
    images = torch.randn(3, 3, 32, 32)
    labels = torch.tensor([7, 0, 3])
    logits = model(images)
    loss = torch.nn.functional.cross_entropy(
        logits, labels, reduction="sum", label_smoothing=0.1
    )
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = {f"grad.{name}": parameters[name].grad for name in GRADIENTS}
    write(
        "vit",
        parameters,
        input=images,
        labels=labels.float(),
        logits=logits,
        loss=loss,
        **gradients,
    )


def distilled():
    torch.manual_seed(1)
    model = roughened(VisionTransformerDistilled(img_size=32, patch_size=8, **SMALL))
    images = torch.randn(3, 3, 32, 32)
    logits = model(images)
    model.set_distilled_training()
    model.train()
    cls, dist = model(images)
    write("deit_distilled", model.state_dict(), input=images, logits=logits, cls=cls, dist=dist)


def dinov2():
    """LayerScale, patches of 14 pixels; the weights are those of images of 56 pixels."""
    torch.manual_seed(2)
    model = roughened(VisionTransformer(img_size=56, patch_size=14, init_values=0.2, **SMALL))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {}
    for side in (28, 56, 84):
        grid = side // 14
        resized = VisionTransformer(img_size=side, patch_size=14, init_values=0.2, **SMALL).eval()
        pos_embed = resample_abs_pos_embed(weights["pos_embed"], [grid, grid])
        resized.load_state_dict(weights | {"pos_embed": pos_embed})
        images = torch.randn(2, 3, side, side)
        tensors |= {f"input.{side}": images, f"logits.{side}": resized(images)}
    write("dinov2", weights, **tensors)


def main():
    plain()
    distilled()
    dinov2()
