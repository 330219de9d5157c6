"""Runs of the attack that are left to do: those at one rate and data size are done together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from skilloc import store
from skilloc.masks import Mask
from skilloc.models.makers import face_of
from skilloc.relearning.attack import attack_all, sample_of
from skilloc.relearning.kept_runs import read_run, write_run
from skilloc.relearning.question import Question
from skilloc.relearning.runs import Asked
from skilloc.relearning.ways import Data


def do_runs(runs: Sequence[Asked], question: Question, bar: Any = None, *, mask: Mask | None = None) -> None:
    """Put the losses of some runs in their places; those that are not kept yet are done first.

    Args:
        runs: with the same seed.
        question: what they are about.
        bar: shows the progress; None where these are not among the runs that it counts.
        mask: held at zero in all of them, if given.
    """
    groups: dict[tuple[Data, int | None, float], dict[Any, list[Asked]]] = {}
    for i, run in enumerate(runs):
        # Equal models share a run that is kept.
        key = i if question.out is None else store.key(run.spec)
        groups.setdefault((run.data, run.size, run.rate), {}).setdefault(key, []).append(run)
    for (data, size, rate), equal in groups.items():
        left = []
        for key, share in equal.items():
            found = read_run(question.out, share[0].spec)
            if found is None:
                left.append(key)
            else:
                _put(found, share, bar)
        models = {key: _model(equal[key], mask) for key in left}
        for key in left:
            if models[key] is None:
                write_run(question.out, equal[key][0].spec, {})  # so that nobody asks again
                _tell(bar, equal[key])
        trained = {key: model for key, model in models.items() if model is not None}
        if not trained:
            continue
        if face_of(next(iter(trained.values()))).chain is not None:
            # Small networks are multiplied side by side, and rounded by how many they are: all of them again.
            again = {key: trained[key] if key in trained else _model(share, mask) for key, share in equal.items()}
            trained = {key: model for key, model in again.items() if model is not None}
        seed, grid = runs[0].spec["seed"], question.grid
        sample = None
        if data != "none":
            sample = sample_of(data, question.attack, question.kept, grid, seed=seed, size=size)
        keys, together = list(trained), list(trained.values())
        for place, done in attack_all(together, sample, question.held_out, grid, rate=rate, seed=seed, mask=mask):
            key, arrays = keys[place], done._asdict()
            if key in models:
                write_run(question.out, equal[key][0].spec, arrays)
                _put(arrays, equal[key], bar)


def _model(share: Sequence[Asked], mask: Mask | None) -> nn.Module | None:
    """Return the model that some equal runs are about; None where there is nothing to attack."""
    model = share[0].model()
    return model if model is not None and (mask is None or _same_units(model, mask)) else None


def _same_units(model: nn.Module, mask: Mask) -> bool:
    return set(mask.units.banks) <= set(face_of(model).banks())


def _put(found: Mapping[str, np.ndarray], runs: Sequence[Asked], bar: Any) -> None:
    for run in runs:
        for name, array in found.items():
            places, z, r = run.at
            run.into[name][places, z, r] = array
    _tell(bar, runs)


def places_of(runs: Sequence[Asked]) -> int:
    """Return how many ways at a size and a rate some runs are about."""
    return sum(len(run.at[0]) for run in runs)


def _tell(bar: Any, runs: Sequence[Asked]) -> None:
    if bar is not None:
        bar.update(places_of(runs))
