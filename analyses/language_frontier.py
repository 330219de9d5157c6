"""What does a narrow language model of a given size cost: pruning, distillation, or training from nothing?

Question (figures 6 and 12 of the paper): a language model knows several languages; wanted is a smaller one that knows
Python, as well as the large one but for a margin. How many tokens does that take, by parameters, if neurons and
coordinates of the residual stream are dropped together and the rest is trained again, if a student is taught, and if
the same shape is trained on text alone? The control that the paper lacks: units dropped by chance, without replacement.
An answer: tokens until each of three losses on held-out text, against parameters, with intervals over seeds, and CPU
seconds beside, with those of scoring units and of the teacher. Unlike in the paper, all methods have as many rates to
choose from, tried at as many sizes by the same rule on the selection split and other seeds (`_tuning`), the same batch,
and a schedule that ends with the same budget; embeddings are tied or not as in the large model, for all. Tokens are
rounded up to the next look, which come at the same steps for all.

Minutes: one or two for `--scale quick` (a forecast), some 120 of one core for `cpu` (the embedded model); `paper` is
Llama-3.2-1B on GitHub Python, for eight GPUs under torchrun.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from _frame import Cells, analyse
from _narrow import Text, Training, over_seeds
from _students import DROPPED, METHODS, Method, Narrowed, Whole, know, narrow, settings_for
from _tuning import Rungs, Tried, halve
from skilloc import plots
from skilloc.locality.intervals import mean_interval
from skilloc.plots.style import CONTROL

Size = tuple[float, float] | tuple[int, int, int]
"""Shares of neurons and of residual dimensions that are dropped; or width, layers and heads of a student."""


LOOKS = (4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384)


@dataclass(frozen=True)
class Scale:
    """Which model, sizes and thresholds, how often, and how much tuning."""

    text: Text = field(default_factory=lambda: Text(scored=32))
    training: Training = field(default_factory=lambda: Training(384, looks=LOOKS))
    dropped: tuple[tuple[float, float], ...] = ((0.5, 0.2), (0.5, 0.5), (0.8, 0.5), (0.8, 0.8), (0.9, 0.9))
    students: tuple[tuple[int, int, int], ...] = ((32, 4, 2), (64, 4, 4), (96, 4, 6), (128, 4, 8), (160, 4, 10))
    above: tuple[float, float, float] = (2.5, 1.5, 0.75)
    """nats above the loss of the large model at which a run has arrived"""
    seeds: int = 3
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    rungs: Rungs = field(default_factory=lambda: Rungs((4,), (1,)))
    tuned_at: int = 2
    """sizes at which each method is tuned, the middles of as many parts; a size takes the setting of the nearest"""


PAPER = Text("NousResearch/Llama-3.2-1B", "hub:codeparrot/github-code#code", 1024, scored=1024, held_out=512)
SCALES = {
    "quick": Scale(
        Text(length=16, scored=8, held_out=8),
        Training(steps=4, examples=4, looks=(1, 2, 4)),
        ((0.5, 0.2),),
        ((64, 2, 4),),
        (5.0, 3.0, 0.5),
        2,
        (1e-3, 4e-3),
        Rungs((2, 1), (1, 2)),
    ),
    "cpu": Scale(),
    "paper": Scale(
        PAPER,
        Training(30_000, 5e-5, 64, tuple(range(250, 30_001, 250)), "bfloat16"),
        ((0.5, 0.2), (0.5, 0.5), (0.8, 0.5), (0.9, 0.5), (0.95, 0.5), (0.8, 0.8), (0.9, 0.9)),
        ((512, 8, 8), (768, 12, 12), (1024, 16, 16), (1280, 20, 20), (1536, 24, 24)),
        (0.375, 0.25, 0.125),
        rates=(5e-5, 1.5e-4, 5e-4, 1.5e-3),
    ),
}


Arm = tuple[Method, Size]
Asked = tuple[Arm, dict[str, Any], int]


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Tune each method at some of its sizes, and run it at all of them on the reported seeds."""
    (whole,) = (one.metrics for one in run(know, [Whole(scale.text)]))
    bars = {split: [loss + above for above in scale.above] for split, loss in whole["loss"].items()}
    sizes = {method: scale.dropped if method in DROPPED else scale.students for method in METHODS}
    arms: list[Arm] = [(method, size) for method, own in sizes.items() for size in own]
    nearest = {(method, own[i]): (method, own[j]) for method, own in sizes.items() for i, j in _tuned(scale, len(own))}
    drawn = {arm: [(arm, one) for one in settings_for(arm[0], scale.rates)] for arm in sorted(set(nearest.values()))}
    best, spent = halve(drawn, partial(_tried, scale, run, bars["selection"]), scale.rungs)
    found = _run(scale, run, [(arm, best[nearest[arm]][1], seed) for arm in arms for seed in range(scale.seeds)])
    points: dict[str, Any] = {}
    for place, arm in enumerate(arms):
        own = found[place * scale.seeds : (place + 1) * scale.seeds]
        points.setdefault(arm[0], []).append(
            {
                "size": list(arm[1]),
                "chosen": best[nearest[arm]][1],
                "tuned": list(nearest[arm][1]),
                "spent": spent[nearest[arm]].record(),
                "parameters": own[0]["parameters"],
                "step": own[0]["path"]["step"],
                "loss": over_seeds([one["path"]["report"] for one in own]),
                "thresholds": [_arrival(scale, own, bar) for bar in bars["report"]],
                "seconds": float(np.mean([one["scoring"] + one["training"] for one in own])),
                "scoring": float(np.mean([one["scoring"] for one in own])),
            }
        )
    for own in points.values():
        own.sort(key=lambda point: point["parameters"])
    settings = {"text": asdict(scale.text), "training": asdict(scale.training), "rates": list(scale.rates)}
    return {
        "settings": settings,
        "whole": whole,
        "above": list(scale.above),
        "bars": bars,
        "seeds": scale.seeds,
        "points": points,
    }


