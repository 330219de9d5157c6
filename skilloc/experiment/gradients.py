"""Activations and the gradients of the loss with respect to them, from one forward and one backward pass."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from skilloc.experiment.axes import chosen
from skilloc.models.face import Edit, Face
from skilloc.tasks import Examples
from skilloc.tasks.losses import Loss, cross_entropy
from skilloc.units import Bank

Positions = Mapping[str, Sequence[int]]
"""Per bank, which of its units."""


class Gradients(NamedTuple):
    """What one run of the untouched model says about some units.

    Attributes:
        losses: of each example, in the loss's unit, float64.
        activations: per bank, of the chosen units: `row *pos neuron`, or `row *pos head d_head`.
        slopes: of the same shapes, the gradient of the example's loss.
        logits: of all positions.
        logit_slopes: the gradient of the example's loss with respect to them.
    """

    losses: Float64[Tensor, " example"]
    activations: dict[str, Tensor]
    slopes: dict[str, Tensor]
    logits: Float[Tensor, "row *pos out"]
    logit_slopes: Float[Tensor, "row *pos out"]


def read_gradients(
    face: Face,
    examples: Examples,
    banks: Sequence[Bank],
    positions: Positions,
    loss: Loss = cross_entropy,
    prepared: Tensor | None = None,
) -> Gradients:
    """Return the activations of some units, and the gradient of each example's loss there.

    Args:
        face: of the model.
        examples: what is asked.
        banks: of the units; each has one place.
        positions: which units of each bank.
        loss: whose gradient, in its unit per unit of activation.
        prepared: what the loss knows of the untouched model.

    Raises:
        ValueError: if the model has no such hook, or the loss no gradient.
    """
    activations: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}

    def opener(bank: Bank) -> Edit:
        def opened(value: Tensor) -> Tensor:
            activations[bank.name] = chosen(value.detach(), bank, positions[bank.name])
            # A leaf of zeros added here receives the activation's gradient, whether or not the weights require one.
            leaves[bank.name] = torch.zeros_like(value, requires_grad=True)
            return value + leaves[bank.name]

        return opened

    with torch.enable_grad(), face.attached({bank.name: opener(bank) for bank in banks}):
        logits = face.run(examples.inputs)
    upstream = loss.slopes(logits.detach(), examples, prepared)
    slopes = {}
    if leaves:
        # The units of a last layer whose output nobody reads have no gradient.
        inputs = [leaves[bank.name] for bank in banks]
        found = torch.autograd.grad(logits, inputs, upstream.to(logits), allow_unused=True)
        for bank, leaf, slope in zip(banks, inputs, found, strict=True):
            whole = torch.zeros_like(leaf) if slope is None else slope
            slopes[bank.name] = chosen(whole, bank, positions[bank.name])
    logits = logits.detach()
    return Gradients(loss(logits, examples, prepared), activations, slopes, logits, upstream)
