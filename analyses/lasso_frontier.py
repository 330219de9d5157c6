"""Does group lasso flatten the curve of loss against sparsity, more than plain finetuning does?

Question (figure 5 and claim 7 of the paper): a language model is finetuned on one text with a penalty on whole neurons,
at several strengths, and then pruned by attribution (signed, activation x gradient), all at once. The paper's control
was the untouched model, which has not seen the text for so long: here plain finetuning for as many steps at the same
rate (strength 0) stands beside it. Then what is left at three sparsities is trained again. An answer: held-out loss
against sparsity for the untouched model, plain finetuning and each strength, with intervals over seeds; the largest
sparsity that costs at most 0.05 nats more than none; and recovery of all of them at the same sparsities, not each at
its own, as in the paper, whose two middle strengths were swapped.

Minutes: under one for `--scale quick`, about 100 of one core for `cpu` (the embedded model); `paper` is Llama-3.2-1B on
GitHub Python, for eight GPUs under torchrun.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from _finetuning import Finetuned, finetune, finetuned_model
from _frame import Cells, analyse
from _narrow import (
    Text,
    Training,
    experiment_on,
    held_out,
    least_dropped,
    opened_text,
    over_seeds,
    recovered,
)
from skilloc import plots, store
from skilloc.experiment import Experiment
from skilloc.locality.intervals import mean_interval
from skilloc.plots.style import CONTROL
from skilloc.pruning import mask_curve

FLAT = 0.05
"""Nats above the loss without pruning, up to which the curve counts as flat."""

UNTOUCHED, PLAIN = "untouched", "plain finetuning"


@dataclass(frozen=True)
class Pruned:
    """The spec of a cell: a finetuned model, pruned and trained again."""

    text: Text
    training: Training
    model: str
    """key of the finetuned model among the results"""
    sparsity: float
    """share of the units that are dropped"""
    seed: int = 0
    """of the training examples"""


@dataclass(frozen=True)
class Scale:
    """Which model, strengths and sparsities, how often."""

    finetuned: Finetuned = field(default_factory=lambda: Finetuned(Text(), 0.0, 1000))
    training: Training = field(default_factory=lambda: Training(128, looks=(1, 2, 4, 8, 16, 32, 64, 128)))
    strengths: tuple[float, ...] = (3e-4, 1e-3, 2e-3, 3e-3)
    sparsities: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    recovered: tuple[float, ...] = (0.3, 0.6, 0.8)
    seeds: int = 3


PAPER = Text("NousResearch/Llama-3.2-1B", "hub:codeparrot/github-code#code", 512, scored=2048, held_out=2048)
SCALES = {
    "quick": Scale(
        Finetuned(Text(length=16, scored=8, held_out=8), 0.0, steps=3, examples=4),
        Training(steps=2, examples=4, looks=(1, 2)),
        (0.01,),
        (0.0, 0.5, 0.8),
        (0.5,),
        2,
    ),
    "cpu": Scale(),
    "paper": Scale(
        Finetuned(PAPER, 0.0, 70_000, 2e-6, 108, products="bfloat16"),
        Training(20_000, 5e-5, 64, (5, 20, 100, 300, 1000, 3000, 10_000, 20_000), "bfloat16"),
        (1e-4, 3e-4, 5e-4, 1e-3),
        seeds=1,
    ),
}


def curve(settings: Pruned, results: Path) -> dict[str, Any]:
    """Return the held-out loss of a finetuned model without a share of its units, not trained again."""
    model, scores = finetuned_model(settings.text, results, settings.model)
    report = held_out(opened_text(settings.text)[1], settings.text)["report"]
    experiment = Experiment(model, {"kept": report}, kinds=settings.text.kinds, folds=1)
    mask = least_dropped(experiment.units, scores, settings.sparsity)
    return {"loss": float(mask_curve(experiment, [mask], draws=0).losses.mean())}


def recover_pruned(settings: Pruned, results: Path) -> dict[str, Any]:
    """Return held-out losses along the recovery of a finetuned model without a share of its units."""
    model, scores = finetuned_model(settings.text, results, settings.model)
    units = experiment_on(settings.text, seed=settings.seed, model=model).units
    mask = least_dropped(units, scores, settings.sparsity)
    return {"path": recovered(model, mask, settings.text, settings.training, seed=settings.seed)[1]}


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Finetune, prune at all sparsities, and recover at some."""
    base, seeds = scale.finetuned, range(scale.seeds)
    named = {UNTOUCHED: replace(base, steps=0), PLAIN: base}
    named |= {f"{strength:g}": replace(base, strength=strength) for strength in scale.strengths}
    models = {name: run(finetune, [replace(one, seed=seed) for seed in seeds]) for name, one in named.items()}
    keys = {name: [store.key(one.spec) for one in own] for name, own in models.items()}

    def pruned(name: str, shares: Sequence[float]) -> list[Pruned]:
        each = product(shares, seeds)
        return [Pruned(base.text, scale.training, keys[name][seed], share, seed) for share, seed in each]

    found: dict[str, Any] = {}
    for name, own in models.items():
        losses = np.array([one.metrics["loss"] for one in run(curve, pruned(name, scale.sparsities))])
        losses = losses.reshape(len(scale.sparsities), scale.seeds)
        paths = [one.metrics["path"] for one in run(recover_pruned, pruned(name, scale.recovered))]
        groups = [paths[i * scale.seeds : (i + 1) * scale.seeds] for i in range(len(scale.recovered))]
        found[name] = {
            "live": [one.metrics["live"] for one in own],
            "units": own[0].metrics["units"],
            "finetuning": [one.metrics["path"] for one in own],
            "loss": over_seeds(losses.T.tolist()),
            "flat": mean_interval(np.array([_flat(scale.sparsities, one) for one in losses.T])).record(),
            "recovery": {
                str(share): {"step": own[0]["step"], "loss": over_seeds([one["report"] for one in own])}
                for share, own in zip(scale.recovered, groups, strict=True)
            },
        }
    settings = {"finetuned": asdict(base), "training": asdict(scale.training), "flat": FLAT}
    return {"settings": settings, "seeds": scale.seeds, "sparsities": list(scale.sparsities), "models": found}


