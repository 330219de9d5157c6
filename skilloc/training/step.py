"""One optimiser step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from skilloc.intervene import logits_of, widest
from skilloc.tasks import IGNORE
from skilloc.training.settings import Term, TrainConfig

CACHED, CACHED_BF16 = 2**17, 5 * 2**17
"""Entries of the widest activation of a block, with products in float32 and in bfloat16, where larger blocks pay."""


def take_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    examples: tuple[Tensor, Tensor],
    config: TrainConfig,
    terms: Mapping[str, Term],
) -> tuple[dict[str, float], int]:
    """Take one step; return the loss and the terms before it, and the number of examples."""
    inputs, targets = examples
    model.train()
    optimiser.zero_grad()
    scored = int((targets != IGNORE).sum())
    size = max(1, (CACHED_BF16 if config.bf16 else CACHED) // (widest(model) * targets[0].numel()))
    loss = torch.zeros((), device=targets.device)
    for first in range(0, len(inputs), size):
        part = slice(first, first + size)
        with torch.autocast(targets.device.type, torch.bfloat16, enabled=config.bf16):
            logits = logits_of(model(inputs[part]))
        total = functional.cross_entropy(
            logits.flatten(0, -2).float(), targets[part].flatten(), ignore_index=IGNORE, reduction="sum"
        )
        (total / scored).backward()  # type: ignore[no-untyped-call]
        loss += total.detach() / scored
    found = {"loss": float(loss)}
    for name, term in terms.items():
        value = term(model)
        value.backward()  # type: ignore[no-untyped-call]
        found[name] = float(value.detach())
    optimiser.step()
    return found, len(inputs)