def _tuned(scale: Scale, sizes: int) -> list[tuple[int, int]]:
    """Return, for the place of each size, that of the nearest one at which methods are tuned."""
    parts = min(scale.tuned_at, sizes)
    places = {int((part + 0.5) * sizes / parts) for part in range(parts)}
    return [(size, min(places, key=lambda place: abs(place - size))) for size in range(sizes)]


def _arrival(scale: Scale, runs: Sequence[Mapping[str, Any]], bar: float) -> dict[str, Any]:
    """Tokens and CPU seconds until a loss: those of a run that never arrives are all, and it is counted."""
    steps = [first_below(one["path"], "report", bar) for one in runs]
    whole = scale.training.steps
    taken = np.array([whole if step is None else step for step in steps], dtype=float)
    tokens = [tokens_of(scale, one, step) for one, step in zip(runs, taken, strict=True)]
    seconds = [one["scoring"] + one["training"] * step / whole for one, step in zip(runs, taken, strict=True)]
    return {
        "reached": sum(step is not None for step in steps),
        "each": tokens,
        "tokens": mean_interval(np.log(tokens)).record(),
        "seconds": float(np.mean(seconds)),
    }


def first_below(path: Mapping[str, Sequence[float]], split: str, bar: float) -> float | None:
    """Return the first look at which the loss on a split is below a bar."""
    return next((step for step, loss in zip(path["step"], path[split], strict=True) if loss < bar), None)


def tokens_of(scale: Scale, run: Mapping[str, Any], steps: float) -> float:
    """Return the tokens of so many steps, with those by which units were scored; of none, one example's."""
    return max(1.0, steps * scale.training.examples + float(run["scored"])) * scale.text.length


