"""Score units again after some are gone: their effects on the model that is left."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from skilloc.ablation import ablation_effects
from skilloc.effects import Effects
from skilloc.intervene import Reference, as_reference
from skilloc.masks import Mask
from skilloc.models.weights import units_of
from skilloc.pruning.choosing import Scorer
from skilloc.pruning.smaller import prune, remaining
from skilloc.tasks import Examples
from skilloc.units import Units, kind_of


def effects_again(
    model: Any,
    batches: Mapping[str, Examples],
    units: Units,
    *,
    measure: Callable[..., Effects] = ablation_effects,
    reference: Reference | Float[np.ndarray, "unit"] | None = None,
    magnitudes: bool = False,
    folds: int = 1,
) -> Scorer:
    """Return a function that scores the units which a mask keeps by their effects on the pruned model.

    score[u] = mean over the subtasks of `batches` of the effect of u (or its magnitude), with all dropped units at
    their reference.

    Args:
        model: a bridge or an `MLP` in evaluation mode; it is left as it was.
        batches: the subtasks that units are to be kept for.
        units: all units of some kinds (`units_of(model, kinds=...)`).
        measure: `ablation_effects`, `attribution_effects`, or one of them with settings (`functools.partial`).
        reference: what dropped units are held at, the same for all examples; zero if not given.
        magnitudes: take the magnitude of each effect, as the paper does.
        folds: disjoint parts of each batch.

    Raises:
        ValueError: if the parts do not belong together, or the model cannot be pruned at this reference.
    """
    held = as_reference(reference, units)

    def score(mask: Mask) -> Float[np.ndarray, "unit"]:
        if mask.keep.all():
            smaller, left, now = model, mask.keep, held
        else:
            smaller, left = prune(model, mask, reference=held), remaining(model, mask)
            now = _of_left(held, units, left)
        own = units_of(smaller, kinds=set(units.kinds))
        effects = measure(smaller, batches, own, reference=now, folds=folds)
        values = np.stack([effects.mean(name) for name in effects.subtasks])
        scores = np.full(len(units), np.nan)
        scores[left] = (np.abs(values) if magnitudes else values).mean(axis=0)
        return scores

    return score


def _of_left(held: Reference, units: Units, left: Bool[np.ndarray, "unit"]) -> Reference:
    """Return the reference of the units that are left."""

    def part(hook: str, value: torch.Tensor) -> torch.Tensor:
        if value.ndim == 0:
            return value
        places = torch.from_numpy(np.flatnonzero(left[units.span(hook)])).to(value.device)
        return value.index_select(value.ndim - (2 if kind_of(hook) == "head" else 1), places)

    return Reference(held.name, {hook: part(hook, held.values[hook]) for hook in units.hooks}, held.made)
