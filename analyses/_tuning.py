"""Equal tuning: every method gets the same number of settings, tried by the same rule, and everything is counted.

Successive halving [Jamieson and Talwalkar 2016]: all settings on a few seeds, the better half of them on more, and so
on; one is left. Seeds of the tuning are none of those that are reported, and what is compared is measured on the
selection split.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

FIRST_SEED = 1000
"""Seeds of tuning begin here; reported runs have seeds below."""


class Tried(NamedTuple):
    """One run of a setting.

    Attributes:
        score: smaller = better; infinite for a run that failed.
        steps: optimiser steps that it took.
        examples: examples that it saw, with those of scoring units.
        seconds: of CPU.
    """

    score: float
    steps: int
    examples: int
    seconds: float


@dataclass(frozen=True)
class Rungs:
    """How many settings are tried, and on how many seeds.

    Attributes:
        settings: settings at each rung, falling; the first is how many a method gets.
        seeds: seeds that each setting has been tried on by the end of the rung, rising.
    """

    settings: tuple[int, ...] = (8, 4, 2)
    seeds: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        falling, rising = list(self.settings), list(self.seeds)
        if (
            len(falling) != len(rising)
            or falling != sorted(set(falling), reverse=True)
            or rising != sorted(set(rising))
        ):
            raise ValueError(f"`settings` is {self.settings} and `seeds` {self.seeds}; use as many, falling and rising")


@dataclass(frozen=True)
class Spent:
    """What tuning a method took.

    Attributes:
        settings: number of settings that were tried.
        runs: number of runs.
        steps: optimiser steps of all of them.
        examples: examples of all of them.
        seconds: of CPU, of all of them.
    """

    settings: int
    runs: int
    steps: int
    examples: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)


def halve(
    settings: Mapping[Any, Sequence[Any]],
    run: Callable[[list[tuple[Any, int]]], list[Tried]],
    rungs: Rungs,
) -> tuple[dict[Any, Any], dict[Any, Spent]]:
    """Choose a setting for each method.

    A setting's score is the median over its seeds; where medians are equal, as those of runs that all failed, the one
    that comes first stays.

    Args:
        settings: of each method, as many for each.
        run: runs pairs of a setting and a seed, of all methods in one go.
        rungs: how many settings stay, and on how many seeds they are tried.

    Returns:
        The chosen setting by method, and what was spent.

    Raises:
        ValueError: if a method has another number of settings than the first rung asks for.
    """
    for method, listed in settings.items():
        if len(listed) != rungs.settings[0]:
            raise ValueError(f'"{method}" has {len(listed)} settings; give each method {rungs.settings[0]}')
    left = {method: list(range(len(listed))) for method, listed in settings.items()}
    tried: dict[Any, dict[int, list[Tried]]] = {method: {i: [] for i in places} for method, places in left.items()}
    done = 0
    for count, seeds in zip(rungs.settings, rungs.seeds, strict=True):
        for method, places in left.items():
            medians = {i: _median(tried[method][i]) for i in places}
            places[:] = sorted(places, key=lambda i: (medians[i], i))[:count]
        asked = [(m, i, FIRST_SEED + seed) for m, places in left.items() for i in places for seed in range(done, seeds)]
        found = run([(settings[m][i], seed) for m, i, seed in asked])
        for (method, i, _), one in zip(asked, found, strict=True):
            tried[method][i].append(one)
        done = seeds
    best = {m: settings[m][min(places, key=lambda i: (_median(tried[m][i]), i))] for m, places in left.items()}
    return best, {method: _spent(runs) for method, runs in tried.items()}


def _median(runs: Sequence[Tried]) -> float:
    return float(np.median([run.score for run in runs])) if runs else 0.0


def _spent(runs: Mapping[int, Sequence[Tried]]) -> Spent:
    every = [one for some in runs.values() for one in some]
    steps, examples, seconds = (
        sum(values) for values in zip(*((r.steps, r.examples, r.seconds) for r in every), strict=True)
    )
    return Spent(len(runs), len(every), steps, examples, round(seconds, 1))
