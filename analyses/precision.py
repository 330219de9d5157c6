"""Does a network learn a composite parity as often and as early if matrix products are rounded to bfloat16?

Question (a control of figures 2 and 7, which are trained that way here): the same seeds with products in bfloat16 and
in float32, all else in float32. An answer: the fraction of seeds that learn the composite (loss below 0.1 bits on
held-out examples) in each arm, with its interval, and how many times as many examples float32 takes, by the medians
over seeds; seeds that never learn are censored, not dropped. One seed alone says little: rounding is enough to
change when it learns. Where all seeds learn, as with 24 bits, the fractions cannot differ: only the times can.

Minutes on two cores: one for `--scale quick` (24 bits, 8 seeds), six for `cpu` (the same with 40 seeds); `paper` takes
the world and network of figure 2 for 20,000 steps, 40 seeds, and shares those in bfloat16 with `curriculum.py` if both
get the same `--runs`: 6 core-minutes per seed in float32.
"""

from dataclasses import replace
from typing import Any

from skilloc.experiments.arms import LEARNED, Arm, run_arms, speed_up
from skilloc.experiments.parity import ParityTraining
from skilloc.experiments.script import Run, analyse
from skilloc.experiments.worlds import curriculum_network
from skilloc.plots.learning import learning_of_arms

SMALL = ParityTraining(steps=5000, evaluate_every=50, stop_on=("composite_012",))
PRECISIONS = {"bfloat16": True, "float32": False}
SCALES = {"quick": (8, SMALL), "cpu": (40, SMALL), "paper": (40, curriculum_network())}


def measure(scale: tuple[int, ParityTraining], run: Run) -> dict[str, Any]:
    """Train every seed in both precisions."""
    seeds, training = scale
    arms = {name: Arm(replace(training, bf16=bf16), training.stop_on) for name, bf16 in PRECISIONS.items()}
    subtask, trained = training.stop_on[0], run_arms(run, arms, seeds)
    rounded, exact = (trained[name]["subtasks"][subtask] for name in PRECISIONS)
    return {
        "subtask": subtask,
        "learned_below": LEARNED,
        "steps": training.steps,
        "times_as_many_in_float32": speed_up(rounded, exact)._asdict(),
        "arms": trained,
    }


def draw(found: dict[str, Any]) -> Any:
    """The fraction of seeds that learn the composite; its loss on every seed; the fraction that has not learned it."""
    subtask, arms, ratio = found["subtask"], found["arms"], found["times_as_many_in_float32"]
    outcomes = [arm["subtasks"][subtask] for arm in arms.values()]
    figure = learning_of_arms(
        list(arms), outcomes, what=subtask.replace("_", " "), learned_below=found["learned_below"]
    )
    settings = arms["float32"]["settings"]
    figure.supxlabel(
        f"{settings['n']} bits, {settings['each']:,} examples of each subtask per step, at most {found['steps']:,} "
        f"steps; float32 takes {ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] times as many examples",
        fontsize=6.5,
    )
    return figure


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
