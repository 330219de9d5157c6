"""Does a network learn a composite parity as often and as early if matrix products are rounded to bfloat16?

Question (a control of figures 2 and 7): the same seeds with products in bfloat16 and in float32, all else in float32.
An answer: the fraction of seeds that learn the composite (loss below 0.1 bits on held-out examples) in each precision,
their difference with its interval, and how many times as many examples float32 takes, by the medians over seeds; seeds
that never learn are censored, not dropped. One seed alone says little: any other rounding parts two runs within some
hundred steps (tests/benchmarks/test_training_speed.py), and only their initial weights are still the same.

Minutes on two cores: one for `--scale quick` (24 bits, 8 seeds, which all learn); `cpu` takes the world and network of
figure 2 for 20,000 steps and 40 seeds, 150 minutes for those in float32, and shares those in bfloat16 with
`curriculum.py` if both get the same `--runs`; `paper` takes all of the paper's 200,000 steps, for a cluster.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from _arms import Arm, note_of, run_arms, speed_up
from _frame import Cells, analyse
from _parity import LEARNED, ParityTraining
from _worlds import curriculum_network
from skilloc.locality.intervals import paired_difference
from skilloc.plots.learning import learning_of_arms

PRECISIONS: tuple[Literal["bfloat16", "float32"], ...] = ("bfloat16", "float32")
SCALES = {
    "quick": (8, ParityTraining(steps=5000, evaluate_every=50, stop_on=("composite_012",))),
    "cpu": (40, curriculum_network()),
    "paper": (40, replace(curriculum_network(), steps=200_000)),
}


def measure(scale: tuple[int, ParityTraining], run: Cells) -> dict[str, Any]:
    """Train every seed in both precisions."""
    seeds, training = scale
    arms: dict[str, Arm] = {name: Arm(replace(training, products=name), training.stop_on) for name in PRECISIONS}
    subtask, trained = training.stop_on[0], run_arms(run, arms, seeds)
    rounded, exact = (trained[name]["subtasks"][subtask] for name in PRECISIONS)
    return {
        "subtask": subtask,
        "learned_below": LEARNED,
        "steps": training.steps,
        "more_often_in_bfloat16": paired_difference(*(np.array(arm["happened"]) for arm in (rounded, exact))).record(),
        "times_as_many_in_float32": speed_up(rounded, exact).record(),
        "arms": trained,
    }


def draw(found: dict[str, Any]) -> Any:
    """The fraction of seeds that learn the composite; its loss on every seed; the fraction that has not learned it."""
    subtask, arms, ratio = found["subtask"], found["arms"], found["times_as_many_in_float32"]
    outcomes = [arm["subtasks"][subtask] for arm in arms.values()]
    more = found["more_often_in_bfloat16"]
    note = (
        f"{note_of(arms['float32']['settings'])}\n"
        f"In bfloat16 the fraction that learns is larger by {more['value']:.2f} [{more['low']:.2f}, "
        f"{more['high']:.2f}]; float32 takes {ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] times as "
        "many examples"
    )
    return learning_of_arms(
        list(arms), outcomes, what=subtask.replace("_", " "), learned_below=found["learned_below"], note=note
    )


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
