"""Loss and accuracy against number of kept units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int
from tqdm import tqdm

from skilloc import store
from skilloc.ablation import check_masks
from skilloc.experiment import Experiment
from skilloc.masks import Mask, matched_random
from skilloc.pruning.choosing import Scorer, masks_of
from skilloc.pruning.scored import scored
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
        kept: number of kept units, on `count`.
        masks: which units are kept, on `count unit`.
        units: the unit axis.
        subtasks: names on the subtask axis.
        made: what made it. JSON only.
        unit: of the loss: "nats", "logits", "share" or a user's own.
    """

    losses: Float64[np.ndarray, "count fold subtask"]
    accuracies: Float64[np.ndarray, "count fold subtask"]
    random_losses: Float64[np.ndarray, "draw count fold subtask"]
    random_accuracies: Float64[np.ndarray, "draw count fold subtask"]
    baseline: Float64[np.ndarray, "fold subtask"]
    kept: Int[np.ndarray, " count"]
    masks: tuple[Mask, ...]
    units: Units
    subtasks: tuple[str, ...]
    made: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "nats"

    def save(self, folder: Path | str) -> None:
        """Write to a result folder (see `skilloc.store`)."""
        names = {"subtask": list(self.subtasks)}
        dims = ("count", "fold", "subtask")
        arrays = {
            "losses": store.Labelled(self.losses, dims, names),
            "accuracies": store.Labelled(self.accuracies, dims, names),
            "random_losses": store.Labelled(self.random_losses, ("draw", *dims), names),
            "random_accuracies": store.Labelled(self.random_accuracies, ("draw", *dims), names),
            "baseline": store.Labelled(self.baseline, dims[1:], names),
            "masks": store.Labelled(np.stack([mask.keep for mask in self.masks]), ("count", "unit"), {}),
        }
        spec = {"what": "pruning curve", "units": self.units.record(), "subtasks": list(self.subtasks)}
        spec["unit"] = self.unit
        store.write(Path(folder), {**spec, "made": dict(self.made)}, {}, arrays)

    @staticmethod
    def load(folder: Path | str) -> "Curve":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no result.
            ValueError: if it was cut or altered, or is not a pruning curve.
        """
        result = store.read(Path(folder))
        if result.spec.get("what") != "pruning curve":
            raise ValueError(
                f"`folder` {folder} holds a result of kind {result.spec.get('what')!r}, not a pruning curve; pass the "
                "`curve` in a folder that `skilloc prune` wrote"
            )
        arrays = {name: array.values for name, array in result.arrays.items()}
        units, keep = Units.from_record(result.spec["units"]), arrays.pop("masks")
        masks = tuple(Mask(units, kept) for kept in keep)
        return Curve(
            **arrays,
            kept=keep.sum(axis=1),
            masks=masks,
            units=units,
            subtasks=tuple(result.spec["subtasks"]),
            made=result.spec["made"],
            unit=result.spec.get("unit", "nats"),
        )


def pruning_curve(
    experiment: Experiment,
    scores: Float[np.ndarray, "unit"] | Scorer,
    counts: Sequence[int],
    *,
    per_layer: bool = False,
    every: int | None = None,
    draws: int = 5,
    seed: int = 0,
) -> Curve:
    """Measure every subtask with only the best units kept, for several numbers of them, beside random masks.

    Scores from the same examples as the experiment's flatter the curve: choose on another split.

    Args:
        experiment: what is measured on what; dropped units are held at its reference, where it holds units.
        scores: what units are kept by; `effects_again` makes a function that scores again (see `masks_of`).
        counts: numbers of units to keep.
        per_layer: keep the same share in every bank.
        every: most units to drop between two scorings, where `scores` is a function.
        draws: number of random masks beside each, with as many units in every bank; 0 for none.
        seed: of the random masks.

    Raises:
        ValueError: if the scores do not fit the units, or a count is out of range.
    """
    masks = masks_of(experiment.units, scores, counts, per_layer=per_layer, every=every)
    return mask_curve(experiment, masks, draws=draws, seed=seed)


def mask_curve(experiment: Experiment, masks: Sequence[Mask], *, draws: int = 5, seed: int = 0) -> Curve:
    """Measure every subtask under each of some masks, beside random ones; see `pruning_curve`.

    Dropped units are held at their reference, which computes what the pruned model computes.

    Raises:
        ValueError: if there are no masks, or one is not about the experiment's units.
    """
    if not masks:
        raise ValueError("`masks` is empty; pass at least one")
    check_masks(experiment, masks)
    baseline, folded = experiment.baseline, experiment.folded
    random = [[matched_random(mask, seed=seed * draws + d) for mask in masks] for d in range(draws)]
    every_mask = [*masks, *(mask for row in random for mask in row)]
    found = [scored(experiment, mask) for mask in tqdm(every_mask, desc="pruning", disable=None)]
    values = np.stack(found).reshape(1 + draws, len(masks), 2, folded.folds, len(folded.subtasks))
    return Curve(
        losses=values[0, :, 0],
        accuracies=values[0, :, 1],
        random_losses=values[1:, :, 0],
        random_accuracies=values[1:, :, 1],
        baseline=baseline,
        kept=np.array([mask.keep.sum() for mask in masks]),
        masks=tuple(masks),
        units=experiment.units,
        subtasks=folded.subtasks,
        made={"method": "pruning curve", "draws": draws, "seed": seed, **experiment.record()},
        unit=experiment.metric.unit,
    )
