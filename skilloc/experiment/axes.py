"""How the units of a bank lie in an activation: the only place that turns axes.

Everything in front of the axis of units is the row and its positions; everything behind belongs to one unit.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from skilloc.units import Bank


def by_unit(value: Float[Tensor, "row *rest"], bank: Bank) -> Float[Tensor, "row *pos unit d_unit"]:
    """Return an activation as a view with the units, and then each unit's own entries, last."""
    if bank.axis is None:
        return value.unsqueeze(-2)
    if bank.axis == -1:
        return value.unsqueeze(-1)
    return value if bank.axis == -2 else value.flatten(bank.axis + 1)


def per_unit(product: Float[Tensor, "row *rest"], bank: Bank) -> Float[Tensor, "row *pos unit"]:
    """Return the sum over each unit's own entries."""
    return by_unit(product, bank).sum(dim=-1)


def over_positions(values: Float[Tensor, "row *pos unit"]) -> Float[Tensor, "row unit"]:
    """Return the sum over positions."""
    return values if values.ndim == 2 else values.reshape(len(values), -1, values.shape[-1]).sum(dim=1)


def chosen(value: Tensor, bank: Bank, positions: Sequence[int]) -> Tensor:
    """Return some units of an activation, as a copy."""
    if bank.axis is None:
        return value.clone()
    index = torch.as_tensor(list(positions), device=value.device)
    return value.index_select(value.ndim + bank.axis, index)


def one(value: Tensor, bank: Bank, position: int) -> Tensor:
    """Return one unit of an activation, or of values that broadcast against one, as a view."""
    if bank.axis is None or value.ndim < -bank.axis:
        return value
    return value.select(value.ndim + bank.axis, position)


def spread(values: Shaped[Tensor, " unit"], bank: Bank) -> Shaped[Tensor, "..."]:
    """Return one value per unit as it broadcasts against an activation."""
    return values[0] if bank.axis is None else values.view(-1, *[1] * (-bank.axis - 1))


def at_positions(where: Bool[Tensor, "row pos"], value: Tensor) -> Bool[Tensor, "row pos ..."]:
    """Return True for held positions as it broadcasts against an activation of `row pos ...`."""
    return where.view(*where.shape, *[1] * (value.ndim - 2))
