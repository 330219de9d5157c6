"""Effects by position: what the loss becomes when a unit is held at one position only.

    effect[f, s, p, u] = mean over the examples of fold f of subtask s of (loss with u held at p - loss)

A position is a place in the row, or one of the names that the examples give to positions (subject, last, ...). Exact
effects cost as many runs as there are positions; attribution gives all of them for the price of one, and its effects
over all places add up to those of `attribution_effects` without curvature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skilloc.ablation import ablation_effects
from skilloc.attribution import slopes_by_position
from skilloc.experiment import Experiment
from skilloc.mistakes import WrongValue
from skilloc.store.progress import progress
from skilloc.units import Units


@dataclass(frozen=True)
class PositionEffects:
    """Effects of units, by position.

    Attributes:
        values: in the unit of the loss, on `fold subtask position unit`; NaN where a unit was not measured.
        positions: names on the position axis: "0", "1", ..., or names that the examples give.
        subtasks: names on the subtask axis.
        units: the unit axis.
        unit: of the loss.
        made: what made the effects. JSON only.
    """

    WHAT: ClassVar[str] = "position effects"

    values: Float[np.ndarray, "fold subtask position unit"]
    positions: tuple[str, ...]
    subtasks: tuple[str, ...]
    units: Units
    unit: str = "nats"
    made: Mapping[str, Any] = field(default_factory=dict)

    def mean(self, subtask: str) -> Float[np.ndarray, "position unit"]:
        """Return the effects on one subtask: the mean over folds.

        Raises:
            ValueError: if there is no such subtask.
        """
        if subtask not in self.subtasks:
            raise WrongValue(f'unknown subtask "{subtask}"; these effects have {", ".join(self.subtasks)}')
        found: np.ndarray = self.values[:, self.subtasks.index(subtask)].mean(axis=0)
        return found


def position_effects(
    experiment: Experiment,
    *,
    names: Sequence[str] = (),
    select: Bool[np.ndarray, " unit"] | None = None,
    exact: bool = True,
) -> PositionEffects:
    """Measure, or estimate, the effect of units at each position by itself.

    Args:
        experiment: what is measured on what; its `at` says which positions count.
        names: names that the examples give to positions; every place of a row if not given.
        select: which units; all if not given. The others are NaN.
        exact: by ablation; else by activation x gradient, without curvature.

    Raises:
        ValueError: if the examples have no positions, or not these names, or the loss has no gradient to estimate by.

    Example:
        >>> import skilloc as sk
        >>> from skilloc.positions import position_effects
        >>> opened = sk.open_model("embedded")
        >>> subtasks = sk.subtasks_of(opened, {"python": "python"}, length=16)
        >>> experiment = sk.Experiment(opened.model, subtasks, kinds=("head",), count=8)
        >>> found = position_effects(experiment, exact=False)
        >>> found.values.shape  # fold subtask position unit
        (8, 1, 16, 24)
    """
    masks = _masks(experiment, names)
    if exact:
        parts = []
        for mask in progress(masks.values(), "ablating, by position", total=len(masks)):
            held = replace(experiment, at=mask, reference=experiment.held)
            parts.append(ablation_effects(held, select=select).values)
        values = np.stack(parts, axis=2)
    else:
        values = _estimated(experiment, masks, select)
    made = {"method": "ablation" if exact else "attribution", **experiment.record()}
    return PositionEffects(
        values, tuple(masks), experiment.folded.subtasks, experiment.units, experiment.metric.unit, made
    )


def _masks(experiment: Experiment, names: Sequence[str]) -> dict[str, Bool[Tensor, "row pos"]]:
    """Return where each position is, within the positions of the experiment."""
    examples = experiment.folded.examples
    if examples.tokens is None and examples.targets.ndim == 1:
        raise WrongValue("these examples have no positions; measure them with ablation_effects")
    shape = examples.targets.shape if examples.tokens is None else examples.tokens.shape
    whole = torch.ones(shape, dtype=torch.bool, device=experiment.device)
    every = whole if experiment.where is None else experiment.where
    if names:
        found = {}
        for name in names:
            where = replace(experiment, at=name).where
            assert where is not None
            found[name] = where & every
        return found
    places = torch.arange(shape[1], device=experiment.device)
    return {str(p): (places == p) & every for p in range(shape[1])}


def _estimated(
    experiment: Experiment, masks: Mapping[str, Bool[Tensor, "row pos"]], select: Bool[np.ndarray, " unit"] | None
) -> Float[np.ndarray, "fold subtask position unit"]:
    parts = []
    for block in experiment.blocks:
        slopes, rows = slopes_by_position(experiment, block), experiment.rows_of(block)
        by_name = [(slopes * mask[rows][..., None]).sum(dim=1) for mask in masks.values()]
        examples, _ = experiment.part(block)
        parts.append(examples.per_example(torch.stack(by_name, dim=1)))
    values = experiment.folded.mean(torch.cat(parts).cpu().numpy())
    return values if select is None else np.where(select, values, np.nan)