def _flat(sparsities: Sequence[float], losses: np.ndarray) -> float:
    """Return the largest sparsity up to which a curve stays within `FLAT` of its beginning."""
    near = np.logical_and.accumulate(losses <= losses[0] + FLAT)
    return float(np.array(sparsities)[near][-1])


def draw(found: dict[str, Any]) -> Any:
    """Loss against sparsity, and recovery at each of the sparsities."""
    models: Mapping[str, Any] = found["models"]
    shares = list(next(iter(models.values()))["recovery"])
    figure, axes = plots.figure(1, 1 + len(shares), height=2.9)
    for place, (name, one) in enumerate(models.items()):
        colour = {UNTOUCHED: "black", PLAIN: CONTROL}.get(name) or plots.colour_of(place - 2)
        label = name if name in (UNTOUCHED, PLAIN) else f"strength {name}"
        style = {"color": colour, "ls": "--" if name in (UNTOUCHED, PLAIN) else "-"}
        _band(axes[0], found["sparsities"], one["loss"], **style, label=label)
        for ax, share in zip(axes[1:], shares, strict=True):
            own = one["recovery"][share]
            _band(ax, 1 + np.array(own["step"]), own["loss"], **style)
            ax.set(xscale="log", xlabel="1 + steps of recovery", title=f"{float(share):.0%} dropped")
    axes[0].set(xlabel="share of neurons dropped", ylabel="held-out loss (nats per token)", title="not trained again")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(models))
    return figure


def _band(ax: Any, x: Any, loss: Mapping[str, Any], **style: Any) -> None:
    low, high = np.array(loss["low"]), np.array(loss["high"])
    ax.fill_between(x, low, high, color=style["color"], alpha=0.12, lw=0)
    ax.plot(x, loss["value"], **style)


if __name__ == "__main__":
    analyse(__file__, __doc__ or "", scales=SCALES, measure=measure, draw=draw)
