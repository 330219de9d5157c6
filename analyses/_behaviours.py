"""The behaviours that a language model can do, in groups of about one length, and the cells that measure them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from skilloc import locality
from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects
from skilloc.attribution.calibration import calibrate
from skilloc.attribution.sampling import chances, draw_sample
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.experiment.hooks import read_activations
from skilloc.experiment.reference import PAIRED, RESAMPLE, Reference
from skilloc.masks import Mask, matched_random, top_of_any
from skilloc.models.language import Opened, encoder, first_token, open_model
from skilloc.report.record import as_json
from skilloc.store import Labelled
from skilloc.study.able import ability
from skilloc.study.draws import subtasks_of
from skilloc.tasks import Examples, fold
from skilloc.tasks.asked import Asked
from skilloc.tasks.behaviours import MAKERS, behaviours
from skilloc.tasks.items import Item
from skilloc.tasks.prompts import prompts
from skilloc.tasks.rows import examples_of
from skilloc.units import Units

SCORES = ("mass", "effective_number", "locality", "hoyer", "top_share", "k50", "negative_share")
CORPORA = ("python", "cpp", "english")
FACTS = Path(__file__).parent / "data" / "facts.jsonl"
KNOWN = 16
"""Right answers that a relation must have to be measured."""

LONG = 18
"""Made behaviours of more tokens are a group of their own, so that little of what runs is padding."""

CURVATURE = 2
"""Draws for the curvature of the estimates."""


@dataclass(frozen=True)
class Able:
    """The spec of the cell that asks what the model can do."""

    model: str
    """the model"""
    examples: int
    """of each made behaviour"""


@dataclass(frozen=True)
class Part:
    """The spec of a cell: some units of one group of subtasks under one reference."""

    model: str
    """the model"""
    group: str
    """facts, short, long, or corpora"""
    subtasks: tuple[tuple[str, tuple[int, ...]], ...]
    """names, and for relations the rows of the file that are taken"""
    examples: int
    """of each subtask, one in each fold"""
    length: int
    """tokens of a corpus row"""
    kind: str = "head"
    """kind of unit"""
    reference: str = "zero"
    """zero, mean (per role), resample (another example of the same subtask, by role) or paired (the corrupted twin)"""
    exact: int = 0
    """units of the largest estimates that are measured; 0 for all units, without an estimate"""
    sample: int = 0
    """units beside them, drawn at random, that the estimate is calibrated on"""
    restore: bool = False
    """put a unit's activation of the right prompt into the run of its corrupted twin, instead of ablating it"""
    removed: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """instead: heads to remove together, by what they were chosen for; stated on the second half of the folds"""
    draws: int = 0
    """random masks beside each"""


@lru_cache(maxsize=1)
def opened_once(name: str) -> Opened:
    """Open a model once in a process."""
    return open_model(name)


def scored(values: Float[np.ndarray, "fold subtask unit"], names: Sequence[str]) -> dict[str, Any]:
    """Return each subtask's locality scores with intervals, the distribution behind the noise, and reliabilities."""
    found = locality.table(values, names)
    return {
        "scores": {name: {score: found[name][score].record() for score in SCORES} for name in names},
        "bulk": {name: as_json(locality.bulk(values[:, s])) for s, name in enumerate(names)},
        "reliability": locality.reliability(values).record(),
    }


def facts_of(opened: Opened) -> dict[str, list[Item]]:
    """Return the items of each relation."""
    asked = Asked(prompt="prompt", group="relation", subject="subject")
    made = prompts(str(FACTS), encoder(opened.tokenizer), asked, name="fact", first=first_token(opened.tokenizer))
    found = {}
    for name, own in made.items():
        assert own.items is not None
        made_of: dict[str, Any] = dict(own.made or {})
        found[name.removeprefix("fact_").replace("_", " ")] = [
            item for split, count in made_of["items"].items() for item in own.items(count, split, 0)
        ]
    return found


