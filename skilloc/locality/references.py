"""No single reference: how far scores and ranks move between the values that units are held at."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from skilloc.mistakes import WrongValue

from .concentration import NAMES, scores
from .uncertainty import mean_over_folds, measured


class Moved(NamedTuple):
    """A unit whose rank differs between references by more than its intervals allow.

    Attributes:
        unit: its place on the unit axis.
        first: reference under which it ranks highest.
        second: one under which it ranks lowest.
        ranks: best and worst rank under the first, and under the second, from 1.
    """

    unit: int
    first: str
    second: str
    ranks: tuple[int, int, int, int]


class ReferenceSpread(NamedTuple):
    """One subtask under several references.

    Attributes:
        references: their names.
        values: of the scores `NAMES`, on `reference score`; NaN where withheld.
        low: the lowest end of any reference's interval.
        high: the highest end.
        moved: units among the top of some reference that do not keep their rank, largest change first.
    """

    references: tuple[str, ...]
    values: Float[np.ndarray, "reference score"]
    low: Float[np.ndarray, " score"]
    high: Float[np.ndarray, " score"]
    moved: tuple[Moved, ...]

    def range(self, score: str) -> float:
        """Return largest minus smallest value of a score; NaN where fewer than two references have one."""
        column = self.values[:, NAMES.index(score)]
        seen = column[np.isfinite(column)]
        return float(np.ptp(seen)) if len(seen) > 1 else float("nan")


def reference_spread(effects: Mapping[str, Float[np.ndarray, "fold unit"]], *, top: int = 10) -> ReferenceSpread:
    """Compare the effects of the same units on one subtask under several references.

    A unit's rank may be anything from 1 + the number of units with a mean above its upper end to 1 + the number of
    others above its lower end. It has moved where these ranges, under two references, have no rank in common.

    Args:
        effects: by the name of the reference, on the same units and folds.
        top: units that are among so many first under some reference are looked at.

    Raises:
        ValueError: if there are fewer than 2 references, or their units differ.
    """
    names = tuple(effects)
    if len(names) < 2:
        raise WrongValue(
            f"`effects` has {len(names)} reference(s); measure under at least 2, such as zero, mean and resample"
        )
    tables = list(effects.values())
    same = len({table.shape for table in tables}) == 1
    there = np.all([measured(table) for table in tables], axis=0) if same else np.zeros(0, dtype=bool)
    if not there.any():
        raise WrongValue(
            f"`effects` have shapes {[table.shape for table in tables]}; measure the same units in the same folds"
        )
    found = [scores(table[:, there], top=top) for table in tables]
    part = {end: np.array([[getattr(row[name], end) for name in NAMES] for row in found]) for end in ("low", "high")}
    values = np.array([[row[name].value for name in NAMES] for row in found])
    ranges = [_ranges(table[:, there]) for table in tables]
    best = np.min([_ranks(table[:, there].mean(axis=0)) for table in tables], axis=0)
    moved = _moved(np.flatnonzero(best <= top), np.flatnonzero(there), names, ranges)
    return ReferenceSpread(names, values, part["low"].min(axis=0), part["high"].max(axis=0), moved)


def _ranks(mean: Float[np.ndarray, " unit"]) -> Int[np.ndarray, " unit"]:
    ranks = np.empty(len(mean), dtype=int)
    ranks[np.argsort(-mean, kind="stable")] = np.arange(1, len(mean) + 1)
    return ranks


def _ranges(table: Float[np.ndarray, "fold unit"]) -> Int[np.ndarray, "end unit"]:
    """Best and worst rank that the interval of each unit leaves."""
    face = mean_over_folds(table.astype(np.float64))
    rising = np.sort(face.value)
    above = [len(rising) - np.searchsorted(rising, end, side="right") for end in (face.high, face.low)]
    return np.stack([above[0] + 1, np.maximum(above[1], above[0] + 1)])  # a unit is above its own lower end


def _moved(
    looked: Int[np.ndarray, " looked"],
    places: Int[np.ndarray, " unit"],
    names: Sequence[str],
    ranges: Sequence[Int[np.ndarray, "end unit"]],
) -> tuple[Moved, ...]:
    found = []
    for u in looked:
        own = [(int(part[0, u]), int(part[1, u])) for part in ranges]
        first, second = min(range(len(own)), key=lambda r: own[r][1]), max(range(len(own)), key=lambda r: own[r][0])
        if own[second][0] > own[first][1]:
            found.append(Moved(int(places[u]), names[first], names[second], (*own[first], *own[second])))
    return tuple(sorted(found, key=lambda one: one.ranks[1] / one.ranks[2]))
