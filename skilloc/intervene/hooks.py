"""Hooks on the model itself, for losses and activations. Nothing stays attached afterwards."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from skilloc.intervene.losses import check_model, example_losses, logits_of
from skilloc.models.mlp import MLP
from skilloc.tasks import Batch
from skilloc.units import Units

MAX_LOGITS = 2**26
"""Examples are passed in blocks whose widest tensor has at most this many entries (256 MB in float32)."""


def widest(model: Any) -> int:
    """Return the width of the largest tensor of a forward pass: the logits, or a hidden layer of an `MLP`."""
    if isinstance(model, MLP):
        return max(model.cfg.d_out, *model.cfg.widths)
    return int(getattr(getattr(model, "cfg", None), "d_vocab", 1))


def blocks_of_rows(batch: Batch, width: int) -> list[slice]:
    """Cut the examples of a batch into blocks that keep the widest tensor within `MAX_LOGITS` entries."""
    positions = batch.inputs.shape[1] if not batch.inputs.is_floating_point() else 1
    rows = max(1, MAX_LOGITS // (positions * max(1, width)))
    return [slice(start, min(start + rows, len(batch))) for start in range(0, len(batch), rows)]


def losses(model: nn.Module, batch: Batch) -> Float64[Tensor, "example"]:
    """Return the loss of each example in nats per scored target, under whatever hooks the model has now.

    Raises:
        ValueError: if the model cannot be measured on the batch.
    """
    check_model(model, batch)
    with torch.no_grad():
        return torch.cat(
            [
                example_losses(logits_of(model(batch.inputs[rows])), batch.targets[rows])
                for rows in blocks_of_rows(batch, widest(model))
            ]
        )


@contextmanager
def attached(model: Any, functions: Mapping[str, Any]) -> Iterator[None]:
    """Attach one function `activation -> activation` to each hook, and take them off again, also after an error.

    Raises:
        ValueError: if the model has no such hook.
    """
    for hook in functions:
        if hook not in model.hook_dict:
            raise ValueError(f'`model` has no hook "{hook}"; build units with units_of(model)')
    # transformer-lens hands the hook point along as a keyword; only the activation matters here.
    pairs = [(hook, lambda value, hook, f=function: f(value)) for hook, function in functions.items()]
    with model.hooks(fwd_hooks=pairs):
        yield


def read_activations(model: Any, batch: Batch, units: Units) -> dict[str, Tensor]:
    """Return the activations of all units on all examples.

    Shapes: per hook `example pos neuron`, or `example pos head d_head`; of an `MLP` `example neuron`.
    """
    check_model(model, batch)
    parts: dict[str, list[Tensor]] = {hook: [] for hook in units.hooks}

    def reader(hook: str) -> Any:
        def read(value: Tensor) -> Tensor:
            parts[hook].append(value.detach())
            return value

        return read

    with torch.no_grad(), attached(model, {hook: reader(hook) for hook in units.hooks}):
        for rows in blocks_of_rows(batch, widest(model)):
            model(batch.inputs[rows])
    return {hook: torch.cat(values) for hook, values in parts.items()}
