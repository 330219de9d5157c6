"""Does it matter which units go, once what is left has been trained again?

Question (figure 13 and claim 8 of the paper: attribution is about as good as chance after recovery): a language model
is to keep one text. A share of its neurons is dropped, those that count least by attribution, by attribution with
curvature, by exact effects, by the paper's formula, by weight norm, or by chance without replacement; what is left is
trained on the text. An answer: held-out loss along recovery at several sparsities, with intervals over seeds, and the
step from which on each curve is that of chance: the interval of the difference in pairs within 0.02 nats. Rates are
chosen for each criterion and sparsity alike (`_tuning`), on the selection split and other seeds. The paper's runs drew
units with replacement, so that random networks kept more, and had discarded signs; here neither.

Minutes on two cores: under one for `--scale quick`, about 90 core minutes for `cpu` (the embedded model); `paper`
is Llama-3.2-1B on GitHub Python, for eight GPUs under torchrun.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from _frame import Cells, analyse
from _narrow import (
    Criterion,
    Text,
    Training,
    experiment_on,
    least_dropped,
    meeting,
    opened_text,
    over_seeds,
    recovered,
    scores_of,
)
from _tuning import Rungs, Tried, halve
from skilloc import plots, store
from skilloc.models.makers import units_of
from skilloc.plots.style import CONTROL
from skilloc.store import Labelled

SHOWN: tuple[Criterion, ...] = ("attribution", "curvature", "effects", "paper's", "weight norm", "random")


@dataclass(frozen=True)
class Scored:
    """The spec of a cell: the units of a model, scored."""

    text: Text
    criterion: Criterion
    seed: int = 0
    """of the examples, and of chance"""


@dataclass(frozen=True)
class Recovered:
    """The spec of a cell: a model without its least units, trained again."""

    text: Text
    training: Training
    scores: str
    """key of the scores among the results"""
    sparsity: float
    """share of the units that are dropped"""
    seed: int = 0
    """of the training examples"""


@dataclass(frozen=True)
class Scale:
    """Which model, how sparse, how often."""

    text: Text = field(default_factory=lambda: Text(scored=32))
    training: Training = field(default_factory=Training)
    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9)
    seeds: int = 3
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    rungs: Rungs = field(default_factory=lambda: Rungs((4, 2), (1, 2)))


PAPER = Text("NousResearch/Llama-3.2-1B", "hub:codeparrot/github-code#code", 1024, scored=1024, held_out=512)
SCALES = {
    "quick": Scale(
        Text(length=16, scored=8, held_out=8),
        Training(steps=4, examples=4, looks=(1, 2, 4)),
        (0.5, 0.8),
        2,
        (1e-3, 4e-3),
        Rungs((2, 1), (1, 2)),
    ),
    "cpu": Scale(training=Training(steps=128, looks=(1, 2, 4, 8, 16, 32, 64, 128))),
    "paper": Scale(
        PAPER,
        Training(20_000, 5e-5, 64, (5, 20, 100, 300, 1000, 3000, 5000, 10_000, 20_000), "bfloat16"),
        rates=(2e-5, 5e-5, 1e-4, 3e-4),
    ),
}


def score(settings: Scored) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Score all units by one criterion, on training examples.

    Returns:
        The number of units, and the scores on `unit`.
    """
    experiment = experiment_on(settings.text, seed=settings.seed)
    scores = scores_of(experiment, settings.criterion, seed=settings.seed)
    return {"units": len(scores)}, {"scores": Labelled(scores, ("unit",), {"unit": experiment.units.names})}


