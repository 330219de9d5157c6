"""What a probe found, as it is told: curves, steps to recover, areas, information removed, verdicts, warnings."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from skilloc.locality.intervals import Interval, Survival, mean_interval
from skilloc.relearning.brought import LEAD, reference_of
from skilloc.relearning.curves import (
    RECOVERED,
    Edge,
    Envelope,
    area,
    edges,
    envelope,
    not_recovered,
    skill,
    steps_to_recover,
    warnings_of,
)
from skilloc.relearning.result import Relearning
from skilloc.relearning.rules import damage, information_removed
from skilloc.relearning.settings import CONTROLS, ORIGINAL
from skilloc.relearning.verdict import missing, verdict, verdicts


@dataclass(frozen=True)
class Said:
    """A verdict: its word, and the sentence with its numbers."""

    word: str
    sentence: str


@dataclass(frozen=True)
class StepsToRecover:
    """After how many steps each seed had recovered, or, where it had not, until when it was watched."""

    steps: Float64[np.ndarray, " seed"]
    recovered: Bool[np.ndarray, " seed"]


@dataclass(frozen=True)
class Attacked:
    """A model under the attacker's best, with one number of training examples.

    Attributes:
        size: number of examples; None for fresh ones at every step.
        loss: mean over seeds, on `step`, with its interval; a loss above chance counts as chance.
        way: best way to attack, by step.
        rate: best rate, by step.
        stop: best number of steps within the budget, by step.
        kept: losses on what was to be kept meanwhile, by subtask, on `step`.
        steps_to_recover: by seed.
        not_recovered: fraction of seeds that had not recovered.
        area: between the curve and chance.
    """

    size: int | None
    loss: Interval
    way: tuple[str, ...]
    rate: tuple[float, ...]
    stop: tuple[int, ...]
    kept: dict[str, Float[np.ndarray, " step"]]
    steps_to_recover: StepsToRecover
    not_recovered: Survival
    area: Interval


@dataclass(frozen=True)
class InformationRemoved:
    """The share that was removed, with its interval, where it is least, and why it cannot be told, if so."""

    value: float
    low: float
    high: float
    size: int | None
    step: int
    why: str


@dataclass(frozen=True)
class Candidate:
    """One model of a probe, a control among them.

    Attributes:
        control: what it controls for; None where it is what the question is about.
        parameters: their number.
        repair_steps: that mended what was to be kept, by seed.
        kept_before: losses on what was to be kept before that, by subtask.
        kept_after: and after.
        damage: how much worse it is at what was to be kept.
        sizes: under attack, by number of training examples.
        information_removed: of all but the original and the network that never saw.
        by_rate: the same had every network been attacked at one rate and to the end, on `size rate step`.
    """

    control: str | None
    parameters: int | None
    repair_steps: Float[np.ndarray, " seed"]
    kept_before: dict[str, float]
    kept_after: dict[str, float]
    damage: Interval
    sizes: tuple[Attacked, ...]
    information_removed: InformationRemoved | None = None
    by_rate: Float64[np.ndarray, "size rate step"] | None = None


@dataclass(frozen=True)
class Told:
    """Everything that a table or a figure about a probe needs.

    Attributes:
        report: name of the attacked subtask.
        kind: of the attack.
        attack: names of the subtasks that the attacker trained on.
        kept: names of those that were to be kept.
        seeds: of the attack.
        unit: of the losses.
        chance: loss of a model that knows nothing.
        steps: budgets of the attacker.
        rates: learning rates.
        sizes: numbers of training examples; None for fresh ones.
        recovered_share: of the skill, from which on it counts as recovered.
        never: name of the network that never saw.
        missing: controls that are missing, and what each is for.
        models: by name.
        verdicts: by model.
        edges: where the best rate is at an end of the grid.
        warnings: in words.
        summary: verdicts and controls in words, a line each.
    """

    report: str | None
    kind: str | None
    attack: tuple[str, ...]
    kept: tuple[str, ...]
    seeds: Any
    unit: str
    chance: float
    steps: tuple[int, ...]
    rates: tuple[float, ...]
    sizes: tuple[int | None, ...]
    recovered_share: float
    never: str | None
    missing: dict[str, str]
    models: dict[str, Candidate]
    verdicts: dict[str, Said]
    edges: tuple[Edge, ...]
    warnings: tuple[str, ...] = field(default=())
    summary: str = ""


def tell(found: Relearning) -> Told:
    """Return everything that a table or a figure needs.

    Curves are mean losses, in `unit`, on the report split, under the attacker's best (`curves.envelope`), with their
    95 % intervals over seeds; a loss above chance counts as chance.
    """
    best = envelope(found)
    return Told(
        report=found.made.get("report"),
        kind=found.made.get("kind"),
        attack=tuple(sorted(found.made.get("attack", {}))),
        kept=tuple(found.subtasks),
        seeds=found.made.get("seeds"),
        unit=found.unit,
        chance=float(found.chance),
        steps=tuple(found.steps),
        rates=tuple(found.rates),
        sizes=tuple(found.sizes),
        recovered_share=RECOVERED,
        never=reference_of(found),
        missing={name: CONTROLS[name] for name in missing(found)},
        models={name: _model(found, best, name) for name in found.models},
        verdicts={v.model: Said(v.word, v.sentence) for v in verdicts(found)},
        edges=tuple(edges(found, best)),
        warnings=tuple(warnings_of(found)),
        summary=summary(found),
    )


def summary(found: Relearning) -> str:
    """Return the verdicts, the controls' numbers beside them, and what is missing, in words, a line each."""
    best, own = envelope(found), reference_of(found)
    said = [v.sentence for v in verdicts(found)]
    beside = []
    for name in found.models:
        if name in CONTROLS and name not in (ORIGINAL, own):
            removed = information_removed(found, best, name)
            beside.append(f"{name} {'undecidable' if removed.why else _interval(removed.share)}")
    if beside:
        said.append(f"Information removed from the controls: {', '.join(beside)}.")
    if absent := missing(found):
        said.append(f"Controls that are missing: {', '.join(absent)}.")
    if not found.subtasks:
        said.append("Nothing was to be kept, so that damage is unknown.")
    return "\n".join([*said, *(f"Warning: {text}." for text in warnings_of(found))])


