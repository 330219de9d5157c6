"""What does a narrow network of a given size cost: pruning, distillation, or training from nothing?

Question (figure 4 of the paper): a network knows all ten handwritten digits; wanted is a small one that knows the even
ones, with 96.5 % accuracy on held-out images. How many training examples does that take, by the number of hidden
neurons that are kept, for group lasso, pruning by attribution and recovery, distillation, scratch, and two controls
that the paper has not: random pruning, and a student that starts as the pruned network? An answer: curves of examples
against neurons with intervals over seeds, each method tuned alike (`_tuning`): as many settings, the same rates and
batches to choose from, chosen on the selection split and other seeds. What is counted includes the examples by which
units are scored; CPU seconds include the teacher's share and stand beside.

Minutes: one of two cores for `--scale quick` (8 x 8 pixels); for `cpu` (MNIST's digits as `skilloc fetch digits` gives
them, a large network of 2 x 400) 25 core minutes of runs, besides opening; `paper` has 2 x 1,200 and 97 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, get_args

import numpy as np

from _digits import LargeNetwork, Method, NarrowNetwork, narrow, settings_for, train_large
from _frame import Cells, analyse
from _tuning import Rungs, Tried, halve
from skilloc import plots, store
from skilloc.locality.intervals import mean_interval
from skilloc.plots.style import CONTROL

METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Scale:
    """Which networks, how many sizes and seeds, and how much tuning."""

    large: LargeNetwork
    run: NarrowNetwork
    kept: tuple[int, ...]
    seeds: int
    rungs: Rungs = field(default_factory=Rungs)
    tuned_at: int = 3
    """sizes at which methods are tuned, spread over all; a size takes the setting of the nearest"""


SCALES = {
    "quick": Scale(
        LargeNetwork(32, small=True, steps=600),
        NarrowNetwork("", "scratch", 8, threshold=0.9, most=4096, every=512),
        (8, 24),
        2,
        Rungs((2, 1), (1, 2)),
        1,
    ),
    "cpu": Scale(LargeNetwork(), NarrowNetwork("", "scratch", 24), (24, 32, 48, 64, 96, 128, 192, 256, 384, 512), 5),
    "paper": Scale(
        LargeNetwork(1200, steps=11_000),
        NarrowNetwork("", "scratch", 24, threshold=0.97, most=60_000),
        (24, 30, 50, 70, 100, 160, 280, 400, 600, 1200, 2000),
        10,
    ),
}


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Train the large networks, tune each method at some sizes, and run it at all sizes on the reported seeds."""
    large = run(train_large, [replace(scale.large, seed=seed) for seed in range(scale.seeds)])
    keys = [store.key(one.spec) for one in large]
    places = np.unique(np.linspace(0, len(scale.kept) - 1, scale.tuned_at).round().astype(int))
    tuned, spent = {}, {}
    for kept in (scale.kept[place] for place in places):
        base = replace(scale.run, kept=kept, split="selection")
        drawn = {method: [(method, one) for one in settings_for(method, scale.rungs.settings[0])] for method in METHODS}
        best, cost = halve(drawn, partial(_tried, run, base, keys), scale.rungs)
        tuned[kept] = {method: setting for method, (_, setting) in best.items()}
        spent[kept] = {method: one.record() for method, one in cost.items()}
    points = {}
    for method in METHODS:
        specs = [
            replace(scale.run, network=keys[seed], method=method, kept=kept, seed=seed, **_nearest(tuned, kept)[method])
            for kept in scale.kept
            for seed in range(scale.seeds)
        ]
        found = [result.metrics for result in run(narrow, specs)]
        groups = [found[i * scale.seeds : (i + 1) * scale.seeds] for i in range(len(scale.kept))]
        points[method] = [_point(kept, group, scale.run.most) for kept, group in zip(scale.kept, groups, strict=True)]
    return {
        "large": [one.metrics for one in large],
        "settings": asdict(scale.run),
        "width": scale.large.width,
        "seeds": scale.seeds,
        "rungs": asdict(scale.rungs),
        "tuned": {str(kept): methods for kept, methods in tuned.items()},
        "spent": {str(kept): methods for kept, methods in spent.items()},
        "points": points,
    }


