"""What is checked at the door, of whatever type it is: that the parts of an experiment belong together, and that its
model stays as it was."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from jaxtyping import Float64
from torch import nn

from skilloc.experiment.reference import REFERENCES, Reference
from skilloc.mistakes import WrongType, WrongValue, a_seed, of_kind, whole
from skilloc.models.makers import face_of, units_of
from skilloc.tasks import Examples, Split, Subtask
from skilloc.units import Units


def check_numbers(count: int, folds: int, seed: int, entries: int | None) -> None:
    """Refuse numbers that are none, or out of their range.

    Raises:
        ValueError: if one is, naming it.
    """
    whole("count", count)
    whole("folds", folds)
    a_seed("seed", seed)
    if entries is not None:
        whole("entries", entries)


def check_subtasks(subtasks: object, split: object) -> None:
    """Refuse subtasks that are neither distributions nor examples, and a split that none has.

    Raises:
        ValueError: if there are none, or the split is unknown.
        TypeError: if they are of another type.
    """
    if not isinstance(subtasks, Mapping) or not subtasks:
        raise WrongValue("`subtasks` is empty or no mapping; pass at least one subtask by name")
    kinds = {type(own) for own in subtasks.values()}
    if not kinds <= {Subtask} and not kinds <= {Examples}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise WrongType(f"`subtasks` hold {names}; pass subtasks, or the examples of each, and not both")
    if split not in get_args(Split):
        raise WrongValue(f'unknown split "{split}"; use one of {", ".join(get_args(Split))}')


def check_reference(reference: object) -> None:
    """Refuse a reference that is none.

    Raises:
        ValueError: if its name is unknown.
        TypeError: if it is of another type.
    """
    if isinstance(reference, str) and reference not in REFERENCES:
        raise WrongValue(
            f'unknown `reference` "{reference}"; use one of {", ".join(REFERENCES)}, or one value per unit'
        )
    if not isinstance(reference, str | Reference | np.ndarray):
        raise WrongType(
            f"`reference` is a {type(reference).__name__}; use one of {', '.join(REFERENCES)}, an array "
            "with one value per unit, or a Reference"
        )


def check_units(units: Any, model: nn.Module) -> None:
    """Refuse units that a model does not have.

    Raises:
        ValueError: if so.
        TypeError: if they are of another type.
    """
    of_kind(
        "units", units, Units, "pass units_of(model); which of them are measured, `select` of ablation_effects says"
    )
    if not set(units.banks) <= set(face_of(model).banks()):
        own = units_of(model, kinds=tuple(dict.fromkeys(units.kinds)))
        raise WrongValue(
            f"`units` are {len(units)} on {', '.join(units.hooks)} but `model` has {len(own)} on "
            f"{', '.join(own.hooks)}; build them with units_of(model)"
        )


def fingerprint(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what changes when a weight is written to: where each lies, and how often it was written."""
    return tuple((parameter.data_ptr(), parameter._version) for parameter in model.parameters())


def check_losses(losses: Float64[np.ndarray, "fold subtask"], subtasks: tuple[str, ...]) -> None:
    """Refuse a model whose loss is not finite.

    Raises:
        ValueError: naming the subtask.
    """
    for s in np.flatnonzero(~np.isfinite(losses).all(axis=0)):
        raise WrongValue(
            f'`model` has loss {losses[:, s].mean()} on subtask "{subtasks[s]}"; look for NaN or infinite weights, or '
            "for what your loss makes of ordinary logits"
        )
