"""How far an estimate of effects can be trusted, measured against exact effects.

An attribution without this is a guess. The exact effects are a sample with known, unequal chances (`sampling.chances`):
the estimate's own top is measured for certain, and the others with a chance that grows with the estimate and its doubt,
so that what an estimate may have missed is looked for where it could be. Every measured unit then stands for 1 / chance
units [Horvitz & Thompson 1952], in shares and means [Hajek 1971] over all units:

- Spearman correlation: of ranks among all units, by weighted counting.
- Relative error, recall and missed mass: sums over units, with the gamma interval for weighted counts
  [Fay & Feuer 1997, Statistics in Medicine 16, 791], which knows that what was not drawn may be as large as anything
  that was.

The Pearson correlation is withheld (NaN) unless every unit was measured: in heavy tails it is that of the few largest
effects, and no sample tells how large those are that it lacks. A missed mass is withheld where its interval spans more
than `drawing.VAGUE` of all that is possible. The relative error is one of sums of magnitudes: that of squares cannot be
known from a sample either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from skilloc.attribution.drawing import Drawing
from skilloc.effects import Effects
from skilloc.locality.intervals import Interval
from skilloc.mistakes import WrongValue, a_seed, whole

RECALLS = ((10, 20), (50, 100), (50, 200))


@dataclass(frozen=True)
class Calibration:
    """How an estimate compares with exact effects on one subtask.

    Attributes:
        drawn: number of units drawn at random, those that are certain left out.
        measured: number of units with an exact effect.
        spearman: correlation of the ranks of estimated and exact effects over all units, signed.
        relative_error: sum of |estimate - exact| over sum of |exact|, over all units (1 = no better than zero).
        pearson: correlation of the effects themselves; mostly that of the few largest.
        recall: "k in m": share of the k largest exact effects (by magnitude, over all units) among the m largest
            estimates; only where the top m was measured.
        missed_mass: "m": share of the positive exact effects of all units that lies outside the m largest estimates;
            magnitudes by cross-fitting over folds, so that noise adds nothing on average.
    """

    drawn: int
    measured: int
    spearman: Interval
    relative_error: Interval
    pearson: Interval
    recall: dict[str, Interval]
    missed_mass: dict[str, Interval]

    def record(self) -> dict[str, Any]:
        """Return a JSON form; `Calibration.from_record` reads it."""
        found: dict[str, Any] = {"drawn": self.drawn, "measured": self.measured}
        for name in _SINGLE:
            found[name] = getattr(self, name).record()
        for name in _SEVERAL:
            found[name] = {key: one.record() for key, one in getattr(self, name).items()}
        return found

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "Calibration":
        """Read what `record` wrote; what JSON could not hold is NaN."""
        single: dict[str, Any] = {name: _interval_of(record[name]) for name in _SINGLE}
        several: dict[str, Any] = {
            name: {key: _interval_of(one) for key, one in record[name].items()} for name in _SEVERAL
        }
        return Calibration(record["drawn"], record["measured"], **single, **several)


_SINGLE, _SEVERAL = ("spearman", "relative_error", "pearson"), ("recall", "missed_mass")


def _interval_of(record: Mapping[str, Any]) -> Interval:
    return Interval(*(np.nan if record[end] is None else record[end] for end in ("value", "low", "high")))


def calibrate(
    estimate: Effects,
    exact: Effects,
    *,
    drawn: Bool[np.ndarray, "unit"],
    chance: Float[np.ndarray, "unit"] | None = None,
    recalls: Sequence[tuple[int, int]] = RECALLS,
    seed: int = 0,
) -> dict[str, Calibration]:
    """Compare an estimate with exact effects, subtask by subtask.

    Args:
        estimate: effects of all units, as attribution gives them.
        exact: measured effects of some or all units, on the same examples and folds, in the same loss.
        drawn: which units were drawn; all must have an exact effect.
        chance: with which each unit is among them, as in `Sample`; if not given, they were drawn uniformly, and the
            estimate's top is certain as far as it was measured.
        recalls: pairs (k, m) to give the recall for.
        seed: of the resampling.

    Raises:
        ValueError: if the two do not fit each other, or fewer than 8 units were drawn.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> estimate, exact = sk.attribution_effects(experiment), sk.ablation_effects(experiment)
        >>> drawn = sk.masks.sample(experiment.units, 12, seed=0)
        >>> list(sk.calibrate(estimate, exact, drawn=drawn))
        ['parity_0', 'parity_1']
    """
    for pair in recalls:
        for number in pair:
            whole("recalls", number)
    a_seed("seed", seed)
    about, other = ((e.subtasks, e.units, e.made.get("tokens"), e.unit) for e in (estimate, exact))
    if about != other:
        raise WrongValue(
            f"`estimate` (in {estimate.unit}) and `exact` (in {exact.unit}) are not about the same subtasks, units, "
            "tokens and loss; measure both on one experiment"
        )
    if drawn.sum() < 8 or not exact.measured[drawn].all():
        raise WrongValue(
            f"`drawn` has {int(drawn.sum())} units, {int((drawn & ~exact.measured).sum())} of them without an exact "
            "effect; measure at least 8 random units exactly"
        )
    if chance is not None and not (chance[drawn] > 0).all():
        raise WrongValue("`chance` is 0 for units that were drawn; pass the chances that they were drawn with")
    found = {}
    for subtask in estimate.subtasks:
        drawing = Drawing.of(estimate.of(subtask), exact.of(subtask), drawn, chance)
        found[subtask] = _calibration(drawing, recalls, int(exact.measured.sum()), seed)
    return found


def _calibration(drawing: Drawing, recalls: Sequence[tuple[int, int]], measured: int, seed: int) -> Calibration:
    recall, missed = {}, {}
    for k, m in recalls:
        if m <= drawing.certain and k <= len(drawing.guess):
            recall[f"{k} in {m}"] = drawing.recall(k, m)
            missed[str(m)] = drawing.missed(m)
    random = int((drawing.weight > 1 + 1e-9).sum())
    return Calibration(
        random or len(drawing.places),
        measured,
        drawing.spearman(seed),
        drawing.relative_error(),
        drawing.pearson(),
        recall,
        missed,
    )
