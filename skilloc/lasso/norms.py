"""Group norms: how large all weights of a unit are together."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.models.face import Face
from skilloc.models.makers import face_of
from skilloc.units import Units

Parts = Mapping[str, Float[Tensor, "unit d_unit *d_model"]]
"""The weights of the units of a bank, as views (`models.group`)."""


def group_norms(model: nn.Module, units: Units) -> Float64[np.ndarray, "unit"]:
    """Return the norm of all weights that belong to each unit.

        norm[u] = sqrt(sum of w^2 over the weights w in the group of u)

    A neuron's group is its incoming rows (gate and up), their biases and its outgoing column; a head's is its query
    rows, its key and value rows where no other head shares them, their biases, and its slice of the output projection;
    a residual dimension's is its entry in everything that writes to the residual stream or reads it; a whole layer's
    are all of its weights; a described unit's are those that its description names. In an `MLP`, a weight between two
    hidden layers belongs to two groups: outgoing from one neuron and incoming to the other.

    Raises:
        ValueError: if no weights belong to single units.
    """
    face = face_of(model)
    with torch.no_grad():
        return units.join({hook: norms_of(parts_of(face, hook)).double().cpu().numpy() for hook in units.hooks})


def parts_of(face: Face, hook: str) -> Parts:
    """Return the weights of the units of a bank, as views.

    Raises:
        ValueError: if no weights belong to single units.
    """
    parts = face.group(hook)
    if not parts:
        raise WrongValue(
            f'no weights belong to the units of "{hook}", so that they have no norm and cannot be made small; choose '
            "other `kinds` of unit, or name their weights with describe(module, units={...: At(..., weights={...})})"
        )
    return parts


def norms_of(parts: Parts) -> Float[Tensor, "unit"]:
    """Return the norms of the units of one bank; differentiable, with gradient 0 at a group of zeros."""
    return root(sum_of({name: part.square() for name, part in parts.items()}))


def sum_of(parts: Parts) -> Float[Tensor, "unit"]:
    """Return, for each unit, the sum over all of its entries."""
    return torch.stack([part.flatten(1).sum(dim=1) for part in parts.values()]).sum(dim=0)


def root(value: Float[Tensor, "unit"]) -> Float[Tensor, "unit"]:
    """Return the square root, with gradient 0 instead of infinity at 0."""
    positive = value > 0
    return torch.where(positive, value, 1).sqrt() * positive
