"""Is a composite parity learned only when the atomic parities that it is made of are in the data too?

Question (the paper's figure 2): networks see four atomic parities and their composite, or the composite alone, with at
least as many examples of it. An answer: the fraction of seeds that learn the composite (loss below 0.1 bits on held-out
examples) in each arm, with its interval, and when they do. Seeds that never do are censored, not dropped.

Minutes on two cores: one for `--scale quick` (24 bits), about 120 for `cpu` (the paper's world and network, 20,000
steps, products in bfloat16); `paper` takes its 200,000 and 1,000,000 steps, for a cluster.
"""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from _frame import Cells, analyse
from _parity import LEARNED, ParityTraining, train_parity
from _worlds import curriculum_network
from skilloc import plots
from skilloc.locality.intervals import proportion_interval, survival
from skilloc.plots.learning import examples_axis, survival_curve
from skilloc.plots.style import CONTROL

SMALL = ParityTraining(steps=5000, stop_on=("composite_012",))
LARGE = curriculum_network()
ROUNDED = replace(LARGE, products="bfloat16")
Arms = tuple[int, dict[str, ParityTraining]]
SCALES: dict[str, Arms] = {
    # Composite alone: as many examples per step in all, so four times as many of the composite.
    "quick": (
        8,
        {"curriculum": SMALL, "composite alone": replace(SMALL, trained=SMALL.stop_on, examples=1000, steps=3000)},
    ),
    "cpu": (40, {"curriculum": ROUNDED, "composite alone": replace(ROUNDED, trained=LARGE.stop_on)}),
    "paper": (
        40,
        {
            "curriculum": replace(LARGE, steps=200_000, stop_on=()),
            "composite alone": replace(LARGE, steps=1_000_000, stop_on=(), trained=LARGE.stop_on),
        },
    ),
}


def measure(scale: Arms, run: Cells) -> dict[str, Any]:
    """Train every seed of both arms; losses in bits."""
    seeds, arms = scale
    composite = next(name for name in SMALL.stop_on + LARGE.stop_on if name in _names(arms["curriculum"]))
    results = run(train_parity, [replace(arm, seed=seed) for seed in range(seeds) for arm in arms.values()])
    found: dict[str, Any] = {"composite": composite, "learned_below": LEARNED, "arms": {}}
    for place, (name, arm) in enumerate(arms.items()):
        runs = [_run(result.metrics, composite) for result in results[place :: len(arms)]]
        count = sum(one["learned"] for one in runs)
        found["arms"][name] = {
            "settings": asdict(arm),
            "learned": count,
            "seeds": seeds,
            "fraction": proportion_interval(count, seeds).record(),
            "runs": runs,
        }
    return found


def _names(arm: ParityTraining) -> list[str]:
    return [f"composite_{''.join(map(str, code))}" for code in arm.composites]


def _run(metrics: dict[str, Any], composite: str) -> dict[str, Any]:
    history = metrics["history"]
    bits = {
        name: [round(value / math.log(2), 4) for value in column]
        for name, column in history.items()
        if name not in ("step", "examples", "loss")
    }
    below = {name: np.flatnonzero(np.array(column) < LEARNED) for name, column in bits.items()}
    return {
        "learned": metrics["bits"][composite] < LEARNED,
        "final": metrics["bits"],
        "first_below": {
            name: history["examples"][places[0]] if len(places) else None for name, places in below.items()
        },
        "examples": history["examples"],
        "bits": bits,
    }


def draw(found: dict[str, Any]) -> Any:
    """One seed's losses; the composite's loss of all seeds; and the fraction of seeds that have not learned it.

    The last two are against examples of the composite, of which both arms have their own share.
    """
    figure, (one, every, rest) = plots.figure(1, 3, height=3.1)
    composite, arms = found["composite"], found["arms"]
    runs = arms["curriculum"]["runs"]
    shown = next((i for i, run in enumerate(runs) if run["learned"]), 0)
    for place, (name, bits) in enumerate(runs[shown]["bits"].items()):
        colour, width = ("black", 1.8) if name == composite else (plots.colour_of(place), 1.0)
        one.plot(runs[shown]["examples"][1:], bits[1:], color=colour, lw=width, label=name.replace("_", " "))
    first, last = math.inf, 0.0
    for (name, arm), colour in zip(arms.items(), (plots.colour_of(0), CONTROL), strict=True):
        own = [np.array(run["examples"]) / len(run["bits"]) for run in arm["runs"]]
        for run, examples in zip(arm["runs"], own, strict=True):
            every.plot(examples[1:], run["bits"][composite][1:], color=colour, lw=0.6, alpha=0.7)
        interval = arm["fraction"]
        label = f"{name}: {arm['learned']} of {arm['seeds']} [{interval['low']:.2f}, {interval['high']:.2f}]"
        every.plot([], [], color=colour, label=label)
        happened = np.array([run["learned"] for run in arm["runs"]])
        learned_at = [run["first_below"][composite] or run["examples"][-1] for run in arm["runs"]]
        times = np.array([at / len(run["bits"]) for at, run in zip(learned_at, arm["runs"], strict=True)])
        end = max(examples[-1] for examples in own)
        first, last = min(first, *(examples[1] for examples in own)), max(last, end)
        survival_curve(rest, survival(times, happened)._asdict(), end=end, colour=colour, label=name)
    every.axhline(found["learned_below"], color="black", lw=0.5, ls=":", label=f"learned: below {LEARNED} bits")
    one.set(title=f"seed {shown}, with curriculum", ylabel="loss (bits)")
    every.set(title=f"{composite.replace('_', ' ')}, every seed", ylabel="loss (bits)")
    rest.set_title("not yet learned")
    # Below the axes, where no curve can be.
    for axes, columns in ((one, 2), (every, 1), (rest, 1)):
        axes.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.22), ncols=columns, columnspacing=1.0)
        axes.set_ylim(-0.03, 1.1)
    examples_axis(one, *[runs[shown]["examples"][i] for i in (1, -1)], label="training examples, all subtasks")
    for axes in (every, rest):
        examples_axis(axes, first, last, label="examples of the composite")
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
