"""Effects, measured exactly: what the loss becomes without a unit.

    effect[f, s, u] = mean over the examples of fold f of subtask s of (loss with u at its reference - loss)

Every unit is ablated alone, at all positions of the experiment at once. What makes it fast, and how each unit is
reached, is in `routes` for transformers and described modules, and in `dense` for chains of linear maps; this file
cuts the work into items, spreads them over threads, and remembers finished ones.
"""

import math
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64

from skilloc import store
from skilloc.ablation.dense import Layers, LayersProber, lay_layers
from skilloc.ablation.routes import WHOLE, Prober, Trunk, lay_trunk
from skilloc.effects import Effects
from skilloc.experiment import Experiment, check_losses
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue, real, whole
from skilloc.models.points import hooks_of_users
from skilloc.store.progress import counter, progress

UNITS_PER_ITEM, NEURONS_PER_ITEM = 16, 128
"""Of a transformer, and of a chain of linear maps, whose neurons take milliseconds each."""


@dataclass(frozen=True)
class Item:
    """A piece of work: some units of one hook.

    Attributes:
        hook: where the units are.
        positions: which of the hook's units.
        cost: in blocks or layers run, for the progress bar.
        spec: what names its result: the whole measurement and the units.
    """

    hook: str
    positions: tuple[int, ...]
    cost: float
    spec: Mapping[str, Any]


