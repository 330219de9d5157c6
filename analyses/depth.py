"""Does a third layer help to learn a composite parity, and is it the layer or only the parameters?

Question (the paper's figure 7): the same curriculum for networks of depth 3, of depth 2 and equal width, and of depth 2
and as many parameters. An answer: the fraction of seeds that learn the composite (loss below 0.1 bits on held-out
examples) with its interval, and when they do; seeds that never do are censored, not dropped.

Minutes: one on two cores for `--scale quick` (24 bits). `cpu` takes the world and networks of the paper, but 20,000
steps of its 200,000: depth 3 shares its 40 seeds with `curriculum.py` if both get the same `--runs`, and 10 seeds of
each network of depth 2 take at most 40 (2.3 core-minutes a seed at equal width, 5.6 at equal parameters). `paper` takes
all steps and 40 seeds, for a cluster.
"""

from dataclasses import dataclass, replace
from typing import Any

from skilloc import plots
from skilloc.experiments.arms import LEARNED, Arm, run_arms
from skilloc.experiments.parity import ParityTraining
from skilloc.experiments.script import Run, analyse
from skilloc.experiments.worlds import curriculum_network
from skilloc.plots.learning import examples_axis, learned_dots, survival_curve


@dataclass(frozen=True)
class Scale:
    """The network of depth 3, its seeds and those of depth 2, and the width of depth 2 with as many parameters."""

    deep: ParityTraining
    seeds: int
    shallow_seeds: int
    equal: int


SMALL = ParityTraining(steps=5000, stop_on=("composite_012",))
LARGE = curriculum_network()
SCALES = {
    "quick": Scale(SMALL, 8, 8, 203),
    "cpu": Scale(LARGE, 40, 10, 361),
    "paper": Scale(replace(LARGE, steps=200_000, bf16=False, stop_on=()), 40, 40, 361),
}


def measure(scale: Scale, run: Run) -> dict[str, Any]:
    """Train the three networks on every seed."""
    asked = LARGE.stop_on if scale.deep.n == LARGE.n else SMALL.stop_on
    deep = {"depth 3": Arm(scale.deep, asked)}
    widths = {"equal width": scale.deep.width, "equal parameters": scale.equal}
    shallow = {f"depth 2, {what}": Arm(replace(scale.deep, depth=2, width=w), asked) for what, w in widths.items()}
    arms = run_arms(run, deep, scale.seeds) | run_arms(run, shallow, scale.shallow_seeds)
    return {"subtask": asked[0], "learned_below": LEARNED, "steps": scale.deep.steps, "arms": arms}


def draw(found: dict[str, Any]) -> Any:
    """The fraction of seeds that learn the composite; its loss on every seed; the fraction that has not learned it."""
    figure, (dots, every, rest) = plots.figure(1, 3, height=2.5, width_ratios=(1, 1.2, 1.2))
    arms, subtask = found["arms"], found["subtask"]
    outcomes = [arm["subtasks"][subtask] for arm in arms.values()]
    colours = [plots.colour_of(place) for place in range(len(arms))]
    names = [
        f"{name}\nwidth {arm['settings']['width']}, {arm['parameters']:,} parameters" for name, arm in arms.items()
    ]
    learned_dots(
        dots, names, [one["fraction"] for one in outcomes], colours=colours, runs=[len(one["bits"]) for one in outcomes]
    )
    for one, colour in zip(outcomes, colours, strict=True):
        for curve in one["curve"]:
            every.plot(curve["examples"][1:], curve["bits"][1:], color=colour, lw=0.6, alpha=0.6)
        survival_curve(rest, one["survival"], end=one["survival"]["end"], colour=colour)
    every.axhline(found["learned_below"], color="black", lw=0.5, ls=":")
    every.set(title="loss, every seed", ylabel=f"loss on {subtask.replace('_', ' ')} (bits)", ylim=(-0.03, 1.1))
    rest.set_title("not yet learned")
    first = min(curve["examples"][1] for one in outcomes for curve in one["curve"])
    for axes in (every, rest):
        examples_axis(axes, first, max(one["survival"]["end"] for one in outcomes), label="training examples")
    settings = arms["depth 3"]["settings"]
    figure.supxlabel(
        f"{settings['n']} bits, {settings['each']:,} examples of each subtask per step, at most {found['steps']:,} "
        "steps; bars and bands: 95 % over seeds",
        fontsize=6.5,
    )
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
