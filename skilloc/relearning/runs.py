"""The runs of the attack: what each depends on, those that are kept on disk, and those that are left to do.

All models and starts of a seed see the same examples at each step, so their runs at one rate and data size are done
together (`training.many`). Each is kept by itself, so that another probe of some of the models finds it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from skilloc import store
from skilloc.masks import Mask
from skilloc.models.language import digest
from skilloc.relearning.attack import HeldOut, Repaired, attack_all, repair
from skilloc.relearning.result import DIMS, STARTS
from skilloc.relearning.settings import Grid
from skilloc.store import Labelled
from skilloc.tasks import Subtask
from skilloc.tasks.stream import stream

OUTER = ("model", "start", "size", "rate", "seed")
"""Axes of a result that one run does not have."""


class Question(NamedTuple):
    """What is the same for all models and seeds."""

    attack: Sequence[Subtask]
    kept: Sequence[Subtask]
    held_out: HeldOut
    grid: Grid
    out: Path | None


class Asked(NamedTuple):
    """A run that is asked for.

    Attributes:
        model: gives what is attacked.
        size: number of different training examples per subtask; None = fresh ones at every step.
        rate: of Adam.
        spec: what the run depends on. JSON only.
        into: the entries of the result that are about its model and seed.
        at: where its losses go there: starts, size, rate.
    """

    model: Callable[[], nn.Module]
    size: int | None
    rate: float
    spec: Mapping[str, Any]
    into: Mapping[str, np.ndarray]
    at: tuple[list[int], int, int]


def shared_by_runs(question: Question, original: nn.Module, seed: int) -> dict[str, Any]:
    """Return what all runs with one seed depend on, besides their own model, start, rate and size. JSON only."""
    trained = {"attack": question.attack, "kept": question.kept}
    grid = question.grid.record()
    return {
        "original": digest(original),
        **{name: [subtask.name for subtask in subtasks] for name, subtasks in trained.items()},
        "examples": {name: _first(subtasks, question.grid, seed) for name, subtasks in trained.items()},
        "held_out": question.held_out.record(),
        "grid": {name: grid[name] for name in grid if name not in ("rates", "sizes")},
        "seed": seed,
    }


def _first(subtasks: Sequence[Subtask], grid: Grid, seed: int) -> str | None:
    """Return the digest of the first step's examples."""
    return stream(subtasks, grid.examples, seed=seed)(0).digest if subtasks else None


def _bits(mask: Mask) -> str:
    hooks = f"{mask.units.hooks}{mask.units.widths}".encode()
    return hashlib.sha256(hooks + mask.keep.tobytes()).hexdigest()[:16]


def runs_of(
    model: nn.Module,
    mask: Mask | None,
    question: Question,
    targets: Mapping[str, float],
    shared: Mapping[str, Any],
    into: Mapping[str, np.ndarray],
) -> list[Asked]:
    """Repair a model, or read what came of it, and return the runs of the attack on it.

    Args:
        model: it is left as it was.
        mask: held at zero all along, if given.
        question: what is asked.
        targets: where the repair ends; see `attack.targets_of`.
        shared: see `shared_by_runs`.
        into: the entries of the result that are about this model and seed.
    """
    about = {**shared, "model": digest(model), "mask": None if mask is None else _bits(mask)}

    @cache
    def repaired() -> Repaired:
        return repair(model, question.kept, question.held_out, targets, question.grid, seed=about["seed"], mask=mask)

    spec = {**about, "what": "repair"}
    found = _read(question.out, spec)
    if found is None:
        done = repaired()
        found = {"repair": np.stack([done.before, done.after]), "repair_steps": np.array(float(done.steps))}
        _write(question.out, spec, found)
    for name, array in found.items():
        into[name][...] = array
    runs = []
    # What needed no repair is the same from both starts.
    for starts in [[0], [1]] if found["repair_steps"] else [[0, 1]]:
        given = (lambda: repaired().model) if starts == [1] else (lambda: model)
        for z, size in enumerate(question.grid.sizes):
            for r, rate in enumerate(question.grid.rates):
                spec = {"what": "relearning run", "start": STARTS[starts[0]], "size": size, "rate": rate}
                runs.append(Asked(given, size, rate, {**about, **spec}, into, (starts, z, r)))
    return runs


def do_runs(runs: Sequence[Asked], question: Question, bar: Any, *, mask: Mask | None = None) -> None:
    """Put the losses of some runs in their places; those that are not kept yet are done first.

    Args:
        runs: with the same seed.
        question: what they are about.
        bar: shows the progress.
        mask: held at zero in all of them, if given.
    """
    left: dict[tuple[int | None, float], dict[Any, list[Asked]]] = {}
    for i, run in enumerate(runs):
        found = _read(question.out, run.spec)
        if found is None:
            # Equal models share a run that is kept.
            key = i if question.out is None else store.key(run.spec)
            left.setdefault((run.size, run.rate), {}).setdefault(key, []).append(run)
        else:
            _put(found, [run], bar)
    for (size, rate), equal in left.items():
        shares = list(equal.values())
        models, seed = [share[0].model() for share in shares], shares[0][0].spec["seed"]
        attacked = attack_all(
            models, question.attack, question.held_out, question.grid, rate=rate, size=size, seed=seed, mask=mask
        )
        for place, done in attacked:
            found = done._asdict()
            _write(question.out, shares[place][0].spec, found)
            _put(found, shares[place], bar)


def _put(found: Mapping[str, np.ndarray], runs: Sequence[Asked], bar: Any) -> None:
    for run in runs:
        for name, array in found.items():
            run.into[name][run.at] = array
        bar.update(len(run.at[0]))


def _read(out: Path | None, spec: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Return the arrays of a result folder, if it is there."""
    folder = None if out is None else out / "runs" / store.key(spec)
    if folder is None or not folder.is_dir():
        return None
    return {name: array.values for name, array in store.read(folder).arrays.items()}


def _write(out: Path | None, spec: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> None:
    if out is not None:
        inner = {name: tuple(dim for dim in DIMS[name] if dim not in OUTER) for name in found}
        store.write(
            out / "runs" / store.key(spec), spec, {}, {name: Labelled(found[name], inner[name]) for name in found}
        )
