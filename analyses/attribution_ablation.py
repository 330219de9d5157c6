"""How well do attributions say what ablation would, for neurons and for coordinates of the residual stream?

Question (figure 11 and claim 9 of the paper: correlations of logarithms 0.80 for neurons, 0.05 for residual dimensions;
linear ones 0.44 and 0.39): units of a language model are ablated, exactly, at zero; each attribution that there is
here, and the paper's two, estimates the same. An answer: correlations of ranks and logarithms, and how many of the
largest effects an estimate finds, with intervals that cover (`_correlations`; their coverage is tested). The paper
prints linear correlations, which in heavy tails are those of a few units: stated here only where all units were
measured.

Minutes on two cores: under one for `--scale quick`, 45 of one core for `cpu` (SmolLM2, after `skilloc fetch
smollm2`: 500 neurons without replacement, all 576 residual dimensions); `paper` is Llama-3.2-1B on GitHub Python, for
a GPU.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from _correlations import agreement
from _frame import Cells, analyse
from _narrow import Text, experiment_on, weight_gradient
from skilloc import plots
from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects, integrated_gradients_effects
from skilloc.masks import sample
from skilloc.store import Labelled

METHODS = ("activation x gradient", "with curvature", "integrated gradients", "weight x gradient", "paper's, sign-less")
MEASURES = ("ranks", "logs", "recall")
PAPER = {"neuron": {"logs": 0.80, "linear": 0.44}, "residual": {"logs": 0.05, "linear": 0.39}}
"""What the paper has for weight x gradient."""


@dataclass(frozen=True)
class Compared:
    """The spec of a cell: units of one kind, ablated and attributed on the same examples."""

    text: Text
    kind: Literal["neuron", "residual"]
    count: int | None = None
    """units that are measured, at random without replacement; all if not given"""
    seed: int = 0
    """of the examples and of the sample"""


SMALL, SMOLLM2 = Text(length=12, scored=4), Text("smollm2", length=64, scored=8)
LLAMA = Text("NousResearch/Llama-3.2-1B", "hub:codeparrot/github-code#code", 1024, scored=8)
SCALES: dict[str, tuple[Compared, ...]] = {
    "quick": (Compared(SMALL, "neuron", 24), Compared(SMALL, "residual", 24)),
    "cpu": (Compared(SMOLLM2, "neuron", 500), Compared(SMOLLM2, "residual")),
    "paper": (Compared(LLAMA, "neuron", 500), Compared(LLAMA, "residual")),
}


def compare(settings: Compared) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Ablate units exactly, and estimate the same by every attribution.

    Returns:
        How many units there are; signed effects on `method unit`, those of weights as magnitudes, and exact ones on
        `unit`.
    """
    text = replace(settings.text, kinds=(settings.kind,))
    experiment = experiment_on(text, seed=settings.seed, folds=1)
    units = experiment.units
    chosen = np.ones(len(units), dtype=bool)
    if settings.count is not None:
        chosen = sample(units, min(settings.count, len(units)), seed=settings.seed)
    exact = ablation_effects(experiment, select=chosen).mean("kept")[chosen]
    estimates = {
        "activation x gradient": attribution_effects(experiment, curvature=0).mean("kept"),
        "with curvature": attribution_effects(experiment, seed=settings.seed).mean("kept"),
        "integrated gradients": integrated_gradients_effects(experiment).mean("kept"),
        "weight x gradient": weight_gradient(experiment, signed=True, batches=1),
        "paper's, sign-less": weight_gradient(experiment, signed=False),
    }
    values = np.stack([estimates[method][chosen] for method in METHODS])
    names = [name for name, own in zip(units.names, chosen, strict=True) if own]
    axes = {"method": METHODS, "unit": names}
    arrays = {
        "estimates": Labelled(values, ("method", "unit"), axes),
        "exact": Labelled(exact, ("unit",), {"unit": names}),
    }
    return {"units": len(units), "measured": int(chosen.sum())}, arrays


def measure(cells: tuple[Compared, ...], run: Cells) -> dict[str, Any]:
    """Compare each kind of unit, and state correlations."""
    found = {}
    for settings, result in zip(cells, run(compare, cells), strict=True):
        estimates, exact = result.arrays["estimates"].values, result.arrays["exact"].values
        whole = result.metrics["units"] == result.metrics["measured"]
        found[settings.kind] = {
            **result.metrics,
            "settings": asdict(settings),
            "methods": {
                method: {**agreement(own, exact, whole=whole), "values": [float(f"{v:.4g}") for v in own]}
                for method, own in zip(METHODS, estimates, strict=True)
            },
            "exact": [float(f"{v:.4g}") for v in exact],
        }
    return {"kinds": found}


def draw(found: dict[str, Any]) -> Any:
    """Per kind: exact effects against two estimates, and what each attribution agrees in."""
    kinds: Mapping[str, Any] = found["kinds"]
    figure, axes = plots.figure(len(kinds), 3, height=2.5 * len(kinds), squeeze=False)
    for row, (kind, own) in zip(axes, kinds.items(), strict=True):
        exact = np.abs(own["exact"])
        for ax, method in zip(row, (METHODS[0], METHODS[-1]), strict=False):
            one = own["methods"][method]
            ax.plot(np.abs(one["values"]), exact, ".", ms=2, color="black", alpha=0.4)
            ax.set(xscale="log", yscale="log", xlabel=method, title=f"{kind}: logs {one['logs']['value']:.2f}")
        row[0].set_ylabel("exact effect (nats per token)")
        for place, measured in enumerate(MEASURES):
            rows = np.arange(len(METHODS)) + 0.25 * (place - 1)
            ends = np.array(
                [[one[measured][end] for end in ("value", "low", "high")] for one in own["methods"].values()]
            )
            reach = np.maximum(0, np.stack([ends[:, 0] - ends[:, 1], ends[:, 2] - ends[:, 0]]))
            row[2].errorbar(
                ends[:, 0], rows, xerr=reach, fmt="o", ms=3, lw=0.8, color=plots.colour_of(place), label=measured
            )
        row[2].plot(PAPER[kind]["logs"], METHODS.index("weight x gradient"), "x", color="black", label="paper, logs")
        row[2].set_yticks(range(len(METHODS)), METHODS)
        row[2].set(xlim=(-0.3, 1.02), xlabel="agreement with ablation", title=f"{kind}: {own['measured']:,} units")
        row[2].invert_yaxis()
    figure.legend(*axes[0, 2].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__ or "", scales=SCALES, measure=measure, draw=draw)
