"""The labelled effects: what a model loses when it loses a unit.

    effect[fold, subtask, unit] = mean over the fold's examples of (loss without the unit - loss with it)

in the unit of the loss that was asked about (nats, logits, a share). Positive means that the subtask needs the unit.
Effects are stored signed and per fold, never as a magnitude, so that every later number can have an error bar. A unit
that was not measured is NaN. Everything from here on is numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from skilloc.units import Units


@dataclass(frozen=True)
class Effects:
    """Effects of units on subtasks, with what made them.

    Attributes:
        values: in the unit of the loss, on `fold subtask unit`; NaN where a unit was not measured.
        baseline: loss of the untouched model, on `fold subtask`.
        subtasks: names on the subtask axis.
        units: the unit axis.
        exact: True where the effect was measured by ablation, False where it is an estimate, on `unit`.
        made: what made the effects: method, reference, model, tokens, loss, versions. JSON only.
        unit: of the loss: "nats", "logits", "share" or a user's own.

    Raises:
        ValueError: if the parts do not belong together.
    """

    WHAT: ClassVar[str] = "effects"

    values: Float[np.ndarray, "fold subtask unit"]
    baseline: Float[np.ndarray, "fold subtask"]
    subtasks: tuple[str, ...]
    units: Units
    exact: Bool[np.ndarray, "unit"]
    made: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "nats"

    def __post_init__(self) -> None:
        folds = len(self.values)
        wanted = (folds, len(self.subtasks), len(self.units))
        if self.values.shape != wanted or self.baseline.shape != wanted[:2] or self.exact.shape != wanted[2:]:
            raise ValueError(
                f"`values` {self.values.shape}, `baseline` {self.baseline.shape} and `exact` {self.exact.shape} do not "
                f"fit {len(self.subtasks)} subtasks and {len(self.units)} units; the axes are fold, subtask, unit"
            )
        if len(set(self.subtasks)) != len(self.subtasks):
            raise ValueError(f"`subtasks` is {self.subtasks}; name each subtask once")

    @property
    def measured(self) -> Bool[np.ndarray, "unit"]:
        """True for units that have an effect on every fold and subtask."""
        measured: np.ndarray = np.isfinite(self.values).all(axis=(0, 1))
        return measured

    def of(self, subtask: str) -> Float[np.ndarray, "fold unit"]:
        """Return the effects on one subtask, per fold.

        Raises:
            ValueError: if there is no such subtask.
        """
        if subtask not in self.subtasks:
            raise ValueError(f'unknown subtask "{subtask}"; these effects have {", ".join(self.subtasks)}')
        return self.values[:, self.subtasks.index(subtask)]

    def mean(self, subtask: str) -> Float[np.ndarray, "unit"]:
        """Return the effects on one subtask: the mean over folds."""
        mean: np.ndarray = self.of(subtask).mean(axis=0)
        return mean

    def overlay(self, exact: "Effects") -> "Effects":
        """Return these effects with those that `exact` measured in their place.

        Raises:
            ValueError: if the two are not about the same subtasks, units and folds.
        """
        same = (
            all(getattr(self, name) == getattr(exact, name) for name in ("subtasks", "units", "unit"))
            and self.values.shape == exact.values.shape
        )
        if not same:
            raise ValueError(
                f"`exact` is about {exact.subtasks} in {len(exact.values)} folds and these effects about "
                f"{self.subtasks} in {len(self.values)}; measure both on the same batches, units and folds"
            )
        better = exact.measured
        return Effects(
            values=np.where(better, exact.values, self.values),
            baseline=self.baseline,
            subtasks=self.subtasks,
            units=self.units,
            exact=np.where(better, exact.exact, self.exact),
            made={**self.made, "overlay": dict(exact.made)},
            unit=self.unit,
        )

    def metrics(self) -> dict[str, Any]:
        """Return what a table over many results shows of these. JSON only."""
        return {
            "measured": int(self.measured.sum()),
            "exact": int((self.exact & self.measured).sum()),
            "baseline": dict(zip(self.subtasks, self.baseline.mean(axis=0).tolist(), strict=True)),
        }
