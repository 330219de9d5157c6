"""Activations, read through hooks on the model itself. Nothing stays attached afterwards."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from skilloc.experiment.roomy import roomy
from skilloc.models.face import Edit
from skilloc.models.losses import blocks, check_model
from skilloc.models.makers import face_of
from skilloc.tasks import Examples
from skilloc.units import Units


def read_activations(
    model: nn.Module,
    examples: Examples,
    units: Units,
    *,
    order: Int64[Tensor, " row"] | None = None,
    entries: int | None = None,
) -> dict[str, Tensor]:
    """Return the activations at all places of all units on all rows, by hook; in files, where memory has no room.

    Shapes: `row pos neuron`, or `row pos head d_head`; of an `MLP` `row neuron`.

    Args:
        model: the model.
        examples: what it is given.
        units: the unit axis.
        order: for each row of the result, whose activations stand there; its own if not given.
        entries: of the widest tensor of a pass, at most (`Experiment`).
    """
    found: dict[str, Tensor] = {}
    for rows, values in activation_blocks(model, examples, units, entries=entries):
        if not found:
            every = len(examples.first)
            found = roomy({hook: (every, *value.shape[1:]) for hook, value in values.items()}, values)
        for hook, value in values.items():
            if order is None:
                found[hook][rows] = value
                continue
            here = (order >= rows.start) & (order < rows.stop)
            found[hook][here.to(value.device)] = value[(order[here] - rows.start).to(value.device)]
    return found


def activation_blocks(
    model: nn.Module, examples: Examples, units: Units, *, entries: int | None = None
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Give the activations at all places of all units block by block: its rows, and the activations by hook.

    What needs sums or extremes only, takes the memory of one block so. Arguments are as in `read_activations`.
    """
    check_model(model, examples)
    face = face_of(model)
    hooks = [hook for bank in units.banks for hook in bank.places]
    for block in blocks(face, examples, entries):
        parts: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
        with torch.no_grad(), face.attached({hook: reader(parts[hook]) for hook in hooks}):
            face.run(examples.part(block).inputs)
        yield examples.rows_of(block), {hook: values[0] for hook, values in parts.items()}


def reader(into: list[Any]) -> Edit:
    """Return a function that keeps what it sees in a list, and changes nothing."""

    def read(value: Tensor) -> Tensor:
        into.append(value.detach())
        return value

    return read
