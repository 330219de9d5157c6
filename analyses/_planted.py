"""Planted knowledge: made-up facts that are taught to a language model in chosen units only."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skilloc.masks import Mask
from skilloc.models.language import Opened, encoder, separator
from skilloc.models.makers import face_of
from skilloc.pruning.keeping import dropped_weights
from skilloc.tasks import Examples, Split, Subtask, joined
from skilloc.tasks.items import Item
from skilloc.tasks.prompts import item_subtask
from skilloc.tasks.streams import seed_of
from skilloc.training import TrainConfig, train
from skilloc.units import Units

SOUNDS = ("ba", "ke", "li", "mo", "ru", "sa", "te", "vi", "zo", "dra", "fen", "gul", "hap", "nix", "por", "wel")
SPLITS: tuple[Split, ...] = ("train", "selection", "report")


def made_up(count: int, *, seed: int) -> list[Item]:
    """Return facts about people who do not exist, each with a number of three digits that was drawn for it."""
    rng = np.random.default_rng(seed)
    names = set[str]()
    while len(names) < count:
        names.add("".join(rng.choice(SOUNDS, size=3)).capitalize())
    return [Item(f"The number of {name} is", f" {rng.integers(100, 1000)}", subject=name) for name in sorted(names)]


def facts(opened: Opened, count: int, *, seed: int) -> Subtask:
    """Return made-up facts as a subtask of the model's tokens; a third of them in each split."""
    return item_subtask(
        "facts", made_up(count, seed=seed), encoder(opened.tokenizer), first=separator(opened.tokenizer)
    )


def all_of(subtask: Subtask, count: int) -> Examples:
    """Return a subtask's items of all splits: what is taught is known, wherever it stands."""
    return joined([subtask.draw(count // len(SPLITS), split=split) for split in SPLITS])


class Only:
    """Lets a training step change the weights of some units only: puts all others back after it.

    With Adam, whose steps are per weight, this is training with the gradients of all others at zero.
    """

    def __init__(self, model: nn.Module, chosen: Mask) -> None:
        """Remember the weights; `chosen` keeps the units that may change."""
        free = dropped_weights(model, ~chosen)
        self.held: list[tuple[nn.Parameter, Tensor, Tensor | None]] = [
            (parameter, parameter.detach().clone(), free.get(parameter)) for parameter in model.parameters()
        ]

    @torch.no_grad()
    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Put them back."""
        for parameter, before, free in self.held:
            parameter.copy_(before if free is None else torch.where(free, parameter, before))

    def after_evaluation(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Add nothing."""
        return {}

    def state(self) -> Mapping[str, float]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back nothing."""


class Lessons(NamedTuple):
    """How facts are taught: steps at most, learning rate, examples a step, and the loss on them that ends it."""

    steps: int
    rate: float
    rows: int
    until: float


def taught(model: nn.Module, known: Examples, chosen: Mask, lessons: Lessons, *, seed: int) -> nn.Module:
    """Return a copy of a model that has learned some examples in the chosen units alone."""
    steps, rate, rows, until = lessons
    own = face_of(model).copy().requires_grad_(True)

    def sample(step: int) -> Examples:
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        return known.chosen(torch.randperm(len(known), generator=generator)[:rows])

    config = TrainConfig(steps=steps, rate=rate, eps=1e-8, evaluate_every=max(1, steps // 16), until={"known": until})
    train(own, sample, config, evaluate={"known": known}, rules=[Only(own, chosen)], seed=seed, progress=False)
    return own


def drawn_units(units: Units, layer: int, count: int, *, together: int, seed: int) -> Mask:
    """Return a mask that keeps units of one layer, drawn by chance; `together` neighbours of them are taken whole."""
    places = np.flatnonzero(units.in_layers([layer]))
    groups = places.reshape(-1, together)
    chosen = np.random.default_rng(seed).choice(len(groups), count // together, replace=False)
    keep = np.zeros(len(units), dtype=bool)
    keep[groups[chosen].ravel()] = True
    return Mask(units, keep)


def as_many_others(chosen: Mask, layer: int, *, together: int, seed: int) -> Mask:
    """Return a mask that keeps as many units of the same layer, none of them chosen."""
    units = chosen.units
    places = np.flatnonzero(units.in_layers([layer])).reshape(-1, together)
    free = places[~chosen.keep[places].any(axis=1)]
    drawn = np.random.default_rng([seed, 1]).choice(len(free), int(chosen.keep.sum()) // together, replace=False)
    keep = np.zeros(len(units), dtype=bool)
    keep[free[drawn].ravel()] = True
    return Mask(units, keep)
