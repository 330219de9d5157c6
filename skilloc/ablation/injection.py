"""What a reference injects: held values far outside what the units do at the same positions.

    distance[t, u] = largest over rows of |held - nearest value that u has at t on any of the rows|
    reach[t, u]    = largest over rows of |u at t|, or, if that is larger, the median of these over the bank's units

An injection is a distance of more than `FAR` times the reach. Zero never is one: nothing is farther from 0 than it is
large. A mean over all positions is one for a unit that is loud at the first position and silent elsewhere.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skilloc.effects.alarms import INJECTION, Alarm
from skilloc.experiment.axes import by_unit
from skilloc.experiment.hooks import read_activations
from skilloc.experiment.reference import Reference
from skilloc.tasks import Examples
from skilloc.units import Units

FAR = 3.0
"""How many times its own reach a held value is away from a unit before it is an injection."""

ROWS = 64
"""Examples that are looked at."""


def injections(model: torch.nn.Module, examples: Examples, units: Units, reference: Reference) -> tuple[Alarm, ...]:
    """Return an alarm for every unit that a reference holds far outside what it does at some position.

    Args:
        model: the model to be measured.
        examples: the measured ones, all subtasks together; the first `ROWS` of them are looked at.
        units: the unit axis.
        reference: the held values; of these examples, where it has one for each of their rows.
    """
    if reference.name == "zero":
        return ()
    rows = slice(0, min(ROWS, len(examples.first)))
    part = examples.part(rows)
    seen = read_activations(model, part, units)
    found = []
    for bank in units.banks:
        start = units.span(bank.name).start
        for hook in bank.writes:
            value = seen[hook]
            held = torch.as_tensor(reference.on(hook, rows)).to(value)
            distance, reach = _outside(by_unit(value, bank), by_unit(held.expand(value.shape), bank), part.mask)
            over = distance / reach.clamp(min=torch.finfo(torch.float32).tiny)
            worst = over.argmax(dim=0, keepdim=True)
            for u in torch.nonzero(over.amax(dim=0) > FAR).flatten().tolist():
                at = int(worst[0, u])
                found.append(Alarm(INJECTION, units.names[start + u], float(distance[at, u]), float(reach[at, u])))
    return tuple(found)


def _outside(
    value: Float[Tensor, "row *pos unit d_unit"], held: Float[Tensor, "row *pos unit d_unit"], mask: Tensor | None
) -> tuple[Float[Tensor, "pos unit"], Float[Tensor, "pos unit"]]:
    """Return the distances and the reaches; what has no positions has one."""
    if value.ndim == 3:
        value, held = value.unsqueeze(1), held.unsqueeze(1)
    value, held = value.float(), held.float()
    if mask is not None and mask.shape[1] >= value.shape[1]:
        there = mask[:, : value.shape[1], None, None].to(value.device)
    else:
        there = torch.ones_like(value[..., :1, :1], dtype=torch.bool)
    low = value.masked_fill(~there, np.inf).amin(dim=0)
    high = value.masked_fill(~there, -np.inf).amax(dim=0)
    away = torch.maximum(held - high, low - held).clamp(min=0).masked_fill(~there, 0.0)
    distance = away.norm(dim=-1).amax(dim=0)
    reach = value.masked_fill(~there, 0.0).norm(dim=-1).amax(dim=0)
    typical = reach.median(dim=-1, keepdim=True).values
    return distance, torch.maximum(reach, typical)
