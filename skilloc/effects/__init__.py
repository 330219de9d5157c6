"""The labelled effects: what a model loses when it loses a unit.

    effect[fold, subtask, unit] = mean over the fold's examples of (loss without the unit - loss with it)

in the unit of the loss that was asked about (nats, logits, a share). Positive means that the subtask needs the unit.
Effects are stored signed and per fold, never as a magnitude, so that every later number can have an error bar. A unit
that was not measured is NaN. Everything from here on is numpy.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from skilloc.locality.intervals import t_quantile
from skilloc.mistakes import NotInstalled, WrongValue
from skilloc.units import Units

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
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

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> effects = sk.ablation_effects(experiment)
        >>> effects.subtasks, effects.mean("parity_0").shape  # the mean over folds, per unit
        (('parity_0', 'parity_1'), (16,))
        >>> len(effects.to_frame())
        32
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
            raise WrongValue(
                f"`values` {self.values.shape}, `baseline` {self.baseline.shape} and `exact` {self.exact.shape} do not "
                f"fit {len(self.subtasks)} subtasks and {len(self.units)} units; the axes are fold, subtask, unit"
            )
        if len(set(self.subtasks)) != len(self.subtasks):
            raise WrongValue(f"`subtasks` is {self.subtasks}; name each subtask once")

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
            raise WrongValue(f'unknown subtask "{subtask}"; these effects have {", ".join(self.subtasks)}')
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
            raise WrongValue(
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

    def __repr__(self) -> str:
        about = f"{int(self.measured.sum()):,} of {len(self.units):,} units on {', '.join(self.subtasks)}"
        return f"Effects({about}; {len(self.values)} folds, in {self.unit})"

    def _repr_html_(self) -> str:
        """Return the units with the largest effects as a table, for notebooks."""
        frame = self.to_frame()
        largest = frame.reindex(frame["effect"].abs().sort_values(ascending=False, kind="stable").index)
        shown: str = largest.groupby("subtask", sort=False).head(5).to_html(index=False, float_format="{:.4g}".format)
        return f"<p>{html.escape(repr(self))}; the five largest of each:</p>{shown}"

    def to_frame(self) -> "pandas.DataFrame":
        """Return a row per measured unit and subtask: subtask, unit, kind, layer, effect, low, high, exact.

        `effect` is the mean over folds and `low` to `high` its 95 % interval (NaN below 2 folds), in the unit of the
        loss.
        """
        import pandas

        folds, measured = len(self.values), self.measured
        mean = self.values.mean(axis=0)
        half = np.full_like(mean, np.nan)
        if folds > 1:
            half = float(t_quantile(folds - 1)) * self.values.std(axis=0, ddof=1) / np.sqrt(folds)
        parts = []
        for s, subtask in enumerate(self.subtasks):
            columns = {
                "unit": np.array(self.units.names),
                "kind": np.array(self.units.kinds),
                "layer": self.units.layers,
                "effect": mean[s],
                "low": mean[s] - half[s],
                "high": mean[s] + half[s],
                "exact": self.exact,
            }
            parts.append(
                pandas.DataFrame({"subtask": subtask, **{name: column[measured] for name, column in columns.items()}})
            )
        return pandas.concat(parts, ignore_index=True)

    def to_xarray(self) -> Any:
        """Return the effects as an xarray.Dataset of `effect` and `baseline`, with subtasks and units as labels.

        Raises:
            ModuleNotFoundError: if xarray is not installed.
        """
        if find_spec("xarray") is None:
            raise NotInstalled("`to_xarray` needs the xarray package; pip install xarray", name="xarray")
        xarray: Any = import_module("xarray")
        return xarray.Dataset(
            {
                "effect": (("fold", "subtask", "unit"), self.values),
                "baseline": (("fold", "subtask"), self.baseline),
                "exact": (("unit",), self.exact),
            },
            coords={
                "subtask": list(self.subtasks),
                "unit": list(self.units.names),
                "kind": ("unit", list(self.units.kinds)),
                "layer": ("unit", self.units.layers),
            },
            attrs={"loss unit": self.unit},
        )

    def metrics(self) -> dict[str, Any]:
        """Return what a table over many results shows of these. JSON only."""
        return {
            "measured": int(self.measured.sum()),
            "exact": int((self.exact & self.measured).sum()),
            "baseline": dict(zip(self.subtasks, self.baseline.mean(axis=0).tolist(), strict=True)),
        }
