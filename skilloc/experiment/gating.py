"""Gates: run the model with every unit somewhere between its reference and what it does."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skilloc.experiment.axes import at_positions, spread
from skilloc.experiment.reference import Reference
from skilloc.models.face import Edit
from skilloc.units import Units


def gating(
    units: Units,
    gates: Float[Tensor, " unit"],
    reference: Reference,
    rows: slice = slice(None),
    *,
    where: Bool[Tensor, "row pos"] | None = None,
) -> dict[str, Edit]:
    """Return what puts a gate on every unit, by hook; the weights stay untouched.

    activation[r, t, u] becomes reference[r, t, u] + gate[u] (activation[r, t, u] - reference[r, t, u]) at every place
    of u: 1 leaves the unit alone, 0 holds it at its reference as `hold` does. Differentiable in the gates.

    Args:
        units: the unit axis.
        gates: one per unit.
        reference: what a unit with gate 0 is held at.
        rows: which of the reference's rows the model will see, where it has one value per row.
        where: the positions at which gates act, of all rows; everywhere if not given.
    """
    parts = units.split(gates)
    return {
        hook: _gate(hook, spread(parts[bank.name], bank), reference, rows, where)
        for bank in units.banks
        for hook in bank.places
    }


def _gate(hook: str, gate: Tensor, reference: Reference, rows: slice, where: Tensor | None) -> Edit:
    def gated(value: Tensor) -> Tensor:
        held = reference.on(hook, rows).to(value)
        own = gate.to(value)
        if where is not None:
            own = torch.where(at_positions(where[rows].to(value.device), value), own, torch.ones_like(own))
        # Exact at both ends, where a held value may be far larger than what is between.
        return torch.lerp(held, value, own)

    return gated
