"""What heads attend to on some rows: their attention patterns, as whole percents for the page."""

from collections.abc import Callable, Iterable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from skilloc.experiment import Experiment, reader
from skilloc.tasks import Examples, Inputs
from skilloc.units import Bank

Patterns = dict[str, Float[Tensor, "head pos pos"]]
"""By bank: how much each position, on the second axis, attends to each other, on the third."""


def patterns_of(experiment: Experiment, examples: Examples, banks: Iterable[Bank]) -> Callable[[int], Patterns]:
    """Return a function that gives the attention patterns of some banks on one row of some examples.

    Each row runs once. Banks whose patterns cannot be read are left out: those of a described module, for example.
    """
    face = experiment.face
    hooks = {bank.name: hook for bank in banks if (hook := face.pattern(bank)) is not None}

    @cache
    def on_row(row: int) -> Patterns:
        seen: dict[str, list[Tensor]] = {name: [] for name in hooks}
        if not hooks:
            return {}
        with torch.no_grad(), face.attached({hook: reader(seen[name]) for name, hook in hooks.items()}):
            face.run(_row(examples.inputs, row))
        return {name: values[0][0].float().cpu() for name, values in seen.items() if values}

    return on_row


def _row(inputs: Inputs, row: int) -> Inputs:
    one = slice(row, row + 1)
    return inputs[one] if isinstance(inputs, Tensor) else {name: tensor[one] for name, tensor in inputs.items()}


def percents(pattern: Float[Tensor, "pos pos"], span: slice) -> list[list[int]]:
    """Return, for each position of a span, how many percent of a head's attention go to each of it up to itself.

    What is missing to 100 goes to positions before the span.
    """
    places = range(len(pattern))[span]
    rows = (100 * pattern).round().int().tolist()
    return [rows[q][places.start : q + 1] for q in places]
