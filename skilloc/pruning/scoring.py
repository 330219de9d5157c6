"""Score units again after some are gone: their effects on the model that is left."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from skilloc.effects import Effects
from skilloc.experiment import Experiment, Reference
from skilloc.experiment.axes import chosen
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.language import digest
from skilloc.models.makers import face_of
from skilloc.pruning.choosing import Scorer
from skilloc.pruning.smaller import prune, remaining
from skilloc.tasks.losses import Loss
from skilloc.units import Bank, Units


def effects_again(
    experiment: Experiment, measure: Callable[[Experiment], Effects], *, magnitudes: bool = False
) -> Scorer:
    """Return a function that scores the units which a mask keeps by their effects on the pruned model.

    score[u] = mean over the subtasks of the effect of u on all examples (or its magnitude), with all dropped units at
    their reference. What the loss knows of an untouched model, it knows of the whole one.

    Args:
        experiment: the model, the subtasks that units are to be kept for, and all units of some kinds; its folds do
            not matter. The reference must be the same for all examples.
        measure: `ablation_effects`, `attribution_effects`, or one of them with settings (`functools.partial`).
        magnitudes: take the magnitude of each effect, as the paper does.

    Raises:
        ValueError: if the model cannot be pruned at this reference, or units are held at some positions only.
    """
    check_prunable(experiment)
    loss = loss_of_whole(experiment)

    def score(mask: Mask) -> Float[np.ndarray, "unit"]:
        experiment.check_masks([mask])
        units, held, left = experiment.units, experiment.held, mask.keep
        own = replace(experiment, subtasks=experiment.examples, reference=held, folds=1)
        if not mask.keep.all():
            left = remaining(experiment.model, mask)
            smaller = prune(experiment.model, mask, reference=held, examples=experiment.folded.examples)
            banks = Units(tuple(bank for bank in face_of(smaller).banks() if bank.name in units.hooks))
            own = replace(own, model=smaller, units=banks, reference=_of_left(held, units, left), loss=loss)
        effects = measure(own)
        values = np.stack([effects.mean(name) for name in effects.subtasks])
        scores = np.full(len(units), np.nan)
        scores[left] = (np.abs(values) if magnitudes else values).mean(axis=0)
        return scores

    return score


def check_prunable(experiment: Experiment) -> None:
    """Prune one unit of every bank, so that what cannot be cut out is refused now, and not in the middle of the work.

    Raises:
        ValueError: if units cannot be cut out at the experiment's reference, or are held at some positions only.
    """
    if experiment.where is not None:
        raise WrongValue(
            f'`at` is {experiment.at!r}, but what is cut out of a model is gone at every position; use at="all", or '
            "hold masks instead"
        )
    keep = np.ones(len(experiment.units), dtype=bool)
    keep[experiment.units.offsets[1:] - 1] = False
    mask = Mask(experiment.units, keep)
    prune(experiment.model, mask, reference=experiment.held, examples=experiment.folded.examples)


def loss_of_whole(experiment: Experiment) -> Loss:
    """Return the loss for models that were made of the experiment's: what it knows is of the whole one still."""
    metric, face = experiment.metric, experiment.face
    prepare, name = metric.prepare, metric.identity
    if prepare is None:
        return metric
    # At a smaller model, the divergence from the whole one has a gradient.
    return replace(
        metric,
        prepare=lambda _, examples: prepare(face.run(examples.inputs), examples),
        flat=False,
        identity=None if name is None else f"{name} from {digest(face.module)}",
    )


def _of_left(held: Reference, units: Units, left: Bool[np.ndarray, "unit"]) -> Reference:
    """Return the reference of the units that are left."""

    def part(bank: Bank, value: Tensor) -> Tensor:
        if bank.axis is None or value.ndim < -bank.axis:
            return value
        return chosen(value, bank, np.flatnonzero(left[units.span(bank.name)]).tolist())

    values = {hook: part(bank, held.values[hook]) for bank in units.banks for hook in bank.places}
    return Reference(held.name, values, held.made)