def _interval(found: Interval) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _model(found: Relearning, best: Envelope, name: str) -> Candidate:
    m, removed, rates = found.place(name), None, None
    if name not in (ORIGINAL, reference_of(found)):
        least = verdict(found, name, best=best).removed
        share, at = least.share, (found.sizes[least.size], found.steps[least.step])
        removed = InformationRemoved(float(share.value), float(share.low), float(share.high), *at, least.why)
        rates = by_rate(found, name)
    before, after = (dict(zip(found.subtasks, part.mean(axis=0).tolist(), strict=True)) for part in found.repair[m])
    return Candidate(
        control=CONTROLS.get(name),
        parameters=found.made.get("parameters", {}).get(name),
        repair_steps=found.repair_steps[m],
        kept_before=before,
        kept_after=after,
        damage=damage(found, name),
        sizes=tuple(_curve(found, best, name, z) for z in range(len(found.sizes))),
        information_removed=removed,
        by_rate=rates,
    )


def _curve(found: Relearning, best: Envelope, name: str, z: int) -> Attacked:
    m = found.place(name)
    loss = [mean_interval(at) for at in found.chance - best.skill[m, z].mean(axis=-1)]
    kept = found.kept[m][best.way[m, z], z, best.rate[m, z], best.stop[m, z]].mean(axis=1)  # step subtask
    return Attacked(
        size=found.sizes[z],
        loss=Interval(*(np.array([one[end] for one in loss]) for end in range(3))),
        way=tuple(found.ways[way] for way in best.way[m, z]),
        rate=tuple(found.rates[r] for r in best.rate[m, z]),
        stop=tuple(found.steps[t] for t in best.stop[m, z]),
        kept={subtask: kept[:, s] for s, subtask in enumerate(found.subtasks)},
        steps_to_recover=StepsToRecover(*steps_to_recover(found, best, name, z)),
        not_recovered=not_recovered(found, best, name, z),
        area=mean_interval(area(found, best, name, z)),
    )


def by_rate(found: Relearning, model: str) -> Float64[np.ndarray, "size rate step"]:
    """Return (model - never) / (original - never) had every network been attacked at one rate and to the end.

    How far it moves along the rates says how far one rate would have decided the verdict. NaN where the original does
    not lead by `verdict.LEAD` of what it led by before.
    """
    chosen = skill(found.selection, found.chance).mean(axis=-1)  # model way size rate step
    stated = skill(found.report, found.chance).mean(axis=(-2, -1))
    mean = np.take_along_axis(stated, chosen.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    own, whole, never = (mean[found.place(name)] for name in (model, ORIGINAL, reference_of(found)))
    lead = whole - never
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((lead > 0) & (lead >= LEAD * lead[..., :1]), (own - never) / lead, np.nan)
