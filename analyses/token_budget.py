"""How much text does it take before effects and locality scores settle?

Question: as more text is read, how soon do the units' effects agree with themselves, and how soon does the number of
units that carry a corpus stop moving? An answer: a number of tokens beyond which scores of independent draws lie within
each other's intervals, and reliability is near 1. The controls are the score without correction for the noise of the
effects, and its chance level: that of effects drawn from a normal distribution around 0.

Minutes: about 11 on two busy cores (`--scale cpu --workers 2`), half a minute for `--scale quick`; `--scale paper` asks
a larger model, on a GPU. `skilloc sweep run analyses/token_budget.toml` runs the same cells into the same folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from _frame import Cells, analyse
from skilloc import plots
from skilloc.attribution import attribution_effects
from skilloc.cli.sweep_config import read_plan
from skilloc.experiment import Experiment
from skilloc.locality import plain, reliability, scores
from skilloc.models.language import digest, open_model
from skilloc.plots.style import CONTROL
from skilloc.store import Labelled
from skilloc.study.draws import subtasks_of
from skilloc.tasks import Subtask

CONFIG = Path(__file__).with_suffix(".toml")
SCALES: dict[str, tuple[str, ...]] = {
    "quick": ("length=16", "curvature=0", "sources=['python']"),
    "cpu": (),
    "paper": ("model=smollm2", "length=256", "curvature=8", "device=cuda"),
}


@dataclass(frozen=True)
class TokenBudget:
    """The spec of one cell."""

    sequences: int = 64
    """examples per subtask; every number of tokens is `sequences * length`"""
    length: int = 96
    """tokens per example"""
    seed: int = 0
    """which examples are drawn"""
    model: str = "embedded"
    """any name that `open_model` knows"""
    sources: tuple[str, ...] = ("python", "cpp", "english")
    """where texts come from, one subtask each; all are drawn from the report split"""
    kinds: tuple[str, ...] = ("neuron",)
    """kinds of unit: neuron, head"""
    folds: int = 8
    """disjoint parts of the examples"""
    curvature: int = 8
    """label draws for the curvature of the attribution; 0 leaves it out"""
    device: str = "cpu"
    """where the model runs; cuda is the worker's own GPU"""

    def __post_init__(self) -> None:
        for name, least in (("sequences", 1), ("length", 1), ("folds", 3), ("curvature", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least {least}")
        if self.folds > self.sequences:
            raise ValueError(
                f"`folds` is {self.folds} but `sequences` is {self.sequences}; each fold needs a sequence of its own"
            )


def measure_budget(settings: TokenBudget) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Attribute a model's loss to its units on some text, and score how local that is.

    Returns:
        Tokens per subtask; per subtask the loss in nats per token, the effective number of units, Gini and Hoyer scores
        with their intervals, and the reliability of the effects; and the effects on `fold subtask unit`, in nats.
    """
    model, subtasks = _prepared(settings.model, settings.device, settings.sources, settings.length)
    experiment = Experiment(
        model, subtasks, kinds=settings.kinds, folds=settings.folds, count=settings.sequences, seed=settings.seed
    )
    effects = attribution_effects(experiment, curvature=settings.curvature, seed=settings.seed)
    agreement = reliability(effects.values)
    # The spec names the model and the texts; these digests say what they were.
    metrics: dict[str, Any] = {
        "tokens": settings.sequences * settings.length,
        "model": digest(model),
        "units": len(effects.units),
        "subtasks": {},
    }
    for place, name in enumerate(effects.subtasks):
        found = scores(effects.values[:, place])
        metrics["subtasks"][name] = {
            "examples": experiment.examples[name].digest,
            "loss": effects.baseline[:, place].mean(),
            "reliability": agreement.value[place],
            # The score of the mean effects as they are, with the bias of their noise.
            "effective_number_plain": plain(effects.mean(name))["effective_number"],
            **{part: found[part].record() for part in ("effective_number", "gini", "hoyer", "mass")},
        }
    array = Labelled(effects.values, ("fold", "subtask", "unit"), {"subtask": effects.subtasks})
    return metrics, {"effects": array}


@lru_cache(maxsize=1)
def _prepared(name: str, device: str, sources: tuple[str, ...], length: int) -> tuple[nn.Module, Mapping[str, Subtask]]:
    """Open a model and read the texts, once per worker: that takes longer than most cells."""
    opened = open_model(name, device=device)
    return opened.model, subtasks_of(opened, {source: source for source in sources}, length=length)


def measure(changes: tuple[str, ...], run: Cells) -> dict[str, Any]:
    """Run what is left of the cells of the configuration, and collect them."""
    plan = read_plan(CONFIG, changes)
    results = run(plan.cell, plan.specs)
    return {"records": [{"spec": result.spec, "metrics": result.metrics} for result in results]}


def _values(records: list[dict[str, Any]], subtask: str, *path: str) -> np.ndarray:
    """One number per record; NaN where it is missing."""
    found = []
    for record in records:
        value = record["metrics"]["subtasks"][subtask]
        for part in path:
            value = value[part]
        found.append(np.nan if value is None else value)
    return np.array(found, dtype=float)


def draw(found: dict[str, Any]) -> Any:
    """Left: effective number of units, corrected and not. Right: reliability of the effects. Each dot is one draw."""
    records = found["records"]
    tokens = np.array([record["metrics"]["tokens"] for record in records])
    budgets = np.unique(tokens)
    figure, (left, right) = plots.figure(1, 2, height=2.9)
    subtasks = records[0]["spec"]["sources"]
    for place, subtask in enumerate(subtasks):
        colour = plots.colour_of(place)
        shifted = tokens * 1.06 ** (place - 1)  # so that the bars of the subtasks stand side by side
        number, low, high = (_values(records, subtask, "effective_number", end) for end in ("value", "low", "high"))
        known = np.isfinite(number)
        bars = np.stack([number - low, high - number])[:, known]
        left.errorbar(
            shifted[known], number[known], bars, fmt="o", color=colour, ms=3, lw=0.7, alpha=0.8, label=subtask
        )
        uncorrected = _values(records, subtask, "effective_number_plain")
        left.plot(budgets, [uncorrected[tokens == b].mean() for b in budgets], color=colour, lw=0.8, ls=(0, (4, 3)))
        reliability = _values(records, subtask, "reliability")
        right.plot(tokens, reliability, "o", color=colour, ms=3, alpha=0.8)
        right.plot(budgets, [np.nanmean(reliability[tokens == b]) for b in budgets], color=colour, label=subtask)
    left.plot([], [], color=CONTROL, lw=0.8, ls=(0, (4, 3)), label="uncorrected")
    chance = _values(records, subtasks[0], "effective_number", "chance")
    left.axhline(chance[0], color=CONTROL, lw=0.8, label="chance")
    left.set(ylabel="effective number of units", title="units that carry a corpus", ylim=(0, None))
    right.set(ylabel="rank correlation of\ndisjoint halves", title="reliability of effects", ylim=(-0.05, 1.0))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="tokens per corpus")
        axes.set_xticks(budgets, [f"{b:,}" for b in budgets])
        axes.xaxis.minorticks_off()
        axes.legend()
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
