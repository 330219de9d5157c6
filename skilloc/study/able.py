"""Whether a model can do a behaviour, before anything is measured of how it does it."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from skilloc.experiment import Experiment
from skilloc.locality.intervals import t_quantile
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.language import Opened
from skilloc.models.makers import units_of
from skilloc.study.settings import Settings
from skilloc.tasks import IGNORE, Examples, Split, Subtask
from skilloc.tasks.losses import RIGHT, WRONG, at_last, custom, mistake

ASKED = 64
"""Items that a model is asked to know whether it can do a behaviour, at most."""

_log = logging.getLogger(__name__)


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
    accuracy, examples = float(rights(own).mean()), own.examples[subtask]
    chance = _chance(own, examples)
    count = len(examples)
    # The Wilson interval: that of a proportion, which covers also at 0 and 1.
    z = float(t_quantile(10**6))
    middle = (accuracy + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return Ability(accuracy, middle - half, chance, count)


def rights(experiment: Experiment, mask: Mask | None = None) -> Bool[np.ndarray, " example"]:
    """Return which examples of one subtask are answered rightly (see `Ability`), with some units held or none."""
    (examples,) = experiment.examples.values()
    loss = beaten if _has_wrong(examples) else mistake
    return np.asarray(replace(experiment, loss=loss).losses(mask) == 0)


def _has_wrong(examples: Examples) -> bool:
    return WRONG in examples.fields and RIGHT not in examples.fields


def _beaten(logits: Tensor, examples: Examples) -> Tensor:
    scores, wrong = at_last(logits, examples), examples.fields[WRONG]
    right = at_last(examples.targets[..., None], examples) if examples.targets.ndim > 1 else examples.targets[:, None]
    others = scores.gather(1, wrong.where(wrong != IGNORE, 0)).masked_fill(wrong == IGNORE, -torch.inf)
    found = (others >= scores.gather(1, right)).any(dim=1).double()
    return found if examples.owner is None else (examples.per_example(found) > 0).double()


beaten = custom(_beaten, name="beaten", unit="share", differentiable=False)
"""1 where the first token of some wrong answer is at least as likely as that of the right one."""


def _chance(experiment: Experiment, examples: Examples) -> float:
    if _has_wrong(examples):
        return float((1 / (1 + (examples.fields[WRONG] != IGNORE).sum(dim=1).double())).mean())
    outputs = experiment.face.run(examples.part(slice(0, 1)).to(experiment.device).inputs).shape[-1]
    assert mistake.chance is not None
    return 1 - mistake.chance(int(outputs), examples)


def check_able(experiment: Experiment) -> dict[str, Ability]:
    """Refuse an experiment about a behaviour that the model cannot do.

    Raises:
        ValueError: if the accuracy on a subtask is not above chance, with that number.
    """
    found = {name: ability(experiment, name) for name in experiment.subtasks}
    for name, known in found.items():
        if not known.able:
            raise WrongValue(f"{_cannot(name, known)}; leave it out, or take a model that can")
    return found


def able_subtasks(opened: Opened, subtasks: Mapping[str, Subtask], settings: Settings) -> dict[str, Subtask]:
    """Return the subtasks without the behaviours that the model cannot do; running text stays.

    Each is asked on up to `ASKED` items of the split that will be measured. Of the groups of a file, those that it
    cannot do are left out, saying so with their number.

    Raises:
        ValueError: if the model cannot do a behaviour that is no group, or none of the groups.
    """
    kept, refused = dict(subtasks), dict[str, Ability]()
    for name, own in subtasks.items():
        made: dict[str, Any] = dict(own.made or {})
        if made.get("family") != "prompts":
            continue
        split, shots = cast(Split, settings.split), int(made["asked"]["shots"])
        left = made["items"][split] - (shots if split == "train" else 0)
        if left < 1:
            total = sum(made["items"].values())
            raise WrongValue(
                f'"{name}" has {total} items, which leave {left} for the {split} split; pass at least 3 items about '
                "different subjects, and more with `shots`"
            )
        experiment = Experiment(
            opened.model, {name: own}, folds=1, count=min(ASKED, left), split=split, seed=settings.seed,
            units=units_of(opened.model, kinds=settings.units),
        )  # fmt: skip
        known = ability(experiment, name)
        if not known.able:
            refused[name] = known
            del kept[name]
    for name, known in refused.items():
        made = dict(subtasks[name].made or {})
        if not kept or not made["asked"]["group"]:
            raise WrongValue(
                f"{_cannot(name, known)}; leave it out, take a model that can, or measure it with --anyway (its "
                "effects are then about what the model does instead)"
            )
        _log.warning("left out: %s", _cannot(name, known))
    return kept


def _cannot(name: str, known: Ability) -> str:
    return (
        f'the model cannot do "{name}": it is right on {round(known.accuracy * known.count)} of {known.count} examples '
        f"(95 % from a share of {known.low:.2g}), where chance is {known.chance:.2g}"
    )
