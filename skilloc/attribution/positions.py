"""Effects by position, estimated: activation x gradient at each position by itself, without curvature.

Over all places they add up to the effects of `attribution_effects` without curvature; `ablation.positions` measures.
"""

from collections.abc import Sequence

import torch

from skilloc.attribution import slopes_by_position
from skilloc.effects.positions import PositionEffects
from skilloc.experiment import Experiment


def position_estimates(experiment: Experiment, *, names: Sequence[str] = ()) -> PositionEffects:
    """Estimate the effect of every unit at each position by itself.

    Args:
        experiment: what is measured on what; its `at` says which positions count.
        names: names that the examples give to positions; every place of a row if not given.

    Raises:
        ValueError: if the examples have no positions, or not these names, or the loss has no gradient to estimate by.

    Example:
        >>> import skilloc as sk
        >>> from skilloc.attribution.positions import position_estimates
        >>> opened = sk.open_model("embedded")
        >>> subtasks = sk.subtasks_of(opened, {"python": "python"}, length=16)
        >>> experiment = sk.Experiment(opened.model, subtasks, kinds=("head",), count=8)
        >>> position_estimates(experiment).values.shape  # fold subtask position unit
        (8, 1, 16, 24)
    """
    masks, parts = experiment.positions(names), []
    for block in experiment.blocks:
        slopes, rows = slopes_by_position(experiment, block), experiment.rows_of(block)
        by_name = [(slopes * mask[rows][..., None]).sum(dim=1) for mask in masks.values()]
        examples, _ = experiment.part(block)
        parts.append(examples.per_example(torch.stack(by_name, dim=1)))
    values, made = experiment.folded.mean(torch.cat(parts).cpu().numpy()), {"method": "attribution"}
    subtasks, unit = experiment.folded.subtasks, experiment.metric.unit
    return PositionEffects(values, tuple(masks), subtasks, experiment.units, unit, {**made, **experiment.record()})
