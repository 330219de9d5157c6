"""Open a language model."""

import hashlib

import torch
from torch import nn


def digest(model: nn.Module) -> str:
    """Return 16 hex digits that name the weights of a model: a hash of every parameter's name, shape and bytes."""
    state = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        plain = parameter.detach().cpu().contiguous()
        state.update(f"{name.replace('_original_component.', '')} {plain.dtype} {tuple(plain.shape)}".encode())
        state.update(plain.flatten().view(torch.uint8).numpy())
    return state.hexdigest()[:16]
