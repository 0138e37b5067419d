"""What the generators share."""

from pathlib import Path

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent


def roughened(model, scale=0.1):
    """The model in evaluation mode, moved from its start: fresh weights are so small that a wrong bias
    or norm would hardly show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def write(name, weights, **tensors):
    """`weights` as model.*, and `tensors`."""
    tensors |= {f"model.{key}": tensor for key, tensor in weights.items()}
    tensors = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    save_file(tensors, FOLDER / f"{name}.safetensors")
