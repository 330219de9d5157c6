"""Two models, or two checkpoints of one, on the same examples: what differs, with intervals paired over folds.

    difference[f, s, u] = effect in the second model - effect in the first,    on fold f of subtask s

Both were measured on the same examples, so that what makes a fold hard is the same in both, and an interval of the
difference is narrower than those of the two. Scores of locality are no means over folds; their differences have
jackknife intervals: each score is made again, for both models, with one fold left out of both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import networkx as nx
import numpy as np
from jaxtyping import Float

from skilloc import locality
from skilloc.circuits import graph as g
from skilloc.circuits.overlap import overlap
from skilloc.effects import Effects
from skilloc.locality.intervals import Interval, t_quantile
from skilloc.locality.uncertainty import grouped, mean_over_folds, standard_error
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue, of_kind, whole
from skilloc.units import Units

ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Comparison:
    """What differs between two models: the second minus the first.

    Attributes:
        values: differences of effects; NaN where not both measured a unit, and everywhere if their units differ.
        baseline: differences of the losses of the untouched models.
        scores: differences of locality scores, with 95 % intervals; NaN where they cannot be told.
        firsts: the scores of the first model, and
        seconds: those of the second.
        circuits: of the circuits of each traced subtask, units in both / units in either, and the range of 95 % of
            random circuits of their sizes.
        carried: differences of the effects of the units that are in either circuit, added up.
        traced: subtasks whose circuits were compared.
        only: names of the units of each traced subtask's circuit in the first model only, and in the second only.
        subtasks: names.
        names: of the scores.
        models: names of the two.
        units: the unit axis of the first model.
        unit: of the loss.
        made: what made both. JSON only.
    """

    WHAT: ClassVar[str] = "comparison"
    LABELS: ClassVar[Mapping[str, str]] = {"end": "ENDS", "score": "names", "circuit": "traced"}
    ENDS: ClassVar[tuple[str, ...]] = ENDS

    values: Float[np.ndarray, "fold subtask unit"]
    baseline: Float[np.ndarray, "fold subtask"]
    scores: Float[np.ndarray, "end subtask score"]
    firsts: Float[np.ndarray, "subtask score"]
    seconds: Float[np.ndarray, "subtask score"]
    circuits: Float[np.ndarray, "end circuit"]
    carried: Float[np.ndarray, "fold circuit"]
    traced: tuple[str, ...]
    only: tuple[tuple[tuple[str, ...], ...], ...]
    subtasks: tuple[str, ...]
    names: tuple[str, ...]
    models: tuple[str, ...]
    units: Units
    unit: str = "nats"
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def same_units(self) -> bool:
        """Whether single units can be compared."""
        return bool(np.isfinite(self.values).any())

    def effects(self, subtask: str) -> Interval:
        """Return the differences of the effects on one subtask, per unit, with intervals paired over folds."""
        return mean_over_folds(self.values[:, self.subtasks.index(subtask)])

    def losses(self) -> Interval:
        """Return the differences of the losses, per subtask, with intervals paired over folds."""
        return mean_over_folds(self.baseline)

    def score(self, subtask: str, name: str) -> Interval:
        """Return the difference of one locality score."""
        value, low, high = self.scores[:, self.subtasks.index(subtask), self.names.index(name)].tolist()
        return Interval(value, low, high, 0.0)


def compare(
    effects_a: Effects,
    effects_b: Effects,
    *,
    circuits: tuple[Mapping[str, nx.DiGraph], Mapping[str, nx.DiGraph]] = ({}, {}),
    top: int = 10,
) -> Comparison:
    """Return what differs between two models that were measured on the same examples.

    Args:
        effects_a: of the first model.
        effects_b: of the second, on the same examples and folds, in the same loss and with the same reference. Of the
            same units, those that were measured in both are compared.
        circuits: of both, by subtask; those that both have are compared.
        top: number of units that count as a subtask's top.

    Raises:
        TypeError: if one is no `Effects`.
        ValueError: if the two are not about the same subtasks, examples, folds, loss, positions and reference, there
            are fewer than 3 folds, no unit was measured in both, or `top` is not smaller than their number.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> models = [sk.MLP(6, 2, width=8, depth=3, seed=seed) for seed in (0, 1)]
        >>> first, second = (sk.ablation_effects(sk.Experiment(model, subtasks, count=64)) for model in models)
        >>> sk.compare(first, second).losses().value.shape
        (2,)
    """
    for name, one in (("effects_a", effects_a), ("effects_b", effects_b)):
        of_kind(name, one, Effects, 'pass effects, such as store.load(Effects, "DIR/effects") reads them')
    whole("top", top)
    _check(effects_a, effects_b)
    same = effects_a.units == effects_b.units
    if same:
        effects_a, effects_b = _in_both(effects_a, effects_b)
    least = min(int(one.measured.sum()) for one in (effects_a, effects_b))
    if top >= least:
        raise WrongValue(f"`top` is {top}, but {least} units were measured; compare fewer than all of them")
    values = effects_b.values - effects_a.values if same else np.full_like(effects_a.values, np.nan)
    found = [_scores(effects, top) for effects in (effects_a, effects_b)]
    difference = found[1][0] - found[0][0]
    folds = len(found[0][1])
    half = t_quantile(max(folds - 1, 1)) * standard_error(found[1][1] - found[0][1]) if folds else np.nan * difference
    difference = np.where(np.isfinite(half), difference, np.nan)
    traced = [name for name in effects_a.subtasks if all(name in one for one in circuits)] if same else []
    shared, carried, only = [], [], []
    for name in traced:
        masks = [Mask(effects_a.units, effects_a.units.named(g.units_in(one[name]))) for one in circuits]
        both = overlap({"first": masks[0], "second": masks[1]})
        shared.append([both.jaccard[0, 1], both.chance_low[0, 1], both.chance_high[0, 1]])
        either = (masks[0].keep | masks[1].keep) & np.isfinite(values).all(axis=(0, 1))
        carried.append(values[:, effects_a.subtasks.index(name), either].sum(axis=-1))
        lists = [set(g.units_in(one[name])) for one in circuits]
        only.append((tuple(sorted(lists[0] - lists[1])), tuple(sorted(lists[1] - lists[0]))))
    return Comparison(
        values=values,
        baseline=effects_b.baseline - effects_a.baseline,
        scores=np.stack([difference, difference - half, difference + half]),
        firsts=found[0][0],
        seconds=found[1][0],
        circuits=np.array(shared, dtype=float).reshape(-1, len(ENDS)).T,
        carried=np.array(carried, dtype=float).reshape(-1, len(values)).T,
        traced=tuple(traced),
        only=tuple(only),
        subtasks=effects_a.subtasks,
        names=locality.NAMES,
        models=tuple(str(one.made.get("name", one.made.get("model"))) for one in (effects_a, effects_b)),
        units=effects_a.units,
        unit=effects_a.unit,
        made={"first": dict(effects_a.made), "second": dict(effects_b.made), "top": top},
    )


def _scores(
    effects: Effects, top: int
) -> tuple[Float[np.ndarray, "subtask score"], Float[np.ndarray, "fold subtask score"]]:
    """Return the scores of all subtasks, and the same with each fold left out; none of these below 4 folds."""
    table = grouped(effects.values)

    def scored(values: Float[np.ndarray, "fold subtask unit"]) -> np.ndarray:
        found = locality.table(values, effects.subtasks, top=top)
        return np.array([[row[name].value for name in locality.NAMES] for row in found.values()], dtype=float)

    left_out = [scored(np.delete(table, fold, axis=0)) for fold in range(len(table))] if len(table) > 3 else []
    shape = (len(left_out), len(effects.subtasks), len(locality.NAMES))
    return scored(table), np.array(left_out, dtype=float).reshape(shape)


def _in_both(first: Effects, second: Effects) -> tuple[Effects, Effects]:
    """Return effects of the units that were measured in both: sums over others would differ by what was measured."""
    both = first.measured & second.measured
    if not both.any():
        raise WrongValue(
            "`effects_a` and `effects_b` have no unit that was measured in both; measure the same units in each"
        )
    left, right = (replace(one, values=np.where(both, one.values, np.nan)) for one in (first, second))
    return left, right


def _check(first: Effects, second: Effects) -> None:
    """Refuse what was not measured alike, naming what differs."""
    asked = {
        "subtasks": (first.subtasks, second.subtasks),
        "numbers of folds": (len(first.values), len(second.values)),
        "units of the loss": (first.unit, second.unit),
        "losses": tuple(one.made.get("loss", {}).get("name") for one in (first, second)),
        "positions": tuple(one.made.get("at", "all") for one in (first, second)),
        "references": tuple(one.made.get("reference", {}).get("name") for one in (first, second)),
    }
    for what, (one, other) in asked.items():
        if one != other:
            raise WrongValue(
                f"`effects_a` and `effects_b` have different {what}, {one} and {other}; measure both alike, with the "
                "same command but for the model"
            )
    tokens = [one.made.get("tokens") for one in (first, second)]
    if not tokens[0] or tokens[0] != tokens[1]:
        raise WrongValue(
            f"`effects_a` and `effects_b` are not on the same examples (digests {tokens[0]} and {tokens[1]}); measure "
            "both on the same texts with the same tokenizer, length, split and seed"
        )
