"""Measure on more and more text, until the effects can be relied on or a budget of tokens is spent.

Every round measures the study anew on more examples per subtask, and keeps in `until/` what it found. The reliability r
of effects on N tokens tells how many more are needed, as the variance of the noise falls with 1 / N [Spearman 1910,
Brown 1910]:

    more = wanted (1 - r) / (r (1 - wanted))

A round at least doubles and at most multiplies by eight, since r has an error of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from skilloc import locality, store
from skilloc.attribution.measured import Measured
from skilloc.mistakes import WrongValue, whole
from skilloc.models.language import Opened
from skilloc.study.folder import UNTIL
from skilloc.study.measure import measure
from skilloc.study.settings import Settings
from skilloc.sweep import Pool
from skilloc.tasks import Subtask

BUDGET = 200_000
"""Tokens of a round, of all subtasks together, beyond which none is begun."""

LEAST, MOST = 2.0, 8.0
SPARE = 1.25
"""A round takes so many times what the formula asks for."""


class Round(NamedTuple):
    """One measurement on the way.

    Attributes:
        sequences: examples per subtask.
        tokens: of all subtasks together.
        reliability: of the least reliable subtask.
        low: lower end of its 95 % interval.
    """

    sequences: int
    tokens: int
    reliability: float
    low: float


class Until(NamedTuple):
    """A study that was measured until its effects could be relied on.

    Attributes:
        study: of the last round.
        rounds: in order.
        wanted: reliability that the lower end of the interval was to reach.
        reached: whether it did; if not, the budget is spent.
    """

    study: Measured
    rounds: tuple[Round, ...]
    wanted: float
    reached: bool

    def __str__(self) -> str:
        last = self.rounds[-1]
        found = f"reliability {last.reliability:.2f}, at least {last.low:.2f}, on {last.tokens:,} tokens"
        return found + ("" if self.reached else f"; {self.wanted:g} was not reached within the budget")

    def record(self) -> dict[str, Any]:
        """Return what was wanted and found. JSON only."""
        rounds = [one._asdict() for one in self.rounds]
        return {"wanted": self.wanted, "reached": self.reached, "rounds": rounds}


@dataclass(frozen=True)
class Goal:
    """What a study that measures on more and more text is to reach.

    Attributes:
        reliability: above 0 and below 1, that the lower end of every subtask's interval reaches.
        budget: tokens of a round, of all subtasks together, beyond which none is begun.
    """

    reliability: float
    budget: int = BUDGET

    def __post_init__(self) -> None:
        whole("budget", self.budget)
        if not 0 < self.reliability < 1:
            raise WrongValue(f"`until` is {self.reliability}; ask for a reliability above 0 and below 1, such as 0.5")


@store.working("folder", inside=True)
def measure_until(
    opened: Opened,
    subtasks: Mapping[str, Subtask],
    settings: Settings,
    folder: Path,
    goal: Goal,
    *,
    workers: int | Pool = 1,
) -> Until:
    """Measure a study on more text until each subtask's reliability is reached; the same call goes on where it stopped.

    Args:
        opened: the model and its tokenizer.
        subtasks: what to draw examples from.
        settings: how and what to measure; its `sequences` are those of the first round, its `length` the tokens of an
            example.
        folder: where the study is kept; rounds are in `until/`.
        goal: the reliability, and what may be spent on it.
        workers: as of `measure`.

    Raises:
        ValueError: if there are fewer than 3 folds, or as `measure`.
    """
    wanted, budget = goal.reliability, goal.budget
    if settings.folds < 3:
        raise WrongValue(f"`folds` is {settings.folds}; a reliability needs at least 3, and 8 tell more")
    rounds = _rounds(folder)
    while True:
        sequences = settings.sequences if not rounds else _next(rounds[-1], wanted)
        last = rounds[-1] if rounds else None
        tokens = sequences * settings.length * len(subtasks)
        if last is not None and (last.low >= wanted or tokens > budget):
            study = measure(opened, subtasks, replace(settings, sequences=last.sequences), folder, workers=workers)
            return Until(study, tuple(rounds), wanted, last.low >= wanted)
        if rounds:
            _clear(folder, sequences)
        study = measure(opened, subtasks, replace(settings, sequences=sequences), folder, workers=workers)
        found = locality.reliability(study.effects.values)
        least = int(found.value.argmin())
        rounds.append(Round(sequences, tokens, float(found.value[least]), float(found.low[least])))
        store.write(folder / UNTIL / f"round_{len(rounds)}", {"what": "round", "wanted": wanted}, rounds[-1]._asdict())


def _next(last: Round, wanted: float) -> int:
    """Return the examples of the next round."""
    r = min(max(last.low, last.reliability / 2, 1e-3), 1 - 1e-3)
    more = SPARE * wanted * (1 - r) / (r * (1 - wanted))
    return math.ceil(last.sequences * min(max(more, LEAST), MOST))


def _rounds(folder: Path) -> list[Round]:
    found: list[Round] = []
    while (home := folder / UNTIL / f"round_{len(found) + 1}").is_dir():
        metrics: Mapping[str, Any] = store.read(home).metrics
        found.append(Round(**{name: metrics[name] for name in Round._fields}))
    return found


def _clear(folder: Path, sequences: int) -> None:
    """Take the last round's study away, its request last, unless what is there belongs to the next round already."""
    home = folder / "request"
    if home.is_dir() and store.read(home).spec["settings"]["sequences"] == sequences:
        return
    for path in sorted(folder.iterdir()):
        if path.name not in (UNTIL, "request", store.LOCK):
            store.remove(path)
    store.remove(home)
