"""Activations and the gradients of the loss with respect to them, from one forward and one backward pass."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from skilloc.intervene.hooks import attached
from skilloc.intervene.losses import example_losses, logits_of
from skilloc.tasks import IGNORE, Batch
from skilloc.units import kind_of

Positions = Mapping[str, Sequence[int]]
"""Per hook, which of its units."""


class Gradients(NamedTuple):
    """What one run of the untouched model says about some units.

    Attributes:
        losses: of each example, in nats per scored target, float64.
        activations: per hook, of the chosen units: `example *pos neuron`, or `example *pos head d_head`.
        slopes: of the same shapes, the gradient of the example's loss.
        logits: of all positions.
        logit_slopes: the gradient of the example's loss with respect to them.
    """

    losses: Float64[Tensor, " example"]
    activations: dict[str, Tensor]
    slopes: dict[str, Tensor]
    logits: Float[Tensor, "example *pos out"]
    logit_slopes: Float[Tensor, "example *pos out"]


def read_gradients(model: Any, batch: Batch, positions: Positions) -> Gradients:
    """Return the activations of some units, and the gradient of each example's loss there.

    loss[e] is the mean over the scored positions of example e, so a slope is in nats per unit of activation.

    Raises:
        ValueError: if the model has no such hook.
    """
    activations: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}

    def opener(hook: str) -> Any:
        def opened(value: Tensor) -> Tensor:
            activations[hook] = units_at(value.detach(), hook, positions[hook])
            # A leaf of zeros added here receives the activation's gradient, whether or not the weights require one.
            leaves[hook] = torch.zeros_like(value, requires_grad=True)
            return value + leaves[hook]

        return opened

    with torch.enable_grad(), attached(model, {hook: opener(hook) for hook in positions}):
        logits = logits_of(model(batch.inputs))
    upstream = _logit_slopes(logits.detach(), batch.targets)
    slopes = {}
    if leaves:
        inputs = [leaves[hook] for hook in positions]
        # The units of a last layer whose output nobody reads have no gradient.
        found = torch.autograd.grad(logits, inputs, upstream.to(logits), allow_unused=True)
        slopes = {
            hook: units_at(torch.zeros_like(leaves[hook]) if slope is None else slope, hook, positions[hook])
            for hook, slope in zip(positions, found, strict=True)
        }
    logits = logits.detach()
    return Gradients(example_losses(logits, batch.targets), activations, slopes, logits, upstream)


def units_at(value: Tensor, hook: str, positions: Sequence[int]) -> Tensor:
    """Return some units of the activation at a hook, as a copy."""
    index = torch.as_tensor(list(positions), device=value.device)
    return value.index_select(value.ndim - (2 if kind_of(hook) == "head" else 1), index)


def _logit_slopes(
    logits: Float[Tensor, "example *pos out"], targets: Int[Tensor, "example *pos"]
) -> Float[Tensor, "example *pos out"]:
    # d(-log softmax(z)[y]) / dz = softmax(z) - onehot(y): the loss itself need not be differentiated.
    scored = (targets != IGNORE)[..., None].to(logits.dtype)
    slopes = logits.softmax(dim=-1) * scored
    slopes.scatter_add_(-1, targets.where(targets != IGNORE, 0)[..., None], -scored)
    each = scored.reshape(len(scored), -1).sum(dim=1)
    return slopes / each.view(-1, *[1] * (slopes.ndim - 1))
