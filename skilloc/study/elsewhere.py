"""One measurement over many workers: what a worker is told, and what it makes of it.

A worker opens the model under its name, draws the examples again from their sources, and refuses if anything is not
what the measurement is about: another file of weights, other texts, another version of a library. Then it measures
items, whose results carry the same names as those that are measured in one process.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from skilloc import store
from skilloc.ablation import MASKS, UNITS, mask_measure, unit_measure
from skilloc.ablation.items import Elsewhere, Item, keep, recalled
from skilloc.attribution import Found, Over, block_estimator
from skilloc.experiment import Experiment
from skilloc.mistakes import WrongValue
from skilloc.models.half import half_of
from skilloc.models.language import Opened, open_model
from skilloc.models.points import hooks_of_users
from skilloc.store.progress import progress
from skilloc.study.redrawn import Drawn, redraw
from skilloc.study.settings import Settings
from skilloc.sweep import Order, Pool, done_items
from skilloc.units import Units

T = TypeVar("T")

PATIENCE = 3600.0
"""Seconds after which an item that cannot be cut is given to an idle worker too: longer than most take."""


def shared_by_items(opened: Opened, drawn: Drawn, experiment: Experiment) -> str:
    """Return what a worker needs to make an experiment again, as JSON.

    Args:
        opened: the model.
        drawn: how the examples were drawn.
        experiment: what the items are about.

    Raises:
        ValueError: if a worker could not make it: the model has hooks of the user's own, or a subtask has no source.
    """
    made = drawn.made["drawn"]["subtasks"]
    if missing := [name for name in drawn.subtasks if not made[name].get("source")]:
        raise WrongValue(
            f'the subtask "{missing[0]}" has no source that other processes could read; make it by subtasks_of, or '
            "measure in this process, without a `Pool`"
        )
    record, own = experiment.record(), ("model", "name", "tokens", "reference", "loss", "entries", "drawn")
    told = {
        **named_model(opened),
        "made": {name: drawn.made[name] for name in own if name in drawn.made},
        "subtasks": list(drawn.subtasks),
        "folds": drawn.folds,
        "reference": experiment.reference if isinstance(experiment.reference, str) else None,
        "record": record,
    }
    return store.canonical(told)


def named_model(opened: Opened) -> dict[str, str]:
    """Return how another process opens a model: its name, device and type, and where the name is meant.

    Raises:
        ValueError: if it has hooks of the user's own.
    """
    if hooks := hooks_of_users(opened.model):
        raise WrongValue(
            f"`model` has hooks of your own ({', '.join(hooks)}), which other processes do not have; measure it in "
            "this process, without a `Pool`"
        )
    first, half = next(opened.model.parameters()), half_of(opened.model)
    kind = {"dtype": first.dtype} if half is None else {"weights": half}
    types = {name: str(dtype).removeprefix("torch.") for name, dtype in kind.items()}
    return {"name": opened.name, "device": first.device.type, **types, "home": str(Path.cwd())}


def model_again(told: Mapping[str, Any]) -> Opened:
    """Open a model as another process has named it."""
    with contextlib.chdir(told["home"]):  # in which names of files are meant
        types = {name: getattr(torch, told[name]) for name in ("dtype", "weights") if name in told}
        return open_model(told["name"], device=told["device"], **types)


def workers_of(
    workers: int | Pool, shared: Callable[[], str], function: Callable[..., None], out: Path
) -> int | Elsewhere:
    """Return who measures items: a number of threads, or what has them measured by the workers of a pool.

    Args:
        workers: as a study was given them.
        shared: gives what workers elsewhere need to make the experiment (`shared_by_items`).
        function: what each calls on an item: of this module, with what is shared, the item, and the folder.
        out: the folder of finished items.
    """
    if isinstance(workers, int):
        return workers
    return _hired(workers, shared(), function, out) if workers.elsewhere else 1


def _hired(pool: Pool, shared: str, function: Callable[..., None], out: Path) -> Elsewhere:
    order = Order(f"{function.__module__}:{function.__qualname__}", shared, out, json.loads(shared)["home"])

    def measured(items: Sequence[Item], deadline: float) -> Iterator[Item]:
        own = {item.key: item for item in items}
        # The record is what all of them share.
        told = {
            key: {"way": item.way, "spec": {name: value for name, value in item.spec.items() if name != "made"}}
            for key, item in own.items()
        }
        for key in done_items(told, order, pool, until=deadline):
            yield own[key]

    return measured


def measure_units(shared: str, item: Mapping[str, Any], out: Path) -> None:
    """Measure some units, and keep what is found."""
    measure = made_once(f"units {shared}", lambda: unit_measure(experiment_again(shared)))
    spec = {**item["spec"], "made": {"method": "ablation", **json.loads(shared)["record"]}}
    one = Item(spec, way=item["way"])
    keep(out, one, measure(one), UNITS)


def measure_masks(shared: str, item: Mapping[str, Any], out: Path) -> None:
    """Measure what some masks do, and keep what is found."""
    measure = made_once(f"masks {shared}", lambda: mask_measure(experiment_again(shared)))
    one = Item({**item["spec"], "made": {"method": "masks", **json.loads(shared)["record"]}})
    keep(out, one, measure(one), MASKS)


BLOCK = ("example", "loss_and_unit")
"""Axes of what is found of a block of examples by an attribution."""


def kept_blocks(experiment: Experiment, settings: Settings, workers: int | Elsewhere, out: Path) -> Over:
    """Return who estimates blocks of examples for a study, and keeps each: this process, or others.

    Args:
        experiment: what the study is about.
        settings: curvature and seed.
        workers: this process, with all its threads if it is a number; or what has items measured elsewhere.
        out: the folder of finished items.
    """
    about = {"curvature": settings.curvature, "seed": settings.seed, "made": _attribution(experiment.record())}

    def over(blocks: Sequence[slice], estimate: Callable[[slice], Found]) -> Iterator[Found]:
        items = [Item({"first": block.start, "last": block.stop, **about}) for block in blocks]
        left = [item for item in items if recalled(out, item) is None]
        if not isinstance(workers, int) and left:
            for _ in progress(workers(left, math.inf), "attributing", total=len(left)):
                pass
        for block, item in zip(blocks, items, strict=True):
            found = recalled(out, item)
            if found is None:
                found = estimate(block)
                keep(out, item, found, BLOCK)
            yield found

    return over


def _attribution(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"method": "attribution", **record}


def measure_blocks(shared: str, item: Mapping[str, Any], out: Path) -> None:
    """Estimate on a block of examples, and keep what is found."""
    spec = {**item["spec"], "made": _attribution(json.loads(shared)["record"])}
    curvature, seed = spec["curvature"], spec["seed"]
    estimate = made_once(
        f"blocks {curvature} {seed} {shared}",
        lambda: block_estimator(experiment_again(shared), curvature=curvature, seed=seed),
    )
    keep(out, Item(spec), estimate(slice(spec["first"], spec["last"])), BLOCK)


_kept: dict[str, Any] = {}


def made_once(key: str, make: Callable[[], T]) -> T:
    """Make what items share, or return it as it was made for the last item; of two measurements, not both."""
    if key not in _kept:
        _kept.clear()
        _kept[key] = make()
    found: T = _kept[key]
    return found


def experiment_again(shared: str) -> Experiment:
    """Return the experiment that items are about.

    Raises:
        ValueError: if it cannot be made here, or is not the same.
    """
    told = json.loads(shared)
    opened = model_again(told)
    with contextlib.chdir(told["home"]):
        drawn = Drawn(told["made"], tuple(told["subtasks"]), Units.from_record(told["record"]["units"]), told["folds"])
        experiment = redraw(opened, drawn, reference=told["reference"])
    here = json.loads(store.canonical(experiment.record()))
    if different := [name for name, value in told["record"].items() if here.get(name) != value]:
        name = different[0]
        raise WrongValue(
            f"this worker would measure with {name} {here.get(name)}, and not {told['record'][name]}; give all workers "
            "the same libraries and type of processor"
        )
    return experiment
