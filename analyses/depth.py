"""Does a third layer help to learn a composite parity, and is it the layer or only the parameters?

Question (the paper's figure 7): the same curriculum for networks of depth 3, of depth 2 and equal width, and of depth 2
and as many parameters. An answer: the fraction of seeds that learn the composite (loss below 0.1 bits on held-out
examples) with its interval, and when they do; seeds that never do are censored, not dropped.

Minutes: one on two cores for `--scale quick` (24 bits). `cpu` takes the world and networks of the paper, but 20,000
steps of its 200,000, products in bfloat16: depth 3 shares its 40 seeds with `curriculum.py` if both get the same
`--runs`, and 10 seeds of each network of depth 2 take at most 40 (2.3 core-minutes a seed at equal width, 5.6 at equal
parameters). `paper` takes all steps and 40 seeds, for a cluster.
"""

from dataclasses import dataclass, replace
from typing import Any

from _arms import Arm, note_of, run_arms
from _frame import Cells, analyse
from _parity import LEARNED, ParityTraining
from _worlds import curriculum_network
from skilloc.plots.learning import learning_of_arms


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
    "cpu": Scale(replace(LARGE, products="bfloat16"), 40, 10, 361),
    "paper": Scale(replace(LARGE, steps=200_000, stop_on=()), 40, 40, 361),
}


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Train the three networks on every seed."""
    asked = LARGE.stop_on if scale.deep.n == LARGE.n else SMALL.stop_on
    deep = {"depth 3": Arm(scale.deep, asked)}
    widths = {"equal width": scale.deep.width, "equal parameters": scale.equal}
    shallow = {f"depth 2, {what}": Arm(replace(scale.deep, depth=2, width=w), asked) for what, w in widths.items()}
    arms = run_arms(run, deep, scale.seeds) | run_arms(run, shallow, scale.shallow_seeds)
    return {"subtask": asked[0], "learned_below": LEARNED, "steps": scale.deep.steps, "arms": arms}


def draw(found: dict[str, Any]) -> Any:
    """The fraction of seeds that learn the composite; its loss on every seed; the fraction that has not learned it."""
    arms, subtask = found["arms"], found["subtask"]
    names = [
        f"{name}\nwidth {arm['settings']['width']}, {arm['parameters']:,} parameters" for name, arm in arms.items()
    ]
    outcomes = [arm["subtasks"][subtask] for arm in arms.values()]
    note = note_of(arms["depth 3"]["settings"])
    return learning_of_arms(
        names, outcomes, what=subtask.replace("_", " "), learned_below=found["learned_below"], note=note
    )


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
