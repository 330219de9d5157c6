"""Loss and accuracy against number of kept units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int

from skilloc.experiment import Experiment
from skilloc.masks import DRAWS, Mask, disjoint_draws, matched_random
from skilloc.mistakes import WrongValue, a_seed, of_kind, whole
from skilloc.pruning.scored import scored
from skilloc.store.progress import progress
from skilloc.units import Units


@dataclass(frozen=True)
class Curve:
    """Loss and accuracy of every subtask at several numbers of kept units, beside random masks.

    Attributes:
        losses: in the unit of the loss, on `count fold subtask`.
        accuracies: share of examples that are right, on the same axes; NaN where examples are sequences.
        random_losses: the same for random masks of equal size in every bank, on `draw count fold subtask`.
        random_accuracies: likewise.
        baseline: losses of the whole model, on `fold subtask`.
        keep: which units are kept, on `count unit`.
        units: the unit axis.
        subtasks: names on the subtask axis.
        made: what made it. JSON only.
        unit: of the loss: "nats", "logits", "share" or a user's own.
    """

    WHAT: ClassVar[str] = "pruning curve"

    losses: Float64[np.ndarray, "count fold subtask"]
    accuracies: Float64[np.ndarray, "count fold subtask"]
    random_losses: Float64[np.ndarray, "draw count fold subtask"]
    random_accuracies: Float64[np.ndarray, "draw count fold subtask"]
    baseline: Float64[np.ndarray, "fold subtask"]
    keep: Bool[np.ndarray, "count unit"]
    units: Units
    subtasks: tuple[str, ...]
    made: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "nats"

    @property
    def kept(self) -> Int[np.ndarray, " count"]:
        """Number of kept units."""
        found: np.ndarray = self.keep.sum(axis=1)
        return found

    @property
    def masks(self) -> tuple[Mask, ...]:
        """Which units are kept, by count."""
        return tuple(Mask(self.units, keep) for keep in self.keep)


def mask_curve(experiment: Experiment, masks: Sequence[Mask], *, draws: int = DRAWS, seed: int = 0) -> Curve:
    """Measure every subtask with only the units of each mask kept, beside random masks.

    Masks of several numbers of units come from `masks_of`. Those that were chosen on the examples of this experiment
    flatter the curve: choose on another split.

    Dropped units are held at their reference, which computes what the pruned model computes.

    Raises:
        ValueError: if there are no masks, or one is not about the experiment's units.
    """
    of_kind("experiment", experiment, Experiment, "pass Experiment(model, subtasks)")
    whole("draws", draws, 0)
    a_seed("seed", seed)
    if not masks:
        raise WrongValue("`masks` is empty; pass at least one")
    experiment.check_masks(masks)
    baseline, folded = experiment.baseline, experiment.folded
    random = [[matched_random(mask, seed=seed * draws + d) for mask in masks] for d in range(draws)]
    every_mask = [*masks, *(mask for row in random for mask in row)]
    found = [scored(experiment, mask) for mask in progress(every_mask, "pruning")]
    values = np.stack(found).reshape(1 + draws, len(masks), 2, folded.folds, len(folded.subtasks))
    return Curve(
        losses=values[0, :, 0],
        accuracies=values[0, :, 1],
        random_losses=values[1:, :, 0],
        random_accuracies=values[1:, :, 1],
        baseline=baseline,
        keep=np.stack([mask.keep for mask in masks]),
        units=experiment.units,
        subtasks=folded.subtasks,
        made={
            "method": "pruning curve",
            "draws": draws,
            "seed": seed,
            "disjoint": [disjoint_draws(mask) for mask in masks],
            **experiment.record(),
        },
        unit=experiment.metric.unit,
    )