def recover_without(settings: Recovered, results: Path) -> dict[str, Any]:
    """Drop units and train again.

    Args:
        settings: the run.
        results: folder that holds the scores.

    Returns:
        `path`: held-out losses by step, on both splits; and how many units were `kept` of how many.
    """
    scores = store.read(results / settings.scores).arrays["scores"].values
    model = opened_text(settings.text)[0].model
    mask = least_dropped(units_of(model, kinds=settings.text.kinds), scores, settings.sparsity)
    _, path = recovered(model, mask, settings.text, settings.training, seed=settings.seed)
    return {"path": path, "kept": int(mask.keep.sum()), "units": len(mask.units)}


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Score, tune each criterion at each sparsity, and recover on the reported seeds."""
    arms = list(product(SHOWN, scale.sparsities))
    settings = {arm: list(scale.rates) for arm in arms}
    best, spent = halve(
        {arm: [(arm, rate) for rate in rates] for arm, rates in settings.items()},
        partial(_tried, scale, run),
        scale.rungs,
    )
    chosen = {arm: rate for arm, (_, rate) in best.items()}
    seeds = range(scale.seeds)
    found = _run(scale, run, [(arm, chosen[arm], seed) for arm in arms for seed in seeds], scale.training.looks)
    curves: dict[str, Any] = {}
    for place, (criterion, sparsity) in enumerate(arms):
        own = found[place * scale.seeds : (place + 1) * scale.seeds]
        curves.setdefault(str(sparsity), {})[criterion] = {
            "rate": chosen[criterion, sparsity],
            "kept": own[0]["kept"],
            "units": own[0]["units"],
            "steps": own[0]["path"]["step"],
            "each": [one["path"]["report"] for one in own],
            "loss": over_seeds([one["path"]["report"] for one in own]),
            "spent": spent[criterion, sparsity].record(),
        }
    for own in curves.values():
        for one in own.values():
            apart = np.array(one["each"]) - np.array(own["random"]["each"])
            one["apart"] = over_seeds(apart.tolist())
            one["meets"] = meeting(one["apart"], one["steps"])
    return {
        "settings": {"text": asdict(scale.text), "training": asdict(scale.training), "rates": list(scale.rates)},
        "seeds": scale.seeds,
        "curves": curves,
    }


Asked = tuple[tuple[Criterion, float], float, int]


def _run(scale: Scale, run: Cells, asked: Sequence[Asked], looks: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the recovery of each criterion and sparsity at a rate, on a seed, with `looks` while it lasts."""
    specs = {(arm[0], seed): Scored(scale.text, arm[0], seed) for arm, _, seed in asked}
    scored = dict(zip(specs, run(score, specs.values()), strict=True))
    runs = [
        Recovered(
            scale.text,
            replace(scale.training, rate=rate, looks=looks),
            store.key(scored[arm[0], seed].spec),
            arm[1],
            seed=seed,
        )
        for arm, rate, seed in asked
    ]
    return [one.metrics for one in run(recover_without, runs)]


def _tried(scale: Scale, run: Cells, asked: Sequence[tuple[tuple[tuple[Criterion, float], float], int]]) -> list[Tried]:
    steps = scale.training.steps
    found = _run(scale, run, [(arm, rate, seed) for (arm, rate), seed in asked], (steps,))
    return [Tried(one["path"]["selection"][-1], steps, steps * scale.training.examples, 0.0) for one in found]


def draw(found: dict[str, Any]) -> Any:
    """Held-out loss along recovery, a panel for each sparsity; a cross where a curve becomes that of chance."""
    curves: Mapping[str, Any] = found["curves"]
    figure, axes = plots.figure(1, len(curves), height=2.9, squeeze=False)
    for ax, (sparsity, own) in zip(axes[0], curves.items(), strict=True):
        for place, (criterion, one) in enumerate(own.items()):
            colour = CONTROL if criterion == "random" else plots.colour_of(place)
            steps = np.array(one["steps"])
            value, low, high = (np.array(one["loss"][end]) for end in ("value", "low", "high"))
            ax.fill_between(1 + steps, low, high, color=colour, alpha=0.12, lw=0)
            ax.plot(1 + steps, value, "--" if criterion == "random" else "-", color=colour, label=criterion)
            if criterion != "random" and one["meets"] is not None:
                at = one["steps"].index(one["meets"])
                ax.plot(1 + steps[at], value[at], "x", color=colour, ms=5)
        ax.set(xscale="log", xlabel="1 + steps of recovery", title=f"{float(sparsity):.0%} dropped")
    axes[0, 0].set_ylabel("held-out loss (nats per token)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__ or "", scales=SCALES, measure=measure, draw=draw)
