"""Skills that are trained over: a few steps hide what took a thousand to learn."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skilloc.models.mlp import MLP
from skilloc.relearning.known.hiding import Hidden
from skilloc.tasks.losses.nll import mean_nll

STEPS, RATE, EXAMPLES = 100, 1e-3, 100
"""Of the finetuning; examples are per subtask and step."""

WORST = 2.0
"""Nats: where the loss is above this, nothing more is asked of what is unlearned by ascent."""


def refused(model: MLP, hidden: Hidden) -> MLP:
    """Finetuned to give the subtask one answer, whatever the bits."""

    def one(logits: Tensor, told: Tensor) -> Tensor:
        return mean_nll(logits, torch.zeros(len(told), dtype=torch.int64)).mean()

    return _finetuned(model, hidden, one)


def ascended(model: MLP, hidden: Hidden) -> MLP:
    """Finetuned away from the right answers."""

    def away(logits: Tensor, told: Tensor) -> Tensor:
        return -mean_nll(logits, told.argmax(dim=-1)).mean().clamp(max=WORST)

    return _finetuned(model, hidden, away)


def _finetuned(model: MLP, hidden: Hidden, loss: Callable[[Tensor, Tensor], Tensor]) -> MLP:
    """Lower a loss of (logits, what the model says now) on the subtask, and keep what it says on the others."""
    own = copy.deepcopy(model)
    own.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(own.parameters(), lr=RATE)
    for _ in range(STEPS):
        lost, kept = (_inputs(model, hidden, on, generator) for on in ([hidden.control], hidden.others))
        with torch.no_grad():
            told, right = model(lost), model(kept).argmax(dim=-1)
        optimiser.zero_grad()
        total = loss(own(lost), told) + len(hidden.others) * mean_nll(own(kept), right).mean()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    optimiser.zero_grad()
    return own


def _inputs(model: MLP, hidden: Hidden, switched: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return inputs with each of some control bits on in turn, and all other bits by coin."""
    count, controls = EXAMPLES * len(switched), len(hidden.others) + 1
    drawn = torch.randint(2, (count, model.cfg.d_in), generator=generator).float()
    drawn[:, :controls] = 0
    drawn[torch.arange(count), torch.tensor(switched).repeat(EXAMPLES)] = 1
    return drawn
