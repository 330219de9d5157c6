"""Activations, read through hooks on the model itself. Nothing stays attached afterwards."""

from typing import Any

import torch
from torch import Tensor, nn

from skilloc.models.face import Edit
from skilloc.models.losses import blocks, check_model
from skilloc.models.makers import face_of
from skilloc.tasks import Examples
from skilloc.units import Units


def read_activations(model: nn.Module, examples: Examples, units: Units) -> dict[str, Tensor]:
    """Return the activations at all places of all units on all rows, by hook.

    Shapes: `row pos neuron`, or `row pos head d_head`; of an `MLP` `row neuron`.
    """
    check_model(model, examples)
    face = face_of(model)
    hooks = [hook for bank in units.banks for hook in bank.places]
    parts: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    with torch.no_grad(), face.attached({hook: reader(parts[hook]) for hook in hooks}):
        for block in blocks(face, examples):
            face.run(examples.part(block).inputs)
    return {hook: torch.cat(values) for hook, values in parts.items()}


def reader(into: list[Any]) -> Edit:
    """Return a function that keeps what it sees in a list, and changes nothing."""

    def read(value: Tensor) -> Tensor:
        into.append(value.detach())
        return value

    return read
