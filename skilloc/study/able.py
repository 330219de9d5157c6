"""Whether a model can do a behaviour, before anything is measured of how it does it."""

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from skilloc.experiment import Experiment
from skilloc.locality.intervals import t_quantile
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.language import Opened
from skilloc.models.makers import units_of
from skilloc.study.settings import Settings
from skilloc.tasks import IGNORE, Examples, Split, Subtask
from skilloc.tasks.examples import MASK, TOKENS
from skilloc.tasks.losses import LAST, RIGHT, WRONG, at_last, cross_entropy, custom, mistake
from skilloc.tasks.losses.fields import first_tokens, right_tokens

ASKED = 64
"""Items that a model is asked to know whether it can do a behaviour, at most."""

_log = logging.getLogger(__name__)


SURE = 0.05
"""So rarely, at most, is as much right where nothing is known, if a model is said to be able."""


@dataclass(frozen=True)
class Ability:
    """How often a model is right, beside what knows nothing of the prompt.

    Attributes:
        accuracy: share of examples: of those with wrong answers, the right one is likelier than each, summed over the
            tokens of each as lm-eval does; of choices, the right option is the likeliest; of others, all tokens of the
            answer are the likeliest.
        low: lower end of its 95 % interval.
        chance: the accuracy of a model that knows nothing.
        count: number of examples.
        commonest: the accuracy of always giving the answer that is most often right among the same examples.
    """

    accuracy: float
    low: float
    chance: float
    count: int
    commonest: float

    @property
    def needed(self) -> int:
        """The fewest right answers that are beyond both chance and the commonest answer; more than `count` if none are.

        They are k with P(X >= k) <= `SURE`, where X is binomial, of `count` examples at the larger of the two rates.
        """
        base, tail = max(self.chance, self.commonest), 0.0
        for right in range(self.count, -1, -1):
            tail += math.comb(self.count, right) * base**right * (1 - base) ** (self.count - right)
            if tail > SURE:
                return right + 1
        return 0

    @property
    def able(self) -> bool:
        """Whether it is right more often than chance and than the commonest answer, by more than luck gives."""
        return round(self.accuracy * self.count) >= self.needed


def ability(experiment: Experiment, subtask: str) -> Ability:
    """Return how often the untouched model is right on a subtask.

    Args:
        experiment: what is to be measured; its own loss does not matter.
        subtask: one of its subtasks.
    """
    own = experiment.only(subtask)
    accuracy, examples = float(rights(own).mean()), own.examples[subtask]
    count = len(examples)
    # The Wilson interval: that of a proportion, which covers also at 0 and 1.
    z = float(t_quantile(10**6))
    middle = (accuracy + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return Ability(accuracy, middle - half, _chance(own, examples), count, _commonest(examples))


def rights(experiment: Experiment, mask: Mask | None = None) -> Bool[np.ndarray, " example"]:
    """Return which examples of one subtask are answered rightly (see `Ability`), with some units held or none.

    For a wrong answer, units are held as they are for the right one, position by position.
    """
    (examples,) = experiment.examples.values()
    if not _has_wrong(examples):
        return np.asarray(replace(experiment, loss=mistake).losses(mask) == 0)
    if examples.fields[WRONG].ndim < 3:
        return np.asarray(replace(experiment, loss=beaten).losses(mask) == 0)
    right = _nats(experiment, examples, mask)
    found = np.ones(len(examples), dtype=bool)
    for wrong in examples.fields[WRONG].unbind(dim=1):
        there = (wrong != IGNORE).any(dim=1).cpu().numpy()
        found &= ~there | (right < _nats(experiment, _answered(examples, wrong), mask))
    return found


def _nats(experiment: Experiment, examples: Examples, mask: Mask | None) -> Float64[np.ndarray, " example"]:
    """Return the sum over the answer's tokens of -log p, for examples in the place of the experiment's own."""
    (name,) = experiment.subtasks
    means = replace(experiment, subtasks={name: examples}, loss=cross_entropy).losses(mask)
    return np.asarray(means * examples.scored.sum(dim=1).cpu().numpy())


def _answered(examples: Examples, answers: Int[Tensor, "row pos"]) -> Examples:
    """Return the same prompts with other answers; with the first token of their own where a row has no other one."""
    last, tokens = examples.at[LAST], examples.tokens
    assert tokens is not None
    first = answers[:, :1].where(answers[:, :1] != IGNORE, right_tokens(examples)[:, None])
    answers = torch.cat([first, answers[:, 1:]], dim=1)
    behind = torch.arange(examples.positions, device=last.device) > last[:, None]
    tokens, targets = tokens.masked_fill(behind, 0), torch.full_like(examples.targets, IGNORE)
    mask = ~behind if examples.mask is None else examples.mask & ~behind
    for k in range(answers.shape[1]):
        rows = (answers[:, k] != IGNORE).nonzero()[:, 0]
        targets[rows, last[rows] + k] = answers[rows, k]
        if k:
            tokens[rows, last[rows] + k], mask[rows, last[rows] + k] = answers[rows, k - 1], True
    return replace(examples, inputs={TOKENS: tokens, MASK: mask}, targets=targets)


def _has_wrong(examples: Examples) -> bool:
    return WRONG in examples.fields and RIGHT not in examples.fields


def _beaten(logits: Tensor, examples: Examples) -> Tensor:
    scores, wrong = at_last(logits, examples), first_tokens(examples.fields[WRONG])
    right = scores.gather(1, right_tokens(examples)[:, None])
    others = scores.gather(1, wrong.where(wrong != IGNORE, 0)).masked_fill(wrong == IGNORE, -torch.inf)
    found = (others >= right).any(dim=1).double()
    return found if examples.owner is None else (examples.per_example(found) > 0).double()


beaten = custom(_beaten, name="beaten", unit="share", differentiable=False)
"""1 where some wrong answer, of one token, is at least as likely as the first token of the right one."""


def _chance(experiment: Experiment, examples: Examples) -> float:
    if _has_wrong(examples):
        wrong = first_tokens(examples.fields[WRONG])
        return float((1 / (1 + (wrong != IGNORE).sum(dim=1).double())).mean())
    outputs = experiment.face.run(examples.part(slice(0, 1)).to(experiment.device).inputs).shape[-1]
    assert mistake.chance is not None
    return 1 - mistake.chance(int(outputs), examples)


def _commonest(examples: Examples) -> float:
    """Return the share of examples with the answer that is right most often among them."""
    targets = examples.targets.reshape(len(examples.targets), -1)
    if examples.owner is not None and RIGHT in examples.fields:
        targets = targets[examples.fields[RIGHT].bool()]
    answers = Counter(tuple(row[row != IGNORE].tolist()) for row in targets)
    return max(answers.values()) / len(examples)


def check_able(experiment: Experiment) -> dict[str, Ability]:
    """Refuse an experiment about a behaviour that the model cannot do.

    Raises:
        ValueError: if the accuracy on a subtask is not above chance and the commonest answer, with that number.
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
    more = f"{known.needed} would be more than luck" if known.needed <= known.count else "no number of so few would do"
    return (
        f'the model cannot do "{name}": it is right on {round(known.accuracy * known.count)} of {known.count} examples '
        f"(95 % from a share of {known.low:.2g}), where chance is {known.chance:.2g} and the commonest answer alone is "
        f"right on a share of {known.commonest:.2g}; {more}"
    )