def _run(scale: Scale, run: Cells, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    specs = []
    for (method, size), setting, seed in asked:
        training = replace(scale.training, rate=setting["rate"])
        teacher = {name: setting[name] for name in ("temperature", "soft")}
        shape: dict[str, Any] = {"dropped" if method in DROPPED else "student": size}
        specs.append(Narrowed(scale.text, training, method, **shape, **teacher, seed=seed))
    return [one.metrics for one in run(narrow, specs)]


def _tried(
    scale: Scale, run: Cells, bars: Sequence[float], asked: Sequence[tuple[tuple[Arm, dict[str, Any]], int]]
) -> list[Tried]:
    """Score settings by tokens until the middle loss; a run that fails is as bad as all tokens and what it lacks."""
    found = _run(scale, run, [(arm, setting, seed) for (arm, setting), seed in asked])
    bar, steps, tried = sorted(bars)[1], scale.training.steps, []
    for one in found:
        step, end = first_below(one["path"], "selection", bar), one["path"]["selection"][-1]
        # Of two that arrive at one look, the one that ends lower is better.
        score = (step + end / 1e3) if step is not None else steps * (1 + end - bar)
        examples = steps * scale.training.examples + one["scored"]
        tried.append(Tried(score, steps, examples, one["scoring"] + one["training"]))
    return tried


def draw(found: dict[str, Any]) -> Any:
    """Tokens until three losses, against parameters; CPU seconds, losses in the end, and losses along the tokens."""
    figure, axes = plots.figure(2, 3, height=4.8)
    each = found["settings"]["training"]["examples"] * found["settings"]["text"]["length"]
    for place, (method, points) in enumerate(found["points"].items()):
        colour = CONTROL if method == "random" else plots.colour_of(place)
        style = {"color": colour, "ls": "--" if method == "random" else "-"}
        parameters = np.array([one["parameters"] for one in points])
        for number, ax in enumerate(axes[0]):
            own = [one["thresholds"][number] for one in points]
            value, low, high = (np.exp([one["tokens"][end] for one in own]) for end in ("value", "low", "high"))
            ax.fill_between(parameters, low, high, color=colour, alpha=0.12, lw=0)
            ax.plot(parameters, value, marker=".", **style, label=method)
            failed = np.array([one["reached"] < found["seeds"] for one in own])
            ax.plot(parameters[failed], value[failed], "x", color=colour, ms=5)
        seconds, ends, along = axes[1]
        taken, failed = np.array(
            [(one["thresholds"][0]["seconds"], one["thresholds"][0]["reached"] < found["seeds"]) for one in points]
        ).T
        seconds.plot(parameters, taken, marker=".", **style)
        seconds.plot(parameters[failed > 0], taken[failed > 0], "x", color=colour, ms=5)
        last = np.array([[one["loss"][end][-1] for end in ("value", "low", "high")] for one in points])
        ends.fill_between(parameters, last[:, 1], last[:, 2], color=colour, alpha=0.12, lw=0)
        ends.plot(parameters, last[:, 0], marker=".", **style)
        for shade, one in zip(np.linspace(0.3, 1, len(points)), points, strict=True):
            along.plot(each * (1 + np.array(one["step"])), one["loss"]["value"], **style, alpha=shade, lw=0.8)
    for ax, bar in zip(axes[0], found["bars"]["report"], strict=True):
        ax.set(xscale="log", yscale="log", xlabel="parameters", title=f"until {bar:.2f} nats")
        limits = ax.get_ylim()
        ax.set_ylim(max(limits[0], each / 4), min(limits[1], 4 * each * found["settings"]["training"]["steps"]))
    axes[0, 0].set_ylabel("tokens, those of scoring included")
    seconds.set(xscale="log", yscale="log", xlabel="parameters", title=f"until {found['bars']['report'][0]:.2f} nats")
    seconds.set_ylabel("CPU seconds")
    ends.set(xscale="log", xlabel="parameters", ylabel="held-out loss (nats per token)", title="in the end")
    ends.axhline(found["whole"]["loss"]["report"], color="black", lw=0.5, ls=":")
    along.set(xscale="log", xlabel="tokens", title="on the way, dark: large")
    axes[0, 0].plot([], [], "x", color="black", ms=5, label="not by every seed")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found["points"]) + 1)
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__ or "", scales=SCALES, measure=measure, draw=draw)
