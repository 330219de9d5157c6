"""What a reference injects: held values far outside what the units do at the same positions.

    distance[t, u] = largest over rows of |held - nearest value that u has at t on any of the rows|
    reach[t, u]    = largest over rows of |u at t|, or, if that is larger, the median of these over the bank's units

An injection is a distance of more than `FAR` times the reach. Zero never is one: nothing is farther from 0 than it is
large. A mean over all positions is one for a unit that is loud at the first position and silent elsewhere.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skilloc.effects.alarms import INJECTION, Alarm
from skilloc.experiment.axes import by_unit
from skilloc.experiment.hooks import activation_blocks
from skilloc.experiment.reference import Reference
from skilloc.tasks import Examples
from skilloc.units import Bank, Units

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
    seen = _seen(model, part, units)
    found = []
    for bank in units.banks:
        start = units.span(bank.name).start
        for hook in bank.writes:
            own = seen[hook]
            held = torch.as_tensor(reference.on(hook, rows)).to(own.low)
            distance = _distance(own, held if reference.per_row else held[None], bank)
            reach = torch.maximum(own.reach, own.reach.median(dim=-1, keepdim=True).values)
            over = distance / reach.clamp(min=torch.finfo(torch.float32).tiny)
            worst = over.argmax(dim=0, keepdim=True)
            for u in torch.nonzero(over.amax(dim=0) > FAR).flatten().tolist():
                at = int(worst[0, u])
                found.append(Alarm(INJECTION, units.names[start + u], float(distance[at, u]), float(reach[at, u])))
    return tuple(found)


class _Seen(NamedTuple):
    """What the units of a bank do at one of their hooks, over rows; what has no positions has one.

    Attributes:
        shape: of the activation, without its rows.
        there: whether a row has a token at a position.
        low: the least value.
        high: the largest.
        reach: the largest norm.
    """

    shape: torch.Size
    there: Bool[Tensor, "row pos"]
    low: Float[Tensor, "pos unit d_unit"]
    high: Float[Tensor, "pos unit d_unit"]
    reach: Float[Tensor, "pos unit"]


def _seen(model: torch.nn.Module, examples: Examples, units: Units) -> dict[str, _Seen]:
    """Return what units do, by hook, block by block."""
    found: dict[str, _Seen] = {}
    homes = {hook: bank for bank in units.banks for hook in bank.writes}
    for rows, values in activation_blocks(model, examples, units):
        for hook, bank in homes.items():
            own = _of_block(values[hook], bank, None if examples.mask is None else examples.mask[rows])
            if hook in found:
                before = found[hook]
                own = _Seen(
                    own.shape,
                    torch.cat([before.there, own.there]),
                    torch.minimum(before.low, own.low),
                    torch.maximum(before.high, own.high),
                    torch.maximum(before.reach, own.reach),
                )
            found[hook] = own
    return found


def _of_block(activation: Tensor, bank: Bank, mask: Tensor | None) -> _Seen:
    value = _with_positions(by_unit(activation, bank)).float()
    if mask is not None and mask.shape[1] >= value.shape[1]:
        there = mask[:, : value.shape[1]].to(value.device)
    else:
        there = torch.ones_like(value[..., 0, 0], dtype=torch.bool)
    gone = ~there[..., None, None]
    low, high = value.masked_fill(gone, np.inf).amin(dim=0), value.masked_fill(gone, -np.inf).amax(dim=0)
    reach = value.masked_fill(gone, 0.0).norm(dim=-1).amax(dim=0)
    return _Seen(activation.shape[1:], there, low, high, reach)


def _distance(seen: _Seen, held: Float[Tensor, "row_or_one *rest"], bank: Bank) -> Float[Tensor, "pos unit"]:
    """Return how far held values lie outside, at most, over the rows that have a token there."""
    wide = _with_positions(by_unit(held.expand(len(held), *seen.shape), bank)).float()
    away = torch.maximum(wide - seen.high, seen.low - wide).clamp(min=0)
    there = seen.there if len(held) == len(seen.there) else seen.there.any(dim=0, keepdim=True)
    size: Tensor = away.masked_fill(~there[..., None, None], 0.0).norm(dim=-1)
    return size.amax(dim=0)


def _with_positions(value: Float[Tensor, "row *pos unit d_unit"]) -> Float[Tensor, "row pos unit d_unit"]:
    return value.unsqueeze(1) if value.ndim == 3 else value
