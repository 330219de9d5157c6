"""The examples that something is chosen on, where another split is what is stated on."""

from dataclasses import replace

from skilloc.experiment import Experiment
from skilloc.experiment.reference import MEANS
from skilloc.mistakes import WrongValue

LEAST = 8
"""The fewest examples."""


def on_train(experiment: Experiment, count: int) -> Experiment:
    """Return an experiment on its train split, at the same reference, with `count` examples, or half of them, or a
    quarter, as there are.

    Raises:
        ValueError: if its subtasks are examples already, or there are fewer than `LEAST`.
    """
    own = same_mean(experiment).on("train")
    while True:
        found = replace(own, count=count)
        try:
            found.examples  # noqa: B018  # draws them
        except WrongValue:
            if count <= LEAST:
                raise
            count = max(LEAST, count // 2)
            continue
        return found


def same_mean(experiment: Experiment) -> Experiment:
    """Return an experiment that has the same mean on every split: that over the examples that it is taken over now."""
    if not isinstance(experiment.reference, str) or experiment.reference not in MEANS or experiment.other is not None:
        return experiment
    return replace(
        experiment, other=experiment.on("train" if experiment.split == "selection" else "selection").examples
    )
