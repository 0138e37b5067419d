"""A compressed vision transformer that Espalier published, in PyTorch: pruned for good, gated per input.

    model = espalier_vit.load("folder")        # config.json and model.safetensors
    logits = model(model.normalise(images))    # images: f32 [B, C, side, side], scaled to 0..1
    model = espalier_vit.load("folder", budget=0.5)    # of a model that was trained for several budgets

Names of tensors end in their shape: B samples, S samples that run a module, N tokens, D width, h heads
that stay, d width of a head, K classes, M modules (MHSA of block 0, FFN of block 0, MHSA of block 1, ...).
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

MODES = ("per-sample", "shared", "open")


def load(folder: str | Path, device: str | torch.device = "cpu", budget: float | None = None) -> "EspalierViT":
    """The model in a checkpoint's folder, in evaluation mode, at its own budget or at another that it offers.

    Raises ValueError for a configuration that this file does not know or a budget that the model cannot be run
    at, and RuntimeError, with every difference, for weights that are not of the configuration.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    check(config)
    if budget is not None:
        config = at_budget(config, budget)
    model = EspalierViT(config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device).eval()


class EspalierViT(nn.Module):
    """x <- x + u_attn * MHSA(LN(x)); x <- x + u_ffn * FFN(LN(x)) over the blocks, then the head."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config = config
        dims = config["dims"]
        arch = architecture(config)
        width, classes = dims["width"], dims["classes"]
        patches = (dims["image_size"] // dims["patch_size"]) ** 2
        prefix = 1 if arch["distilled"] == "none" else 2

        if arch["stem"] == "t2t":
            self.tokens_to_token = TokensToToken(dims["channels"], width)
        else:
            self.patch_embed = PatchEmbed(dims["channels"], width, dims["patch_size"])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if prefix > 1:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, prefix + patches, width))
        structure = config["structure"]["blocks"]
        self.blocks = nn.ModuleList(Block(dims, arch, config["gate"], block) for block in structure)
        self.norm = nn.LayerNorm(width, eps=arch["norm_eps"])
        self.head = nn.Linear(width, classes)
        if arch["distilled"] == "token-and-head":
            self.head_dist = nn.Linear(width, classes)

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self.config["mean"])

    @property
    def std(self) -> Tensor:
        return torch.tensor(self.config["std"])

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """Pixels scaled to 0..1 as the model was trained on them."""
        mean, std = (v.to(images_BCHW).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return (images_BCHW - mean) / std

    def forward(self, x_BCHW: Tensor, mode: str = "per-sample") -> Tensor:
        """Class scores [B, K] of normalised pixels. See `decide` for the modes."""
        return self.decide(x_BCHW, mode)[0]

    def decide(self, x_BCHW: Tensor, mode: str = "per-sample") -> tuple[Tensor, Tensor]:
        """Class scores [B, K], and whether each module ran for each sample, bool [B, M].

        Modes: "per-sample", every sample decides alone and a module runs on those that keep it;
        "shared", the batch decides as one and a module that it skips is not run; "open", all run.
        """
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}: one of {', '.join(MODES)}")
        x_BND = self.embed(x_BCHW)
        decisions = []
        for block in self.blocks:
            x_BND, of_block = block(x_BND, mode)
            decisions += of_block
        logits_BK = self.head(self.norm(x_BND[:, 0]))
        if hasattr(self, "head_dist"):
            logits_BK = (logits_BK + self.head_dist(self.norm(x_BND[:, 1]))) / 2
        return logits_BK, torch.stack(decisions, dim=1)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        patches = (self.tokens_to_token if hasattr(self, "tokens_to_token") else self.patch_embed)(x_BCHW)
        prefix = [self.cls_token] + ([self.dist_token] if hasattr(self, "dist_token") else [])
        prefix = [token.expand(len(patches), -1, -1) for token in prefix]
        return torch.cat([*prefix, patches], dim=1) + self.pos_embed


class Block(nn.Module):
    """MHSA and FFN, each behind its norm, its LayerScale and its gate; a dropped one is not there."""

    def __init__(self, dims: dict, arch: dict, gate: dict | None, structure: dict) -> None:
        super().__init__()
        width, eps = dims["width"], arch["norm_eps"]
        self.has_attn, self.has_ffn = structure["heads"] > 0, structure["neurons"] > 0
        if self.has_attn:
            self.norm1 = nn.LayerNorm(width, eps=eps)
            self.attn = Attention(dims, arch, structure["heads"])
            self.ls1 = layer_scale(arch, width)
            self.gate_attn = Gate(gate, width) if gate else None
        if self.has_ffn:
            self.norm2 = nn.LayerNorm(width, eps=eps)
            self.mlp = Mlp(width, structure["neurons"])
            self.ls2 = layer_scale(arch, width)
            self.gate_ffn = Gate(gate, width) if gate else None

    def forward(self, x_BND: Tensor, mode: str) -> tuple[Tensor, list[Tensor]]:
        # Both gates look at the block's input.
        keep_attn_B = self.keeps(self.has_attn, "gate_attn", x_BND, mode)
        keep_ffn_B = self.keeps(self.has_ffn, "gate_ffn", x_BND, mode)
        x_BND = residual(x_BND, keep_attn_B, lambda x: self.ls1(self.attn(self.norm1(x))))
        x_BND = residual(x_BND, keep_ffn_B, lambda x: self.ls2(self.mlp(self.norm2(x))))
        return x_BND, [keep_attn_B, keep_ffn_B]

    def keeps(self, is_there: bool, gate: str, x_BND: Tensor, mode: str) -> Tensor:
        gate = getattr(self, gate, None)
        if gate is None or mode == "open":
            return torch.full((len(x_BND),), is_there, device=x_BND.device)
        return gate(x_BND, shared=mode == "shared")


def residual(x_BND: Tensor, keep_B: Tensor, module) -> Tensor:
    """x + u * module(x), computing only what is kept."""
    index_S = keep_B.nonzero().squeeze(1)
    if len(index_S) == 0:
        return x_BND
    if len(index_S) == len(x_BND):
        return x_BND + module(x_BND)
    return x_BND.index_add(0, index_S, module(x_BND[index_S]))


class Gate(nn.Module):
    """A token -> LayerNorm -> Linear -> GELU -> Linear -> scores of (skip, keep), or these two alone."""

    def __init__(self, gate: dict, width: int) -> None:
        super().__init__()
        self.input, self.average, self.threshold = gate["input"], gate["average"], gate["threshold"]
        # Of several samples that decide together.
        self.threshold_shared = gate.get("threshold_shared", self.threshold)
        self.constant = decides(gate) == "constant"
        if self.constant:
            self.logits = nn.Parameter(torch.zeros(2))
            return
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, gate["hidden"])
        self.fc2 = nn.Linear(gate["hidden"], 2)
        self.phi = phi(gate)
        if self.phi is not None:
            self.budget = nn.Parameter(torch.zeros(gate["hidden"]))

    def forward(self, x_BND: Tensor, shared: bool) -> Tensor:
        """Whether the module runs, bool [B]: keep minus skip above the threshold."""
        threshold = self.threshold_shared if shared and len(x_BND) > 1 else self.threshold
        if self.constant:
            return (self.logits[1] - self.logits[0] > threshold).expand(len(x_BND))
        token_BD = x_BND[:, 0] if self.input == "cls" else x_BND.mean(dim=1)
        hidden_Br = self.fc1(self.norm(token_BD))
        if self.phi is not None:
            hidden_Br = hidden_Br + self.budget * self.phi
        z_B2 = self.fc2(F.gelu(hidden_Br))
        margin_B = z_B2[:, 1] - z_B2[:, 0]
        if shared and self.average == "logits":
            margin_B = margin_B.mean().expand(len(x_BND))
        elif shared:
            margin_B = margin_B.sigmoid().mean().logit(eps=1e-6).expand(len(x_BND))
        return margin_B > threshold


class Attention(nn.Module):
    def __init__(self, dims: dict, arch: dict, heads: int) -> None:
        super().__init__()
        width, self.heads = dims["width"], heads
        self.head_dim = width // dims["heads"]
        self.scale = (width if arch["qk_scale"] == "width" else self.head_dim) ** -0.5
        self.qkv = nn.Linear(width, 3 * heads * self.head_dim, bias=arch["qkv_bias"])
        self.proj = nn.Linear(heads * self.head_dim, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv_BNi = self.qkv(x_BND).unflatten(2, (3, self.heads, self.head_dim))
        q_BhNd, k_BhNd, v_BhNd = qkv_BNi.permute(2, 0, 3, 1, 4)
        y_BhNd = F.scaled_dot_product_attention(q_BhNd, k_BhNd, v_BhNd, scale=self.scale)
        return self.proj(y_BhNd.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, neurons: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, neurons)
        self.fc2 = nn.Linear(neurons, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BND)))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, y_BND: Tensor) -> Tensor:
        return y_BND * self.gamma


def layer_scale(arch: dict, width: int) -> nn.Module:
    return nn.Identity() if arch["layer_scale"] is None else LayerScale(width)


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.proj(x_BCHW).flatten(2).transpose(1, 2)


class TokensToToken(nn.Module):
    """T2T-ViT's stem: three overlapping splits, a performer after each of the first two."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.attention1 = Performer(channels * 7 * 7)
        self.attention2 = Performer(Performer.WIDTH * 3 * 3)
        self.project = nn.Linear(Performer.WIDTH * 3 * 3, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        side = x_BCHW.shape[-1]
        x_BTe = self.attention1(F.unfold(x_BCHW, 7, padding=2, stride=4).transpose(1, 2))
        image = x_BTe.transpose(1, 2).unflatten(2, (side // 4, side // 4))
        x_BTe = self.attention2(F.unfold(image, 3, padding=1, stride=2).transpose(1, 2))
        image = x_BTe.transpose(1, 2).unflatten(2, (side // 8, side // 8))
        return self.project(F.unfold(image, 3, padding=1, stride=2).transpose(1, 2))


class Performer(nn.Module):
    """A layer of attention linear in the number of tokens, by random features (arXiv 2009.14794)."""

    WIDTH, FEATURES = 64, 32

    def __init__(self, inputs: int) -> None:
        super().__init__()
        width = self.WIDTH
        self.norm1 = nn.LayerNorm(inputs)
        self.kqv = nn.Linear(inputs, 3 * width)
        self.w = nn.Parameter(torch.zeros(self.FEATURES, width), requires_grad=False)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def features(self, x_BTe: Tensor) -> Tensor:
        half_BT1 = x_BTe.square().sum(dim=-1, keepdim=True) / 2
        return (x_BTe @ self.w.T - half_BT1).exp() / self.FEATURES**0.5

    def forward(self, x_BTi: Tensor) -> Tensor:
        k_BTe, q_BTe, v_BTe = self.kqv(self.norm1(x_BTi)).chunk(3, dim=-1)
        k_BTr, q_BTr = self.features(k_BTe), self.features(q_BTe)
        weight_BT1 = q_BTr @ k_BTr.sum(dim=1).unsqueeze(2) + 1e-8
        y_BTe = q_BTr @ (k_BTr.transpose(1, 2) @ v_BTe) / weight_BT1
        x_BTe = v_BTe + self.proj(y_BTe)
        return x_BTe + self.mlp(self.norm2(x_BTe))


# What a plain vision transformer is where config.json says nothing.
PLAIN = {
    "stem": "patch",
    "distilled": "none",
    "layer_scale": None,
    "qkv_bias": True,
    "qk_scale": "head",
    "norm_eps": 1e-6,
}
GATE_INPUTS, GATE_AVERAGES = ("cls", "mean"), ("logits", "probability")
# Not "random", a baseline that only `espalier eval` repeats.
GATE_DECIDES = ("input", "constant")


def architecture(config: dict) -> dict:
    """`dims.architecture` with what it leaves out."""
    return PLAIN | config["dims"].get("architecture", {})


def decides(gate: dict) -> str:
    """What decides, by the input where a file does not say."""
    return gate.get("decide", "input")


def phi(gate: dict) -> float | None:
    """The budget as a gate sees it, -1 at the least and 1 at the greatest; None where it sees none."""
    if (seen := gate.get("budget")) is None:
        return None
    return (2 * seen["target"] - seen["lo"] - seen["hi"]) / (seen["hi"] - seen["lo"])


def at_budget(config: dict, budget: float) -> dict:
    """The configuration of the same model run at `budget`: its thresholds lie on lines between calibrated ones."""
    table = config.get("budgets", [])
    if len(table) < 2:
        raise ValueError(f"the model has one budget, so it cannot be run at {budget}")
    lo, hi = table[0]["budget"], table[-1]["budget"]
    if not lo <= budget <= hi:
        raise ValueError(f"{budget} is not one of the model's budgets, {lo} to {hi}")
    below = max((entry for entry in table if entry["budget"] <= budget), key=lambda entry: entry["budget"])
    above = min((entry for entry in table if entry["budget"] >= budget), key=lambda entry: entry["budget"])
    # A budget that was calibrated is its own neighbour on both sides.
    share = 0.0 if below is above else (budget - below["budget"]) / (above["budget"] - below["budget"])

    def between(low: float, high: float) -> float:
        return low + (high - low) * share

    gate = config["gate"] | {"threshold": between(below["threshold"], above["threshold"])}
    gate.pop("threshold_shared", None)
    if "threshold_shared" in below or "threshold_shared" in above:
        shared = (entry.get("threshold_shared", entry["threshold"]) for entry in (below, above))
        gate["threshold_shared"] = between(*shared)
    if "budget" in gate:
        gate["budget"] = gate["budget"] | {"target": budget}
    return config | {"gate": gate}


def check(config: dict) -> None:
    """Refuses what this file would silently leave out: fields and choices of later versions."""
    dims, gate = config["dims"], config["gate"]
    known = {
        "config.json": (config, {"dims", "structure", "gate", "budgets", "mean", "std"}),
        "dims": (
            dims,
            {"image_size", "patch_size", "channels", "classes", "width", "depth", "heads", "ffn"}
            | {"architecture"},
        ),
        "dims.architecture": (architecture(config), set(PLAIN)),
        "gate": (
            gate or {},
            {"decide", "input", "average", "hidden", "keep_init", "threshold", "threshold_shared", "budget"},
        ),
        "gate.budget": ((gate or {}).get("budget", {}), {"lo", "hi", "target"}),
    }
    for where, (found, fields) in known.items():
        if unknown := sorted(set(found) - fields):
            raise ValueError(f"{where}: this espalier_vit.py does not know {', '.join(unknown)}")
    choices = [("stem", ("patch", "t2t")), ("distilled", ("none", "token", "token-and-head"))]
    choices = [(f"dims.architecture.{name}", architecture(config)[name], of) for name, of in choices]
    choices.append(("dims.architecture.qk_scale", architecture(config)["qk_scale"], ("head", "width")))
    if gate:
        choices += [("gate.decide", decides(gate), GATE_DECIDES)]
        choices += [("gate.input", gate["input"], GATE_INPUTS)]
        choices += [("gate.average", gate["average"], GATE_AVERAGES)]
    for field, value, of in choices:
        if value not in of:
            raise ValueError(f"{field}: this espalier_vit.py knows {', '.join(of)}, not {value}")
