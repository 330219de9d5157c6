"""The mask, its algebra, and ways to choose one.

A mask says which units are kept. Holding, pruning and circuits all take one; so does a joint removal, where the dropped
units are those that a subtask needs most.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from skilloc.units import Units


@dataclass(frozen=True)
class Mask:
    """Which units are kept.

    Attributes:
        units: the unit axis.
        keep: True for kept, on `unit`.

    Raises:
        ValueError: if `keep` does not lie on the unit axis.

    Example:
        >>> import numpy as np
        >>> import skilloc as sk
        >>> units = sk.units_of(sk.MLP(6, 2, width=8, depth=3))
        >>> sk.Mask(units, np.arange(16) < 10).dropped
        6
    """

    units: Units
    keep: Bool[np.ndarray, "unit"]

    def __post_init__(self) -> None:
        if self.keep.shape != (len(self.units),):
            raise ValueError(
                f"`keep` has shape {self.keep.shape} but `units` has length {len(self.units)}; pass one value per unit"
            )

    def __and__(self, other: "Mask") -> "Mask":
        return self._with(other, np.logical_and)

    def __or__(self, other: "Mask") -> "Mask":
        return self._with(other, np.logical_or)

    def __invert__(self) -> "Mask":
        return Mask(self.units, ~self.keep)

    def _with(self, other: "Mask", combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> "Mask":
        if other.units != self.units:
            raise ValueError(
                f"`mask` has {len(other.units)} units on {len(other.units.hooks)} hooks but this one has "
                f"{len(self.units)} on {len(self.units.hooks)}; combine masks of one model"
            )
        return Mask(self.units, combine(self.keep, other.keep))

    @property
    def dropped(self) -> int:
        """Number of units that are not kept."""
        return int((~self.keep).sum())


def top(values: Float[np.ndarray, "unit"], n: int) -> Bool[np.ndarray, "unit"]:
    """Select the n units with the largest values; units that were not measured (NaN) are never chosen.

    Ties go to the earlier unit, so that the same values always select the same units.

    Raises:
        ValueError: if fewer than n units were measured.
    """
    measured = int(np.isfinite(values).sum())
    if not 0 <= n <= measured:
        raise ValueError(f"`n` is {n} but {measured} units were measured; choose 0 to {measured}")
    order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")
    selected = np.zeros(len(values), dtype=bool)
    selected[order[:n]] = True
    return selected


def sample(units: Units, n: int, *, seed: int) -> Bool[np.ndarray, "unit"]:
    """Select n units at random, without replacement.

    Raises:
        ValueError: if there are fewer than n units.
    """
    if not 0 <= n <= len(units):
        raise ValueError(f"`n` is {n} but there are {len(units)} units; choose 0 to {len(units)}")
    selected = np.zeros(len(units), dtype=bool)
    selected[np.random.default_rng(seed).choice(len(units), n, replace=False)] = True
    return selected


def drop_top(units: Units, values: Float[np.ndarray, "unit"], n: int) -> Mask:
    """Drop the n units with the largest values, keep the rest."""
    return Mask(units, ~top(values, n))


def matched_random(mask: Mask, *, seed: int) -> Mask:
    """Return the control for a mask: as many units dropped in every bank, but chosen at random there.

    Equal size, equal layers and equal kinds: what remains between a mask and this control is the choice of units.
    """
    rng = np.random.default_rng(seed)
    keep = np.ones(len(mask.units), dtype=bool)
    for part in map(mask.units.span, mask.units.hooks):
        dropped = int((~mask.keep[part]).sum())
        keep[part.start + rng.choice(part.stop - part.start, dropped, replace=False)] = False
    return Mask(mask.units, keep)


def top_of_any(values: Float[np.ndarray, "subtask unit"], n: int) -> Bool[np.ndarray, "unit"]:
    """Select n units by their best rank on any subtask, so that every subtask's own top is among them.

    Raises:
        ValueError: if fewer than n units were measured.
    """
    ranks = np.argsort(np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=1, kind="stable"), axis=1, kind="stable")
    best = np.where(np.isfinite(values).all(axis=0), -ranks.min(axis=0).astype(float), np.nan)
    return top(best, n)