def able(spec: Able) -> dict[str, Any]:
    """Ask the model: which facts of each relation it says, shortest first, and how often it does what is made."""
    opened = opened_once(spec.model)
    encode, first = encoder(opened.tokenizer), first_token(opened.tokenizer)
    facts: dict[str, Any] = {}
    for name, items in facts_of(opened).items():
        experiment = Experiment(
            opened.model, {name: examples_of(items, encode, first=first)}, ("head",), loss="mistake", folds=1
        )
        right = np.flatnonzero(experiment.losses() == 0).tolist()
        right.sort(key=lambda place: len(encode([items[place].prompt])[0]))
        facts[name] = {"count": len(items), "right": right}
    made: dict[str, Any] = {}
    for name in MAKERS:
        try:
            own = behaviours(encode, [name], first=first, count=6 * spec.examples)
        except ValueError:  # its words are no tokens of this model
            made[name] = {"able": False, "accuracy": None, "low": None, "chance": None, "count": 0}
            continue
        known = ability(Experiment(opened.model, own, ("head",), loss="answer", folds=1, count=spec.examples), name)
        length = own[name].draw(1).positions
        made[name] = {
            "able": known.able, "accuracy": known.accuracy, "low": known.low, "chance": known.chance,
            "count": known.count, "length": length,
        }  # fmt: skip
    return {"facts": facts, "made": made}


def group_of(spec: Part) -> tuple[Opened, dict[str, Examples], dict[str, Examples]]:
    """Return the examples of a group's subtasks, and others that means are taken over."""
    opened = opened_once(spec.model)
    encode, first = encoder(opened.tokenizer), first_token(opened.tokenizer)
    names = [name for name, _ in spec.subtasks]
    if spec.group == "corpora":
        corpora = subtasks_of(opened, {name: name for name in names}, length=spec.length)
        return opened, *(
            {name: corpora[name].draw(spec.examples, split=split) for name in names} for split in ("report", "train")
        )  # type: ignore[return-value]
    measured, other = {}, {}
    known = facts_of(opened) if spec.group == "facts" else {}
    for name, rows in spec.subtasks:
        if spec.group == "facts":
            chosen = [known[name][row] for row in rows[: spec.examples]]
            left = [item for place, item in enumerate(known[name]) if place not in rows[: spec.examples]]
        else:
            own = behaviours(encode, [name], first=first, count=6 * max(16, spec.examples))[name]
            assert own.items is not None
            chosen, left = own.items(spec.examples, "report", 0), own.items(16, "train", 0)
        twins = spec.restore or spec.reference == PAIRED
        measured[name], other[name] = (plain_rows(some, encode, first, twins=twins) for some in (chosen, left[:16]))
    return opened, measured, other


def plain_rows(items: Sequence[Item], encode: Any, first: int | None, *, twins: bool = False) -> Examples:
    """Return items as examples with the same fields and names, whatever the behaviour."""
    found = examples_of(items, encode, first=first)
    at = {name: found.at[name] for name in ("last", "answer")}
    return replace(found, fields={}, at=at, paired=found.paired if twins else None)


def tokens_of(spec: Part) -> int:
    """Return the tokens that a pass over a group takes, padding included."""
    _, measured, _ = group_of(spec)
    return len(measured) * spec.examples * max(own.positions for own in measured.values())


