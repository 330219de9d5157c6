"""One optimiser step."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from skilloc.intervene import logits_of, widest
from skilloc.models.mlp import MLP
from skilloc.tasks import IGNORE
from skilloc.training.gradients import Gradients, by_hand
from skilloc.training.settings import Products, Term

CACHED, CACHED_BF16 = 2**18, 5 * 2**18
"""Entries of the widest activation of a block, with products in float32 and in bfloat16; there, each product takes long
to start, so that larger blocks pay."""


def take_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    examples: tuple[Tensor, Tensor],
    gradients: Callable[[Tensor, Tensor], float],
    terms: Mapping[str, Term],
) -> tuple[dict[str, float], int]:
    """Take one step; return the loss and the terms before it, and the number of examples."""
    inputs, targets = examples
    model.train()
    optimiser.zero_grad()
    found = {"loss": gradients(inputs, targets)}
    for name, term in terms.items():
        value = term(model)
        value.backward()  # type: ignore[no-untyped-call]
        found[name] = float(value.detach())
    optimiser.step()
    return found, len(inputs)


def gradients_of(model: nn.Module, *, products: Products) -> Callable[[Tensor, Tensor], float]:
    """Return a function of inputs and targets that gives the weights their gradients and returns the mean loss in nats.

    They are computed by hand where that can be, and by autograd elsewhere; the gradients are the same.
    """
    memory: Gradients | None = None

    def gradients(inputs: Tensor, targets: Tensor) -> float:
        nonlocal memory
        most = max(1, (CACHED_BF16 if products == "bfloat16" else CACHED) // (widest(model) * targets[0].numel()))
        rows = -(-len(inputs) // -(-len(inputs) // most))  # blocks of equal size
        if not by_hand(model, inputs, targets):
            return _autograd(model, inputs, targets, rows, products)
        if memory is None or memory.rows != rows:
            memory = Gradients(cast(MLP, model), rows, products=products)
        return memory(inputs, targets)

    return gradients


def _autograd(model: nn.Module, inputs: Tensor, targets: Tensor, size: int, products: Products) -> float:
    """Add the gradients of the mean loss to those of the parameters; return that loss, in nats."""
    scored = int((targets != IGNORE).sum())
    loss = torch.zeros((), device=targets.device)
    for first in range(0, len(inputs), size):
        part = slice(first, first + size)
        with torch.autocast(targets.device.type, torch.bfloat16, enabled=products == "bfloat16"):
            logits = logits_of(model(inputs[part]))
        total = functional.cross_entropy(
            logits.flatten(0, -2).float(), targets[part].flatten(), ignore_index=IGNORE, reduction="sum"
        )
        (total / scored).backward()  # type: ignore[no-untyped-call]
        loss += total.detach() / scored
    return float(loss)
