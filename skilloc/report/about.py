"""Numbers of effects: what they are about, the units needed most, effects by rank, their noise."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from skilloc import locality
from skilloc.effects import Effects
from skilloc.effects.made import reference_name
from skilloc.locality.intervals import Interval, t_quantile
from skilloc.locality.uncertainty import mean_over_folds

PER_TOKEN = ("cross_entropy", "answer", "kl")
"""Losses that are means over tokens."""


@dataclass(frozen=True)
class About:
    """What effects are about.

    Attributes:
        model: its name.
        method: how effects were measured or estimated.
        reference: name of what ablated units are held at.
        loss: its name.
        unit: of the loss.
        at: positions where units are held.
        subtasks: names.
        folds: number of folds.
        units: number of units.
        measured: how many of them have an effect.
        exact: how many of those were measured by ablation.
        baseline: loss of the untouched model, by subtask.
        accuracy: its share of right answers, by subtask of prompts; none for running text.
    """

    model: str | None
    method: str | None
    reference: str | None
    loss: str
    unit: str
    at: str
    subtasks: tuple[str, ...]
    folds: int
    units: int
    measured: int
    exact: int
    baseline: dict[str, float]
    accuracy: dict[str, float]

    @property
    def per_what(self) -> str:
        """The unit of the loss, and per what it is a mean: `nats per token`, `logits`."""
        return f"{self.unit} per token" if self.loss in PER_TOKEN else self.unit

    @property
    def loss_words(self) -> str:
        """What was measured: `loss in nats per token`, or the loss's name in its unit."""
        called = "loss" if self.loss == "cross_entropy" else self.loss.replace("_", " ")
        return called if self.unit == self.loss else f"{called} in {self.per_what}"


class TopUnit(NamedTuple):
    """A unit that a subtask needs.

    Attributes:
        unit: its name.
        value: its effect, the mean over folds.
        low: lower end of the 95 % interval; NaN below 2 folds.
        high: upper end.
        exact: whether it was measured by ablation.
    """

    unit: str
    value: float
    low: float
    high: float
    exact: bool


def about(effects: Effects) -> About:
    """Return what effects are about."""
    made = effects.made
    return About(
        model=made.get("name", made.get("model")),
        method="two-stage" if "overlay" in made else made.get("method"),
        reference=reference_name(made),
        loss=made.get("loss", {}).get("name", "cross_entropy"),
        unit=effects.unit,
        at=made.get("at", "all"),
        subtasks=effects.subtasks,
        folds=len(effects.values),
        units=len(effects.units),
        measured=int(effects.measured.sum()),
        exact=int((effects.exact & effects.measured).sum()),
        baseline=dict(zip(effects.subtasks, effects.baseline.mean(axis=0).tolist(), strict=True)),
        accuracy=dict(made.get("accuracy", {})),
    )


def top_units(effects: Effects, *, n: int = 10) -> dict[str, tuple[TopUnit, ...]]:
    """Return the n units that each subtask needs most, with 95 % intervals over folds (NaN below 2 folds).

    From 3 folds on the intervals pay for the units' having been picked (`locality.picked`).
    """
    found, names = {}, effects.units.names
    for subtask in effects.subtasks:
        mean, low, high = over_folds(effects.of(subtask))[:3]
        order = np.argsort(-np.where(np.isfinite(mean), mean, -np.inf), kind="stable")
        order = order[: min(n, int(effects.measured.sum()))]
        if len(effects.values) > 2 and len(order):
            paid = locality.picked(effects.of(subtask), top=len(order))
            low[paid.units], high[paid.units] = paid.low, paid.high
        found[subtask] = tuple(
            TopUnit(names[u], float(mean[u]), float(low[u]), float(high[u]), bool(effects.exact[u])) for u in order
        )
    return found


def over_folds(values: Float[np.ndarray, "fold *axes"]) -> Interval:
    """Return means over folds with their 95 % intervals; below 2 folds there are none (NaN)."""
    if len(values) < 2:
        mean = values.mean(axis=0)
        return Interval(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    return mean_over_folds(values)


class Curves(NamedTuple):
    """Sorted effects, in the unit of the loss, at some ranks, with 95 % bands over folds."""

    ranks: Float[np.ndarray, "point"]
    value: Float[np.ndarray, "subtask point"]
    low: Float[np.ndarray, "subtask point"]
    high: Float[np.ndarray, "subtask point"]


def sorted_effects(effects: Effects) -> Curves:
    """Return effects by rank, where each half of the folds is ranked by the other half.

    So the curve shows no luck: where the order is all noise, it is 0. Points are means over ever wider ranges of ranks.
    """
    values = effects.values[:, :, effects.measured]
    folds, _, n = values.shape
    halves = (np.arange(0, folds, 2), np.arange(1, folds, 2)) if folds > 1 else (np.array([0]), np.array([0]))
    edges = np.unique(np.geomspace(1, n + 1, 25).astype(int))[:-1] - 1
    counts = np.diff(np.append(edges, n))
    parts = []
    for half, other in (halves, halves[::-1]):
        order = np.argsort(-values[other].mean(axis=0, keepdims=True), axis=-1, kind="stable")
        ordered = np.take_along_axis(values[half], order, axis=-1)
        parts.append(np.add.reduceat(ordered, edges, axis=-1) / counts)
    value = np.mean([part.mean(axis=0) for part in parts], axis=0)
    half_width = np.full_like(value, np.nan)
    if folds > 3:
        variances = [part.var(axis=0, ddof=1) / len(part) for part in parts]
        half_width = t_quantile(folds - 2) * np.sqrt(np.sum(variances, axis=0)) / 2
    ranks = np.sqrt((edges + 1) * (edges + counts)).astype(float)
    return Curves(ranks, value, value - half_width, value + half_width)


def noise_of(effects: Effects) -> Float[np.ndarray, "subtask"]:
    """Return, per subtask, the half-width of the 95 % interval of a typical (median) unit."""
    mean, _, high = over_folds(effects.values[:, :, effects.measured])[:3]
    return np.asarray(np.median(high - mean, axis=-1))
