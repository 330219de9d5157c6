"""What a probe asks: checked, its examples drawn, and room for what is found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from skilloc.mistakes import WrongValue
from skilloc.relearning.attack import HeldOut, chances_of, hold_out
from skilloc.relearning.result import DIMS
from skilloc.relearning.settings import ORIGINAL, Grid, Model, check_attack, check_models
from skilloc.tasks import Subtask, as_subtasks


class Question(NamedTuple):
    """What is the same for all models and seeds."""

    attack: Sequence[Subtask]
    kept: Sequence[Subtask]
    held_out: HeldOut
    grid: Grid
    out: Path | None


class Probe(NamedTuple):
    """A question, and who is asked.

    Attributes:
        question: what is asked.
        of: the models by name, one per seed.
        seeds: of the attack.
        chance: loss of a model that knows nothing, on the reported subtask.
        chances: the same on each kept one.
    """

    question: Question
    of: Mapping[str, Sequence[nn.Module]]
    seeds: Sequence[int]
    chance: float
    chances: tuple[float, ...]


def probe_of(
    models: Mapping[str, Model],
    subtasks: tuple[Sequence[Subtask], Subtask, Sequence[Subtask]],
    grid: Grid,
    seeds: Sequence[int],
    out: Path | None,
) -> Probe:
    """Check what is asked, and draw the held-out examples.

    Args:
        models: as of `relearn_probe`.
        subtasks: what is attacked, what is measured, and what was to be kept.
        grid: the settings.
        seeds: of the attack.
        out: a folder for the runs.

    Raises:
        ValueError: as `relearn_probe`.
    """
    check_attack(grid, kept=out is not None)
    check_models(models, seeds)
    attack, report, kept = as_subtasks(subtasks[0], "attack"), subtasks[1], as_subtasks(subtasks[2], "kept")
    _check_subtasks(attack, report, kept)
    of = {name: [model] * len(seeds) if isinstance(model, nn.Module) else model for name, model in models.items()}
    first = of[ORIGINAL][0]
    held_out = hold_out(report, kept, grid, next(first.parameters()).device)
    return Probe(Question(attack, kept, held_out, grid, out), of, seeds, *chances_of(first, held_out, grid.metric))


def _check_subtasks(attack: Sequence[Subtask], report: Subtask, kept: Sequence[Subtask]) -> None:
    if not attack:
        raise WrongValue("`attack` is empty; pass what the attacker trains on, for instance `[report]`")
    names = [subtask.name for subtask in kept]
    if report.name in names or len(set(names)) < len(names):
        raise WrongValue(
            f'`kept` is {", ".join(names)} and `report` "{report.name}"; name each kept subtask once, and leave out '
            "the one that was to be removed"
        )


def blank(question: Question, *, models: int = 1, seeds: int = 1) -> dict[str, np.ndarray]:
    """Return the arrays of a `Relearning` of which nothing is known yet."""
    grid = question.grid
    shape = {"model": models, "size": len(grid.sizes), "rate": len(grid.rates), "step": len(grid.steps)}
    shape |= {"seed": seeds, "fold": grid.folds, "subtask": len(question.kept), "stage": 2, "way": len(grid.ways)}
    shape["learner"] = 2
    return {name: np.full([shape[dim] for dim in dims], np.nan) for name, dims in DIMS.items()}


def entries(arrays: Mapping[str, np.ndarray], model: int = 0, seed: int = 0) -> dict[str, np.ndarray]:
    """Return views of the entries of one model and seed."""
    places: dict[str, Any] = {"model": model, "seed": seed}
    return {name: array[(*(places.get(dim, slice(None)) for dim in DIMS[name]), ...)] for name, array in arrays.items()}
