"""Whether a model can do a behaviour, before anything is measured of how it does it."""

import math
from dataclasses import dataclass, replace

from skilloc.experiment import Experiment
from skilloc.locality.intervals import t_quantile
from skilloc.mistakes import WrongValue
from skilloc.tasks import Examples
from skilloc.tasks.losses import RIGHT, WRONG, logit_difference, mistake


@dataclass(frozen=True)
class Ability:
    """How often a model is right.

    Attributes:
        accuracy: share of examples: of those with wrong answers, the right one is likelier than each; of choices, the
            right option is the likeliest; of others, all tokens of the answer are the likeliest.
        low: lower end of its 95 % interval.
        chance: the accuracy of a model that knows nothing.
        count: number of examples.
    """

    accuracy: float
    low: float
    chance: float
    count: int

    @property
    def able(self) -> bool:
        """Whether it is above chance, by more than its examples leave open."""
        return self.low > self.chance


def ability(experiment: Experiment, subtask: str) -> Ability:
    """Return how often the untouched model is right on a subtask.

    Args:
        experiment: what is to be measured; its own loss does not matter.
        subtask: one of its subtasks.
    """
    own = experiment.only(subtask)
    examples = own.examples[subtask]
    if WRONG in examples.fields and RIGHT not in examples.fields:
        right = replace(own, loss=logit_difference).losses() < 0
        accuracy, chance = float(right.mean()), 0.5
    else:
        accuracy = 1 - float(replace(own, loss=mistake).losses().mean())
        chance = 1 - _chance(own, examples)
    count = len(examples)
    # The Wilson interval: that of a proportion, which covers also at 0 and 1.
    z = float(t_quantile(10**6))
    middle = (accuracy + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return Ability(accuracy, middle - half, chance, count)


def _chance(experiment: Experiment, examples: Examples) -> float:
    outputs = experiment.face.run(examples.part(slice(0, 1)).to(experiment.device).inputs).shape[-1]
    assert mistake.chance is not None
    return mistake.chance(int(outputs), examples)


def check_able(experiment: Experiment) -> dict[str, Ability]:
    """Refuse an experiment about a behaviour that the model cannot do.

    Raises:
        ValueError: if the accuracy on a subtask is not above chance, with that number.
    """
    found = {name: ability(experiment, name) for name in experiment.subtasks}
    for name, known in found.items():
        if not known.able:
            raise WrongValue(
                f'the model cannot do "{name}": it is right on {known.accuracy:.2f} of {known.count} examples, where '
                f"chance is {known.chance:.2f} (95 % from {known.low:.2f}); leave it out, or take a model that can"
            )
    return found