def _tried(
    run: Cells, base: NarrowNetwork, keys: Sequence[str], asked: Sequence[tuple[tuple[Method, dict[str, Any]], int]]
) -> list[Tried]:
    specs = [
        replace(base, network=keys[seed % len(keys)], method=method, seed=seed, **setting)
        for (method, setting), seed in asked
    ]
    found = [result.metrics for result in run(narrow, specs)]
    # A run that failed is as bad as the most examples, and the better the nearer it came.
    return [
        Tried(
            one["examples"] if one["reached"] else base.most * (2 - one["accuracy"]["selection"]),
            one["steps"],
            one["examples"],
            one["seconds"],
        )
        for one in found
    ]


def _nearest(tuned: Mapping[int, dict[str, Any]], kept: int) -> dict[str, Any]:
    return tuned[min(tuned, key=lambda size: abs(np.log(size / kept)))]


def _point(kept: int, runs: Sequence[Mapping[str, Any]], most: int) -> dict[str, Any]:
    """What a method needed at one size: failed runs count as the most examples, and are counted."""
    examples = np.array([one["examples"] if one["reached"] else most for one in runs], dtype=float)
    return {
        "kept": kept,
        "reached": int(sum(one["reached"] for one in runs)),
        "examples": mean_interval(np.log(examples)).record(),
        "each": examples.tolist(),
        "seconds": float(np.mean([one["seconds"] for one in runs])),
        "steps": float(np.mean([one["steps"] for one in runs])),
        "accuracy": float(np.mean([one["accuracy"]["report"] for one in runs])),
        "path": runs[0]["path"],
    }


def draw(found: dict[str, Any]) -> Any:
    """Examples against neurons, CPU seconds against neurons, and paths of accuracy against live neurons."""
    figure, (needed, spent, paths) = plots.figure(1, 3, height=3.0)
    most, seeds = found["settings"]["most"], found["seeds"]
    for place, (method, points) in enumerate(found["points"].items()):
        colour = CONTROL if method == "random" else plots.colour_of(place)
        style = {"color": colour, "ls": "--" if method == "random" else "-", "label": method}
        kept = np.array([one["kept"] for one in points])
        value, low, high = (np.exp([one["examples"][end] for one in points]) for end in ("value", "low", "high"))
        needed.fill_between(kept, low, np.minimum(high, 1.05 * most), color=colour, alpha=0.15, lw=0)
        needed.plot(kept, value, **style)
        failed = np.array([one["reached"] < seeds for one in points])
        needed.plot(kept[failed], value[failed], "x", color=colour, ms=5)
        spent.plot(kept, [one["seconds"] for one in points], **style)
        if method == "group lasso":
            for shade, one in zip(np.linspace(0.35, 1, len(points)), points, strict=True):
                _, right, live = np.array(one["path"]).T
                paths.plot(live, 100 * right, ".-", color=colour, alpha=shade, lw=0.8, ms=3)
    needed.axhline(most, color="black", lw=0.5, ls=":")
    threshold = found["settings"]["threshold"]
    paths.axhline(100 * threshold, color="black", lw=0.5, ls=":")
    needed.set(xscale="log", yscale="log", ylabel=f"examples until {100 * threshold:.3g} %", title="examples")
    spent.set(xscale="log", yscale="log", ylabel="CPU seconds, teacher's included", title="time")
    paths.set(
        xscale="log", ylabel="accuracy (%)", title="group lasso on its way", ylim=(max(0, 100 * threshold - 16), 100)
    )
    sizes = [one["kept"] for one in next(iter(found["points"].values()))]
    for ax, axis in ((needed, "neurons kept"), (spent, "neurons kept"), (paths, "live neurons")):
        marks = [*sizes[::2], 2 * found["width"]] if ax is paths else sizes[::2]
        ax.set_xticks(marks, [f"{mark:,}" for mark in marks])
        ax.minorticks_off()
        ax.set_xlabel(axis)
    handles, labels = needed.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__ or "", scales=SCALES, measure=measure, draw=draw)