def experiment_of(spec: Part, half: bool = False) -> Experiment:
    """Return the experiment of a group, or that of the second half of its examples."""
    opened, measured, other = group_of(spec)
    if half:
        measured = {name: own.part(slice(spec.examples // 2, None)) for name, own in measured.items()}
    folds = len(next(iter(measured.values())))
    if spec.restore:
        measured = {name: own.swapped() for name, own in measured.items()}
        return Experiment(opened.model, measured, (spec.kind,), reference=PAIRED, folds=folds)
    found = Experiment(opened.model, measured, (spec.kind,), reference=spec.reference, folds=folds, other=other)
    if spec.reference == RESAMPLE:
        return replace(found, reference=resampled(opened.model, measured, found.units, seed=0))
    return found


def resampled(model: Any, examples: Mapping[str, Examples], units: Units, *, seed: int) -> Reference:
    """Hold units at what they do on another example of the same subtask, by role.

    reference[r, t, u] = activation[other(r), t', u], with t' = 0 for the first position and else as far from the end as
    t, or 1 where the other row is too short
    """
    whole = fold(examples, 1).examples
    mask = torch.ones_like(whole.targets, dtype=torch.bool) if whole.mask is None else whole.mask
    rng, others, start = np.random.default_rng(seed), [], 0
    for own in examples.values():
        count = len(own)
        others += (start + (np.arange(count) + rng.integers(1, count, size=count)) % count).tolist()
        start += count
    other = torch.tensor(others)
    lengths, place = mask.sum(dim=1), torch.arange(mask.shape[1])
    index = (place[None] + (lengths[other] - lengths)[:, None]).clamp(min=1)
    index = torch.minimum(index.where(place > 0, 0), lengths[other][:, None] - 1)
    values = {hook: value[other[:, None], index] for hook, value in read_activations(model, whole, units).items()}
    return Reference(RESAMPLE, values, {"seed": seed, "by": "role", "of": "the same subtask"}, per_row=True)


def measured_part(spec: Part, results: Path) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Measure the effects of one kind of unit, or joint removals."""
    started = time.process_time()
    metrics, arrays = _removals(spec) if spec.removed else _effects(spec, results / "pieces")
    return {**metrics, "cpu_minutes": (time.process_time() - started) / 60}, arrays


def _effects(spec: Part, pieces: Path) -> tuple[dict[str, Any], dict[str, Labelled]]:
    experiment = experiment_of(spec)
    pieces.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {"tokens": int(experiment.folded.examples.targets.numel())}
    if not spec.exact:
        found = ablation_effects(experiment, resume=pieces)
    else:
        estimate = attribution_effects(experiment, curvature=CURVATURE)
        count = len(experiment.units)
        certain = top_of_any(np.abs(estimate.values.mean(axis=0)), min(spec.exact, count))
        sample = draw_sample(
            chances(estimate.values, count=spec.sample, certain=certain, candidates=np.ones(count, dtype=bool)), seed=0
        )
        exact = ablation_effects(experiment, select=certain | sample.drawn, resume=pieces)
        found = estimate.overlay(exact)
        compared = calibrate(estimate, exact, drawn=sample.drawn, chance=sample.chance)
        metrics["calibration"] = {name: one.spearman.record() for name, one in compared.items()}
    if spec.restore:
        metrics["gap"] = _gap(experiment, found).tolist()
    return metrics, {
        "effects": Labelled(found.values, ("fold", "subtask", "unit")),
        "baseline": Labelled(found.baseline, ("fold", "subtask")),
        "exact": Labelled(found.exact, ("unit",)),
    }


def _gap(experiment: Experiment, found: Effects) -> Float[np.ndarray, "fold subtask"]:
    """Loss of the corrupted twin minus that of the right prompt: what restoring could bring back."""
    right = {name: own.swapped() for name, own in experiment.examples.items()}
    gap: np.ndarray = found.baseline - replace(experiment, subtasks=right, reference="zero").baseline
    return gap


def _removals(spec: Part) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Measure what removing heads together does to a group, beside random masks of equal size in every layer."""
    experiment = experiment_of(spec, half=True)
    units, base, found = experiment.units, experiment.baseline, []
    for _, heads in spec.removed:
        mask = Mask(units, ~np.isin(np.arange(len(units)), heads))
        masks = [mask, *(matched_random(mask, seed=seed) for seed in range(spec.draws))]
        found.append([experiment.folded.mean(experiment.losses(one)) - base for one in masks])
    return {}, {"removal": Labelled(np.array(found), ("source", "mask", "fold", "subtask"))}
