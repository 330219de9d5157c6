"""The mask, its algebra, and ways to choose one.

A mask says which units are kept. Holding, pruning and circuits all take one; so does a joint removal, where the dropped
units are those that a subtask needs most.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Bool, Float

from skilloc.mistakes import WrongType, WrongValue, a_seed, told, whole
from skilloc.units import Units

DRAWS = 20
"""Random masks beside each one that they are compared with: fewer leave an interval over draws to luck."""

CHOICES = 100
"""Disjoint random masks that there must be at least, so that `DRAWS` of them differ."""


@dataclass(frozen=True)
class Mask:
    """Which units are kept.

    Attributes:
        units: the unit axis.
        keep: True for kept, on `unit`.

    Raises:
        TypeError: if `keep` is no array of booleans.
        ValueError: if it does not lie on the unit axis.

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
        check_choice("keep", self.keep, self.units)

    def __and__(self, other: "Mask") -> "Mask":
        return self._with(other, np.logical_and)

    def __or__(self, other: "Mask") -> "Mask":
        return self._with(other, np.logical_or)

    def __invert__(self) -> "Mask":
        return Mask(self.units, ~self.keep)

    def _with(self, other: "Mask", combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> "Mask":
        if other.units != self.units:
            raise WrongValue(
                f"`mask` has {len(other.units)} units on {len(other.units.hooks)} hooks but this one has "
                f"{len(self.units)} on {len(self.units.hooks)}; combine masks of one model"
            )
        return Mask(self.units, combine(self.keep, other.keep))

    @property
    def dropped(self) -> int:
        """Number of units that are not kept."""
        return int((~self.keep).sum())


def check_choice(name: str, chosen: object, units: Units) -> None:
    """Refuse what does not say of each unit whether it is chosen.

    Args:
        name: what the argument is called.
        chosen: what was given.
        units: the unit axis.

    Raises:
        TypeError: if it is no array of booleans.
        ValueError: if it does not lie on the unit axis.
    """
    if not isinstance(chosen, np.ndarray) or chosen.dtype != bool:
        what = f"an array of {chosen.dtype}" if isinstance(chosen, np.ndarray) else told(chosen)
        raise WrongType(
            f"`{name}` is {what}; pass a numpy array with True or False for each unit, such as "
            f'units.named(["{units.names[0]}"]), or the `keep` of a mask'
        )
    if chosen.shape != (len(units),):
        raise WrongValue(
            f"`{name}` has shape {chosen.shape} but `units` has length {len(units)}; pass one value per unit"
        )


def top(values: Float[np.ndarray, "unit"], n: int) -> Bool[np.ndarray, "unit"]:
    """Select the n units with the largest values; units that were not measured (NaN) are never chosen.

    Ties go to the earlier unit, so that the same values always select the same units.

    Raises:
        ValueError: if fewer than n units were measured.
    """
    whole("n", n, 0)
    measured = int(np.isfinite(values).sum())
    if n > measured:
        others = "" if measured == len(values) else f" (the other {len(values) - measured} are NaN)"
        raise WrongValue(f"`n` is {n} but {measured} units were measured{others}; choose 0 to {measured}")
    order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")
    selected = np.zeros(len(values), dtype=bool)
    selected[order[:n]] = True
    return selected


def sample(units: Units, n: int, *, seed: int) -> Bool[np.ndarray, "unit"]:
    """Select n units at random, without replacement.

    Raises:
        ValueError: if there are fewer than n units.
    """
    a_seed("seed", seed)
    if not 0 <= n <= len(units):
        raise WrongValue(f"`n` is {n} but there are {len(units)} units; choose 0 to {len(units)}")
    selected = np.zeros(len(units), dtype=bool)
    selected[np.random.default_rng(seed).choice(len(units), n, replace=False)] = True
    return selected


def drop_top(units: Units, values: Float[np.ndarray, "unit"], n: int) -> Mask:
    """Drop the n units with the largest values, keep the rest."""
    return Mask(units, ~top(values, n))


def matched_random(mask: Mask, *, seed: int, disjoint: bool = True) -> Mask:
    """Return the control for a mask: as many units dropped in every bank, but chosen at random there.

    Equal size, equal layers and equal kinds, neurons and heads apart: what remains between a mask and this control is
    the choice of units. The two have as few units in common as can be: where at most half of a bank is dropped, no
    unit is dropped by both, and otherwise none is kept by both (`disjoint_draws` says where that leaves no choice, and
    the control is then drawn from all units).

    Args:
        mask: what is compared with.
        seed: which draw.
        disjoint: leave out the mask's own units where that can be; False where the mask is no more than a size.
    """
    a_seed("seed", seed)
    rng = np.random.default_rng(seed)
    apart = disjoint and disjoint_draws(mask)
    keep = np.ones(len(mask.units), dtype=bool)
    for part in map(mask.units.span, mask.units.hooks):
        own = ~mask.keep[part]
        count, width = int(own.sum()), len(own)
        others, again = (np.flatnonzero(~own), np.flatnonzero(own)) if apart else (np.arange(width), np.arange(0))
        first = min(count, len(others))
        chosen = [rng.choice(others, first, replace=False), rng.choice(again, count - first, replace=False)]
        keep[part.start + np.concatenate(chosen)] = False
    return Mask(mask.units, keep)


def disjoint_draws(mask: Mask) -> bool:
    """Whether random masks of equal size in every bank can leave out the mask's own units and still be random.

    In a bank of w units of which c are dropped, (w - c choose c) sets are disjoint (of the kept units, where more than
    half are dropped). With fewer than `CHOICES` in all banks together, draws would repeat themselves and their spread
    would say nothing.
    """
    choices = 1
    for part in map(mask.units.span, mask.units.hooks):
        kept = int(mask.keep[part].sum())
        sizes = sorted((kept, part.stop - part.start - kept))
        choices *= comb(sizes[1], sizes[0])
        if choices >= CHOICES:
            return True
    return False


def top_of_any(values: Float[np.ndarray, "subtask unit"], n: int) -> Bool[np.ndarray, "unit"]:
    """Select n units by their best rank on any subtask, so that every subtask's own top is among them.

    Raises:
        ValueError: if fewer than n units were measured.
    """
    ranks = np.argsort(np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=1, kind="stable"), axis=1, kind="stable")
    best = np.where(np.isfinite(values).all(axis=0), -ranks.min(axis=0).astype(float), np.nan)
    return top(best, n)
