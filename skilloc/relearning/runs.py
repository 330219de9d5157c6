"""The runs of the attack, and what each depends on.

All models and ways of a seed that train on the same see the same examples at each step, so their runs at one rate and
data size are done together (`training.many`). Each is kept by itself, so that another probe of some of the models
finds it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.language import digest
from skilloc.models.makers import face_of
from skilloc.relearning.attack import Repaired, repair, targets_of
from skilloc.relearning.kept_runs import read_run, write_run
from skilloc.relearning.question import Probe, Question
from skilloc.relearning.settings import ORIGINAL, Grid
from skilloc.relearning.starts import Context
from skilloc.relearning.ways import SHOWN, Data, Way
from skilloc.tasks import Examples, Subtask, joined
from skilloc.tasks.streams import stream

FEWER = 32
"""Examples that a start may look at, of a model that is no chain of linear maps."""


class Asked(NamedTuple):
    """A run that is asked for.

    Attributes:
        model: gives what is trained; None where the way makes no sense for the model.
        data: what it is trained on.
        size: number of different training examples per subtask; None = fresh ones at every step.
        rate: of Adam.
        spec: what the run depends on. JSON only.
        into: the entries of the result that are about its model and seed.
        at: where its losses go there: ways, size, rate.
    """

    model: Callable[[], nn.Module | None]
    data: Data
    size: int | None
    rate: float
    spec: Mapping[str, Any]
    into: Mapping[str, np.ndarray]
    at: tuple[list[int], int, int]


class Seeded(NamedTuple):
    """What is the same for all models of a seed.

    Attributes:
        question: what is asked.
        shared: what all runs depend on, besides their own model, start, rate and size. JSON only.
        targets: gives where a repair ends; see `attack.targets_of`.
        context: gives what a start may look at.
    """

    question: Question
    shared: Mapping[str, Any]
    targets: Callable[[], Mapping[str, float]]
    context: Callable[[], Context]


def seeded(probe: Probe, place: int) -> Seeded:
    """Return what is the same for all models of the seed at a place."""
    question, original, seed = probe.question, probe.of[ORIGINAL][place], probe.seeds[place]

    @cache
    def targets() -> Mapping[str, float]:
        return targets_of(original, question.held_out, probe.chances, question.grid.metric)

    shared = shared_by_runs(question, original, seed)
    return Seeded(question, shared, targets, cache(partial(context_of, question, original, seed)))


def shared_by_runs(question: Question, original: nn.Module, seed: int) -> dict[str, Any]:
    """Return what all runs with one seed depend on; see `Seeded`."""
    trained = {"attack": question.attack, "kept": question.kept}
    grid = question.grid.record()
    return {
        "original": digest(original),
        **{name: [subtask.name for subtask in subtasks] for name, subtasks in trained.items()},
        "examples": {name: _first(subtasks, question.grid, seed) for name, subtasks in trained.items()},
        "held_out": question.held_out.record(),
        "grid": {name: grid[name] for name in grid if name not in ("rates", "sizes", "ways", "wider")},
        "shown": SHOWN,
        "seed": seed,
    }


def _first(subtasks: Sequence[Subtask], grid: Grid, seed: int) -> str | None:
    """Return the digest of the first step's examples."""
    return stream(subtasks, grid.examples, seed=seed)(0).digest if subtasks else None


def _bits(mask: Mask) -> str:
    hooks = f"{mask.units.hooks}{mask.units.widths}".encode()
    return hashlib.sha256(hooks + mask.keep.tobytes()).hexdigest()[:16]


def context_of(question: Question, original: nn.Module, seed: int) -> Context:
    """Return what a start may look at: examples from the train split, and the original."""
    device = next(original.parameters()).device

    def shown(subtasks: Sequence[Subtask]) -> Examples | None:
        drawn = [_as_many(subtask, SHOWN if face_of(original).chain else FEWER, seed) for subtask in subtasks]
        return joined(drawn).to(device) if drawn else None

    attacked = shown(question.attack)
    assert attacked is not None
    return Context(attacked, shown(question.kept), original, question.grid.metric, seed)


def _as_many(subtask: Subtask, count: int, seed: int) -> Examples:
    """Return examples from the train split: so many, or half as many, and so on, if there are not."""
    while True:
        try:
            return subtask.draw(count, split="train", seed=seed)
        except ValueError:
            count //= 2
            if not count:
                raise


def repair_spec(model: nn.Module, mask: Mask | None, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the repair of a model depends on. JSON only."""
    return {**_about(model, mask, shared), "what": "repair"}


def _about(model: nn.Module, mask: Mask | None, shared: Mapping[str, Any]) -> dict[str, Any]:
    return {**shared, "model": digest(model), "mask": None if mask is None else _bits(mask)}


def runs_of(model: nn.Module, mask: Mask | None, own: Seeded, into: Mapping[str, np.ndarray]) -> list[Asked]:
    """Repair a model, or read what came of it, and return the runs of the attack on it.

    Args:
        model: it is left as it was.
        mask: held at zero all along, if given.
        own: what is the same for all models of the seed.
        into: the entries of the result that are about this model and seed.
    """
    question = own.question
    about, grid = _about(model, mask, own.shared), question.grid

    @cache
    def repaired() -> Repaired:
        return repair(model, question.kept, question.held_out, own.targets(), grid, seed=about["seed"], mask=mask)

    spec = repair_spec(model, mask, own.shared)
    found = read_run(question.out, spec)
    if found is None:
        done = repaired()
        found = {"repair": np.stack([done.before, done.after]), "repair_steps": np.array(float(done.steps))}
        write_run(question.out, spec, found)
    for name, array in found.items():
        into[name][...] = array
    needed = bool(found["repair_steps"])
    runs = []
    for places in _alike(question, needed):
        way = grid.ways[places[0]]

        def given(way: Way = way) -> nn.Module | None:
            return way.start(repaired().model if way.repaired and needed else model, own.context())

        # Of larger models, no copies are kept.
        given = given if face_of(model).chain is None else cache(given)
        # What trains nothing is the same at every rate and size.
        sizes, rates = (grid.sizes[:1], grid.rates[:1]) if way.data == "none" else (grid.sizes, grid.rates)
        for z, size in enumerate(sizes):
            for r, rate in enumerate(rates):
                spec = {"what": "relearning run", "way": way.name, "data": way.data, "size": size, "rate": rate}
                runs.append(Asked(given, way.data, size, rate, {**about, **spec}, into, (places, z, r)))
    return runs


def _alike(question: Question, needed: bool) -> list[list[int]]:
    """Return the places of the ways, those together that are the same where no repair was needed."""
    groups: dict[Any, list[int]] = {}
    mixes = bool(question.kept) and _mix(*question.attack, *question.kept)
    for place, way in enumerate(question.grid.ways):
        if (way.data == "kept" and not question.kept) or (way.data == "mixed" and not mixes):
            continue
        groups.setdefault((way.start, way.data, way.repaired and needed), []).append(place)
    return list(groups.values())


def _mix(*subtasks: Subtask) -> bool:
    """Whether examples of some subtasks can be one batch: prompts with answers and plain texts cannot."""
    try:
        joined([subtask.draw(1, split="train", seed=0) for subtask in subtasks])
    except WrongValue:
        return False
    return True
