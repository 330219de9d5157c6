"""Items: a prompt with its answer, and how a set of them is split without a subject on two sides."""

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Split = Literal["train", "selection", "report"]
"""Train on `train`, choose on `selection`, state numbers on `report`."""

LARGE = 300
"""From this many items on, 8 of 10 are for training; of fewer, each split gets a third, so that each can be used."""

_log = logging.getLogger(__name__)
_SPACE = re.compile(r"\W+")


@dataclass(frozen=True)
class Item:
    """A question with its right answer.

    Attributes:
        prompt: what the model reads.
        answer: what is right to say next, with the space that stands between the two.
        subject: what it is about; items about one subject are on one side of every split.
        wrong: answers that are not right.
        corrupted: the prompt's twin, to which another answer is right.
        group: the relation or topic that it belongs to.
        options: all answers to choose from; empty where there is nothing to choose from.
        right: the place of the answer in the options.
    """

    prompt: str
    answer: str
    subject: str = ""
    wrong: tuple[str, ...] = ()
    corrupted: str | None = None
    group: str = ""
    options: tuple[str, ...] = ()
    right: int = 0

    @property
    def key(self) -> str:
        """Hash of what it is about: the subject, or, without one, the prompt; case, spaces and marks do not matter."""
        told = self.subject or self.prompt
        return hashlib.sha256(_SPACE.sub(" ", told).strip().casefold().encode("utf-8", "replace")).hexdigest()


class Baseline(NamedTuple):
    """What one can know without the prompt: how often each answer is right.

    Attributes:
        accuracy: of always giving the answer that is most often right in training.
        nats: mean -log of the answer's share in training, with one added to the count of each answer.
    """

    accuracy: float
    nats: float


def distinct(items: Sequence[Item], name: str) -> list[Item]:
    """Return the items without repetitions, which are counted and logged."""
    found = list(dict.fromkeys(items))
    if len(found) < len(items):
        _log.warning('%d items of "%s" repeat another one, which is kept once', len(items) - len(found), name)
    return found


def split_items(items: Sequence[Item], rotation: int = 0) -> dict[Split, list[Item]]:
    """Split items by a hash of their subject: items about one subject are together, in every split and in its order.

    From `LARGE` items on, `train` gets 8 of 10 and the others 1 each; of fewer, each gets a third. Subjects come in the
    order of their hashes, and each goes where most is missing.

    Args:
        items: all of them, without repetitions.
        rotation: 1 or 2 lets the splits of a small set take each other's place: over the three rotations every item
            is once in `report`, chosen for by others (cross-fitting).
    """
    subjects: dict[str, list[Item]] = {}
    for item in items:
        subjects.setdefault(item.key, []).append(item)
    names: tuple[Split, ...] = get_args(Split)
    small = len(items) < LARGE
    shares = (1 / 3, 1 / 3, 1 / 3) if small else (0.8, 0.1, 0.1)
    parts: list[list[Item]] = [[], [], []]
    for key in sorted(subjects):
        total = sum(map(len, parts)) + len(subjects[key])
        wanted = max(range(3), key=lambda k: shares[k] * total - len(parts[k]))
        parts[wanted] += sorted(subjects[key], key=lambda item: (item.prompt, item.answer))
    turn = rotation % 3 if small else 0
    return {name: parts[(k + turn) % 3] for k, name in enumerate(names)}


def answer_baseline(train: Sequence[Item], stated: Sequence[Item]) -> Baseline:
    """Return what the shares of answers in training say about other items."""
    counts = Counter(item.answer for item in train)
    known = len(set(counts) | {item.answer for item in stated})
    best = max(sorted(counts), key=counts.__getitem__) if counts else ""
    nats = [-math.log((counts[item.answer] + 1) / (len(train) + known)) for item in stated]
    size = max(1, len(stated))
    return Baseline(sum(item.answer == best for item in stated) / size, sum(nats) / size)
