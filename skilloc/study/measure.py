"""Measure a study: draw the examples, estimate or ablate, compare, and keep every step in the folder."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from skilloc import store
from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.calibration import RECALLS, calibrate
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.masks import top
from skilloc.models.language import Opened
from skilloc.study.draws import accuracies, experiment_of, record_of, shown
from skilloc.study.folder import ASKED, Compared, Study, claim, load_study, save_compared
from skilloc.study.settings import Settings
from skilloc.tasks import Subtask
from skilloc.units import Units

LEAST = 8
"""With fewer random units than this, a correlation says nothing."""


def measure(
    opened: Opened,
    subtasks: Mapping[str, Subtask],
    settings: Settings,
    folder: Path,
    *,
    workers: int = 1,
    seconds: float | None = None,
) -> Study:
    """Measure the effects of a model's units on some subtasks into a folder; the same call goes on where it stopped.

    Args:
        opened: the model and its tokenizer.
        subtasks: what to draw examples from (`subtasks_of`).
        settings: how and what to measure; its `length` is that of `subtasks_of` and not used here.
        folder: where the study is kept.
        workers: number of threads of an exact sweep.
        seconds: begin no exact measurement after this time. The effects found by then are saved, those of units that
            were not reached are NaN (or estimates); the same call goes on for as long again.

    Raises:
        ValueError: if the settings ask for what is not there, or the folder belongs to another study.
    """
    experiment = experiment_of(opened, subtasks, settings)
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
        extra: dict[str, Any] = {"name": opened.name, "drawn": record_of(subtasks, experiment, settings)}
        if all((subtask.made or {}).get("family") == "prompts" for subtask in subtasks.values()):
            extra["accuracy"] = accuracies(experiment)
            extra["shown"] = {name: [one._asdict() for one in shown(own, settings)] for name, own in subtasks.items()}
        _measure(Work(experiment, settings, candidates, ranking, extra), folder, workers, seconds)
    return load_study(folder)


class Work(NamedTuple):
    """What is to be measured."""

    experiment: Experiment
    settings: Settings
    candidates: Bool[np.ndarray, "unit"]
    ranking: Effects | None
    extra: Mapping[str, Any]


def _measure(work: Work, folder: Path, workers: int, seconds: float | None) -> None:
    """Measure, save, and only then clear away the pieces: while `items` is there, the study is not finished."""
    items = folder / "items"
    items.mkdir(exist_ok=True)
    estimate = _estimate(work, folder) if work.settings.estimates else None
    drawn, chosen = _choose(work, estimate)
    exact, complete = None, True
    if chosen.any():
        exact = ablation_effects(work.experiment, select=chosen, workers=workers, resume=items, seconds=seconds)
        complete = bool(exact.measured[chosen].all())
    effects = exact if estimate is None else estimate
    if estimate is not None and exact is not None and work.settings.method == "two-stage":
        effects = estimate.overlay(exact)
    assert effects is not None
    # A part that an earlier budget allowed gives way to a larger one; the pieces of both are in `items`.
    for part in ("effects", "calibration", "exact"):
        shutil.rmtree(folder / part, ignore_errors=True)
    if estimate is not None and exact is not None:
        _compare(folder, estimate, exact, drawn & exact.measured, work.settings)
    store.save(replace(effects, made={**effects.made, **work.extra}), folder / "effects")
    if complete:
        shutil.rmtree(items)


def _estimate(work: Work, folder: Path) -> Effects:
    if (folder / "estimate").is_dir():
        return store.load(Effects, folder / "estimate")
    settings = work.settings
    if settings.method == "integrated-gradients":
        found = integrated_gradients_effects(work.experiment, select=work.candidates)
    else:
        found = attribution_effects(
            work.experiment, select=work.candidates, curvature=settings.curvature, seed=settings.seed
        )
    estimate = replace(found, made={**found.made, **work.extra})
    store.save(estimate, folder / "estimate")
    return estimate


def _choose(work: Work, estimate: Effects | None) -> tuple[Bool[np.ndarray, "unit"], Bool[np.ndarray, "unit"]]:
    """Return the units drawn at random, and all that are to be measured exactly."""
    settings, places = work.settings, np.flatnonzero(work.candidates)
    if settings.method == "ablation" and settings.sample is None and settings.top is None:
        return np.zeros_like(work.candidates), work.candidates
    drawn = np.zeros_like(work.candidates)
    rng = np.random.default_rng(settings.seed)
    drawn[rng.choice(places, min(settings.drawn, len(places)), replace=False)] = True
    chosen = drawn.copy()
    ranking = work.ranking or estimate
    if ranking is not None:
        for subtask in ranking.subtasks:
            size = np.where(work.candidates, np.abs(ranking.mean(subtask)), np.nan)
            chosen |= top(size, min(settings.ranked, int(np.isfinite(size).sum())))
    return drawn, chosen


def _compare(
    folder: Path, estimate: Effects, exact: Effects, drawn: Bool[np.ndarray, "unit"], settings: Settings
) -> None:
    if drawn.sum() >= LEAST:
        recalls = sorted({*RECALLS, (10, settings.ranked)} if settings.ranked >= 10 else RECALLS)
        found = calibrate(estimate, exact, drawn=drawn, recalls=recalls, seed=settings.seed)
        save_compared(folder, Compared(estimate, exact, drawn, found))


def _candidates(settings: Settings, units: Units) -> Bool[np.ndarray, "unit"]:
    chosen = np.ones(len(units), dtype=bool)
    if settings.layers:
        chosen &= units.in_layers(settings.layers)
    if settings.only:
        chosen &= units.named(settings.only)
    if not chosen.any():
        raise ValueError(f"no unit of `only` {', '.join(settings.only)} lies in `layers` {settings.layers}; drop one")
    return chosen


def _ranking(folder: Path, units: Units) -> Effects:
    found = load_study(folder).effects
    if found.units != units:
        raise ValueError(
            f'`of` "{folder}" is about {len(found.units)} units on {len(found.units.hooks)} hooks but this study about '
            f"{len(units)} on {len(units.hooks)}; rank by effects of the same model and kinds of unit"
        )
    return found
