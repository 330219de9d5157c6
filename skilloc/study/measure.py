"""Measure a study: draw the examples, estimate or ablate, compare, and keep every step in the folder."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from skilloc import store
from skilloc.ablation import ablation_effects
from skilloc.ablation.injection import injections
from skilloc.ablation.items import Elsewhere
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.attribution.calibration import RECALLS, calibrate
from skilloc.attribution.measured import Compared, Measured, load_measured, save_compared
from skilloc.attribution.sampling import Sample, chances, draw_sample
from skilloc.effects import Effects
from skilloc.effects.alarms import alarm_records, sign_alarms
from skilloc.experiment import Experiment
from skilloc.masks import top
from skilloc.mistakes import WrongValue, real, whole
from skilloc.models.language import Opened
from skilloc.study.able import ability
from skilloc.study.draws import experiment_of, shown
from skilloc.study.elsewhere import kept_blocks, measure_blocks, measure_units, shared_by_items, workers_of
from skilloc.study.folder import ASKED, claim
from skilloc.study.memory import entries_within
from skilloc.study.redrawn import Drawn, record_of
from skilloc.study.settings import LAST, Settings
from skilloc.sweep import Pool
from skilloc.tasks import Subtask
from skilloc.units import Units

LEAST = 8
"""With fewer random units than this, a correlation says nothing."""


@store.working("folder", inside=True)
def measure(
    opened: Opened,
    subtasks: Mapping[str, Subtask],
    settings: Settings,
    folder: Path,
    *,
    workers: int | Pool = 1,
    seconds: float | None = None,
) -> Measured:
    """Measure the effects of a model's units on some subtasks into a folder; the same call goes on where it stopped.

    Args:
        opened: the model and its tokenizer.
        subtasks: what to draw examples from (`subtasks_of`).
        settings: how and what to measure; its `length` is that of `subtasks_of` and not used here.
        folder: where the study is kept.
        workers: number of threads of an exact sweep; or other processes (`Pool`), to which the model and the subtasks
            must be known by name. A study that was begun one way is gone on with another.
        seconds: begin no exact measurement after this time. The effects found by then are saved, those of units that
            were not reached are NaN (or estimates); the same call goes on for as long again.

    Raises:
        ValueError: if the settings ask for what is not there, or the folder belongs to another study.
    """
    if isinstance(workers, int):
        whole("workers", workers)
    if seconds is not None:
        real("seconds", seconds, 0.0)
    experiment = experiment_of(opened, subtasks, settings)
    if settings.memory is not None:
        entries = entries_within(experiment, settings.memory, gradients=settings.estimates)
        experiment = replace(experiment, entries=entries)
    candidates = _candidates(settings, experiment.units)
    ranking = None if settings.of is None else _ranking(settings.of, experiment.units)
    named = experiment.record()
    request = {
        "what": "study",
        **{name: named[name] for name in ASKED if name in named},
        "settings": {**settings.record(), "of": None if ranking is None else store.key(ranking.made)},
    }
    claim(folder, request)
    if not (folder / "effects").is_dir() or (folder / "items").is_dir():
        extra: dict[str, Any] = {
            "request": store.key(request),
            "name": opened.name,
            "drawn": record_of(subtasks, experiment, settings),
        }
        if all((subtask.made or {}).get("family") == "prompts" for subtask in subtasks.values()):
            known = {name: ability(experiment, name) for name in subtasks}
            for what in ("accuracy", "chance", "commonest"):
                extra[what] = {name: getattr(one, what) for name, one in known.items()}
            extra["shown"] = {name: [one._asdict() for one in shown(own, settings)] for name, own in subtasks.items()}
        drawn = Drawn({**named, **extra}, tuple(subtasks), experiment.units, settings.folds)

        @cache
        def shared() -> str:
            return shared_by_items(opened, drawn, experiment)

        def hire(function: Callable[..., None]) -> int | Elsewhere:
            return workers_of(workers, shared, function, folder / "items")

        _measure(Work(experiment, settings, candidates, ranking, extra, hire), folder, seconds)
    return load_measured(folder)


class Work(NamedTuple):
    """What is to be measured, and by whom.

    Attributes:
        experiment: what is measured on what.
        settings: as they were asked for.
        candidates: the units that are of interest.
        ranking: effects that say which units to measure exactly; None for the estimates.
        extra: what is added to the record.
        hire: from what a worker calls on an item, a function of `elsewhere`, to who measures such items.
    """

    experiment: Experiment
    settings: Settings
    candidates: Bool[np.ndarray, "unit"]
    ranking: Effects | None
    extra: Mapping[str, Any]
    hire: Callable[[Callable[..., None]], int | Elsewhere]


def _measure(work: Work, folder: Path, seconds: float | None) -> None:
    """Measure, save, and only then clear away the pieces: while `items` is there, the study is not finished."""
    workers = work.hire(measure_units)  # first, since it refuses what others could not make again
    items = folder / "items"
    items.mkdir(exist_ok=True)
    estimate = _estimate(work, folder) if work.settings.estimates else None
    sample, chosen = _choose(work, estimate)
    exact, complete = None, True
    if chosen.any():
        exact = ablation_effects(work.experiment, select=chosen, workers=workers, resume=items, seconds=seconds)
        complete = bool(exact.measured[chosen].all())
    effects = exact if estimate is None else estimate
    if estimate is not None and exact is not None and work.settings.method == "two-stage":
        effects = estimate.overlay(exact)
    assert effects is not None
    alarms = _alarms(work, estimate, exact)
    # A part that an earlier budget allowed gives way to a larger one; the pieces of both are in `items`.
    for part in ("effects", "calibration", "exact"):
        shutil.rmtree(folder / part, ignore_errors=True)
    if estimate is not None and exact is not None:
        _compare(folder, estimate, exact, sample, work.settings)
    store.save(replace(effects, made={**effects.made, **work.extra, **alarms}), folder / "effects")
    if complete:
        shutil.rmtree(items)


def _alarms(work: Work, estimate: Effects | None, exact: Effects | None) -> dict[str, Any]:
    """Return the record of what the reference injects and of estimates with the wrong sign; empty where all is well."""
    experiment = work.experiment
    found = list(injections(experiment.model, experiment.folded.examples, experiment.units, experiment.held))
    if estimate is not None and exact is not None:
        for subtask in estimate.subtasks:
            found += sign_alarms(estimate.of(subtask), exact.of(subtask), estimate.units.names, subtask=subtask)
    return {"alarms": alarm_records(found)} if found else {}


def _estimate(work: Work, folder: Path) -> Effects:
    if (folder / "estimate").is_dir():
        there = store.load(Effects, folder / "estimate")
        store.check_tied(folder, "estimate", there.made)
        return there
    settings = work.settings
    if settings.method == "integrated-gradients":
        found = integrated_gradients_effects(work.experiment, select=work.candidates)
    else:
        over = kept_blocks(work.experiment, settings, work.hire(measure_blocks), folder / "items")
        found = attribution_effects(
            work.experiment, select=work.candidates, curvature=settings.curvature, seed=settings.seed, over=over
        )
    estimate = replace(found, made={**found.made, **work.extra})
    store.save(estimate, folder / "estimate")
    return estimate


def _choose(work: Work, estimate: Effects | None) -> tuple[Sample, Bool[np.ndarray, "unit"]]:
    """Return the sample that an estimate is calibrated on, and all units that are to be measured exactly.

    Certain in the sample are the estimate's own top units; what another study ranks highest is measured beside it.
    """
    settings, nothing = work.settings, np.zeros_like(work.candidates)
    if settings.method == "ablation" and settings.sample is None and settings.top is None:
        return Sample(nothing, nothing.astype(float)), work.candidates
    chosen = work.candidates & _asked_exactly(settings.exact, work.experiment.units)
    certain = chosen.copy()
    ranking = work.ranking or estimate
    if ranking is not None:
        for subtask in ranking.subtasks:
            size = np.where(work.candidates, np.abs(ranking.mean(subtask)), np.nan)
            chosen |= top(size, min(settings.ranked, int(np.isfinite(size).sum())))
    if estimate is not None and work.ranking is None:
        certain = chosen
    values = np.zeros((1, 1, len(certain))) if estimate is None else estimate.values
    chance = chances(values, count=settings.drawn, certain=certain, candidates=work.candidates)
    sample = draw_sample(chance, seed=settings.seed)
    return sample, chosen | sample.drawn


def _asked_exactly(names: Sequence[str], units: Units) -> Bool[np.ndarray, "unit"]:
    """Return which units are of kinds that are to be measured exactly, or of the last layer if that is."""
    kinds, layers = np.array(units.kinds), np.asarray(units.layers)
    return np.asarray(np.isin(kinds, names) | ((layers == layers.max()) & (LAST in names)))


def _compare(folder: Path, estimate: Effects, exact: Effects, sample: Sample, settings: Settings) -> None:
    """Compare; where the time ran out before all of the sample was measured, nothing is said: what is left is not drawn
    with known chances."""
    drawn = sample.drawn
    if drawn.sum() >= LEAST and exact.measured[drawn].all():
        recalls = sorted({*RECALLS, (10, settings.ranked)} if settings.ranked >= 10 else RECALLS)
        found = calibrate(estimate, exact, drawn=drawn, chance=sample.chance, recalls=recalls, seed=settings.seed)
        exact = replace(exact, made={**exact.made, "request": estimate.made["request"]})
        save_compared(folder, Compared(estimate, exact, drawn, found, sample.chance))


def _candidates(settings: Settings, units: Units) -> Bool[np.ndarray, "unit"]:
    chosen = np.ones(len(units), dtype=bool)
    if settings.layers:
        chosen &= units.in_layers(settings.layers)
    if settings.only:
        chosen &= units.named(settings.only)
    if not chosen.any():
        raise WrongValue(f"no unit of `only` {', '.join(settings.only)} lies in `layers` {settings.layers}; drop one")
    return chosen


def _ranking(folder: Path, units: Units) -> Effects:
    found = load_measured(folder).effects
    if found.units != units:
        raise WrongValue(
            f'`of` "{folder}" is about {len(found.units)} units on {len(found.units.hooks)} hooks but this study about '
            f"{len(units)} on {len(units.hooks)}; rank by effects of the same model and kinds of unit"
        )
    return found
