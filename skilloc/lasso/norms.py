"""Group norms: how large all weights of a unit are together."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from skilloc.models.weights import group
from skilloc.units import Units

Parts = Mapping[str, Float[Tensor, "unit d_unit *d_model"]]
"""The weights of the units of a hook, as views (`models.weights.group`)."""


def group_norms(model: nn.Module, units: Units) -> Float64[np.ndarray, "unit"]:
    """Return the norm of all weights that belong to each unit.

        norm[u] = sqrt(sum of w^2 over the weights w in the group of u)

    A neuron's group is its incoming rows (gate and up), their biases and its outgoing column; a head's is its query
    rows, its key and value rows where no other head shares them, their biases, and its slice of the output projection
    (`models.weights.group`, which says what is left out). In an `MLP`, a weight between two hidden layers belongs to
    two groups: outgoing from one neuron and incoming to the other.
    """
    with torch.no_grad():
        return units.join({hook: norms_of(group(model, hook)).double().cpu().numpy() for hook in units.hooks})


def norms_of(parts: Parts) -> Float[Tensor, "unit"]:
    """Return the norms of the units of one hook; differentiable, with gradient 0 at a group of zeros."""
    return root(sum_of({name: part.square() for name, part in parts.items()}))


def sum_of(parts: Parts) -> Float[Tensor, "unit"]:
    """Return, for each unit, the sum over all of its entries."""
    return torch.stack([part.flatten(1).sum(dim=1) for part in parts.values()]).sum(dim=0)


def root(value: Float[Tensor, "unit"]) -> Float[Tensor, "unit"]:
    """Return the square root, with gradient 0 instead of infinity at 0."""
    positive = value > 0
    return torch.where(positive, value, 1).sqrt() * positive