def ablation_effects(
    experiment: Experiment,
    *,
    select: Bool[np.ndarray, "unit"] | None = None,
    workers: int = 1,
    resume: Path | None = None,
    seconds: float | None = None,
) -> Effects:
    """Measure the effect of every unit on every subtask by ablating it.

    effect[f, s, u] = mean over the examples e of fold f of subtask s of (loss[e] with u at its reference - loss[e]), in
    the loss's unit; positive = the subtask needs the unit.

    Args:
        experiment: what is measured on what.
        select: which units to measure; all if not given. The others are NaN.
        workers: number of threads; each runs its operations on one core.
        resume: a folder where finished items are kept, so that the same call goes on where it was stopped. Items of
            other models, tokens or settings that lie there are left alone.
        seconds: begin no item after this time. Units are measured in a random order then, and the rest are NaN.

    Raises:
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
    whole("workers", workers)
    if seconds is not None:
        real("seconds", seconds, 0.0)
    units, folded = experiment.units, experiment.folded
    chosen = np.ones(len(units), dtype=bool) if select is None else select
    if chosen.shape != (len(units),):
        raise WrongValue(
            f"`select` has shape {chosen.shape} but `units` has length {len(units)}; pass one value per unit"
        )
    if not chosen.any():
        raise WrongValue("`select` chooses no unit; select at least one")
    if resume is not None and experiment.metric.identity is None:
        raise WrongValue(
            f'`resume` is "{resume}", but the loss "{experiment.metric.name}" has no name that a later run could '
            "compare; define it at the top level of a module that can be imported, or leave `resume` out"
        )
    made = {"method": "ablation", **experiment.record()}
    with one_thread():
        trunk = _lay(experiment)
        baseline = folded.mean(trunk.base.cpu().numpy())
        check_losses(baseline, folded.subtasks)
        items = list(_items(trunk, chosen, made))
        values = np.full((folded.folds, len(folded.subtasks), len(units)), math.nan)
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        # Hooks of one model are shared by its threads, so the slow route has to go alone.
        workers = 1 if isinstance(trunk, Trunk) and WHOLE in trunk.routes.values() else workers
        for item, found in _run(trunk, items, workers, resume, deadline):
            span = units.span(item.hook)
            values[:, :, np.array(item.positions) + span.start] = found
    exact = np.ones(len(units), dtype=bool)
    return Effects(values, baseline, folded.subtasks, units, exact, made, unit=experiment.metric.unit)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run every operation on one core: work is spread over items, and a sum over threads depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def routes_of(experiment: Experiment) -> dict[str, str]:
    """Return how each bank of units would be measured: see `ablation.routes`; "dense" is that of `ablation.dense`."""
    laid = _lay(experiment)
    return laid.routes if isinstance(laid, Trunk) else dict.fromkeys(experiment.units.hooks, "dense")


def _lay(experiment: Experiment) -> Trunk | Layers:
    chain = experiment.face.chain
    if chain is None or not set(experiment.units.hooks) <= set(chain.hooks) or hooks_of_users(experiment.model):
        return lay_trunk(experiment)
    return lay_layers(experiment, chain)


def _items(trunk: Trunk | Layers, chosen: np.ndarray, made: Mapping[str, Any]) -> Iterator[Item]:
    items, size = [], UNITS_PER_ITEM if isinstance(trunk, Trunk) else NEURONS_PER_ITEM
    for hook, part in trunk.experiment.units.split(chosen).items():
        positions = np.flatnonzero(part).tolist()
        for first in range(0, len(positions), size):
            some = tuple(positions[first : first + size])
            spec = {"what": "ablation item", "made": made, "hook": hook, "positions": list(some)}
            items.append(Item(hook, some, trunk.cost(hook) * len(some), spec))
    # In the order of their names, which is as good as random: what a time budget reaches is then a fair sample of the
    # units, and the progress bar's estimate holds from the start.
    yield from sorted(items, key=lambda item: store.key(item.spec))


def _run(
    trunk: Trunk | Layers, items: Sequence[Item], workers: int, resume: Path | None, deadline: float
) -> Iterator[tuple[Item, Float64[np.ndarray, "fold subtask unit"]]]:
    """Yield each item with its effects, finished ones first."""
    left = []
    for item in items:
        found = None if resume is None else _recall(resume, item)
        if found is None:
            left.append(item)
        else:
            yield item, found
    own = threading.local()

    def measure(item: Item) -> np.ndarray | None:
        if time.monotonic() > deadline:
            return None
        if not hasattr(own, "prober"):
            torch.set_num_threads(1)
            own.prober = Prober(trunk) if isinstance(trunk, Trunk) else LayersProber(trunk)
        per_example = own.prober.effects(item.hook, list(item.positions))
        found = trunk.experiment.folded.mean(per_example.cpu().numpy())
        if resume is not None:
            arrays = {"effects": store.Labelled(found, ("fold", "subtask", "unit"), {})}
            store.write(resume / store.key(item.spec), item.spec, {}, arrays)
        return found

    total = sum(item.cost for item in items)
    with counter(total, "ablating", initial=total - sum(item.cost for item in left)) as bar:
        for item, found in _spread(measure, left, workers):
            bar.update(item.cost)
            if found is not None:
                yield item, found


def _spread(measure: Any, items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Any]]:
    """Yield each item with its measurement, as they are finished."""
    if workers <= 1:
        yield from ((item, measure(item)) for item in items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: dict[Future[Any], Item] = {pool.submit(measure, item): item for item in items}
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        finally:
            # After an error or Ctrl-C, begin nothing more.
            for future in waiting:
                future.cancel()


def _recall(resume: Path, item: Item) -> np.ndarray | None:
    """Return a finished item's effects; an item that was cut or altered is taken away, to be measured again."""
    folder = resume / store.key(item.spec)
    if not folder.exists():
        return None
    try:
        return store.read(folder).arrays["effects"].values
    except ValueError:
        shutil.rmtree(folder)
        return None


def mask_effects(
    experiment: Experiment, masks: Sequence[Mask] | Mask
) -> tuple[Float64[np.ndarray, "mask fold subtask"], Float64[np.ndarray, "fold subtask"]]:
    """Measure what removing many units together does.

    effect[m, f, s] = mean over the examples of fold f of subtask s of (loss with the dropped units of mask m at their
    reference - loss), in the loss's unit.

    Returns:
        The effects, and the losses of the untouched model.

    Raises:
        ValueError: if a mask is not about the experiment's units, or the loss is not finite.

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
    masks = [masks] if isinstance(masks, Mask) else masks
    experiment.check_masks(masks)
    base = experiment.baseline
    found = [experiment.folded.mean(experiment.losses(mask)) - base for mask in progress(masks, "removing")]
    return np.stack(found), base
