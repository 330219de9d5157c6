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
    left: dict[tuple[Data, int | None, float], dict[Any, list[Asked]]] = {}
    for i, run in enumerate(runs):
        found = read_run(question.out, run.spec)
        if found is None:
            # Equal models share a run that is kept.
            key = i if question.out is None else store.key(run.spec)
            left.setdefault((run.data, run.size, run.rate), {}).setdefault(key, []).append(run)
        else:
            _put(found, [run], bar)
    for (data, size, rate), equal in left.items():
        shares, models = [], []
        for share in equal.values():
            model = share[0].model()
            if model is not None and (mask is None or _same_units(model, mask)):
                shares.append(share)
                models.append(model)
            else:
                write_run(question.out, share[0].spec, {})  # so that nobody asks again
                _tell(bar, share)
        if not models:
            continue
        seed, grid = shares[0][0].spec["seed"], question.grid
        sample = None
        if data != "none":
            sample = sample_of(data, question.attack, question.kept, grid, seed=seed, size=size)
        attacked = attack_all(models, sample, question.held_out, grid, rate=rate, seed=seed, mask=mask)
        for place, done in attacked:
            found = done._asdict()
            write_run(question.out, shares[place][0].spec, found)
            _put(found, shares[place], bar)


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
