"""What is checked at the door: that the parts of an experiment belong together, and that its model stays as it was."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

import numpy as np
from jaxtyping import Float64
from torch import nn

from skilloc.experiment.reference import REFERENCES, Reference
from skilloc.mistakes import WrongType, WrongValue, a_seed, of_kind, whole
from skilloc.models.makers import units_of
from skilloc.tasks import Examples, Split, Subtask
from skilloc.units import Units

if TYPE_CHECKING:
    from skilloc.experiment.door import Experiment


def check_parts(experiment: "Experiment") -> None:
    """Refuse an experiment whose parts do not belong together.

    Raises:
        ValueError: if so, naming the part.
        TypeError: if a part is of no type that is known.
    """
    whole("count", experiment.count)
    whole("folds", experiment.folds)
    a_seed("seed", experiment.seed)
    if experiment.entries is not None:
        whole("entries", experiment.entries)
    of_kind(
        "units", experiment.units, Units,
        "pass units_of(model); which of them are measured, `select` of ablation_effects says",
    )  # fmt: skip
    if not isinstance(experiment.subtasks, Mapping) or not experiment.subtasks:
        raise WrongValue("`subtasks` is empty or no mapping; pass at least one subtask by name")
    kinds = {type(own) for own in experiment.subtasks.values()}
    if not kinds <= {Subtask} and not kinds <= {Examples}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise WrongType(f"`subtasks` hold {names}; pass subtasks, or the examples of each, and not both")
    if isinstance(experiment.reference, str) and experiment.reference not in REFERENCES:
        raise WrongValue(
            f'unknown `reference` "{experiment.reference}"; use one of {", ".join(REFERENCES)}, or one value per unit'
        )
    if experiment.split not in get_args(Split):
        raise WrongValue(f'unknown split "{experiment.split}"; use one of {", ".join(get_args(Split))}')
    if not isinstance(experiment.reference, str | Reference | np.ndarray):
        raise WrongType(
            f"`reference` is a {type(experiment.reference).__name__}; use one of {', '.join(REFERENCES)}, an array "
            "with one value per unit, or a Reference"
        )
    if not set(experiment.units.banks) <= set(experiment.face.banks()):
        own = units_of(experiment.model, kinds=tuple(dict.fromkeys(experiment.units.kinds)))
        raise WrongValue(
            f"`units` are {len(experiment.units)} on {', '.join(experiment.units.hooks)} but `model` has {len(own)} on "
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
