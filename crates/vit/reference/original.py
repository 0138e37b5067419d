"""Files as the training scripts of DeiT and T2T-ViT save them. T2T-ViT is written anew from its paper
(arXiv 2101.11986) and its released code's mathematics, since timm has no T2T-ViT.
"""

import argparse
import math
from collections import OrderedDict

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from common import FOLDER, roughened, write
from timm_models import SMALL

WIDTH, FEATURES = 64, 32


class Performer(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm1 = nn.LayerNorm(inputs)
        self.kqv = nn.Linear(inputs, 3 * WIDTH)
        w = nn.init.orthogonal_(torch.empty(FEATURES, WIDTH)) * math.sqrt(FEATURES)
        self.w = nn.Parameter(w, requires_grad=False)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def features(self, x):
        wx = torch.einsum("bti,mi->btm", x, self.w)
        return torch.exp(wx - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(FEATURES)

    def forward(self, x):
        k, q, v = self.kqv(self.norm1(x)).split(WIDTH, dim=-1)
        k, q = self.features(k), self.features(q)
        weight = torch.einsum("bti,bi->bt", q, k.sum(dim=1)).unsqueeze(2)
        kv = torch.einsum("bin,bim->bnm", v, k)
        x = v + self.proj(torch.einsum("bti,bni->btn", q, kv) / (weight + 1e-8))
        return x + self.mlp(self.norm2(x))


class TokensToToken(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention1 = Performer(3 * 7 * 7)
        self.attention2 = Performer(WIDTH * 3 * 3)
        self.project = nn.Linear(WIDTH * 3 * 3, width)

    def forward(self, x):
        x = functional.unfold(x, 7, stride=4, padding=2).transpose(1, 2)
        x = functional.unfold(image(self.attention1(x)), 3, stride=2, padding=1).transpose(1, 2)
        x = functional.unfold(image(self.attention2(x)), 3, stride=2, padding=1).transpose(1, 2)
        return self.project(x)


def image(x):
    side = math.isqrt(x.shape[1])
    return x.transpose(1, 2).unflatten(2, (side, side))


class Attention(nn.Module):
    """Scaled by the model's width, as the released weights are."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * width**-0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, heads, neurons):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        mlp = {"fc1": nn.Linear(width, neurons), "act": nn.GELU(), "fc2": nn.Linear(neurons, width)}
        self.mlp = nn.Sequential(OrderedDict(mlp))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class T2TViT(nn.Module):
    def __init__(self, side, width, depth, heads, neurons, classes):
        super().__init__()
        self.tokens_to_token = TokensToToken(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        tokens = (side // 16) ** 2 + 1
        self.pos_embed = nn.Parameter(sinusoid(tokens, width), requires_grad=False)
        self.blocks = nn.ModuleList([Block(width, heads, neurons) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.tokens_to_token(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def sinusoid(tokens, width):
    columns = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(tokens)[:, None] / 10000 ** (2 * (columns // 2) / width)
    even = torch.arange(width) % 2 == 0
    return torch.where(even, angles.sin(), angles.cos()).float()[None]


def t2t():
    """Half precision halves the file; the logits are those of the rounded weights."""
    torch.manual_seed(4)
    model = T2TViT(side=32, width=24, depth=2, heads=3, neurons=48, classes=5)
    model = roughened(model, scale=0.05).half().float()
    images = torch.randn(2, 3, 32, 32)
    weights = OrderedDict((name, tensor.half()) for name, tensor in model.state_dict().items())
    weights = OrderedDict((f"module.{name}", tensor) for name, tensor in weights.items())
    saved = {"epoch": 300, "arch": "t2t_vit_14", "args": argparse.Namespace(lr=5e-4), "metric": 81.5}
    torch.save(saved | {"state_dict": {}, "state_dict_ema": weights}, FOLDER / "t2t.pth")
    write("t2t", {}, input=images, logits=model(images), sinusoid=sinusoid(5, 24))


def deit():
    """As DeiT's script saves; one weight is a view that is not contiguous."""
    torch.manual_seed(5)
    model = roughened(VisionTransformer(img_size=32, patch_size=8, **SMALL))
    images = torch.randn(2, 3, 32, 32)
    weights = model.state_dict()
    weights["head.weight"] = weights["head.weight"].t().contiguous().t()
    torch.save({"model": weights, "optimizer": {"step": 1.0}, "epoch": 299}, FOLDER / "deit.pth")
    write("deit", {}, input=images, logits=model(images))


def main():
    t2t()
    deit()
