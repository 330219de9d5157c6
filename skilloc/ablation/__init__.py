"""Effects, measured exactly: what the loss becomes without a unit.

    effect[f, s, u] = mean over the examples of fold f of subtask s of (loss with u at its reference - loss)

Every unit is ablated alone, at all positions of the experiment at once. What makes it fast, and how each unit is
reached, is in `routes` for transformers and described modules, and in `dense` for chains of linear maps; this file
cuts the work into items, spreads them over threads, and remembers finished ones.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from skilloc.ablation.cost import FLOPS_PER_ITEM
from skilloc.ablation.dense import Layers, LayersProber, lay_layers
from skilloc.ablation.items import HERE, Elsewhere, Hands, Item, Job, Measure, measured_items
from skilloc.ablation.prober import Prober
from skilloc.ablation.routes import WHOLE, Trunk, lay_trunk
from skilloc.effects import Effects
from skilloc.experiment import Experiment, check_losses
from skilloc.experiment.threads import one_thread
from skilloc.masks import Mask, check_choice
from skilloc.mistakes import WrongValue, of_kind, real, whole
from skilloc.models.points import hooks_of_users
from skilloc.store.progress import progress
from skilloc.units import Bank

UNITS = ("fold", "subtask", "unit")
"""Axes of what is found of an item."""

MASKS = ("mask", "fold", "subtask")
"""The same of an item of masks."""

UNITS_PER_ITEM, NEURONS_PER_ITEM, MASKS_PER_ITEM = 16, 128, 8
"""At most: units of a transformer; of a chain of linear maps, whose neurons take milliseconds each; and masks."""


def ablation_effects(
    experiment: Experiment,
    *,
    select: Bool[np.ndarray, "unit"] | None = None,
    workers: int | Elsewhere = 1,
    resume: Path | None = None,
    seconds: float | None = None,
) -> Effects:
    """Measure the effect of every unit on every subtask by ablating it.

    effect[f, s, u] = mean over the examples e of fold f of subtask s of (loss[e] with u at its reference - loss[e]), in
    the loss's unit; positive = the subtask needs the unit.

    Args:
        experiment: what is measured on what.
        select: which units to measure; all if not given. The others are NaN.
        workers: number of threads, each of which runs its operations on one core; or what has items measured elsewhere
            and kept in `resume`.
        resume: a folder where finished items are kept, so that the same call goes on where it was stopped. Items of
            other models, tokens or settings that lie there are left alone.
        seconds: begin no item after this time. Units are measured in a random order then, and the rest are NaN.

    Raises:
        TypeError: if the selection is no array of booleans.
        ValueError: if the selection does not fit the units, the loss is not finite, or a result is to be resumed whose
            loss nothing can name.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> effects = sk.ablation_effects(experiment)
        >>> effects.values.shape  # fold subtask unit
        (8, 2, 16)
    """
    of_kind("experiment", experiment, Experiment, "pass Experiment(model, subtasks)")
    if isinstance(workers, int):
        whole("workers", workers)
    if seconds is not None:
        real("seconds", seconds, 0.0)
    units = experiment.units
    chosen = np.ones(len(units), dtype=bool) if select is None else select
    check_choice("select", chosen, units)
    if not chosen.any():
        raise WrongValue("`select` chooses no unit; select at least one")
    _check_named(experiment, resume)
    folded, made = experiment.folded, {"method": "ablation", **experiment.record()}
    with one_thread():
        trunk = _lay(experiment, banks=[bank for bank in units.banks if chosen[units.span(bank.name)].any()])
        baseline = folded.mean(trunk.base.cpu().numpy())
        check_losses(baseline, folded.subtasks)
        items = list(_items(trunk, chosen, made))
        values = np.full((folded.folds, len(folded.subtasks), len(units)), math.nan)
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        if isinstance(workers, int) and isinstance(trunk, Trunk) and WHOLE in trunk.routes.values():
            workers = 1  # hooks of one model are shared by its threads, so the slow route has to go alone
        hands = Hands(workers, resume, deadline, UNITS)
        job = Job("ablating", lambda: _measure(trunk))
        if isinstance(trunk, Trunk):
            job = job._replace(pace=trunk.pace, memory=trunk.memory)
        for item, found in measured_items(items, job, hands):
            span = units.span(item.spec["hook"])
            values[:, :, np.array(item.spec["positions"]) + span.start] = found
    exact = np.ones(len(units), dtype=bool)
    return Effects(values, baseline, folded.subtasks, units, exact, made, unit=experiment.metric.unit)


def _check_named(experiment: Experiment, resume: Path | None) -> None:
    if resume is not None and experiment.metric.identity is None:
        raise WrongValue(
            f'`resume` is "{resume}", but the loss "{experiment.metric.name}" has no name that a later run could '
            "compare; define it at the top level of a module that can be imported, or leave `resume` out"
        )


def unit_measure(experiment: Experiment) -> Measure:
    """Return what measures items of `ablation_effects` that another process has cut, and whose routes it has found."""
    return _measure(_lay(experiment, banks=()))


def _measure(trunk: Trunk | Layers) -> Measure:
    prober = Prober(trunk) if isinstance(trunk, Trunk) else LayersProber(trunk)

    def measure(item: Item) -> Float64[np.ndarray, "fold subtask unit"]:
        hook = item.spec["hook"]
        if isinstance(trunk, Trunk):
            trunk.routes[hook] = item.way
        per_example = prober.effects(hook, list(item.spec["positions"]))
        return trunk.experiment.folded.mean(per_example.cpu().numpy())

    return measure


def routes_of(experiment: Experiment) -> dict[str, str]:
    """Return how each bank of units would be measured: see `ablation.routes`; "dense" is that of `ablation.dense`."""
    laid = _lay(experiment)
    return laid.routes if isinstance(laid, Trunk) else dict.fromkeys(experiment.units.hooks, "dense")


def _lay(experiment: Experiment, *, banks: Sequence[Bank] | None = None) -> Trunk | Layers:
    chain = experiment.face.chain
    if chain is None or not set(experiment.units.hooks) <= set(chain.hooks) or hooks_of_users(experiment.model):
        return lay_trunk(experiment, banks=banks)
    return lay_layers(experiment, chain)


def _items(trunk: Trunk | Layers, chosen: np.ndarray, made: Mapping[str, Any]) -> Iterator[Item]:
    items = []
    for hook, part in trunk.experiment.units.split(chosen).items():
        if not part.any():
            continue
        positions, cost = np.flatnonzero(part).tolist(), trunk.cost(hook)
        way, size = "dense", NEURONS_PER_ITEM
        if isinstance(trunk, Trunk):
            way, size = trunk.routes[hook], trunk.sizes.per_item(cost, UNITS_PER_ITEM)
        for first in range(0, len(positions), size):
            some = positions[first : first + size]
            spec = {"what": "ablation item", "made": made, "hook": hook, "positions": some}
            items.append(Item(spec, cost * len(some), way))
    # In the order of their names, which is as good as random: what a time budget reaches is then a fair sample of the
    # units, and the progress bar's estimate holds from the start.
    yield from sorted(items, key=lambda item: item.key)


def mask_effects(
    experiment: Experiment, masks: Sequence[Mask] | Mask, hands: Hands = HERE
) -> tuple[Float64[np.ndarray, "mask fold subtask"], Float64[np.ndarray, "fold subtask"]]:
    """Measure what removing many units together does.

    effect[m, f, s] = mean over the examples of fold f of subtask s of (loss with the dropped units of mask m at their
    reference - loss), in the loss's unit.

    Args:
        experiment: what is measured on what.
        masks: which units are kept.
        hands: who measures, and where items are kept; one thread of this process if not given, since threads cannot
            share the hooks of one model.

    Returns:
        The effects, and the losses of the untouched model.

    Raises:
        ValueError: if a mask is not about the experiment's units, the loss is not finite, or items are to be kept of a
            loss that nothing can name.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> effects = sk.ablation_effects(experiment)
        >>> mask = sk.masks.drop_top(experiment.units, effects.mean("parity_0"), 3)
        >>> removed, baseline = sk.mask_effects(experiment, mask)
        >>> removed.shape, baseline.shape  # mask fold subtask, fold subtask
        ((1, 8, 2), (8, 2))
    """
    of_kind("experiment", experiment, Experiment, "pass Experiment(model, subtasks)")
    masks = [masks] if isinstance(masks, Mask) else masks
    experiment.check_masks(masks)
    if hands.resume is None:
        return _masked(experiment, progress(masks, "removing")), experiment.baseline
    _check_named(experiment, hands.resume)
    made, size, items = {"method": "masks", **experiment.record()}, _masks_per_item(experiment), []
    for first in range(0, len(masks), size):
        dropped = [np.flatnonzero(~mask.keep).tolist() for mask in masks[first : first + size]]
        items.append(Item({"what": "mask item", "made": made, "dropped": dropped}, float(len(dropped))))
    own = replace(hands, workers=1 if isinstance(hands.workers, int) else hands.workers, axes=MASKS)
    job, different = Job("removing", lambda: mask_measure(experiment)), {item.key: item for item in items}
    found = {item.key: array for item, array in measured_items(list(different.values()), job, own)}
    return np.concatenate([found[item.key] for item in items]), experiment.baseline


def mask_measure(experiment: Experiment) -> Measure:
    """Return what measures items of `mask_effects`."""

    def measure(item: Item) -> Float64[np.ndarray, "mask fold subtask"]:
        every = np.arange(len(experiment.units))
        return _masked(experiment, [Mask(experiment.units, ~np.isin(every, some)) for some in item.spec["dropped"]])

    return measure


def _masked(experiment: Experiment, masks: Iterable[Mask]) -> Float64[np.ndarray, "mask fold subtask"]:
    base = experiment.baseline
    return np.stack([experiment.folded.mean(experiment.losses(mask)) - base for mask in masks])


def _masks_per_item(experiment: Experiment) -> int:
    """Return how many passes over all tokens are one item, as `cost` does it for units."""
    examples = experiment.folded.examples
    weights = sum(parameter.numel() for parameter in experiment.model.parameters())
    return int(
        min(max(FLOPS_PER_ITEM // (2 * weights * len(examples.targets) * examples.positions), 1), MASKS_PER_ITEM)
    )
